"""What reaches the ADCs of a tile in one conversion, but for what is drawn there."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass
class Current:
    """Of every vector, (batch, positions), or of every output of it, (batch, positions, columns)."""

    y: Tensor
    share: float
    sigma: Tensor | None = None
    variance: Tensor | None = None
    lsb: Tensor | None = None
    common: Tensor | None = None  # σ of what a reference column adds to all outputs of its tile
    taken_off: Tensor | None = None  # after the ADC, by `mapping: offset`

    def part(self, rows: slice, copy: bool) -> Current:
        """The same for some samples. copy: y may be written to."""
        rest = (self.sigma, self.variance, self.lsb, self.common, self.taken_off)
        y = self.y[rows].clone() if copy else self.y[rows]
        return Current(y, self.share, *(None if tensor is None else tensor[rows] for tensor in rest))
