"""Cells that move by pulses: what is fixed in each of them when the chip is made.

    step up(w) = up - up_slope w ,   step down(w) = down + down_slope w        (steps are positive)

      constant      up = dw_up                          up_slope = 0
      linear        up = dw_up                          up_slope = γ_up dw_up / w_max
      soft bounds   up = dw_up                          up_slope = dw_up / b_max       (0 at the bound)
      NeuroSim      up = (B - 1)(1 - e^(-1/A))          up_slope = 1 - e^(-1/A)
      exponential   dw_up max(1 - A_up e^(γ z), 0) ,    z = 2 a w / (b_max - b_min) + b

and downwards the same with w_min, b_min, γ_down, A_down, -z. b is a cell's own bound, w_max and w_min
the mean ones. From cell to cell, ξ ~ N(0, 1) independent:

    dw_up   = dw_min |g + min(up_down, 0) + up_down_d2d ξ'| ,    g = 1 + dw_min_d2d ξ  or  e^(dw_min_d2d ξ)
    dw_down = dw_min |g - max(up_down, 0) - up_down_d2d ξ'|
    b_max = |w_max (1 + w_max_d2d ξ)| ,   b_min = -|w_min (1 + w_min_d2d ξ)|

so that up_down > 0 shortens the steps down, up_down < 0 those up. A stuck cell has both bounds at one
value and no step. Source: the device models of aihwkit as its code has them (docs/laws.md),
and MLP+NeuroSim V3.0; there G(P) = B (1 - e^(-P/A)) + G_min over P = 0 .. states - 1 up and down, and
w = 2 (G - G_min) / (G_max - G_min) - 1, so that one pulse up or down is linear in w as above.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from analogsim.errors import ArgumentError

LARGEST_NONLINEARITY = 9.0
Draw = Callable[[str], Tensor]  # the name of a quantity -> its numbers, (out, in) float32


@dataclass(frozen=True)
class Exponential:
    """The shape of an exponential cell: dw_d max(1 - A_d e^(±γ z), 0), z = slope w + offset."""

    a_up: float
    a_down: float
    gamma: float
    slope: Tensor
    offset: float


@dataclass(frozen=True)
class CellParameters:
    """What is fixed in every cell, tensors (out, in), in units of w.

    up, down: step of one pulse at w = 0. up_slope, down_slope: see above. w_max, w_min: own bounds.
    c2c: spread of a step from pulse to pulse, relative to that step. up_spread, down_spread: the same
    as a fixed amount of w, whatever the step (0: none). dw_min: the nominal step, what a controller
    knows. write_sigma: spread of what is read about what is held. keep: factor of w an update, the leak.
    """

    dw_min: float
    up: Tensor
    down: Tensor
    up_slope: Tensor
    down_slope: Tensor
    w_max: Tensor
    w_min: Tensor
    c2c: float
    up_spread: Tensor
    down_spread: Tensor
    write_sigma: float = 0.0
    keep: Tensor | None = None
    exponential: Exponential | None = None

    @cached_property
    def constant(self) -> bool:
        """Steps are the same for every w."""
        return self.exponential is None and not bool(self.up_slope.any()) and not bool(self.down_slope.any())

    @cached_property
    def noisy(self) -> bool:
        """Steps spread from pulse to pulse."""
        return self.c2c > 0 or bool(self.up_spread.any()) or bool(self.down_spread.any())


def _varied(shape: tuple[int, int], normal: Draw, name: str, mean: float, spread: float) -> Tensor:
    """mean + spread ξ, with ξ drawn only where there is a spread."""
    return normal(name) * spread + mean if spread else torch.full(shape, float(mean))


def constant(
    shape: tuple[int, int],
    normal: Draw,
    uniform: Draw,
    *,
    dw_min: float,
    dw_min_d2d: float = 0.0,
    dw_min_lognormal: bool = False,
    c2c: float = 0.0,
    up_down: float = 0.0,
    up_down_d2d: float = 0.0,
    w_max: float = 1.0,
    w_max_d2d: float = 0.0,
    w_min: float = -1.0,
    w_min_d2d: float = 0.0,
    write_noise: float = 0.0,
    stuck: float = 0.0,
    stuck_range: float | None = None,
    lifetime_updates: float | None = None,
    lifetime_d2d: float = 0.0,
) -> CellParameters:
    """Cells whose steps are the same for every w; the other aihwkit models build on them.

    shape: (out, in). normal, uniform: called with the names "dw_min", "up_down", "w_max", "w_min",
    "lifetime", "stuck", "stuck value", each at most once and only where it has an effect.
    """
    gain = _varied(shape, normal, "dw_min", 0.0 if dw_min_lognormal else 1.0, dw_min_d2d)
    gain = gain.exp() if dw_min_lognormal else gain
    lean = _varied(shape, normal, "up_down", 0.0, up_down_d2d)
    up = (gain + min(up_down, 0.0) + lean).abs() * dw_min
    down = (gain - max(up_down, 0.0) - lean).abs() * dw_min
    top = _varied(shape, normal, "w_max", 1.0, w_max_d2d).mul(w_max).abs()
    bottom = -_varied(shape, normal, "w_min", 1.0, w_min_d2d).mul(w_min).abs()
    if stuck:
        held = uniform("stuck") < stuck
        reach = math.inf if stuck_range is None else stuck_range
        low, high = bottom.clamp(min=-reach), top.clamp(max=reach)
        value = low + (high - low) * uniform("stuck value")
        top, bottom = torch.where(held, value, top), torch.where(held, value, bottom)
        up, down = up * ~held, down * ~held
    keep = None
    if lifetime_updates is not None:
        lifetime = _varied(shape, normal, "lifetime", 1.0, lifetime_d2d) * lifetime_updates
        keep = torch.where(lifetime > 1, 1 - 1 / lifetime, 0.0)
    nothing = torch.zeros(shape)
    return CellParameters(
        dw_min, up, down, nothing, nothing, top, bottom, c2c, nothing, nothing, write_noise * dw_min, keep
    )


def linear(
    shape: tuple[int, int],
    normal: Draw,
    uniform: Draw,
    *,
    gamma_up: float,
    gamma_down: float,
    gamma_up_d2d: float = 0.0,
    gamma_down_d2d: float = 0.0,
    c2c_additive: bool = False,
    w_max: float = 1.0,
    w_min: float = -1.0,
    **keys: Any,
) -> CellParameters:
    """Steps shrink by the share γ from w = 0 to the mean bound they move to; γ_d = |γ + γ_d2d ξ|.

    Further names drawn: "gamma_up", "gamma_down". c2c_additive: the spread is c2c dw_d for every w.
    """
    cells = constant(shape, normal, uniform, w_max=w_max, w_min=w_min, **keys)
    rise = _varied(shape, normal, "gamma_up", gamma_up, gamma_up_d2d).abs() * cells.up / w_max
    fall = _varied(shape, normal, "gamma_down", gamma_down, gamma_down_d2d).abs() * cells.down / w_min
    cells = replace(cells, up_slope=rise, down_slope=-fall)
    return _additive(cells) if c2c_additive else cells


def soft_bounds(
    shape: tuple[int, int],
    normal: Draw,
    uniform: Draw,
    *,
    c2c_additive: bool = False,
    at_symmetry_point: bool = False,
    reference_error: float = 0.0,
    **keys: Any,
) -> CellParameters:
    """Steps shrink to 0 at the cell's own bounds.

    at_symmetry_point: w counts from the value at which the cell's steps up and down are equal, as
    a reference cell takes it off; reference_error: the spread of that reference ("reference"). Bounds
    and steps below are the ones seen from there; stuck cells have no such value.
    """
    cells = constant(shape, normal, uniform, **keys)
    rise, fall = _share(cells.up, cells.w_max), -_share(cells.down, cells.w_min)
    reference = _varied(shape, normal, "reference", 0.0, reference_error)
    if at_symmetry_point:
        reference = reference + _share(cells.up - cells.down, rise + fall)
    spread = _additive(cells)
    cells = replace(
        spread if c2c_additive else cells,
        up=cells.up - rise * reference,
        down=cells.down + fall * reference,
        up_slope=rise,
        down_slope=fall,
        w_max=cells.w_max - reference,
        w_min=cells.w_min - reference,
    )
    return cells


def exponential(
    shape: tuple[int, int],
    normal: Draw,
    uniform: Draw,
    *,
    a_up: float,
    a_down: float,
    gamma: float,
    a: float,
    b: float,
    **keys: Any,
) -> CellParameters:
    """Steps dw_d max(1 - A_d e^(±γ z), 0), z = 2 a w / (b_max - b_min) + b, - γ downwards."""
    cells = constant(shape, normal, uniform, **keys)
    slope = _share(torch.full(shape, 2 * a), cells.w_max - cells.w_min)
    return replace(cells, exponential=Exponential(a_up, a_down, gamma, slope, b))


def neurosim(
    shape: tuple[int, int],
    normal: Draw,
    uniform: Draw,
    *,
    states: int,
    nonlinearity_up: float,
    nonlinearity_down: float,
    c2c: float = 0.0,
) -> CellParameters:
    """G(P) = B (1 - e^(-P/A)) + G_min, P one up or one down; A takes the sign of the nonlinearity.

    A positive nonlinearity is a curve concave in P: steps up shrink upwards, steps down grow downwards.
    So a down curve that mirrors the up curve has the opposite sign, as in NeuroSim. c2c: spread of
    a pulse, of the full range of 2. No numbers are drawn; w in ±1; dw_min = 2 / (states - 1).
    """
    pulses = states - 1
    ends = []
    for nonlinearity, direction in ((nonlinearity_up, 1), (nonlinearity_down, -1)):
        if nonlinearity == 0:
            ends.append((2 / pulses, 0.0))
            continue
        rate = 1 / neurosim_a(nonlinearity)
        factor = math.expm1(-direction * rate / pulses)  # of B - (G - G_min), by one pulse
        end = -2 / math.expm1(-rate)  # B, for a range of 2
        ends.append((-direction * (end - 1) * factor, -factor))
    (up, up_slope), (down, down_slope) = ends
    full = partial(torch.full, shape)
    return CellParameters(
        dw_min=2 / pulses,
        up=full(up),
        down=full(down),
        up_slope=full(up_slope),
        down_slope=full(down_slope),
        w_max=full(1.0),
        w_min=full(-1.0),
        c2c=0.0,
        up_spread=full(2 * c2c),
        down_spread=full(2 * c2c),
    )


MODELS: dict[str, Callable[..., CellParameters]] = {
    "constant": constant,
    "linear": linear,
    "soft_bounds": soft_bounds,
    "exponential": exponential,
    "neurosim": neurosim,
}


def neurosim_a(nonlinearity: float) -> float:
    """A of G(P), P from 0 to 1, for NeuroSim's nonlinearity number, ±9 at most and not 0.

        nonlinearity = max_P d(P) / 0.07 ,   d = distance of (P, (G - G_min)/(G_max - G_min)) to the line P = G

    solved for A. NeuroSim tabulates A alone; the definition is inferred from that table, and gives back
    the eight entries it was held against (tests/physics/test_pulsed_cells.py) to their six decimals.
    """
    if not 0 < abs(nonlinearity) <= LARGEST_NONLINEARITY:
        raise ArgumentError("nonlinearity", nonlinearity, f"a number within ±{LARGEST_NONLINEARITY}, not 0")

    from scipy.optimize import root_scalar  # a third of a second of every start, and few chips need it

    def distance(rate: float) -> float:  # of the curve with A = 1 / rate
        drop = -math.expm1(-rate)
        at = -math.log(drop / rate) / rate  # where the slope is 1
        return (-math.expm1(-rate * at) / drop - at) / math.sqrt(2)

    sought = 0.07 * abs(nonlinearity)
    straight = 8 * math.sqrt(2) * sought  # the rate of a curve that is almost a line; the true one is larger
    rate = root_scalar(lambda rate: distance(rate) - sought, bracket=(straight / 2, 1e3), xtol=1e-15).root
    return math.copysign(1 / rate, nonlinearity)


def _additive(cells: CellParameters) -> CellParameters:
    """The same spread c2c dw_d at every w, in place of one relative to the step."""
    return replace(cells, c2c=0.0, up_spread=cells.up * cells.c2c, down_spread=cells.down * cells.c2c)


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole, and 0 where there is no whole: a stuck cell may have bounds of 0."""
    return torch.where(whole != 0, part / whole, 0.0)
