"""Pulses: without noise against the equations of each model run cell by cell in float64, with noise by its law.

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
from analogsim.physics.pulsed_cells import MODELS, neurosim_a
from analogsim.physics.update import apply_pulses, closed_form, leak, pulse, steps, with_write_noise

SHAPE = (1000, 1000)
D2D = {"dw_min_d2d": 0.3, "up_down": 0.1, "up_down_d2d": 0.02, "w_max_d2d": 0.2, "w_min_d2d": 0.2}
KEYS = {  # of the sections of a chip file; numbers as in reference/devices.md §2, steps larger to see bounds
    "constant": {"dw_min": 0.016, **D2D},
    "linear": {
        "dw_min": 0.02, "w_max": 1.1724, "w_min": -0.8276, "gamma_up": 0.1153, "gamma_down": 0.5085, **D2D
    },
    "soft_bounds": {"dw_min": 0.0949, "w_max": 1.25, "w_min": -0.75, **D2D},
    "exponential": {
        "dw_min": 0.0135, "a_up": -1.18445, "a_down": -0.081404, "gamma": 5.0, "a": -0.5, "b": -0.5, **D2D
    },
    "exponential that ends": {"dw_min": 0.03, "a_up": 0.4, "a_down": 0.4, "gamma": 3.0, "a": 1.0, "b": 0.0, **D2D},
    "neurosim": {"states": 97, "nonlinearity_up": 2.4, "nonlinearity_down": -4.88},
    "neurosim, growing": {"states": 32, "nonlinearity_up": 1.75, "nonlinearity_down": 1.46},
}  # fmt: skip
COUNTS = (1, 2, 7, 30, 200)


def cells_of(name, draw, shape=(3, 5), **changes):
    normal, uniform = (
        lambda what, f=f: torch.as_tensor(f(f"update {what}", *shape)) for f in (draw.normal, draw.uniform)
    )
    return MODELS[name.split(",")[0].split(" that")[0]](shape, normal, uniform, **KEYS[name] | changes)


def counts(n, shape):
    return torch.full(shape, n), torch.zeros(shape, dtype=torch.long)


def no_draw(k, n):
    raise AssertionError("a draw for cells without noise")


# --- without noise ----------------------------------------------------------------------------------


def one_by_one(name, cells, row, column, w, up, n):
    """w after n pulses of one cell: its own steps and bounds, the model's equation as its source prints it."""
    keys = KEYS[name]
    dw_up, dw_down = float(cells.up[row, column]), float(cells.down[row, column])
    top, bottom = float(cells.w_max[row, column]), float(cells.w_min[row, column])
    path = [w]
    for _ in range(n):
        if name == "constant":
            w += dw_up if up else -dw_down
        elif name == "linear":
            w += dw_up * (1 - 0.1153 * w / 1.1724) if up else -dw_down * (1 - 0.5085 * w / -0.8276)
        elif name == "soft_bounds":
            w += dw_up * (1 - w / top) if up else -dw_down * (1 - w / bottom)
        elif name.startswith("exponential"):
            z = 2 * keys["a"] * w / (top - bottom) + keys["b"]
            if up:
                w += dw_up * max(1 - keys["a_up"] * math.exp(keys["gamma"] * z), 0)
            else:
                w -= dw_down * max(1 - keys["a_down"] * math.exp(-keys["gamma"] * z), 0)
        else:  # by way of the pulse number P that the conductance stands for
            most = keys["states"] - 1
            a = neurosim_a(keys["nonlinearity_up" if up else "nonlinearity_down"]) * most
            b = 2 / (1 - math.exp(-most / a))
            p = -a * math.log(1 - (w + 1) / b)
            p = min(max(p + (1 if up else -1), 0), most)
            w = b * (1 - math.exp(-p / a)) - 1
        w = min(max(w, bottom), top)
        path.append(w)
    return path


def check_models(draw, pulsed, names=KEYS):
    """Every cell's whole path from three starts, both directions, up to 200 pulses, to 2e-6 of the range."""
    for name in names:
        cells = cells_of(name, draw)
        for up in (True, False):
            for start in (-0.4, 0.0, 0.5):
                w = torch.full((3, 5), start).clamp(cells.w_min, cells.w_max)
                for n in COUNTS:
                    moved = pulsed(w, *(counts(n, (3, 5))[:: 1 if up else -1]), no_draw, cells).double().numpy()
                    for cell in np.ndindex(3, 5):
                        expected = one_by_one(name, cells, *cell, float(w[cell]), up, n)[-1]
                        assert moved[cell] == pytest.approx(expected, abs=1e-6 * (2 + n / 20)), (name, up, start, n)


def test_pulses_follow_the_models_equations(draw):
    check_models(draw, apply_pulses)


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("up", [True, False])
def test_the_closed_form_is_the_whole_path(name, up, draw):
    """n = 0 … 200 at once against one pulse after another, in float64."""
    cells = cells_of(name, draw)
    w = torch.full((3, 5), -0.2).clamp(cells.w_min, cells.w_max)
    n = torch.arange(201)[:, None, None]
    response = closed_form(w, n, up, cells)
    assert response.shape == (201, 3, 5)
    assert response.dtype == torch.float64
    for cell in np.ndindex(3, 5):
        expected = one_by_one(name, cells, *cell, float(w[cell]), up, 200)
        np.testing.assert_allclose(response[(slice(None), *cell)], expected, atol=3e-6)


