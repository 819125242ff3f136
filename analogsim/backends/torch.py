"""The torch backend: plain tensor operations, for GPUs and wherever Numba is not wanted.

torch has no full set of 32-bit unsigned operations, so words live in int64 and are masked; its
CPU square root is not correctly rounded, so the root is taken in float64 and rounded once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from analogsim import streams
from analogsim.streams import BLOCK, LANES, Address, HeldStep, Stream

MASK = 0xFFFFFFFF


# torch ≥ 2.9 keeps one setting a device; its older getter raises once anyone has set them apart.
_backends: Any = torch.backends
PER_DEVICE = (
    (_backends.cuda.matmul, _backends.mkldnn.matmul, _backends.cudnn.conv, _backends.mkldnn.conv)
    if hasattr(_backends.mkldnn, "matmul")
    else ()
)


@contextmanager
def full_precision() -> Iterator[None]:
    """Products in true float32, whatever the process default or autocast says.

    TF32 puts 19 % error on a loss difference at σ = 1e-3 (reference: learning.md, Precision).
    """
    full: list[Any] = ["ieee"] * len(PER_DEVICE) or ["highest", False]
    before = [s.fp32_precision for s in PER_DEVICE] or [
        torch.get_float32_matmul_precision(),
        _backends.cudnn.allow_tf32,
    ]
    if before == full and not (torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda")):
        yield  # as inside of another one: to set it all again would take longer than a small product
        return
    _set_precision(full)
    try:
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        _set_precision(before)


@contextmanager
def tf32_products(allowed: bool) -> Iterator[None]:
    """Where allowed, products on a GPU in TF32; those on a CPU stay as they are.

    For a gradient's outer product and the update of R: in sums over a batch TF32's 2^-11 an operand is lost under the
    rule's own variance. Never for what is subtracted from another pass.
    """
    if not allowed or not (PER_DEVICE or torch.cuda.is_initialized()):
        yield
        return
    matmul = _backends.cuda.matmul
    name, value = ("fp32_precision", "tf32") if PER_DEVICE else ("allow_tf32", True)  # the older one is of all devices
    before = getattr(matmul, name)
    setattr(matmul, name, value)
    try:
        yield
    finally:
        setattr(matmul, name, before)


def _set_precision(values: list[Any]) -> None:
    for setting, value in zip(PER_DEVICE, values):
        setting.fp32_precision = value
    if not PER_DEVICE:
        torch.set_float32_matmul_precision(values[0])
        _backends.cudnn.allow_tf32 = values[1]


class TorchBackend:
    """Every kernel as torch operations, on the device its tensors live on."""

    name = "torch"

    def normal(self, stream: Stream, address: Address, rows: int, outputs: int, device: torch.device) -> Tensor:
        w0, w1, w2, w3 = _words(stream, address, rows, outputs, device)
        return _in_order((*_normal_pair(w0, w1), *_normal_pair(w2, w3)), outputs)

    def uniform(self, stream: Stream, address: Address, rows: int, outputs: int, device: torch.device) -> Tensor:
        words = _in_order(_words(stream.of_uniforms, address, rows, outputs, device), outputs)
        return (words >> 8).to(torch.float32) * 2.0**-24

    def product(self, x: Tensor, matrix: Tensor) -> Tensor:
        with full_precision():
            return x @ matrix.T

    def convolve(self, x: Tensor, matrix: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
        weight = matrix.view(len(matrix), x.shape[3], kernel, kernel).contiguous(memory_format=torch.channels_last)
        with full_precision():
            y = torch.nn.functional.conv2d(x.permute(0, 3, 1, 2), weight, stride=stride, padding=padding)
        return y.permute(0, 2, 3, 1).flatten(1, 2).contiguous()  # channels last in memory already: no copy

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
        batch, positions, units = y.shape
        if sigma is not None or variance is not None:
            z = self.normal(stream, address, batch, positions * units, y.device).view(y.shape)
            std = y.new_zeros(1, 1, 1) if sigma is None else sigma[..., None]
            if variance is not None:
                std = (std * std + variance).double().sqrt().float()  # correctly rounded, as elsewhere
            y = y + std * z
        if lsb is not None:
            step = lsb[..., None]
            y = (y / step).round().clamp(-levels, levels) * step
        return y


def _words(stream: Stream, address: Address, rows: int, outputs: int, device: torch.device) -> tuple[Tensor, ...]:
    """`Stream.words` as int64: four tensors (rows, lanes)."""
    lanes = torch.arange(-(-outputs // BLOCK) * LANES, dtype=torch.int64, device=device).expand(rows, -1)
    samples = torch.arange(rows, dtype=torch.int64, device=device) + address.first_sample
    step = address.step
    return _philox(
        lanes,
        (samples & MASK)[:, None].expand_as(lanes),
        step.held.expand_as(lanes) if isinstance(step, HeldStep) else torch.full_like(lanes, step),
        torch.full_like(lanes, address.pass_index),
        stream.key,
    )


def _in_order(words: tuple[Tensor, ...], outputs: int) -> Tensor:
    """What four words a lane gave, (rows, lanes) each, in the order of the outputs."""
    rows, lanes = words[0].shape
    blocks = lanes // LANES
    z = torch.stack(words, dim=1).view(rows, 4, blocks, LANES).transpose(1, 2).reshape(rows, blocks * BLOCK)
    return z[:, :outputs].contiguous()


def _philox(c0: Tensor, c1: Tensor, c2: Tensor, c3: Tensor, key: tuple[int, int]) -> tuple[Tensor, ...]:
    """`streams.philox` on int64 tensors that hold 32-bit words."""
    k0, k1 = key
    for _ in range(streams.ROUNDS):
        # The product wraps into the sign bit; an arithmetic shift and a mask still give the high word.
        p0, p1 = c0 * streams.M0, c2 * streams.M1
        c0, c1, c2, c3 = (p1 >> 32 & MASK) ^ c1 ^ k0, p1 & MASK, (p0 >> 32 & MASK) ^ c3 ^ k1, p0 & MASK
        k0, k1 = (k0 + streams.W0) & MASK, (k1 + streams.W1) & MASK
    return c0, c1, c2, c3


def _normal_pair(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """`streams.normal_pair`, operation by operation."""
    bits = (first | 1).to(torch.float32).view(torch.int32)
    exponent = (bits - streams.SQRT_HALF_BITS) >> 23
    t = (bits - (exponent << 23)).view(torch.float32) - 1.0
    p = torch.full_like(t, float(streams.LOG_POLYNOMIAL[0]))
    for coefficient in streams.LOG_POLYNOMIAL[1:]:
        p = p * t + float(coefficient)
    t2 = t * t
    log_u = (t + (t * t2 * p - 0.5 * t2)) + (exponent - 32).to(torch.float32) * float(streams.LN2)
    radius = (-2.0 * log_u).to(torch.float64).sqrt().to(torch.float32)

    quadrant = (second + 0x20000000 & MASK) >> 30
    signed = second - (quadrant << 30) & MASK
    signed = torch.where(signed >= 2**31, signed - 2**32, signed)
    angle = signed.to(torch.float32) * float(streams.ANGLE)
    z = angle * angle
    s0, s1, s2 = (float(c) for c in streams.SIN_POLYNOMIAL)
    c0, c1, c2 = (float(c) for c in streams.COS_POLYNOMIAL)
    s = ((s0 * z + s1) * z + s2) * z * angle + angle
    c = ((c0 * z + c1) * z + c2) * (z * z) - 0.5 * z + 1.0
    odd = (quadrant & 1) != 0
    cosine, sine = torch.where(odd, s, c), torch.where(odd, c, s)
    cosine = torch.where((quadrant + 1 & 2) != 0, -cosine, cosine)
    sine = torch.where((quadrant & 2) != 0, -sine, sine)
    return radius * cosine, radius * sine
