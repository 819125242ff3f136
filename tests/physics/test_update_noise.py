"""Pulses with noise, by their law, 10^6 cells.

one pulse      (Δw / step - 1) / σ_c2c ~ N(0, 1); additive: (Δw - step) / (σ_c2c dw) ~ N(0, 1)
u up, d down   constant cells far from a bound: N(u dw_up - d dw_down, σ_c2c² (u dw_up² + d dw_down²)),
               all at once or one by one
near a bound   clipped at every pulse: all at once would have another law
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from analogsim.physics import update
from analogsim.physics.pulsed_cells import MODELS
from analogsim.physics.update import apply_pulses, leak, pulse, steps, with_write_noise

SHAPE = (1000, 1000)


def counts(n, shape):
    return torch.full(shape, n), torch.zeros(shape, dtype=torch.long)


def plain(draw, model="constant", **keys):
    return MODELS[model](SHAPE, None, None, **{"dw_min": 0.01, "w_max": 100.0, "w_min": -100.0, "c2c": 0.3} | keys)


def drawing(draw, name):
    """draw(k, n) of apply_pulses; notes which k were asked for."""
    asked = []

    def drawn(k, n):
        asked.append(k)
        return torch.as_tensor(draw.normal(f"{name} {k}", n))

    drawn.asked = asked
    return drawn


def sloped(cells):
    """The same cells, but one by one: a slope of one of them too small to see rules out the sum."""
    slope = torch.zeros(SHAPE)
    slope[0, 0] = 1e-12
    return replace(cells, up_slope=slope)


def check_spread(draw, check, pulsed):
    """10^6 cells, u pulses up and d down: normal with the sum's mean and variance, all at once and one by one."""
    cells = replace(plain(draw), down=torch.full(SHAPE, 0.007))
    for made, many in ((cells, "sum"), (sloped(cells), "rounds")):
        for u, d in ((1, 0), (0, 1), (5, 3)):
            w = pulsed(torch.zeros(SHAPE), torch.full(SHAPE, u), torch.full(SHAPE, d), drawing(draw, many), made)
            sd = 0.3 * math.sqrt(u * 0.01**2 + d * 0.007**2)
            check.normal((w.double() - (u * 0.01 - d * 0.007)) / sd)


def check_kinds(draw, check, pulsed):
    """One pulse from w = 0.5 of linear cells, γ = 0.8: spread relative to the step (0.6 dw), or to dw; both ways."""
    for additive, own in ((False, 0.3 * 0.6), (True, 0.3)):
        for up in (True, False):
            cells = plain(draw, "linear", w_max=1.0, w_min=-1.0, gamma_up=0.8, gamma_down=0.8, c2c_additive=additive)
            w = torch.full(SHAPE, 0.5 if up else -0.5)
            moved = pulsed(w, *(counts(1, SHAPE)[:: 1 if up else -1]), drawing(draw, "kind"), cells)
            change = (moved.double() - w) * (1 if up else -1)
            check.normal((change - 0.006) / (0.01 * own))


def check_near_a_bound(draw, check, pulsed):
    """Three pulses up from a bound less 1.5 steps: the second is clipped, and the third starts from the bound.

    The share of cells at the bound at last, binomial; σ_c2c = 1, so that a pulse may also go back.
    """
    cells = replace(plain(draw, c2c=1.0), w_max=torch.full(SHAPE, 0.015))
    w = pulsed(torch.zeros(SHAPE), *counts(3, SHAPE), drawing(draw, "bound"), cells)
    assert w.max() == cells.w_max.max()
    check.binomial((w == 0.015).sum(), w.numel(), at_the_bound(1.5, 3))


def at_the_bound(distance, pulses):
    """P that a walk of N(1, 1) steps, clipped at `distance` after each, ends there: on a grid, by convolution."""
    h = 2e-3
    x = np.arange(-12, distance, h) + h / 2
    density, mass = np.exp(-((x - 1) ** 2) / 2) / math.sqrt(2 * math.pi), _upper(distance - 1)
    for _ in range(pulses - 1):
        arrived = mass * _upper(-1) + (density * [_upper(distance - v - 1) for v in x]).sum() * h
        kernel = np.exp(-((np.arange(-len(x) + 1, len(x)) * h - 1) ** 2) / 2) / math.sqrt(2 * math.pi)
        spread = np.convolve(density, kernel)[len(x) - 1 : 2 * len(x) - 1] * h
        density = spread + mass * np.exp(-((x - distance - 1) ** 2) / 2) / math.sqrt(2 * math.pi)
        mass = arrived
    return mass


