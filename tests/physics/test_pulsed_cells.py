"""What is fixed in pulsed cells, 10^6 cells: each quantity normal about its mean, and independent of the others.

up, down       dw_min (g ± up_down_d2d ξ'), one of them less |up_down|;  g = 1 + dw_min_d2d ξ or e^(…)
bounds         w_max (1 + w_max_d2d ξ), w_min (1 + w_min_d2d ξ), their sign kept
slopes         γ_d dw_d / w_d ; stuck cells: both bounds one value, no step
NeuroSim       G(P) = B (1 - e^(-P/A)) + G_min from pulse to pulse; A against its published table
"""

from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats

from analogsim.errors import ArgumentError
from analogsim.physics import pulsed_cells
from analogsim.physics.pulsed_cells import MODELS, neurosim_a
from analogsim.physics.update import apply_pulses, steps

SHAPE = (1000, 1000)
LINEAR = {
    "dw_min": 0.004,
    "dw_min_d2d": 0.12,
    "up_down": 0.2,
    "up_down_d2d": 0.05,
    "w_max": 1.2,
    "w_max_d2d": 0.1,
    "w_min": -0.8,
    "w_min_d2d": 0.15,
    "gamma_up": 0.6,
    "gamma_down": 0.4,
    "gamma_up_d2d": 0.06,
    "gamma_down_d2d": 0.03,
    "lifetime_updates": 1000.0,
    "lifetime_d2d": 0.1,
}


def drawn(draw, shape=SHAPE):
    """normal and uniform by name, as a chip hands them."""
    return {
        kind: lambda name, kind=kind: _drawn(getattr(draw, kind), f"cells {name}", *shape)
        for kind in ("normal", "uniform")
    }


@cache
def _drawn(source, name, *shape):
    return source(name, *shape)


def made(draw, model, shape=SHAPE, **keys):
    return MODELS[model](shape, **drawn(draw, shape), **keys)


def check_steps(draw, check, make):
    """Gain and lean of the two steps as standard normals; up_down shortens one side alone."""
    for sign in (1, -1):
        cells = make(SHAPE, **drawn(draw), **LINEAR | {"up_down": sign * LINEAR["up_down"]})
        up, down = (step.double() / LINEAR["dw_min"] for step in (cells.up, cells.down))
        gain = ((up + down) / 2 - (1 - 0.1)) / LINEAR["dw_min_d2d"]
        lean = ((up - down) / 2 - sign * 0.1) / LINEAR["up_down_d2d"]
        check.normal(gain)
        check.normal(lean)
        check.uncorrelated(gain, lean)


def check_bounds_and_slopes(draw, check, make):
    """Bounds and γ as standard normals; leaks in short, since 1 - 1/1000 keeps four of its digits in float32."""
    cells = make(SHAPE, **drawn(draw), **LINEAR)
    scores = [
        (cells.w_max / 1.2 - 1) / LINEAR["w_max_d2d"],
        (cells.w_min / -0.8 - 1) / LINEAR["w_min_d2d"],
        (cells.up_slope / cells.up * 1.2 - 0.6) / LINEAR["gamma_up_d2d"],
        (cells.down_slope / cells.down * 0.8 - 0.4) / LINEAR["gamma_down_d2d"],
    ]
    for z in scores:
        check.normal(z)
    for one, other in pairwise(scores):
        check.uncorrelated(one, other)
    check.normal((1 / (1 - cells.keep[:100].double()) / 1000 - 1) / LINEAR["lifetime_d2d"])


def test_steps_of_a_linear_cell(draw, check):
    check_steps(draw, check, pulsed_cells.linear)


def test_bounds_slopes_and_leaks_of_a_linear_cell(draw, check):
    check_bounds_and_slopes(draw, check, pulsed_cells.linear)


def test_lognormal_steps(draw, check):
    """ln of the gain is normal; reram-om's spread of 0.78 (Gong & Rasch, IEDM 2022)."""
    cells = made(draw, "constant", dw_min=0.0949, dw_min_d2d=0.7829, dw_min_lognormal=True)
    check.normal((cells.up.double() / 0.0949).log() / 0.7829)
    torch.testing.assert_close(cells.up, cells.down)


