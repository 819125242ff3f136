"""Cells that move by pulses: `write: pulsed`.

    w <- pulses(w) ,   W = w_max (w + write noise)           w in units of the weight range

A cell's write noise is drawn anew by a pulse on it, or by a leak; its age, which drift and 1/f noise count from,
begins anew with a pulse. A cell that gets none is read as before.

What a pulse does: physics/update.py. Which pulses a change becomes: physics/pulse_trains.py, from the rule's
factors where they come undone (`optimizer: on_chip`), else from the matrix ΔW, whose parts smaller than a
pulse gather in a digital shadow χ. Leaks, where there are any, act once a write.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace

import torch
from torch import Tensor

from analogsim.at_hand import whole
from analogsim.backends import Backend
from analogsim.chip.cells import Cells, Written
from analogsim.chip.grid import Grid, Scale
from analogsim.config.chip import Cell, ChipDescription
from analogsim.config.writing import PulsedWrite
from analogsim.contracts import Factors
from analogsim.physics.pulse_trains import dense_pulses, plan_trains, pulse_trains
from analogsim.physics.pulsed_cells import MODELS, CellParameters
from analogsim.physics.update import apply_pulses, leak, with_write_noise
from analogsim.streams import Address, Stream


class PulsedCells(Cells):
    """weight: the weights as they are read, (out, in)."""

    def __init__(self, weight: Tensor, chip: ChipDescription, grid: Grid, stream: Stream, backend: Backend):
        super().__init__(weight, chip, grid, stream, backend)
        assert isinstance(chip.write, PulsedWrite)
        self._settings, self._stream, self._backend = chip.write, stream.child("pulsed"), backend
        self._range = self.scale or Scale(Cell(), "pulsed", grid)
        model, shape = chip.write.cell, (weight.shape[0], weight.shape[1])
        made = MODELS[model.model](
            shape, self._drawn_once("normal"), self._drawn_once("uniform"), **model.model_dump(exclude={"model"})
        )
        self._made = _moved(made, weight.device)
        _ = self._made.constant, self._made.noisy  # looked at now, once for all writes
        self._shadow = torch.zeros_like(weight)
        self._held = torch.zeros_like(weight)

    @property
    def clipped_share(self) -> float:
        """Share of cells at an end of their own range, of those that can move."""
        made, w = self._made, self._held
        free = made.w_max > made.w_min
        at_end = ((w >= made.w_max) | (w <= made.w_min)) & free
        return float(at_end.sum()) / max(int(free.sum()), 1)

    @property
    def stuck_share(self) -> float:
        """Share of weights without a range, or that stuck cells hold; the two fall independently."""
        own = float((self._made.w_max <= self._made.w_min).float().mean())
        return own + (1 - own) * super().stuck_share

    @property
    def least_change(self) -> float:
        """Of one pulse at w = 0, as a controller knows it."""
        return self._made.dw_min * float(torch.as_tensor(self._range.of_weights()).mean())

    def program(self, now_s: float) -> Written:
        """The first write: every cell as near to its weight as it can come."""
        self._range.fit(self.weight)
        self._held = torch.clamp(self.weight / self._range.of_weights(), self._made.w_min, self._made.w_max)
        return self._show(Written(self.weight.numel()), now_s)

    def write(self, change: Tensor | Factors, now_s: float) -> Written:
        """Send the pulses of W <- W - change."""
        up, down, in_turn = self._pulses(change)
        held = leak(self._held, 1, self._made)
        self._held = apply_pulses(held, up, down, self._pulse_noise, self._made)
        pulses = whole(up.sum(dtype=torch.float64) + down.sum(dtype=torch.float64))
        pulsed = (up > 0) | (down > 0)
        return self._show(Written(whole(pulsed.sum()), pulses, pulses if in_turn is None else in_turn), now_s, pulsed)

    def _pulses(self, change: Tensor | Factors) -> tuple[Tensor, Tensor, int | Tensor | None]:
        """(up, down) counts of every cell; and slots, where all cells are reached at once."""
        most, dw_min = self._range.of_weights(), self._made.dw_min
        per_output = most[:, 0] if isinstance(most, Tensor) and most.shape[1] == 1 else most
        if isinstance(change, Factors) and not (isinstance(per_output, Tensor) and per_output.ndim == 2):
            errors, inputs = change.errors.flatten(0, -2) / per_output, change.inputs.flatten(0, -2)
            length = self._settings.train_length
            up, down = pulse_trains(inputs, errors, 1.0, dw_min, length, self._train_uniforms)
            return up, down, whole(plan_trains(inputs, errors, 1.0, dw_min, length).slots.sum())
        dense = change.dense() if isinstance(change, Factors) else change
        counts, self._shadow = dense_pulses(dense / most * -1, dw_min, self._shadow, self._settings.max_pulses)
        counts.nan_to_num_(nan=0.0)  # of a training that diverges, which ends with this step
        return counts.clamp(min=0), counts.clamp(max=0).neg_(), None

    def _show(self, written: Written, now_s: float, pulsed: Tensor | None = None) -> Written:
        """What is read of the cells from now on. pulsed: those that got a pulse; None: all are written."""
        self._writes += 1
        self.version += 1
        shown = self._held
        if self._made.write_sigma:
            shown = with_write_noise(shown, self._normal("write noise", self._writes), self._made)
        shown = shown * self._range.of_weights()
        if pulsed is not None and self._made.keep is None:
            shown = torch.where(pulsed, shown, self.weight)
        self.weight.copy_(shown)
        if not self.exact:
            self._place_ideally(now_s, pulsed)
        return written

    def state(self) -> dict[str, Tensor]:
        own = {"held": self._held, "shadow": self._shadow, "scale": self._range.state()}
        return super().state() | own | {"writes": torch.tensor(self._writes)}

    def load(self, saved: Mapping[str, Tensor], now_s: float) -> None:
        self._range.load(saved["scale"])
        self._held, self._shadow = saved["held"].clone(), saved["shadow"].clone()
        super().load(saved, now_s)
        self._writes = int(saved["writes"])

    # --- numbers --------------------------------------------------------------------------------

    def _drawn_once(self, kind: str) -> Callable[[str], Tensor]:
        """Numbers of a quantity of every cell, by its name; on the CPU, where cells are made."""
        rows, columns = self.weight.shape

        def draw(name: str) -> Tensor:
            stream = self._stream.child(kind, name)
            numbers = stream.normal if kind == "normal" else stream.uniform
            return torch.from_numpy(numbers(Address(), rows, columns))

        return draw

    def _normal(self, name: str, write: int) -> Tensor:
        rows, columns = self.weight.shape
        return self._backend.normal(self._stream.child(name), Address(write), rows, columns, self.weight.device)

    def _pulse_noise(self, k: int, numbers: int) -> Tensor:
        stream, address = self._stream.child("pulses"), Address(self._writes, k)
        return self._backend.normal(stream, address, 1, numbers, self.weight.device)[0]

    def _train_uniforms(self, factor: str, first: int, samples: int, numbers: int) -> Tensor:
        stream, address = self._stream.child("train", factor), Address(self._writes, 0, first)
        return self._backend.uniform(stream, address, samples, numbers, self.weight.device)


def _moved(made: CellParameters, device: torch.device) -> CellParameters:
    """The same on another device."""
    tensors = {f.name: v.to(device) for f in fields(made) if isinstance(v := getattr(made, f.name), Tensor)}
    shape = made.exponential
    if shape is not None:
        shape = replace(shape, slope=shape.slope.to(device))
    return replace(made, **tensors, exponential=shape)
