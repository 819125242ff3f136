"""The NumPy reference: slow, float64 in its products, plain enough to check by eye."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from analogsim.streams import Address, Stream


class NumpyBackend:
    """Every kernel as one NumPy expression. Products accumulate in float64."""

    name = "numpy"

    def normal(self, stream: Stream, address: Address, rows: int, outputs: int, device: torch.device) -> Tensor:
        return torch.from_numpy(stream.normal(address, rows, outputs)).to(device)

    def uniform(self, stream: Stream, address: Address, rows: int, outputs: int, device: torch.device) -> Tensor:
        return torch.from_numpy(stream.uniform(address, rows, outputs)).to(device)

    def product(self, x: Tensor, matrix: Tensor) -> Tensor:
        return torch.from_numpy((x.numpy().astype(np.float64) @ matrix.numpy().astype(np.float64).T).astype(np.float32))

    def convolve(self, x: Tensor, matrix: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
        image = np.pad(x.numpy(), ((0, 0), (padding, padding), (padding, padding), (0, 0)))
        patches = np.lib.stride_tricks.sliding_window_view(image, (kernel, kernel), (1, 2))[:, ::stride, ::stride]
        (batch, height, width), size = patches.shape[:3], matrix.shape[1]
        return self.product(torch.from_numpy(patches.reshape(batch, height * width, size).copy()), matrix)

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
        out = y.numpy()
        if sigma is not None or variance is not None:
            z = stream.normal(address, batch, positions * units).reshape(out.shape)
            std = np.zeros((1, 1, 1), np.float32) if sigma is None else sigma.numpy()[..., None]
            if variance is not None:
                std = np.sqrt(std * std + variance.numpy())
            out = out + std * z
        if lsb is not None:
            step = lsb.numpy()[..., None]
            out = np.clip(np.rint(out / step), -levels, levels) * step
        return torch.from_numpy(np.ascontiguousarray(out, np.float32))