def _upper(z):
    return math.erfc(z / math.sqrt(2)) / 2


def test_c2c_adds_up_pulse_by_pulse(draw, check):
    check_spread(draw, check, apply_pulses)


def test_c2c_of_either_kind(draw, check):
    check_kinds(draw, check, apply_pulses)


def test_pulses_are_clipped_one_by_one(draw, check):
    check_near_a_bound(draw, check, apply_pulses)


def test_neurosim_spread_is_of_the_full_range(draw, check):
    """One pulse up from -0.5: σ = 5 % of the range of 2."""
    cells = MODELS["neurosim"](SHAPE, None, None, states=97, nonlinearity_up=2.4, nonlinearity_down=-4.88, c2c=0.05)
    cells = replace(cells, w_max=cells.w_max * 9, w_min=cells.w_min * 9)
    w = torch.full(SHAPE, -0.5)
    moved = apply_pulses(w, *counts(1, SHAPE), drawing(draw, "neurosim"), cells)
    check.normal((moved.double() - w - steps(w, True, cells).double()) / 0.1)


def test_what_is_drawn(draw):
    """Each k once, as many numbers as cells have such a pulse, in the cells' order; none where nothing moves."""
    cells = sloped(plain(draw))
    cells = replace(
        cells, **{name: getattr(cells, name)[:1, :4] for name in ("up", "down", "up_slope", "down_slope")},
        **{name: getattr(cells, name)[:1, :4] for name in ("w_max", "w_min", "up_spread", "down_spread")},
    )  # fmt: skip
    asked = []

    def noted(k, n):
        asked.append((k, n))
        return torch.arange(n) + 1.0

    w = apply_pulses(torch.zeros(1, 4), torch.tensor([[2, 0, 1, 0]]), torch.tensor([[0, 0, 1, 3]]), noted, cells)
    assert asked == [(1, 2), (2, 2), (3, 1), (4, 1), (6, 1)]
    spread = np.array([[(1 + 1), 0, 2 - 1, -(2 + 1 + 1)]]) * 0.3
    np.testing.assert_allclose(w, (np.array([[2, 0, 0, -3]]) + spread) * 0.01, atol=1e-7)


def test_the_sum_is_taken_only_out_of_reach(draw):
    """One number a cell where no bound can be reached (k = 0); near a bound, one a pulse."""
    cells = replace(plain(draw), w_max=torch.full(SHAPE, 1.0))
    start = torch.zeros(SHAPE)
    start[0, 0] = 0.95
    asked = []

    def noted(k, n):
        asked.append((k, n))
        return torch.zeros(n)

    apply_pulses(start, *counts(3, SHAPE), noted, cells)
    assert asked == [(0, 999_999), (1, 1), (3, 1), (5, 1)]


def check_write_noise(draw, check, seen):
    cells = replace(plain(draw, write_noise=75.0, dw_min=0.00135), up=torch.full(SHAPE, 0.002))
    read = seen(torch.full(SHAPE, 0.25), torch.as_tensor(draw.normal("write noise", *SHAPE)), cells)
    check.normal((read.double() - 0.25) / (75 * 0.00135))


def test_write_noise_is_in_units_of_dw_min(draw, check):
    """ReRAM-ES: 75 dw_min."""
    check_write_noise(draw, check, with_write_noise)


def test_leaks_by_hand(draw):
    cells = plain(draw, lifetime_updates=4.0)
    w = torch.full(SHAPE, 0.8)
    assert leak(w, 2, cells).unique().tolist() == [pytest.approx(0.8 * 0.75**2)]
    slow = plain(draw, lifetime_updates=1000.0)
    assert leak(w, 1000, slow).unique().tolist() == [pytest.approx(0.8 / math.e, rel=1e-3)]
    assert leak(w, 5, plain(draw)) is w
    assert leak(w, 1, plain(draw, lifetime_updates=0.5)).unique().tolist() == [0]
    stuck = replace(cells, w_max=torch.full(SHAPE, 0.8), w_min=torch.full(SHAPE, 0.8))
    torch.testing.assert_close(leak(w, 100, stuck), w)


# --- planted bugs ---------------------------------------------------------------------------------


