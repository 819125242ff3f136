"""DAC and ADC: symmetric mid-tread converters of b bits.

    Q(v) = Δ clip(round(v / Δ), -m, m) ,   m = 2^(b-1) - 1 ,   Δ = bound / m

that is 2^b - 1 levels in ±bound, a step of 2·bound/(2^b - 2); halves round to even.
Source: reference/devices.md §3 (the convention of aihwkit).
"""

from __future__ import annotations

from torch import Tensor


def largest_code(bits: int) -> int:
    """m = 2^(b-1) - 1: codes run from -m to m."""
    return 2 ** (bits - 1) - 1


def quantise(v: Tensor, bits: int, bound: Tensor | float) -> Tensor:
    """Q(v). bound: one number, or a tensor that broadcasts against v, all above 0."""
    m = largest_code(bits)
    step = bound / m
    return (v / step).round_().clamp_(-m, m).mul_(step)