def test_bounds_and_steps_keep_their_sign(draw, check):
    """A bound of 1 ± 0.57 that would change sign is folded back: |N(1, 0.57²)|."""
    cells = made(draw, "constant", dw_min=0.01, dw_min_d2d=0.57, w_max_d2d=0.57, w_min_d2d=0.57)
    folded = stats.foldnorm(1 / 0.57, scale=0.57)
    for value in (cells.w_max, -cells.w_min, cells.up / 0.01):
        assert (value >= 0).all()
        assert stats.kstest(value.numpy().ravel()[:200_000], folded.cdf).pvalue > check.alpha


def check_stuck(draw, check, make):
    """Binomial count; values even between a cell's own bounds, or within a range; they neither move nor leak."""
    keys = {"dw_min": 0.01, "w_max_d2d": 0.3, "w_min_d2d": 0.3, "c2c": 0.5, "stuck": 0.1348}
    free = make(SHAPE, **drawn(draw), **keys | {"stuck": 0.0})
    for stuck_range in (None, 0.01):
        cells = make(SHAPE, **drawn(draw), **keys, stuck_range=stuck_range)
        held = cells.w_max == cells.w_min
        check.binomial(held.sum(), held.numel(), keys["stuck"])
        reach = np.inf if stuck_range is None else stuck_range
        low, high = free.w_min[held].clamp(min=-reach), free.w_max[held].clamp(max=reach)
        assert stats.kstest(((cells.w_max[held] - low) / (high - low)).numpy(), "uniform").pvalue > check.alpha
        assert not cells.up[held].any()
        assert not cells.down[held].any()
        torch.testing.assert_close(cells.w_max[~held], free.w_max[~held])
        torch.testing.assert_close(cells.up[~held], free.up[~held])


def test_stuck_cells(draw, check):
    check_stuck(draw, check, pulsed_cells.constant)


def test_a_stuck_cell_of_any_model_stays(draw):
    """No NaN from a bound that is 0, no pulse that moves it."""
    keys = {"dw_min": 0.1, "c2c": 0.3, "stuck": 1.0, "stuck_range": 0.0}
    own = {
        "constant": {},
        "linear": {"gamma_up": 0.5, "gamma_down": 0.5, "c2c_additive": True},
        "soft_bounds": {"c2c_additive": True, "at_symmetry_point": True},
        "exponential": {"a_up": -1.0, "a_down": -1.0, "gamma": 5.0, "a": -0.5, "b": -0.5},
    }
    for model, extra in own.items():
        cells = made(draw, model, (4, 5), **keys, **extra)
        n = torch.full((4, 5), 3)
        w = apply_pulses(torch.zeros(4, 5), n, n, lambda k, n: torch.ones(n), cells)
        assert w.tolist() == [[0.0] * 5] * 4


# --- soft bounds seen from the symmetry point -------------------------------------------------------


def test_the_symmetry_point_is_where_steps_are_equal(draw):
    """The same cells, w shifted: steps and bounds agree everywhere, and steps are equal at w = 0."""
    keys = {"dw_min": 0.05, "dw_min_d2d": 0.3, "up_down_d2d": 0.1, "w_max_d2d": 0.3, "w_min_d2d": 0.3}
    plain = made(draw, "soft_bounds", (20, 30), **keys)
    seen = made(draw, "soft_bounds", (20, 30), **keys, at_symmetry_point=True)
    torch.testing.assert_close(seen.up, seen.down)
    point = plain.w_max - seen.w_max
    assert point.abs().max() > 0.1
    torch.testing.assert_close(plain.w_min - seen.w_min, point)
    for w in (-0.3, 0.0, 0.4):
        for up in (True, False):
            torch.testing.assert_close(steps(torch.tensor(w) - point, up, seen), steps(torch.tensor(w), up, plain))