def with_cells(change):
    """apply_pulses of other cells: change(cells) -> the fields that differ."""
    return lambda w, up, down, draw, cells: apply_pulses(w, up, down, draw, replace(cells, **change(cells)))


def clipped_at_the_end(w, up, down, draw, cells):
    free = replace(cells, w_max=cells.w_max + 1e3, w_min=cells.w_min - 1e3)
    return torch.clamp(apply_pulses(w, up, down, draw, sloped(free)), cells.w_min, cells.w_max)


def clipped_after_the_sum(w, up, down, draw, cells):
    return torch.clamp(apply_pulses(w, up, down, draw, cells), cells.w_min, cells.w_max)


def one_number_a_train(w, up, down, draw, cells):
    """The same ξ for every pulse of a train."""
    return apply_pulses(w, up, down, lambda k, n: draw(0, n), sloped(cells))


def own_draw(change):
    return lambda w, up, down, draw, cells: apply_pulses(w, up, down, lambda k, n: change(draw, k, n), cells)


SPREAD_BUGS = {
    "c2c: once a train": one_number_a_train,
    "c2c: + 1 %": with_cells(lambda c: {"c2c": c.c2c * 1.01}),
    "c2c: variance for σ": with_cells(lambda c: {"c2c": c.c2c**2}),
    "c2c: truncated tail": own_draw(lambda draw, k, n: draw(k, n).clamp(-4, 4)),
    "c2c: of dw_min, not of the cell's step": with_cells(
        lambda c: {"c2c": 0.0, "up_spread": c.up * 0 + 0.003, "down_spread": c.up * 0 + 0.003}
    ),
    "c2c: not up": with_cells(lambda c: {"c2c": 0.0, "down_spread": c.down * c.c2c}),
}
KIND_BUGS = {
    "c2c: additive for relative": with_cells(
        lambda c: {"c2c": 0.0, "up_spread": c.up * max(c.c2c, 0.3), "down_spread": c.down * max(c.c2c, 0.3)}
    ),
    "c2c: relative for additive": with_cells(lambda c: {"c2c": 0.3, "up_spread": c.up * 0, "down_spread": c.up * 0}),
    "c2c: spread squared": with_cells(lambda c: {"up_spread": c.up_spread**2, "down_spread": c.down_spread**2}),
}


def everywhere_out_of_reach(w, up, down, cells):
    return torch.ones_like(w, dtype=torch.bool)


def staying(w, up, xi, cells):
    """A pulse that leaves a cell at its bound for good."""
    return torch.where(w == cells.w_max, w, pulse(w, up, xi, cells))


BOUND_BUGS = {  # what applies the pulses, and what of update.py is not as it should be
    "bounds: clipped at the end of a train": (clipped_at_the_end, {}),
    "bounds: the sum taken within reach": (clipped_after_the_sum, {"_out_of_reach": everywhere_out_of_reach}),
    "bounds: pulses end at the first clip": (apply_pulses, {"pulse": staying}),
}


WRITE_NOISE_BUGS = {
    "write noise: in units of w": lambda w, xi, cells: w + cells.write_sigma / cells.dw_min * xi,
    "write noise: in units of the cell's own step": lambda w, xi, cells: w + 75 * steps(w, True, cells) * xi,
    "write noise: one number for all cells": lambda w, xi, cells: with_write_noise(w, xi[0, 0], cells),
}


@pytest.mark.parametrize("bug", SPREAD_BUGS)
def test_the_spread_test_catches(bug, draw, check):
    with pytest.raises(AssertionError):
        check_spread(draw, check, SPREAD_BUGS[bug])


@pytest.mark.parametrize("bug", KIND_BUGS)
def test_the_kind_test_catches(bug, draw, check):
    with pytest.raises(AssertionError):
        check_kinds(draw, check, KIND_BUGS[bug])


@pytest.mark.parametrize("bug", BOUND_BUGS)
def test_the_bound_test_catches(bug, draw, check, monkeypatch):
    pulsed, changes = BOUND_BUGS[bug]
    for name, change in changes.items():
        monkeypatch.setattr(update, name, change)
    with pytest.raises(AssertionError):
        check_near_a_bound(draw, check, pulsed)


@pytest.mark.parametrize("bug", WRITE_NOISE_BUGS)
def test_the_write_noise_test_catches(bug, draw, check):
    with pytest.raises(AssertionError):
        check_write_noise(draw, check, WRITE_NOISE_BUGS[bug])