def test_soft_bounds_smaller_than_a_step_end_at_the_bound(draw):
    """HfO2 arrays: steps of 0.46 (1 - w / bound), some bounds nearer than that."""
    cells = cells_of(
        "soft_bounds", draw, (20, 20), dw_min=0.4622, dw_min_d2d=0.7125, dw_min_lognormal=True, w_max_d2d=0.43
    )
    assert (cells.up_slope > 1).any()
    for n in (0, 1, 2, 9):
        w = torch.zeros(20, 20)
        expected = apply_pulses(w, *counts(n, (20, 20)), no_draw, cells)
        torch.testing.assert_close(closed_form(w, n, True, cells).float(), expected, atol=1e-6, rtol=0)


def test_up_and_down_take_turns(draw):
    """Up, down, up, down, then the rest of the longer count: by hand, with steps that depend on w."""
    cells = cells_of("soft_bounds", draw)
    w = torch.full((3, 5), 0.1)
    expected = w
    for up in (True, False, True, False, False):
        expected = pulse(expected, up, None, cells)
    up_counts, down_counts = torch.full((3, 5), 2.0), torch.full((3, 5), 3.0)  # as pulse trains count: in floats
    torch.testing.assert_close(apply_pulses(w, up_counts, down_counts, no_draw, cells), expected)
    assert w.unique().tolist() == [pytest.approx(0.1)]  # what was handed in is left alone


def test_directions_cell_by_cell(draw):
    cells = cells_of("linear", draw)
    up = torch.arange(15).view(3, 5) % 2 == 0
    w, xi = torch.full((3, 5), 0.2), torch.full((3, 5), 0.5)
    mixed = pulse(w, up, xi, cells)
    torch.testing.assert_close(mixed, torch.where(up, pulse(w, True, xi, cells), pulse(w, False, xi, cells)))
    torch.testing.assert_close(steps(w, up, cells), torch.where(up, steps(w, True, cells), steps(w, False, cells)))


@pytest.mark.parametrize("shape", [(0, 4), (1, 1), (7, 1)])
def test_odd_shapes_and_no_pulses(shape, draw):
    cells = cells_of("linear", draw, shape)
    w = torch.zeros(shape)
    none = torch.zeros(shape)
    torch.testing.assert_close(apply_pulses(w, none, none, no_draw, cells), w)
    assert apply_pulses(w, none + 3, none, no_draw, cells).shape == shape


# --- with noise -------------------------------------------------------------------------------------


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


def in_one_step(w, up, down, draw, cells):
    """A whole train as one step from where it starts."""
    size = up * steps(w, True, cells) - down * steps(w, False, cells)
    return torch.clamp(w + size, cells.w_min, cells.w_max)


def clipped_at_the_end(w, up, down, draw, cells):
    free = replace(cells, w_max=cells.w_max + 1e3, w_min=cells.w_min - 1e3)
    return torch.clamp(apply_pulses(w, up, down, draw, sloped(free)), cells.w_min, cells.w_max)


def clipped_after_the_sum(w, up, down, draw, cells):
    return torch.clamp(apply_pulses(w, up, down, draw, cells), cells.w_min, cells.w_max)


def unclipped_exponential(w, up, down, draw, cells):
    """Steps that turn round where the exponential exceeds 1, for want of max(…, 0)."""
    for _ in range(int(max(up.max(), down.max()))):
        shape = cells.exponential
        z = shape.slope * w + shape.offset
        rise = cells.up * (1 - shape.a_up * torch.exp(shape.gamma * z))
        fall = cells.down * (1 - shape.a_down * torch.exp(-shape.gamma * z))
        w = torch.clamp(w + (rise if up.any() else -fall), cells.w_min, cells.w_max)
    return w


def exponential_changed(**changes):
    return with_cells(lambda c: {"exponential": c.exponential and replace(c.exponential, **{
        name: change(c.exponential) for name, change in changes.items()
    })})  # fmt: skip


MODEL_BUGS = {
    "pulses: sign of γ": with_cells(lambda c: {"up_slope": -c.up_slope, "down_slope": -c.down_slope}),
    "pulses: γ forgotten": with_cells(lambda c: {"up_slope": c.up_slope * 0}),
    "pulses: up and down swapped": lambda w, up, down, draw, cells: apply_pulses(w, down, up, draw, cells),
    "pulses: dw_up for both": with_cells(lambda c: {"down": c.up}),
    "pulses: bound ignored": with_cells(lambda c: {"w_max": c.w_max + 1e3}),
    "pulses: mean bounds for own": with_cells(lambda c: {"w_max": c.w_max * 0 + 1, "w_min": c.w_min * 0 - 1}),
    "pulses: one too many": lambda w, up, down, draw, cells: apply_pulses(w, up + (up > 0), down, draw, cells),
    "pulses: a train in one step": in_one_step,
    "pulses: exponential not cut at 0": lambda w, up, down, draw, cells: (
        unclipped_exponential if cells.exponential else apply_pulses
    )(w, up, down, draw, cells),
    "pulses: A_up and A_down swapped": exponential_changed(a_up=lambda s: s.a_down, a_down=lambda s: s.a_up),
    "pulses: z without b": exponential_changed(offset=lambda s: 0.0),
}


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


@pytest.mark.parametrize("bug", MODEL_BUGS)
def test_the_model_test_catches(bug, draw):
    with pytest.raises(AssertionError):
        check_models(draw, MODEL_BUGS[bug])


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
