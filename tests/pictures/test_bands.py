"""Bands are what their names say."""

import math

import numpy as np
import pandas as pd
import pytest

from analogsim.errors import ArgumentError
from analogsim.pictures.bands import banded, check_band, spread_of

VALUES = pd.DataFrame({"x": [1, 1, 1, 2, 2, 3], "v": [1.0, 2.0, 6.0, 4.0, math.nan, math.nan]})


def test_minmax_is_the_range():
    found = banded(VALUES, "x", "v", "minmax")
    assert found.loc[1].tolist() == [3, 1, 6, 3]
    assert found.loc[2].tolist() == [4, 4, 4, 1]
    assert found.loc[3, "n"] == 0
    assert found.loc[3, ["mean", "low", "high"]].isna().all()


def test_std_is_the_sample_s_deviation():
    s = math.sqrt((4 + 1 + 9) / 2)
    assert banded(VALUES, "x", "v", "std").loc[1].tolist() == pytest.approx([3, 3 - s, 3 + s, 3])


def test_ci95_is_student_s():
    """t_{0.975, 2} = 4.302653 from a table."""
    half = 4.302653 * math.sqrt(7) / math.sqrt(3)
    assert banded(VALUES, "x", "v", "ci95").loc[1, "high"] == pytest.approx(3 + half, rel=1e-6)
    assert banded(VALUES, "x", "v", "ci95").loc[2].tolist() == [4, 4, 4, 1]


def test_ci95_covers_the_mean_95_times_in_100():
    """10^4 groups of 4 normal figures: the share covered is 0.95 within 5 standard errors (0.0109)."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"g": np.repeat(np.arange(10_000), 4), "v": rng.normal(size=40_000)})
    found = banded(table, "g", "v", "ci95")
    covered = ((found["low"] < 0) & (found["high"] > 0)).mean()
    assert abs(covered - 0.95) < 0.0109


def test_an_unknown_band_is_refused():
    with pytest.raises(ArgumentError, match="band: 'sem' is not allowed; allowed: minmax, ci95, std"):
        check_band("sem")


def test_what_is_said_of_a_band():
    table = pd.DataFrame({"run": ["a", "a", "b", "b"], "seed": [0, 1, 0, 1], "trial": list("wxyz")})
    assert spread_of(table, ("run", None), "minmax") == "mean and range of 2 seeds"
    assert spread_of(table, (None,), "ci95") == "mean and 95 % confidence interval of 4 trials"
    assert spread_of(table, ("run", "seed"), "minmax") == ""
