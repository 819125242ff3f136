"""DAC and ADC: symmetric mid-tread converters of b bits.

    Q(v) = Δ clip(round(v / Δ), -m, m) ,   m = 2^(b-1) - 1 ,   Δ = bound / m

that is 2^b - 1 levels in ±bound, a step of 2·bound/(2^b - 2); halves round to even. A real one

    Q_c(v) = Δ clip(R(g_c v / Δ + o_c), -m, m) ,   g_c = 1 + γ ξ_c ,   o_c = ω ξ'_c

has a gain g_c and an offset o_c (in steps) of its own in every column c, fixed when it is made; what
leaves it is scaled by the nominal Δ. R rounds to the nearest, or stochastically: up with the
probability of the fraction, so that E[R(v)] = v. Applied after the noise is drawn, all of this is exact.

Bit-serial inputs: an input's code k, |k| ≤ m, goes in as slices of β bits, least first,

    k = Σ_s 2^(βs) k_s ,   k_s = sign(k) (⌊|k| / 2^(βs)⌋ mod 2^β) ,   s = 0 … ⌈(b-1)/β⌉ - 1

and the outputs add with the same weights (`slice_weights`), before the ADC or after it.
Source: the convention of aihwkit (docs/laws.md).
"""

from __future__ import annotations

import torch
from torch import Tensor


def largest_code(bits: int) -> int:
    """m = 2^(b-1) - 1: codes run from -m to m."""
    return 2 ** (bits - 1) - 1


def quantise(v: Tensor, bits: int, bound: Tensor | float, u: Tensor | None = None) -> Tensor:
    """Q(v). bound: one number, or a tensor that broadcasts against v, all above 0. u: as for `convert`."""
    return codes(v, bits, bound, u).mul_(bound / largest_code(bits))


def codes(v: Tensor, bits: int, bound: Tensor | float, u: Tensor | None = None) -> Tensor:
    """clip(R(v / Δ), -m, m): Q(v) in steps, whole numbers in v's float dtype. u: as for `convert`."""
    m = largest_code(bits)
    code = v / (bound / m)
    return (code.round_() if u is None else stochastic_round(code, u)).clamp_(-m, m)


def convert(
    v: Tensor,
    bits: int,
    bound: Tensor | float,
    *,
    gain: Tensor | float = 1.0,
    offset_lsb: Tensor | float = 0.0,
    u: Tensor | None = None,
) -> Tensor:
    """Q_c(v), v (..., columns); gain and offset_lsb (columns,) from `column_errors`.

    u: uniforms in [0, 1) in the shape of v, for stochastic rounding; None rounds to the nearest.
    """
    m = largest_code(bits)
    step = bound / m
    code = v * gain / step + offset_lsb
    code = code.round_() if u is None else stochastic_round(code, u)
    return code.clamp_(-m, m).mul_(step)


def stochastic_round(v: Tensor, u: Tensor) -> Tensor:
    """⌊v⌋ + [u < v - ⌊v⌋]: a whole number next to v whose mean over u ~ U[0, 1) is v."""
    below = v.floor()
    return below + (u < v - below)


def column_errors(
    xi_gain: Tensor, xi_offset: Tensor, *, gain_sigma: float = 0.0, offset_sigma_lsb: float = 0.0
) -> tuple[Tensor, Tensor]:
    """(gain, offset in steps) of every column: 1 + γ ξ and ω ξ', in the shape of the normals."""
    return 1 + gain_sigma * xi_gain, offset_sigma_lsb * xi_offset


def driven(x: Tensor, bound: Tensor | float, xi: Tensor, noise: float) -> Tensor:
    """x̂ + noise · bound · ξ: inputs as a noisy DAC drives them; xi, in the shape of x, one an input and read.

    Exact: it is drawn, and shared by all outputs of a read; cells' noise follows as V x̂² of what it gives.
    """
    return x + xi * (bound * noise)


# --- bit-serial inputs -----------------------------------------------------------------------------


def slice_weights(bits: int, slice_bits: int) -> tuple[int, ...]:
    """2^(βs) of every slice, least first: enough of them for the b - 1 bits of a magnitude."""
    return tuple(2**shift for shift in range(0, bits - 1, slice_bits))


def bit_slices(code: Tensor, bits: int, slice_bits: int) -> Tensor:
    """k_s, (slices, *code.shape), least first: whole numbers of magnitude below 2^β with the sign of the code."""
    magnitude, sign = code.abs().to(torch.int32), code.sign()
    parts = [(magnitude // weight % 2**slice_bits) * sign for weight in slice_weights(bits, slice_bits)]
    return torch.stack(parts).to(code.dtype)


def recombine(slices: Tensor, bits: int, slice_bits: int) -> Tensor:
    """Σ_s 2^(βs) y_s over the first axis; exact for codes, whose sums stay below 2^24."""
    weights = slices.new_tensor(slice_weights(bits, slice_bits))
    return torch.tensordot(weights, slices, dims=1)