def test_the_reference_misses_by_its_error(draw, check):
    keys = {"dw_min": 0.05, "up_down_d2d": 0.01, "at_symmetry_point": True}
    exact = made(draw, "soft_bounds", **keys)
    missed = made(draw, "soft_bounds", **keys, reference_error=0.05)
    check.normal((exact.w_max.double() - missed.w_max) / 0.05)


# --- NeuroSim -------------------------------------------------------------------------------------

# Some of the 900 values of normalised A that MLP+NeuroSim V3.0 tabulates (formula.cpp), to six decimals.
PUBLISHED_A = {
    0.01: 126.268958,
    0.05: 25.253264,
    0.1: 12.625807,
    0.5: 2.519877,
    1.0: 1.251653,
    2.0: 0.609035,
    3.0: 0.386830,
    9.0: 0.022810,
}


@pytest.mark.parametrize("nonlinearity", PUBLISHED_A)
def test_a_is_neurosim_s(nonlinearity):
    assert neurosim_a(nonlinearity) == pytest.approx(PUBLISHED_A[nonlinearity], abs=5.1e-7)
    assert neurosim_a(-nonlinearity) == -neurosim_a(nonlinearity)


@pytest.mark.parametrize("nonlinearity", [1e-6, 0.04, 1.75, 4.88, 9.0])
def test_a_by_its_definition(nonlinearity):
    """The curve's largest distance from the straight line, found on a grid, is 0.07 of the number."""
    p = np.linspace(0, 1, 200_001)
    rate = 1 / neurosim_a(nonlinearity)
    curve = np.expm1(-rate * p) / np.expm1(-rate)
    assert (curve - p).max() / np.sqrt(2) / 0.07 == pytest.approx(nonlinearity, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("nonlinearity", [0, 9.01, -20])
def test_a_is_refused_out_of_range(nonlinearity):
    with pytest.raises(ArgumentError, match="nonlinearity"):
        neurosim_a(nonlinearity)


NEUROSIM = {"fefet": (32, 1.75, 1.46), "taox": (128, 0.04, -0.63), "agsi": (97, 2.4, -4.88), "line": (5, 0.0, 0.0)}


def curve(pulses, nonlinearity):
    """G(P) of P = 0 .. pulses, scaled to ±1, by NeuroSim's formula."""
    if nonlinearity == 0:
        return np.linspace(-1, 1, pulses + 1)
    a = neurosim_a(nonlinearity) * pulses
    b = 2 / (1 - np.exp(-pulses / a))
    return b * (1 - np.exp(-np.arange(pulses + 1) / a)) - 1


def check_neurosim(make):
    """From G_min to G_max in states - 1 pulses, through every G(P), and back through every G_LTD(P)."""
    for states, up, down in NEUROSIM.values():
        cells = make((1, 1), None, None, states=states, nonlinearity_up=up, nonlinearity_down=down)
        assert cells.dw_min == 2 / (states - 1)
        w, path = torch.full((1, 1), -1.0), []
        for direction in (True, False):
            for _ in range(states - 1):
                path.append(float(w))
                size = steps(w, direction, cells)
                w = w + (size if direction else -size)
        expected = [*curve(states - 1, up)[:-1], *curve(states - 1, down)[:0:-1]]
        np.testing.assert_allclose([*path, float(w)], [*expected, -1], atol=3e-5)


def test_neurosim_cells_follow_their_curves():
    check_neurosim(pulsed_cells.neurosim)


def test_opposite_numbers_mirror_the_curve():
    """LTD as LTP turned upside down: the step down from w is the step up from -w."""
    cells = MODELS["neurosim"]((1, 1), None, None, states=40, nonlinearity_up=2.4, nonlinearity_down=-2.4)
    w = torch.linspace(-1, 1, 9)[:, None]
    torch.testing.assert_close(steps(w, True, cells), steps(-w, False, cells))


# --- planted bugs ---------------------------------------------------------------------------------


def keys_changed(**changes):
    return lambda shape, **keys: pulsed_cells.linear(shape, **keys | {k: f(keys) for k, f in changes.items()})


def cells_changed(make, **changes):
    """change(cells) of some fields, after they were made."""

    def bugged(*arguments, **keys):
        cells = make(*arguments, **keys)
        return replace(cells, **{name: change(cells) for name, change in changes.items()})

    return bugged


def up_down_on_both_sides(shape, **keys):
    cells = pulsed_cells.linear(shape, **keys)
    added = abs(keys["up_down"]) * keys["dw_min"]
    return replace(cells, **({"up": cells.up + added} if keys["up_down"] > 0 else {"down": cells.down + added}))


def shared_draws(shape, normal, uniform, **keys):
    return pulsed_cells.linear(shape, lambda name: normal("w_max" if name == "w_min" else name), uniform, **keys)


STEP_BUGS = {
    "cells: up and down swapped": cells_changed(pulsed_cells.linear, up=lambda c: c.down, down=lambda c: c.up),
    "cells: up_down the other way round": keys_changed(up_down=lambda keys: -keys["up_down"]),
    "cells: up_down on both sides": up_down_on_both_sides,
    "cells: up_down_d2d the same in both directions": cells_changed(pulsed_cells.linear, down=lambda c: c.up),
    "cells: lognormal for normal": keys_changed(dw_min_lognormal=lambda keys: True),
    "cells: d2d variance for σ": keys_changed(dw_min_d2d=lambda keys: keys["dw_min_d2d"] ** 2),
}
SLOPE_BUGS = {
    "cells: one draw for both bounds": shared_draws,
    "cells: γ_up and γ_down swapped": keys_changed(
        gamma_up=lambda keys: keys["gamma_down"], gamma_down=lambda keys: keys["gamma_up"]
    ),
    "cells: γ not of the mean bound": cells_changed(pulsed_cells.linear, up_slope=lambda c: c.up_slope * 1.2 / c.w_max),
    "cells: sign of γ": cells_changed(pulsed_cells.linear, up_slope=lambda c: -c.up_slope),
}
STUCK_BUGS = {
    "stuck: at a bound": cells_changed(
        pulsed_cells.constant, w_max=lambda c: torch.where(c.up == 0, c.w_max.sign(), c.w_max), w_min=lambda c: c.w_min
    ),
    "stuck: still moves": cells_changed(pulsed_cells.constant, up=lambda c: c.up.clamp(min=0.01)),
    "stuck: where decides whether": lambda shape, normal, uniform, **keys: pulsed_cells.constant(
        shape, normal, lambda name: uniform("stuck"), **keys
    ),
    "stuck: share squared": lambda shape, **keys: pulsed_cells.constant(shape, **keys | {"stuck": keys["stuck"] ** 2}),
}
NEUROSIM_BUGS = {
    "neurosim: states for states - 1": lambda *a, states, **keys: pulsed_cells.neurosim(*a, states=states + 1, **keys),
    "neurosim: LTD with LTP's sign": lambda *a, nonlinearity_down, **keys: pulsed_cells.neurosim(
        *a, nonlinearity_down=-nonlinearity_down, **keys
    ),
    "neurosim: range of 1": cells_changed(pulsed_cells.neurosim, up=lambda c: c.up / 2, down=lambda c: c.down / 2),
}


@pytest.mark.parametrize("bug", STEP_BUGS)
def test_the_step_test_catches(bug, draw, check):
    with pytest.raises(AssertionError):
        check_steps(draw, check, STEP_BUGS[bug])


@pytest.mark.parametrize("bug", SLOPE_BUGS)
def test_the_slope_test_catches(bug, draw, check):
    with pytest.raises(AssertionError):
        check_bounds_and_slopes(draw, check, SLOPE_BUGS[bug])


@pytest.mark.parametrize("bug", STUCK_BUGS)
def test_the_stuck_test_catches(bug, draw, check):
    with pytest.raises(AssertionError):
        check_stuck(draw, check, STUCK_BUGS[bug])


@pytest.mark.parametrize("bug", NEUROSIM_BUGS)
def test_the_neurosim_test_catches(bug):
    with pytest.raises(AssertionError):
        check_neurosim(NEUROSIM_BUGS[bug])
