"""A figure over trials: its mean, and a band around it.

    minmax   the smallest and the largest
    std      mean ± s,                        s² = Σ (v - mean)² / (n - 1)
    ci95     mean ± t_{0.975, n-1} s / √n     (Student: exact for normal figures)

One value has no spread: its band is of no width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from analogsim.errors import ArgumentError
from analogsim.pictures.style import Table

BANDS = {"minmax": "range", "ci95": "95 % confidence interval", "std": "± one standard deviation"}


def check_band(band: str) -> str:
    """The same. Raises ArgumentError for a band there is not."""
    if band not in BANDS:
        raise ArgumentError("band", band, ", ".join(BANDS))
    return band


def banded(table: Table, by: str | Sequence[str], value: str, band: str = "minmax") -> Table:
    """mean, low, high and n of one column, a row a group, in the groups' order. NaN counts for nothing."""
    grouped = table.groupby(by if isinstance(by, str) else list(by), sort=True)[value]
    found = grouped.agg(["mean", "min", "max", "std", "count"])
    spread = found["std"].fillna(0.0)
    if band == "ci95":
        n = found["count"].clip(lower=2)
        spread = spread * stdtrit(n - 1, 0.975) / np.sqrt(n)
    low, high = (found["min"], found["max"]) if band == "minmax" else (found["mean"] - spread, found["mean"] + spread)
    return pd.DataFrame({"mean": found["mean"], "low": low, "high": high, "n": found["count"]})


def spread_of(table: Table, by: Sequence[str | None], band: str) -> str:
    """What a picture says of its bands: `mean and range of 3 seeds`; nothing where no group has two trials.

    table: with columns trial and seed. by: the columns that tell the groups apart, None for none.
    """
    names = [name for name in by if name]
    counts = table.groupby(names)["trial"].nunique() if names else pd.Series([table["trial"].nunique()])
    most = 0 if counts.empty else int(counts.max())
    noun = "seeds" if most <= table["seed"].nunique() else "trials"
    return f"mean and {BANDS[band]} of {most} {noun}" if most > 1 else ""
