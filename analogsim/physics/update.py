"""Pulses on cells: how a weight moves, one pulse at a time.

    w <- clip(w ± step_d(w) (1 + σ_c2c ξ) ± s_d ξ, b_min, b_max) ,   ξ ~ N(0, 1) fresh for every pulse

step_d, the spread s_d that does not depend on the step, and the bounds: physics/pulsed_cells.py, where
the models differ. A pulse is clipped at the cell's own bounds before the next one. Between updates w
leaks, w <- w (1 - 1/lifetime); what is read is w + write_noise dw_min ξ, ξ drawn anew by a pulse or a leak.

Exact pulse by pulse, but for the order of a cell's pulses within one update: they come as up, down, up,
down, …, the rest of the longer count last. Source: the update models of aihwkit (docs/laws.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial

import torch
from torch import Tensor

from analogsim.at_hand import Picked
from analogsim.physics.pulsed_cells import CellParameters

LARGEST_NORMAL = 6.7  # no number of analogsim/streams.py lies farther out


def steps(w: Tensor, up: Tensor | bool, cells: CellParameters) -> Tensor:
    """The noise-free size of one pulse at w, in w; positive. up: the direction, one or one a cell."""
    shape = cells.exponential
    if shape is None:
        rise, fall = cells.up - cells.up_slope * w, cells.down + cells.down_slope * w
    else:
        z = shape.slope * w + shape.offset
        rise = cells.up * (1 - shape.a_up * torch.exp(shape.gamma * z)).clamp(min=0)
        fall = cells.down * (1 - shape.a_down * torch.exp(-shape.gamma * z)).clamp(min=0)
    return _by_direction(up, rise, fall)


def pulse(w: Tensor, up: Tensor | bool, xi: Tensor | None, cells: CellParameters) -> Tensor:
    """w after one pulse on every cell.

    w: in units of the weight range, the shape of `cells`. up: True, False, or a bool tensor.
    xi: standard normals, one a cell; None where `cells.noisy` is False.
    """
    size = steps(w, up, cells)
    if xi is not None:
        size = size * (1 + cells.c2c * xi) + _by_direction(up, cells.up_spread, cells.down_spread) * xi
    return torch.clamp(w + _by_direction(up, size, -size), cells.w_min, cells.w_max)


def apply_pulses(
    w: Tensor,
    up_counts: Tensor,
    down_counts: Tensor,
    draw: Callable[[int, int], Tensor],
    cells: CellParameters,
) -> Tensor:
    """w after up_counts and down_counts pulses on every cell, (out, in) whole numbers; a new tensor.

    draw: (k, n) -> n standard normals, float32, a pure function of its arguments. It is called with
    each k once at most, and only where `cells.noisy`: the numbers of k = 1, 3, 5, … go to the cells that have
    a first, second, third … pulse up, row by row, those of k = 2, 4, 6, … to the same downwards.

    Cells of constant steps with no bound in reach take all their pulses at once, with the numbers of k = 0:
    w + u dw_up - d dw_down + √(u s_up² + d s_down²) ξ, s_d the spread of one. That is exactly the
    law of the pulses one by one: a sum of independent normals is normal, and nothing is clipped on the way.
    """
    flat = _flattened(cells)
    w, up, down = w.flatten().clone(), up_counts.flatten(), down_counts.flatten()
    if cells.constant:
        at_once = Picked.by(_out_of_reach(w, up, down, flat) & (up + down > 0))
        if not at_once.none:
            xi = at_once.drawn(partial(draw, 0)) if cells.noisy else None
            at_once.put(_sum(at_once.of(w), at_once.of(up), at_once.of(down), xi, _at(flat, at_once)), w)
            up, down = up.clone(), down.clone()
            for counts in (up, down):
                at_once.put(0.0, counts)
    longest = int(torch.maximum(up.max(), down.max())) if up.numel() else 0  # the one look at values
    for number in range(longest):
        for counts, is_up in ((up, True), (down, False)):
            hit = Picked.by(counts > number)
            if not hit.none:
                xi = hit.drawn(partial(draw, 2 * number + (1 if is_up else 2))) if cells.noisy else None
                hit.put(pulse(hit.of(w), is_up, xi, _at(flat, hit)), w)
    return w.view_as(up_counts)


def closed_form(w: Tensor, n: Tensor | int, up: bool, cells: CellParameters) -> Tensor:
    """w after n equal pulses without noise, float64; for tests and for plots of the pulse response.

        linear in w:  w_n = f - (f - w_0) (1 - slope)^n ,   f = step(0) / slope, the value at which it ends

    (w_0 ± n step where slope = 0), clipped once at the end, which is the same since w moves one way.
    Holds for slope ≤ 1, a step that does not overshoot f; larger ones are held at f, as the bound of soft
    bounds holds them. The exponential model has no closed form: its n pulses are iterated, in float64.
    n: whole numbers that broadcast against w. Returns their common shape.
    """
    start, pulses = torch.broadcast_tensors(w.double(), torch.as_tensor(n, device=w.device))
    exact = _converted(cells, Tensor.double)
    if exact.exponential is not None:
        moved = start.clone()
        for done in range(int(pulses.max()) if pulses.numel() else 0):
            moved = torch.where(pulses > done, pulse(moved, up, None, exact), moved)
        return moved
    step, slope = (exact.up, exact.up_slope) if up else (-exact.down, exact.down_slope)
    # (1 - (1 - slope)^n) / slope: how many steps of the first one's size n pulses amount to
    shrunk = -torch.expm1(pulses * torch.log1p(-slope.clamp(max=1)))
    shrunk = torch.where(pulses > 0, shrunk, 0.0)  # 0 · ln 0
    size = torch.where(slope == 0, pulses.double(), shrunk / torch.where(slope == 0, 1.0, slope))
    return torch.clamp(start + (step - slope * start) * size, exact.w_min, exact.w_max)


def leak(w: Tensor, updates: int, cells: CellParameters) -> Tensor:
    """w (1 - 1/lifetime)^updates, within the bounds: what is left after some updates."""
    if cells.keep is None:
        return w
    return torch.clamp(w * cells.keep**updates, cells.w_min, cells.w_max)


def with_write_noise(w: Tensor, xi: Tensor, cells: CellParameters) -> Tensor:
    """w + write_noise dw_min ξ: what is read of a cell that holds w, the same until its next pulse."""
    return w + cells.write_sigma * xi


def _by_direction(up: Tensor | bool, if_up: Tensor, if_down: Tensor) -> Tensor:
    if isinstance(up, bool):
        return if_up if up else if_down
    return torch.where(up, if_up, if_down)


def _spread(step: Tensor, additive: Tensor, cells: CellParameters) -> Tensor:
    """Standard deviation of one pulse of constant size."""
    return step * cells.c2c + additive


def _out_of_reach(w: Tensor, up: Tensor, down: Tensor, cells: CellParameters) -> Tensor:
    """Cells whose pulses together, each as long as one can be, stay within the bounds."""
    longest_up = cells.up + LARGEST_NORMAL * _spread(cells.up, cells.up_spread, cells)
    longest_down = cells.down + LARGEST_NORMAL * _spread(cells.down, cells.down_spread, cells)
    way = up * longest_up + down * longest_down
    return (w + way <= cells.w_max) & (w - way >= cells.w_min)


def _sum(w: Tensor, up: Tensor, down: Tensor, xi: Tensor | None, cells: CellParameters) -> Tensor:
    w = w + up * cells.up - down * cells.down
    if xi is None:
        return w
    variance_up = up * _spread(cells.up, cells.up_spread, cells).square()
    variance_down = down * _spread(cells.down, cells.down_spread, cells).square()
    return w + (variance_up + variance_down).sqrt() * xi


def _converted(cells: CellParameters, change: Callable[[Tensor], Tensor]) -> CellParameters:
    """The same cells, every tensor changed."""
    values = {field.name: getattr(cells, field.name) for field in fields(cells)}
    changed = {name: change(value) for name, value in values.items() if isinstance(value, Tensor)}
    shape = cells.exponential
    return replace(cells, **changed, exponential=shape and replace(shape, slope=change(shape.slope)))


def _flattened(cells: CellParameters) -> CellParameters:
    return _converted(cells, Tensor.flatten)


def _at(cells: CellParameters, picked: Picked) -> CellParameters:
    """Some of flattened cells; all of them as they are."""
    index = picked.index
    every = index is None or index.numel() == cells.up.numel()
    return cells if every else _converted(cells, lambda tensor: tensor[index])
