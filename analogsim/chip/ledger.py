"""What the training cost the chip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from analogsim.config.writing import Costs


@dataclass
class Slots:
    """Events counted so that time and energy follow from them, all whole numbers.

    tile_reads: vectors through a tile. reads, conversions, pulses: in a row, where all tiles and columns of a
    layer work side by side; cells are written one after the other, but for pulse trains, which reach all at once.
    """

    tile_reads: int = 0
    reads: int = 0
    conversions: int = 0
    pulses: int = 0


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
    writes: int = 0
    pulses: int = 0
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

    def state(self) -> Tensor:
        """The same, to be saved."""
        return torch.tensor(self.counts())

    def load(self, saved: Tensor | Sequence[int]) -> None:
        self.reads, self.conversions, self.writes, self.pulses, *slots = (int(count) for count in saved)
        self.slots = Slots(*slots)
