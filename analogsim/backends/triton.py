"""Triton kernels for a GPU's tensors: noise, ADC and clipping in one pass over a crossbar's output.

torch does the products. The noise is that of streams.py bit for bit: launched without fusing multiply and
add, with division and square root in their correctly rounded forms (Triton's plain ones are approximate), and
signs set by their bit, since Triton negates by subtracting from 0. An instance of a kernel takes up to 256 lanes of one
row, four outputs a lane. TRITON_INTERPRET=1 runs them on CPU tensors, slowly, for tests.
"""

# Not installed everywhere, and its kernels are no Python:
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from analogsim import streams
from analogsim.backends.torch import TorchBackend
from analogsim.streams import BLOCK, LANES, Address, HeldStep, Stream

SIZE = 256  # lanes an instance, at most
EXACT: dict[str, Any] = {"enable_fp_fusion": False, "num_warps": 4}  # of every launch
P0, P1, P2, P3, P4, P5, P6, P7, P8 = (tl.constexpr(float(c)) for c in streams.LOG_POLYNOMIAL)
S0, S1, S2 = (tl.constexpr(float(c)) for c in streams.SIN_POLYNOMIAL)
C0, C1, C2 = (tl.constexpr(float(c)) for c in streams.COS_POLYNOMIAL)
LN2, ANGLE = tl.constexpr(float(streams.LN2)), tl.constexpr(float(streams.ANGLE))
SQRT_HALF_BITS = tl.constexpr(streams.SQRT_HALF_BITS)
LANE_COUNT = tl.constexpr(LANES)
WHOLE = tl.constexpr(2.0**23)  # float32 numbers from here on are whole
WORDS = ("seed", "step", "pass_index", "first_sample")  # change at every launch: no kernel is compiled for one
jit: Any = triton.jit


@jit
def _normal_pair(first, second):
    """`streams.normal_pair`, operation by operation."""
    bits = (first | 1).to(tl.float32).to(tl.int32, bitcast=True)
    exponent = (bits - SQRT_HALF_BITS) >> 23
    t = (bits - (exponent << 23)).to(tl.float32, bitcast=True) - 1.0
    p = P0 * t + P1
    p = p * t + P2
    p = p * t + P3
    p = p * t + P4
    p = p * t + P5
    p = p * t + P6
    p = p * t + P7
    p = p * t + P8
    t2 = t * t
    log_u = (t + (t * t2 * p - 0.5 * t2)) + (exponent - 32).to(tl.float32) * LN2
    radius = tl.sqrt_rn(-2.0 * log_u)

    quadrant = (second + 0x20000000) >> 30
    angle = (second - (quadrant << 30)).to(tl.int32, bitcast=True).to(tl.float32) * ANGLE
    z = angle * angle
    s = ((S0 * z + S1) * z + S2) * z * angle + angle
    c = ((C0 * z + C1) * z + C2) * (z * z) - 0.5 * z + 1.0
    odd = (quadrant & 1) != 0
    cosine = tl.where(odd, s, c).to(tl.uint32, bitcast=True) ^ (((quadrant + 1) & 2) << 30)
    sine = tl.where(odd, c, s).to(tl.uint32, bitcast=True) ^ ((quadrant & 2) << 30)
    return radius * cosine.to(tl.float32, bitcast=True), radius * sine.to(tl.float32, bitcast=True)


@jit
def _words(seed, step, pass_index, first_sample, HELD: tl.constexpr, SIZE: tl.constexpr):
    """The row and the lanes of this instance, and their four words. HELD: `step` is where the number lies."""
    if HELD:
        step = tl.load(step)
    row = tl.program_id(0)
    lanes = tl.program_id(1) * SIZE + tl.arange(0, SIZE)
    sample = first_sample.to(tl.int32) + row  # all of them 32-bit words, whatever their sign
    w0, w1, w2, w3 = tl.philox(seed, lanes, sample, step.to(tl.int32), pass_index.to(tl.int32))
    return row.to(tl.int64), lanes, w0, w1, w2, w3


