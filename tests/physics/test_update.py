"""Pulses without noise: each model's equations, run cell by cell in float64 as their sources print them."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from analogsim.physics.pulsed_cells import MODELS, neurosim_a
from analogsim.physics.update import apply_pulses, closed_form, pulse, steps

D2D = {"dw_min_d2d": 0.3, "up_down": 0.1, "up_down_d2d": 0.02, "w_max_d2d": 0.2, "w_min_d2d": 0.2}
KEYS = {  # of the sections of a chip file; numbers of aihwkit's presets (devices/*.yaml), steps larger to see bounds
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


# --- planted bugs ---------------------------------------------------------------------------------


def with_cells(change):
    """apply_pulses of other cells: change(cells) -> the fields that differ."""
    return lambda w, up, down, draw, cells: apply_pulses(w, up, down, draw, replace(cells, **change(cells)))


def in_one_step(w, up, down, draw, cells):
    """A whole train as one step from where it starts."""
    size = up * steps(w, True, cells) - down * steps(w, False, cells)
    return torch.clamp(w + size, cells.w_min, cells.w_max)


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


@pytest.mark.parametrize("bug", MODEL_BUGS)
def test_the_model_test_catches(bug, draw):
    with pytest.raises(AssertionError):
        check_models(draw, MODEL_BUGS[bug])
