"""How a layer's matrix is cut into tiles, and which weights share one w_max."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from analogsim.at_hand import at_least, number
from analogsim.config.chip import Cell, TileSize

ZERO_WEIGHTS_RANGE = 1e-30  # the range of an all-zero matrix; any smaller, and G_max / w_max overflows float32
GROWTH = 1.25  # of a range that verified cells outgrow: room, so that not every step rewrites them all


@dataclass(frozen=True)
class Grid:
    """rows: the inputs of every row of tiles; columns: the outputs of every column of tiles."""

    rows: tuple[slice, ...]
    columns: tuple[slice, ...]

    @classmethod
    def of(cls, outputs: int, inputs: int, size: TileSize, cells: int = 1) -> Grid:
        """cells: columns of a tile that one output takes."""
        columns = None if size.columns is None else max(1, size.columns // cells)
        return cls(_cuts(inputs, size.rows), _cuts(outputs, columns))

    @property
    def tiles(self) -> int:
        return len(self.rows) * len(self.columns)

    def largest(self, weight: Tensor) -> Tensor:
        """max |W| of every tile's columns, (outputs, rows of tiles)."""
        return torch.stack([weight[:, rows].abs().amax(1) for rows in self.rows], dim=1)


def _cuts(length: int, size: int | None) -> tuple[slice, ...]:
    size = size or length
    return tuple(slice(start, min(start + size, length)) for start in range(0, length, size))


class Scale:
    """w_max of every weight: one number (at_hand.py), or one of each tile's columns, (outputs, rows of tiles).

    A number in the chip file stays what it is. `auto` is headroom · max |W| over what shares it, taken

        at every write      write: ideal
        at the first, then  max(headroom, 1.25) · max |W| where a weight leaves the range      write: verify
        at the first        write: pulsed, whose cells cannot be rescaled
    """

    def __init__(self, cell: Cell, mode: str, grid: Grid):
        self._cell, self._mode, self._grid = cell, mode, grid
        self.value: float | Tensor = 0.0 if cell.weight_max == "auto" else cell.weight_max

    @property
    def clips(self) -> bool:
        """Larger weights are cut off."""
        return self._cell.weight_max != "auto" or self._mode == "pulsed"

    def fit(self, weight: Tensor) -> None:
        """Choose the range for these weights."""
        cell = self._cell
        if cell.weight_max != "auto":
            return
        first = not isinstance(self.value, Tensor) and self.value == 0.0
        if self._mode == "pulsed" and not first:
            return
        largest = self._largest(weight)
        if first or self._mode == "ideal":
            self.value = at_least(largest * cell.weight_headroom, ZERO_WEIGHTS_RANGE)
            return
        grown = at_least(largest * max(cell.weight_headroom, GROWTH), ZERO_WEIGHTS_RANGE)
        if isinstance(largest, Tensor):
            self.value = torch.where(largest > self.value, grown, self.value)
        elif largest > self.value:
            self.value = grown

    def _largest(self, weight: Tensor) -> Tensor | float:
        shared = self._cell.weight_scale
        if shared == "layer":
            largest = weight.abs().max()
            return float(largest) if self._mode == "pulsed" else number(largest)  # pulsed: once, at the first write
        largest = self._grid.largest(weight)
        if shared == "tile":
            for columns in self._grid.columns:
                largest[columns] = largest[columns].amax(0)
        return largest

    def of_weights(self) -> Tensor | float:
        """w_max of every weight: a number, or a matrix that broadcasts against (outputs, inputs)."""
        value, grid = self.value, self._grid
        if not isinstance(value, Tensor) or not value.ndim or len(grid.rows) == 1:
            return value
        parts = [value[:, at : at + 1].expand(-1, rows.stop - rows.start) for at, rows in enumerate(grid.rows)]
        return torch.cat(parts, dim=1)

    def of_tile(self, row: int, columns: slice) -> Tensor | float:
        """w_max of a tile: a number, or one an output."""
        if not isinstance(self.value, Tensor) or not self.value.ndim:
            return self.value
        value = self.value[columns, row]
        return number(value[0]) if self._cell.weight_scale == "tile" else value

    def state(self) -> Tensor:
        return self.value if isinstance(self.value, Tensor) else torch.tensor(self.value, dtype=torch.float64)

    def load(self, saved: Tensor) -> None:
        self.value = float(saved) if saved.ndim == 0 else saved.clone()
