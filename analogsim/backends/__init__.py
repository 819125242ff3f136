"""Backends: a handful of kernel-sized functions each, no state; every one passes the same suite.

| name   | products          | noise and converters        | runs on   |
|--------|-------------------|-----------------------------|-----------|
| numpy  | NumPy, float64    | NumPy                       | CPU       |
| numba  | torch (BLAS)      | one fused Numba pass        | CPU       |
| torch  | torch             | torch operations            | CPU, CUDA |
| triton | torch             | one fused Triton kernel     | CUDA      |

All draw the same noise bit for bit (streams.py). `auto` is numba on the CPU; on a GPU triton where 3.6 or later is
installed (recent torch for Linux brings one along), else torch.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol

from analogsim.errors import ArgumentError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from analogsim.streams import Address, Stream

NAMES = ("numpy", "numba", "torch")
ON_GPU = ("torch", "triton")
EXACT_TRITON = (3, 6)  # what older ones compile takes subnormal numbers for 0 in divisions and square roots


class Backend(Protocol):
    """What a backend does. Tensors are float32 and live on one device; nothing is kept."""

    name: str

    def normal(self, stream: Stream, address: Address, rows: int, outputs: int, device: torch.device) -> Tensor:
        """(rows, outputs) draws from N(0, 1), exactly `Stream.normal`."""
        ...

    def uniform(self, stream: Stream, address: Address, rows: int, outputs: int, device: torch.device) -> Tensor:
        """(rows, outputs) draws from U[0, 1), exactly `Stream.uniform`."""
        ...

    def product(self, x: Tensor, matrix: Tensor) -> Tensor:
        """x matrixᵀ over the last axis: (..., in) by (out, in) -> (..., out), never in TF32 or bf16."""
        ...

    def convolve(self, x: Tensor, matrix: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
        """matrixᵀ of every patch of x, without making them: (batch, height, width, channels) by
        (out, channels · kernel²) -> (batch, positions, out), the same as `ConvLayer.vectors` and `product`."""
        ...

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
        """ADC(y + sqrt(sigma² + variance) z): one draw of the summed noise, then quantise and clip.

        y: (batch, positions, units), may be overwritten; sigma: (batch, positions) or None;
        variance: like y or None; lsb: (batch, positions) step of the ADC, None for no ADC, whose
        codes run from -levels to levels.
        """
        ...


def get_backend(name: str = "auto", device: str | torch.device = "cpu") -> Backend:
    """The backend of that name. Raises ArgumentError for an unknown name or an unfit device."""
    kind = str(device).split(":")[0]
    if name == "auto":
        name = "numba" if kind == "cpu" else "triton" if has_triton() else "torch"
    if name not in (*NAMES, *ON_GPU):
        raise ArgumentError("backend", name, f"auto, {', '.join(NAMES)}; and triton on a GPU")
    if kind != "cpu" and name not in ON_GPU:
        raise ArgumentError("backend", name, f"torch on device {device}, or triton")
    if name == "triton" and not ((kind != "cpu" or interpreted()) and has_triton()):
        needs = "triton needs a GPU and the package of that name, 3.6 or later"
        raise ArgumentError("backend", name, f"auto, {', '.join(NAMES)}: {needs}")
    if name == "numpy":
        from analogsim.backends.reference import NumpyBackend as chosen
    elif name == "numba":
        from analogsim.backends.numba import NumbaBackend as chosen
    elif name == "triton":
        from analogsim.backends.triton import TritonBackend as chosen
    else:
        from analogsim.backends.torch import TorchBackend as chosen
    return chosen()


def has_triton() -> bool:
    """Triton is installed, and one whose kernels round as all others do."""
    if find_spec("triton") is None:
        return False
    from triton import __version__ as version  # pyright: ignore

    return tuple(int(part) for part in version.split(".")[:2]) >= EXACT_TRITON


def interpreted() -> bool:
    """Triton is told to run its kernels on the CPU, as for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"
