"""What the training cost the chip."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class CountingLedger:
    """Counts since the chip was made.

    reads: vectors read through a crossbar, one a sample, position and layer.
    conversions: DAC and ADC conversions; an ideal converter costs none.
    writes: cells written, two a weight where weights are differential pairs.
    """

    reads: int = 0
    conversions: int = 0
    writes: int = 0
