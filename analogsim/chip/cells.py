"""The cells of one layer: the weights asked of them, how they are written, and what they then hold.

    W <- W - ΔW ,   G = target(W)  or  target(W) + error ,   read as W_read = (G⁺ - G⁻) / s

Mappings, w_max and weight slices: physics/conductance.py and grid.py. What each cell holds after a write
and what a read finds of it: leg.py. `PulsedCells` (pulsed_cells.py) replaces targets by pulses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from analogsim.backends import Backend
from analogsim.chip.grid import Grid, Scale
from analogsim.chip.leg import Found, Leg
from analogsim.config.chip import Cell, ChipDescription
from analogsim.config.writing import VerifyWrite
from analogsim.contracts import Factors
from analogsim.physics.conductance import differential_pair, shares, single_cells, spelt
from analogsim.streams import Stream


@dataclass(frozen=True)
class Written:
    """What one write cost: cells written, pulses or programming tries, and those sent one after the other."""

    cells: int | Tensor = 0
    pulses: int | Tensor = 0
    in_turn: int | Tensor = 0


class Cells:
    """Cells written to targets, ideally or with verification.

    weight: the weights asked for, (out, in), within the range the cells span. grid: the layer's tiles.
    timed: reads at two times find different cells. exact: the cells hold `weight`, to rounding, at any time.
    """

    def __init__(self, weight: Tensor, chip: ChipDescription, grid: Grid, stream: Stream, backend: Backend):
        self.weight, self.grid, self.stream = weight, grid, stream
        self.version = 0  # moves on whenever a read would find something else
        self._chip, self._cell = chip, chip.cell
        self._writes = 0
        self._ideal = chip.write.mode == "ideal"
        self.timed, self.exact = _timed(chip.cell), chip.write.mode != "verify" and _designed(chip.cell)
        self.scale = None if chip.cell is None else Scale(chip.cell, chip.write.mode, grid)
        cell = chip.cell
        self.planes = shares(cell.slices.bits, cell.slices.cells) if cell and cell.slices else (1.0,)
        self.legs: dict[str, Leg] = {}
        if cell is not None:
            names = ("plus", "minus") if cell.mapping == "differential" else ("single",)
            shapes = {name: (len(self.planes) * weight.shape[0], weight.shape[1]) for name in names}
            if cell.mapping == "reference":
                shapes["reference"] = (len(self.planes) * len(grid.columns), weight.shape[1])
            self.legs = {
                name: Leg(shape, chip, stream.child(name), backend, weight.device) for name, shape in shapes.items()
            }

    @property
    def clipped_share(self) -> float:
        """Share of weights at the end of a range that cuts larger ones off."""
        if self.scale is None or not self.scale.clips or not self.weight.numel():
            return 0.0
        return float((self.weight.abs() >= self.scale.of_weights()).float().mean())

    @property
    def stuck_share(self) -> float:
        """Share of cells that hold one conductance whatever is written; a reference column's not counted."""
        shares = [leg.stuck_share for name, leg in self.legs.items() if name != "reference"]
        return sum(shares) / len(shares) if shares else 0.0

    @property
    def least_change(self) -> float:
        """The smallest change of a weight that a write makes, on average over the cells; 0: any."""
        write, cell = self._chip.write, self._cell
        if not isinstance(write, VerifyWrite) or cell is None or self.scale is None:
            return 0.0
        most = torch.as_tensor(self.scale.of_weights()).mean()
        return float(most) * write.threshold_uS / (cell.g_max_uS - cell.g_min_uS)

    # --- write ----------------------------------------------------------------------------------

    def program(self, now_s: float) -> Written:
        """The first write: the weights they were made with."""
        return self._place(now_s)

    def write(self, change: Tensor | Factors, now_s: float) -> Written:
        """W <- W - change, (out, in) or the factors of such a matrix."""
        self.weight.sub_(change.dense() if isinstance(change, Factors) else change)
        return self._place(now_s)

    def _place(self, now_s: float) -> Written:
        self._fit()
        self.version += 1
        self._writes += 1
        if self._ideal:
            if not self.exact:
                self._place_ideally(now_s)
            written = sum(leg.shape[0] * leg.shape[1] for name, leg in self.legs.items() if name != "reference")
            return Written(written or self.weight.numel())
        targets = self._targets(first=self._writes == 1)
        counts = [self.legs[name].program(target, self._writes, now_s) for name, target in targets.items()]
        tries = sum(tries for _, tries in counts)
        return Written(sum(cells for cells, _ in counts), tries, tries)

    def _place_ideally(self, now_s: float, moved: Tensor | None = None) -> None:
        """moved: the weights whose cells are written now, (out, in); None: all, the reference column's too."""
        planes = None if moved is None else moved.repeat(len(self.planes), 1)
        for name, target in self._targets(first=moved is None).items():
            self.legs[name].place(target, self._writes, now_s, planes)

    def _fit(self) -> None:
        """Choose w_max, and cut off what leaves it."""
        if self.scale is None:
            return
        self.scale.fit(self.weight)
        if self.scale.clips:
            most = self.scale.of_weights()
            torch.minimum(self.weight, torch.as_tensor(most), out=self.weight)
            torch.maximum(self.weight, torch.as_tensor(most).neg(), out=self.weight)

    def _targets(self, first: bool = True) -> dict[str, Tensor]:
        """Conductances in µS of every leg; the reference column's, which stay, at the first write alone."""
        assert self._cell is not None
        assert self.scale is not None
        cell, most = self._cell, self.scale.of_weights()
        window = (cell.g_min_uS, cell.g_max_uS)
        if cell.mapping == "differential":
            plus, minus = differential_pair(self.weight, most, *window)
            targets = {"plus": plus, "minus": minus}
        else:
            targets = {"single": single_cells(self.weight, most, *window)}
            if cell.mapping == "reference" and (first or self._ideal):
                middle = (cell.g_min_uS + cell.g_max_uS) / 2
                shape = (len(self.grid.columns), self.weight.shape[1])
                targets["reference"] = self.weight.new_full(shape, middle)
        if cell.slices is None:
            return targets
        word = (cell.slices.bits, cell.slices.cells)
        return {name: spelt(target, *window, *word).flatten(0, 1) for name, target in targets.items()}

    def end_step(self, step: int, now_s: float, lag_s: float, step_s: float) -> None:
        """A step has passed; called ahead of its write."""
        for leg in self.legs.values():
            leg.end_step(step, now_s, lag_s, step_s)
        if self._cell is not None and self._cell.flicker is not None:
            self.version += 1

    # --- read -----------------------------------------------------------------------------------

    def found(self, now_s: float, lag_s: float, noisy: bool) -> dict[str, Found]:
        """What a read at that time finds of every leg."""
        if self.exact:
            self._place_ideally(now_s)
        return {name: leg.found(now_s, lag_s, noisy) for name, leg in self.legs.items()}

    # --- state ----------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """Everything a resumed run needs, by reference."""
        saved = {"weight": self.weight}
        if self.scale is not None and not (self._ideal and self.exact):
            saved |= {"scale": self.scale.state(), "writes": torch.tensor(self._writes)}
        if not self.exact:
            saved |= {f"{name}.{key}": t for name, leg in self.legs.items() for key, t in leg.state().items()}
        return saved

    def load(self, saved: Mapping[str, Tensor], now_s: float) -> None:
        """Put a saved state back; costs nothing."""
        self.weight.copy_(saved["weight"])
        self.version += 1
        if "scale" in saved and self.scale is not None:
            self.scale.load(saved["scale"])
            self._writes = int(saved["writes"])
        else:
            self._fit()
        if self.exact:
            return
        if self._chip.write.mode != "verify":
            self._place_ideally(now_s)
        for name, leg in self.legs.items():
            leg.load({key.partition(".")[2]: t for key, t in saved.items() if key.startswith(name + ".")})


def _timed(cell: Cell | None) -> bool:
    return cell is not None and (cell.drift is not None or cell.flicker is not None)


def _designed(cell: Cell | None) -> bool:
    """Every cell is as designed and stays as written."""
    if cell is None:
        return True
    faults = cell.faults
    strays = (cell.g_max_d2d, cell.g_min_d2d_uS, faults.stuck_low, faults.stuck_high, faults.stuck_random)
    return not (_timed(cell) or cell.slices or any(strays))
