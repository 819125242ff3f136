"""Drift and retention: published tables by hand, and the law over 10^6 cells at several times.

power       ln(G / G(t)) / ln(t / t0) = |μ + s ξ|, folded normal, the same ν at all times
log         (G(t) - G - m ln t) / (s₁ ln t + s₀) ~ N(0, 1), the same ξ at all times
retention   (G(t) - target) / σ(target, t) ~ N(0, 1), the same ξ at all times
"""

import numpy as np
import pytest
import torch
from scipy import special

from analogsim.errors import ArgumentError
from analogsim.physics import drift
from analogsim.physics.drift import DRIFT_LAWS

CELLS, DAY = 1_000_000, 86400.0


def log_of_r(slope, intercept, low, high, **above):
    return {"law": "log", "slope": slope, "intercept": intercept, "min": low, "max": high, **above}


PCM = {
    "t0_s": 20.0,
    "unit_uS": 25.0,
    "exponent": log_of_r(-0.0155, 0.0244, 0.049, 0.1),
    "spread": log_of_r(-0.0125, -0.0059, 0.008, 0.045),
}
HERMES = {
    "t0_s": 300.0,
    "unit_uS": 20.7,
    "exponent": log_of_r(-0.0387, -0.0182, 0.072, 0.13, split=0.0945, polynomial=(0.0736, -0.0126, -0.0436)),
    "spread": log_of_r(-0.0117, -0.0057, 0.0091, 0.04, split=0.3055, polynomial=(0.0073, 0.0093, -0.0118)),
}
CMO = {"mean_uS": -0.08900206, "spread_uS": 0.04201137, "spread_at_1s_uS": 0.41183342}
NEURRAM = {
    "times_s": (1.0, DAY, 2 * DAY),
    "errors": tuple(
        {"law": "polynomial", "coefficients_uS": c, "unit_uS": 40.0}
        for c in (
            (0.348, 16.030, -43.853, 45.393, -16.815),
            (0.701, 22.086, -50.773, 47.095, -16.458),
            (0.782, 20.274, -43.507, 37.062, -11.934),
        )
    ),
}


# By hand, from the published fits (docs/laws.md, devices/*.yaml)


@pytest.mark.parametrize(
    ("chip", "g", "xi", "t", "expected"),
    [
        # r = 1: ν = .049, ln(86400/20) = 8.371011;  r = .1: ν = .0600901 + .0228823 ξ;  r = 1e-4: ν = .1 + .045 ξ
        (PCM, [25, 25, 2.5, 2.5], [0, 1, 0, 2], DAY, [16.588278, 15.513773, 1.5117624, 1.0306400]),
        (PCM, [2.5, 2.5e-3, 0, 25], [-3, -1, 1, 1], DAY, [2.3271889, 1.5775691e-3, 0, 15.513773]),
        (PCM, [25, 2.5], [1, 1], 20.0, [25, 2.5]),
        (PCM, [25, 2.5], [1, 1], 3.0, [25, 2.5]),  # before t0
        # ln(86400/300) = 5.662960; r = 1: μ = .0174;  r = .05: μ = -.0387 ln .05 - .0182 = .0977348, s = .0293501
        (HERMES, [20.7, 1.035], [0, 1], DAY, [18.757585, 0.50395143]),
    ],
)
def test_power_drift_by_hand(chip, g, xi, t, expected):
    found = drift.power_drift(torch.tensor(g, dtype=torch.float32), torch.tensor(xi, dtype=torch.float32), t, **chip)
    np.testing.assert_allclose(found, expected, rtol=2e-6)


@pytest.mark.parametrize(
    ("t", "expected"),
    [
        (0.5, [50, 50, 50]),
        (1.0, [50, 50.41183342, 49.17633316]),
        (np.e, [49.91099794, 50.36484273, 49.00330836]),
        (DAY, [48.98833646, 49.87770233, 47.20960473]),
    ],
)
def test_log_drift_by_hand(t, expected):
    """ξ = 0, 1, -2; at a day m ln t = -1.0116635, s₁ ln t + s₀ = .8893659; before 1 s as written."""
    found = drift.log_drift(torch.full((3,), 50.0), torch.tensor([0.0, 1, -2]), t, **CMO)
    np.testing.assert_allclose(found, expected, rtol=2e-6)


@pytest.mark.parametrize(
    ("t", "expected"),
    [(0.1, 2.0229375), (1.0, 2.0229375), (DAY, 3.909), (2 * DAY, 3.929125), (DAY**0.5, 2.96596875)],
)
def test_retention_by_hand(t, expected):
    """NeuRRAM at r = 1/2; √(1 day) is half-way from 1 s to a day in ln t."""
    target = torch.tensor([20.0, 20.0, 0.0])
    found = drift.retention(target, torch.tensor([1.0, -2.0, 0.0]), t, **NEURRAM)
    np.testing.assert_allclose(found, [20 + expected, 20 - 2 * expected, 0], rtol=1e-5)


@pytest.mark.parametrize("t", [2 * DAY + 1, torch.tensor([1.0, 3 * DAY]), float("nan")])
def test_retention_is_not_extrapolated(t):
    with pytest.raises(ArgumentError, match=r"^t_s: .* allowed: up to 172800\.0 s, the last time measured$"):
        drift.retention(torch.ones(2), torch.ones(2), t, **NEURRAM)


