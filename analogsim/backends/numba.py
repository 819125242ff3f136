"""Numba on CPU tensors: torch's products; normals and the output stage by the kernels of kernels.py.

Rows are shared out over threads; a number depends on its address alone, so any thread count gives the same bits. The
threads are Python's, free of its lock inside a kernel: a second OpenMP beside torch's can crash on macOS, waits by
spinning where cores are shared, and takes Numba a second more to compile.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from analogsim.backends.kernels import normal_rows, output_rows, uniform_rows
from analogsim.backends.torch import TorchBackend
from analogsim.streams import Address, Stream

LEAST = 1 << 15  # outputs a thread, some 40 µs of work: waking another takes 20


def _new_helpers() -> None:
    """Threads beside the one that calls; they start when first needed, and do not outlive a fork."""
    global _helpers
    _helpers = ThreadPoolExecutor(os.cpu_count() or 1, "analogsim")


_new_helpers()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_helpers)


def _share_out(kernel: Any, out: np.ndarray, *arguments: Any) -> None:
    """kernel(first, last, out, *arguments) on all rows, over at most as many threads as torch has."""
    rows = len(out)
    threads = min(torch.get_num_threads(), out.size // LEAST)
    share = -(-rows // threads) if threads > 1 else rows
    parts = [(first, min(rows, first + share)) for first in range(share, rows, share)] if rows else []
    others = [_helpers.submit(kernel, *part, out, *arguments) for part in parts]
    kernel(0, share, out, *arguments)
    for other in others:
        other.result()


def _tail(stream: Stream, address: Address) -> tuple[Any, ...]:
    key0, key1 = stream.key
    return (
        np.uint64(address.first_sample),
        np.uint32(address.step),
        np.uint32(address.pass_index),
        np.uint32(key0),
        np.uint32(key1),
    )


def _array(tensor: Tensor | None, axes: int) -> np.ndarray:
    return np.empty((0,) * axes, np.float32) if tensor is None else tensor.contiguous().numpy()


class NumbaBackend(TorchBackend):
    """torch's products; normals and the output stage in Numba, on the tensor's own memory."""

    name = "numba"

    def normal(self, stream: Stream, address: Address, rows: int, outputs: int, device: torch.device) -> Tensor:
        out = torch.empty(rows, outputs, dtype=torch.float32, device="cpu")
        _share_out(normal_rows, out.numpy(), *_tail(stream, address))
        return out

    def uniform(self, stream: Stream, address: Address, rows: int, outputs: int, device: torch.device) -> Tensor:
        out = torch.empty(rows, outputs, dtype=torch.float32, device="cpu")
        _share_out(uniform_rows, out.numpy(), *_tail(stream.of_uniforms, address))
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
        _share_out(
            output_rows,
            y.numpy(),
            _array(sigma, 2),
            _array(variance, 3),
            _array(lsb, 2),
            np.float32(levels),
            *_tail(stream, address),
        )
        return y