@jit
def _output(lanes, word: tl.constexpr):
    """Which output of its row a lane's word is."""
    return (lanes // LANE_COUNT) * (4 * LANE_COUNT) + word * LANE_COUNT + lanes % LANE_COUNT


@jit(do_not_specialize=WORDS)
def _normal(out, outputs, seed, step, pass_index, first_sample, HELD: tl.constexpr, SIZE: tl.constexpr):
    row, lanes, w0, w1, w2, w3 = _words(seed, step, pass_index, first_sample, HELD, SIZE)
    z0, z1 = _normal_pair(w0, w1)
    z2, z3 = _normal_pair(w2, w3)
    at = out + row * outputs
    tl.store(at + _output(lanes, 0), z0, mask=_output(lanes, 0) < outputs)
    tl.store(at + _output(lanes, 1), z1, mask=_output(lanes, 1) < outputs)
    tl.store(at + _output(lanes, 2), z2, mask=_output(lanes, 2) < outputs)
    tl.store(at + _output(lanes, 3), z3, mask=_output(lanes, 3) < outputs)


@jit
def _last_bits(word):
    return (word >> 8).to(tl.float32) * (1.0 / 16777216.0)


@jit(do_not_specialize=WORDS)
def _uniform(out, outputs, seed, step, pass_index, first_sample, HELD: tl.constexpr, SIZE: tl.constexpr):
    row, lanes, w0, w1, w2, w3 = _words(seed, step, pass_index, first_sample, HELD, SIZE)
    at = out + row * outputs
    tl.store(at + _output(lanes, 0), _last_bits(w0), mask=_output(lanes, 0) < outputs)
    tl.store(at + _output(lanes, 1), _last_bits(w1), mask=_output(lanes, 1) < outputs)
    tl.store(at + _output(lanes, 2), _last_bits(w2), mask=_output(lanes, 2) < outputs)
    tl.store(at + _output(lanes, 3), _last_bits(w3), mask=_output(lanes, 3) < outputs)


@jit
def _converted(
    y, sigma, variance, lsb, row, output, z, positions, units, levels,
    HAS_SIGMA: tl.constexpr, HAS_VARIANCE: tl.constexpr, HAS_LSB: tl.constexpr,
):  # fmt: skip
    """One output a lane, where it lies: y <- ADC(y + sqrt(sigma² + variance) z)."""
    inside = output < positions * units
    at = row * positions * units + output
    vector = row * positions + output // units
    value = tl.load(y + at, mask=inside, other=0.0)
    if HAS_SIGMA or HAS_VARIANCE:
        std = tl.zeros_like(value)
        if HAS_SIGMA:
            std = tl.load(sigma + vector, mask=inside, other=0.0)
        if HAS_VARIANCE:
            std = tl.sqrt_rn(std * std + tl.load(variance + at, mask=inside, other=0.0))
        value = value + std * z
    if HAS_LSB:
        step = tl.load(lsb + vector, mask=inside, other=1.0)
        code = tl.div_rn(value, step)
        size = tl.minimum(tl.abs(code), levels, propagate_nan=tl.PropagateNan.ALL)
        size = (size + WHOLE) - WHOLE  # to the nearest, half to even; the sign, of 0 as well, is set apart
        sign = code.to(tl.uint32, bitcast=True) & 0x80000000
        value = (size.to(tl.uint32, bitcast=True) | sign).to(tl.float32, bitcast=True) * step
    tl.store(y + at, value, mask=inside)


@jit(do_not_specialize=WORDS)
def _output_stage(
    y, sigma, variance, lsb, positions, units, levels, seed, step, pass_index, first_sample,
    HAS_SIGMA: tl.constexpr, HAS_VARIANCE: tl.constexpr, HAS_LSB: tl.constexpr, HELD: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    row, lanes, w0, w1, w2, w3 = _words(seed, step, pass_index, first_sample, HELD, SIZE)
    z0, z1 = _normal_pair(w0, w1)  # not used, and so not made, where there is no noise
    z2, z3 = _normal_pair(w2, w3)
    for word in tl.static_range(4):
        z = z0 if word == 0 else (z1 if word == 1 else (z2 if word == 2 else z3))
        _converted(
            y, sigma, variance, lsb, row, _output(lanes, word), z, positions, units, levels,
            HAS_SIGMA, HAS_VARIANCE, HAS_LSB,
        )  # fmt: skip


def _signed(word: int, bits: int) -> int:
    """The same bits as a signed number, so that all words are of one type."""
    return word - 2**bits if word >= 2 ** (bits - 1) else word


def _address(stream: Stream, address: Address) -> tuple[int | Tensor, ...]:
    key0, key1 = stream.key
    step, rest = address.step, (address.pass_index, address.first_sample)
    first = step.held if isinstance(step, HeldStep) else _signed(step, 32)
    return _signed(key0 | key1 << 32, 64), first, *(_signed(word, 32) for word in rest)


def _launch(
    kernel: Any, where: Tensor, rows: int, outputs: int, given: Sequence[Any], words: Sequence[Any], **constants: Any
) -> None:
    lanes = -(-outputs // BLOCK) * LANES
    if rows and outputs:
        with torch.cuda.device_of(where):
            size = min(SIZE, triton.next_power_of_2(lanes))
            held = isinstance(words[1], Tensor)
            kernel[rows, -(-lanes // size)](*given, *words, **constants, HELD=held, SIZE=size, **EXACT)


class TritonBackend(TorchBackend):
    """torch's products; normals and the output stage in one kernel each, on the tensor's own memory."""

    name = "triton"

    def normal(self, stream: Stream, address: Address, rows: int, outputs: int, device: torch.device) -> Tensor:
        out = torch.empty(rows, outputs, dtype=torch.float32, device=device)
        _launch(_normal, out, rows, outputs, (out, outputs), _address(stream, address))
        return out

    def uniform(self, stream: Stream, address: Address, rows: int, outputs: int, device: torch.device) -> Tensor:
        out = torch.empty(rows, outputs, dtype=torch.float32, device=device)
        _launch(_uniform, out, rows, outputs, (out, outputs), _address(stream.of_uniforms, address))
        return out

    def output_stage(
        self,
        y: Tensor,
        stream: Stream,
        address: Address,
        sigma: Tensor | None,
        variance: Tensor | None,
        lsb: Tensor | None,
        levels: int,
    ) -> Tensor:
        if sigma is None and variance is None and lsb is None:
            return y
        y = y.contiguous()
        rows, positions, units = y.shape
        given = [y if part is None else part.contiguous() for part in (sigma, variance, lsb)]
        there = dict(zip(("HAS_SIGMA", "HAS_VARIANCE", "HAS_LSB"), (p is not None for p in (sigma, variance, lsb))))
        words = _address(stream, address)
        arguments = (y, *given, positions, units, float(levels))
        _launch(_output_stage, y, rows, positions * units, arguments, words, **there)
        return y
