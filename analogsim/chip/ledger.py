"""What the training cost the chip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from analogsim.config.writing import Costs


class Count:
    """A whole number that may be counted on a device, where it stays until somebody asks for it."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = f"_{name}"

    def __get__(self, counts: Any, owner: type | None = None) -> int:
        if counts is None:
            return 0  # where a dataclass begins
        vars(counts)[self._name] = found = int(vars(counts)[self._name])
        return found

    def __set__(self, counts: Any, value: int | Tensor) -> None:
        vars(counts)[self._name] = value

    @staticmethod
    def add(counts: Any, **more: int | Tensor) -> None:
        """More of some counts, none of them asked for."""
        for name, number in more.items():
            vars(counts)[f"_{name}"] += number


def _count() -> Any:
    """An int to whoever reads it."""
    return Count()


@dataclass
class Slots:
    """Events counted so that time and energy follow from them, all whole numbers.

    tile_reads: vectors through a tile. reads, conversions, pulses: in a row, where all tiles and columns of a
    layer work side by side; cells are written one after the other, but for pulse trains, which reach all at once.
    """

    tile_reads: int = 0
    reads: int = 0
    conversions: int = 0
    pulses: int = _count()


@dataclass
class CountingLedger:
    """Counts since the chip was made.

    reads: vectors read through a crossbar, one a sample, position and layer.
    conversions: DAC and ADC conversions; an ideal converter costs none.
    writes: cells written, two a weight where weights are differential pairs.
    pulses: pulses sent to cells, or tries to program them; an ideal write costs none.
    energy_J, latency_s: what all of it cost, by the chip file's `costs`.
    """

    reads: int = 0
    conversions: int = 0
    writes: int = _count()
    pulses: int = _count()
    slots: Slots = field(default_factory=Slots, repr=False)
    costs: Costs = field(default=Costs(), repr=False, compare=False)

    @property
    def energy_J(self) -> float:
        costs = self.costs
        return (
            self.slots.tile_reads * costs.read_J + self.conversions * costs.conversion_J + self.pulses * costs.pulse_J
        )

    @property
    def latency_s(self) -> float:
        slots, costs = self.slots, self.costs
        return slots.reads * costs.read_s + slots.conversions * costs.conversion_s + slots.pulses * costs.pulse_s

    def counts(self) -> tuple[int, ...]:
        """All of them, in this file's order."""
        slots = self.slots
        own = (self.reads, self.conversions, self.writes, self.pulses)
        return (*own, slots.tile_reads, slots.reads, slots.conversions, slots.pulses)

    def of_passes(self) -> tuple[int, ...]:
        """Those that passes add to. They are on the host: to look at them waits for no device."""
        slots = self.slots
        return self.reads, self.conversions, slots.tile_reads, slots.reads, slots.conversions

    def share(self, before: Sequence[int], own: int, whole: int) -> None:
        """Of the passes since `before`, `own` of `whole` equal parts were counted here: count those of others too."""
        slots = self.slots
        self.reads, self.conversions, slots.tile_reads, slots.reads, slots.conversions = (
            then + (now - then) // own * whole for now, then in zip(self.of_passes(), before)
        )

    def state(self) -> Tensor:
        """The same, to be saved."""
        return torch.tensor(self.counts())

    def load(self, saved: Tensor | Sequence[int]) -> None:
        self.reads, self.conversions, self.writes, self.pulses, *slots = (int(count) for count in saved)
        self.slots = Slots(*slots)
