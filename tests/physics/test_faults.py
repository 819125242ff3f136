"""Stuck cells and spread ranges of 10^6 cells: binomial counts, where they lie, the two laws of the ends."""

import numpy as np
import pytest
import torch
from scipy import special, stats

from analogsim.physics import faults

CELLS = 1_000_000
LOW, HIGH = 2.0, 26.0
SHARES = {"stuck_low": 0.03, "stuck_high": 0.05, "stuck_random": 0.1348}
SPREAD = {"g_min_uS": LOW, "g_max_uS": HIGH, "g_min_d2d_uS": 1.5, "g_max_d2d": 0.3}


def check_stuck(check, draw, stuck_cells):
    """Counts of each kind, and evenly between the ends; α = 1e-6 each."""
    u, where = draw.uniform("which", CELLS), draw.uniform("where", CELLS)
    stuck, held = stuck_cells(u, where, LOW, HIGH, **SHARES)
    check.binomial(stuck.sum(), CELLS, sum(SHARES.values()))
    check.binomial((stuck & (held == LOW)).sum(), CELLS, SHARES["stuck_low"])
    check.binomial((stuck & (held == HIGH)).sum(), CELLS, SHARES["stuck_high"])
    between = held[stuck & (held != LOW) & (held != HIGH)].numpy()
    assert stats.kstest(between, stats.uniform(LOW, HIGH - LOW).cdf).pvalue > check.alpha


def test_cells_are_stuck_as_often_and_where_it_says(draw, check):
    """10^6 cells: refuses a share of 3 % that is off by 2.8 %, and an uneven spread by 0.7 %."""
    check_stuck(check, draw, faults.stuck_cells)


def planted(**wrong):
    return lambda u, where, low, high, **shares: faults.stuck_cells(u, where, low, high, **shares | wrong)


STUCK_BUGS = {
    "faults: stuck_high at g_min": lambda u, where, low, high, **s: faults.stuck_cells(
        u, where, low, high, stuck_low=0.08, stuck_high=0.0, stuck_random=0.1348
    ),
    "faults: low and high swapped": lambda u, where, low, high, **s: faults.stuck_cells(u, 1 - where, high, low, **s),
    "faults: shares not added up": lambda u, where, low, high, **s: faults.stuck_cells(
        u, where, low, high, stuck_low=0.03, stuck_high=0.02, stuck_random=0.0848
    ),
    "faults: placed by the number that chose them": lambda u, where, low, high, **s: faults.stuck_cells(
        u, u, low, high, **s
    ),
    "faults: random ones from 0 to g_max": lambda u, where, low, high, **s: (
        lambda stuck, held: (stuck, torch.where((held > low) & (held < high), where * high, held))
    )(*faults.stuck_cells(u, where, low, high, **s)),
    "faults: random ones at either end": lambda u, where, low, high, **s: faults.stuck_cells(
        u, where.round(), low, high, **s
    ),
}


@pytest.mark.parametrize("bug", STUCK_BUGS)
def test_the_stuck_test_catches(bug, draw, check):
    with pytest.raises(AssertionError):
        check_stuck(check, draw, STUCK_BUGS[bug])


def test_a_range_a_cell_and_all_or_none_stuck(draw):
    u, where = draw.uniform("which", 1000), draw.uniform("where", 1000)
    low, high = u, 10 + where
    for share, expected in (("stuck_low", low), ("stuck_high", high), ("stuck_random", low + where * (high - low))):
        stuck, held = faults.stuck_cells(u, where, low, high, **{share: 1.0})
        assert stuck.all()
        assert torch.equal(held, expected)
    assert not faults.stuck_cells(u, where, low, high)[0].any()


# Ranges from cell to cell


def check_ranges(check, draw, cell_ranges):
    """G_min normal but for those held at 0, G_max given G_min normal but for those held a hundredth above it."""
    low, high = cell_ranges(draw.normal("low", CELLS), draw.normal("high", CELLS), **SPREAD)
    low, high = low.numpy().astype(float), high.numpy().astype(float)
    least = low + 0.01 * (HIGH - LOW)
    assert (low >= 0).all()
    assert (high >= least - 1e-5).all()
    check.binomial((low == 0).sum(), CELLS, stats.norm.cdf(-LOW / 1.5))
    z = (low[low > 0] - LOW) / 1.5
    floor = stats.norm.cdf(-LOW / 1.5)
    check.normal(special.ndtri((special.ndtr(z) - floor) / (1 - floor)))
    at = special.ndtr((least - HIGH) / (0.3 * HIGH))  # chance to be held, by cell
    held = high <= least + 1e-5
    sd = (at * (1 - at)).sum() ** 0.5
    assert abs(held.sum() - at.sum()) < stats.norm.isf(check.alpha / 2) * sd
    free = (special.ndtr((high - HIGH) / (0.3 * HIGH)) - at) / (1 - at)
    check.normal(special.ndtri(free[~held].clip(1e-16, 1 - 1e-16)))


def test_ranges_spread_and_stay_open(draw, check):
    """10^6 cells at α = 1e-6; 9 % of them begin at 0 and 0.09 % are held open."""
    check_ranges(check, draw, faults.cell_ranges)


RANGE_BUGS = {
    "d2d: g_min's spread taken as relative": lambda a, b, **s: faults.cell_ranges(
        a, b, **s | {"g_min_d2d_uS": 1.5 * LOW}
    ),
    "d2d: g_max's spread taken as absolute": lambda a, b, **s: faults.cell_ranges(
        a, b, **s | {"g_max_d2d": 0.3 / HIGH}
    ),
    "d2d: g_min below 0": lambda a, b, **s: (LOW + 1.5 * a, faults.cell_ranges(a, b, **s)[1]),
    "d2d: g_max below g_min": lambda a, b, **s: (faults.cell_ranges(a, b, **s)[0], HIGH * (1 + 0.3 * b)),
    "d2d: one normal for both ends": lambda a, b, **s: faults.cell_ranges(a, a, **s),
    "d2d: σ + 1 %": lambda a, b, **s: faults.cell_ranges(a, b, **s | {"g_max_d2d": 0.303}),
}


@pytest.mark.parametrize("bug", RANGE_BUGS)
def test_the_range_test_catches(bug, draw, check):
    with pytest.raises(AssertionError):
        check_ranges(check, draw, RANGE_BUGS[bug])


def test_without_spread_every_cell_has_the_range_of_the_chip(draw):
    a, b = draw.normal("low", 7, 5), draw.normal("high", 7, 5)
    low, high = faults.cell_ranges(a, b, g_min_uS=LOW, g_max_uS=HIGH)
    np.testing.assert_array_equal(low, np.full((7, 5), LOW, np.float32))
    np.testing.assert_array_equal(high, np.full((7, 5), HIGH, np.float32))