@pytest.mark.parametrize(("law", "chip"), [("power", PCM), ("log", CMO), ("retention", NEURRAM)])
def test_a_time_for_every_cell(law, chip, draw):
    t = torch.tensor([0.0, 0.9, 20.0, 21.0, 3600.0, DAY, 2 * DAY], dtype=torch.float64)
    g, xi = draw.uniform("g", 5, 7) * 20, draw.normal("xi", 5, 7)
    together = DRIFT_LAWS[law](g, xi, t.expand(5, 7), **chip)
    for k in range(7):
        np.testing.assert_allclose(together[:, k], DRIFT_LAWS[law](g[:, k], xi[:, k], float(t[k]), **chip), rtol=1e-6)


# The law over cells


def scores(law, g, drifted, t):
    """Standard normals, if cells of conductance g (retention: target) drifted by the exact law."""
    drifted = drifted.numpy().astype(float)
    if law == "power":
        r, log_t = g / 25, np.log(t / 20)
        mu = np.clip(-0.0155 * np.log(r) + 0.0244, 0.049, 0.1)
        s = np.clip(-0.0125 * np.log(r) - 0.0059, 0.008, 0.045)
        nu = np.log(g / drifted) / log_t
        return special.ndtri(special.ndtr((nu - mu) / s) - special.ndtr((-nu - mu) / s))
    if law == "log":
        return (drifted - g + 0.08900206 * np.log(t)) / (0.04201137 * np.log(t) + 0.41183342)
    by_time = [np.polyval(np.array(e["coefficients_uS"])[::-1], g / 40) for e in NEURRAM["errors"]]
    return (drifted - g) / np.array(
        [np.interp(np.log(t), np.log(NEURRAM["times_s"]), s) for s in np.transpose(by_time)]
    )


CASES = {
    "power": (PCM, [0.5, 2.5, 6.0, 25.0]),
    "log": (CMO, [9.0, 88.2]),
    "retention": (NEURRAM, [0.0, 3.0, 11.0, 40.0]),
}
TIMES = (3600.0, DAY)


def check_drift(check, draw, law, drifted):
    """At an hour and at a day by the exact law, and both by the same ξ: α = 1e-6 each."""
    chip, conductances = CASES[law]
    g = torch.tensor(conductances).repeat(CELLS // len(conductances))
    exact = np.array(conductances)
    xi = draw.normal("xi", len(g))
    at = []
    for t in TIMES:
        found = drifted(g, xi, t, **chip).reshape(-1, len(conductances))
        at.append(scores(law, exact, found, t))
        check.normal(at[-1])
    np.testing.assert_allclose(at[0], at[1], atol=0.02)


@pytest.mark.parametrize("law", CASES)
def test_cells_drift_by_the_law(law, draw, check):
    """10^6 cells, KS, mean, variance and tail (conftest.py says what that detects)."""
    check_drift(check, draw, law, DRIFT_LAWS[law])


def with_changed(law, **changes):
    return law, lambda g, xi, t, **c: DRIFT_LAWS[law](g, xi, t, **c | {k: f(c) for k, f in changes.items()})


def signed_exponent(g, xi, t, **c):
    nu = drift.of_r(g / 25, **c["exponent"]) + drift.of_r(g / 25, **c["spread"]) * xi
    return g * (t / c["t0_s"]) ** -nu


def after_programming(g, xi, t, **c):
    """σ(t) comes on top of the error at programming."""
    return drift.retention(drift.retention(g, -xi, 1.0, **c), xi.roll(1), t, **c)


DRIFT_BUGS = {
    "drift: t0 ignored": with_changed("power", t0_s=lambda c: 1.0),
    "drift: μ and s swapped": with_changed("power", exponent=lambda c: c["spread"], spread=lambda c: c["exponent"]),
    "drift: r in µS": with_changed("power", unit_uS=lambda c: 1.0),
    "drift: ν not made positive": ("power", signed_exponent),
    "drift: ν + 1 %": ("power", lambda g, xi, t, **c: drift.power_drift(g, xi, t**1.01 / 20**0.01, **c)),
    "drift: ξ fresh at every time": ("power", lambda g, xi, t, **c: drift.power_drift(g, xi.roll(int(t)), t, **c)),
    "drift: log10 for ln": ("log", lambda g, xi, t, **c: drift.log_drift(g, xi, t**0.4342945, **c)),
    "drift: s₀ forgotten": with_changed("log", spread_at_1s_uS=lambda c: 0.0),
    "drift: gains what it loses": with_changed("log", mean_uS=lambda c: -c["mean_uS"]),
    "retention: on top of the programming error": ("retention", after_programming),
    "retention: linear in t, not ln t": (
        "retention",
        lambda g, xi, t, **c: drift.retention(g, xi, float(np.exp(t / DAY * np.log(DAY))), **c),
    ),
    "retention: as at programming for ever": ("retention", lambda g, xi, t, **c: drift.retention(g, xi, 1.0, **c)),
}


@pytest.mark.parametrize("bug", DRIFT_BUGS)
def test_the_drift_test_catches(bug, draw, check):
    law, wrong = DRIFT_BUGS[bug]
    with pytest.raises(AssertionError):
        check_drift(check, draw, law, wrong)
