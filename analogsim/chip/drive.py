"""What the DACs of a tile put on its rows.

    x̂ = DAC(x; u) ,   x' = x̂ + noise · bound · ξ        (one ξ an input and read; one u, for stochastic rounding)

bit-serial, slices x̂ = Δ Σ_k B^k c_k, B = 2^slice_bits, a driver's full scale being B - 1:

    accumulated   y = Σ_k B^k (G x'_k + n_k) ~ N(G x', V q) ,   x' = Σ_k B^k x'_k ,   q = Σ_k B^2k x'_k²
    per slice     y = Σ_k B^k ADC(G x'_k + n_k)

Both are exact: a slice's noise is drawn afresh, and of an accumulated read only the sum is ever seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from analogsim.config.chip import Dac
from analogsim.network import ConvLayer
from analogsim.physics.converters import bit_slices, codes, driven, largest_code, quantise, slice_weights

TINY = torch.finfo(torch.float32).tiny
Draw = Callable[[int], Tensor]  # slice -> standard normals in the shape of the inputs
Uniforms = Callable[[], Tensor]  # in the shape of the inputs, in [0, 1)


@dataclass(frozen=True)
class Driven:
    """Inputs of one conversion. x: as driven; asked: without the DAC's noise; full_scale: what fills an
    ADC's unit; share: of the conversion in the sum; squares: q where it is not x². window: all three are images
    (batch, height, width, channels), and the vectors are their patches; None: they are the vectors."""

    x: Tensor
    asked: Tensor
    full_scale: Tensor | float = 1.0
    share: float = 1.0
    squares: Tensor | None = None
    window: ConvLayer | None = None

    @property
    def q(self) -> Tensor:
        return self.x.square() if self.squares is None else self.squares


def drive(x: Tensor, dac: Dac | None, draw: Draw | None, uniforms: Uniforms | None) -> list[Driven]:
    """x (batch, positions, inputs) as a tile's rows carry it, one entry an ADC conversion.

    draw: None for no noise. uniforms: u of all inputs, called once at most; None to round to the nearest.
    """
    if dac is None:
        return [Driven(x, x)]

    def noisy(asked: Tensor, bound: Tensor | float, number: int) -> Tensor:
        return asked if draw is None or not dac.noise else driven(asked, bound, draw(number), dac.noise)

    u = uniforms() if uniforms is not None and dac.stochastic_rounding else None
    bound = x.abs().amax(-1, keepdim=True).clamp_(min=TINY) if dac.bound == "per_vector" else dac.bound
    if dac.bit_serial is None:
        asked = quantise(x, dac.bits, bound, u)
        return [Driven(noisy(asked, bound, 0), asked, bound)]
    step = bound / largest_code(dac.bits)
    top = 2**dac.bit_serial.slice_bits - 1
    weights = slice_weights(dac.bits, dac.bit_serial.slice_bits)
    parts = bit_slices(codes(x, dac.bits, bound, u), dac.bits, dac.bit_serial.slice_bits) * step
    as_driven = [noisy(part, step * top, k) for k, part in enumerate(parts)]
    if dac.bit_serial.adc == "per_slice":
        return [Driven(a, p, step * top, float(w)) for a, p, w in zip(as_driven, parts, weights)]
    total, asked, squares = torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(x)
    for part, slice_of_x, weight in zip(as_driven, parts, weights):
        total.add_(part, alpha=weight)
        asked.add_(slice_of_x, alpha=weight)
        squares.addcmul_(part, part, value=weight**2)
    return [Driven(total, asked, bound, 1.0, squares)]


def conversions(dac: Dac | None) -> int:
    """Slices that one input goes in as; 0 for an ideal DAC."""
    if dac is None:
        return 0
    return 1 if dac.bit_serial is None else len(slice_weights(dac.bits, dac.bit_serial.slice_bits))
