"""The time of a chip: what drift and 1/f noise count from.

    now = Σ over steps of (vectors read · t_read + t_update) ,   age of a cell = t_first_read + now - time of its write
    whole_batch   pass k finds the cells as they are when it opens, after all vectors of the passes before it
    interleaved   all passes of a vector are read in a row, so pass k opens k t_read after its step

Layers are read side by side, so a pass takes as long as the layer with the most positions; every pass
finds all its samples' cells as they are when it opens. Vectors are counted in whole numbers, so that a pass
in parts takes exactly as long as one in one piece.
"""

from __future__ import annotations

from analogsim.config.chip import Clock as Settings


class Clock:
    """settings: `clock` of a chip file. positions: vectors a sample of the layer that is read most."""

    def __init__(self, settings: Settings, positions: int = 1, interleaved: bool = False):
        self.settings = settings
        self._positions, self._interleaved = positions, interleaved
        self.opened_s = 0.0  # when this step opened
        self._vectors = 0
        self._passes: dict[int, float] = {}

    @property
    def now_s(self) -> float:
        return self.opened_s + self._vectors * self.settings.t_read_s

    def open(self, pass_index: int) -> None:
        """A pass begins."""
        since_step = pass_index * self.settings.t_read_s
        self._passes[pass_index] = self.opened_s + since_step if self._interleaved else self.now_s

    def at(self, pass_index: int) -> float:
        """When that pass of this step began; now, for one that was never opened."""
        return self._passes.get(pass_index, self.now_s)

    def count(self, samples: int) -> None:
        """That many samples of a pass are read."""
        self._vectors += samples * self._positions

    def close_step(self) -> None:
        """A step's writing is done at `now_s`, which is then t_update_s later."""
        self.move_to(self.now_s + self.settings.t_update_s)

    def move_to(self, now_s: float) -> None:
        """Open a step at that time."""
        self.opened_s, self._vectors, self._passes = now_s, 0, {}

    def lag_s(self, batch: int) -> float:
        """τ between two passes of one sample that follow each other, batches of that many samples."""
        return self.settings.t_read_s * (1 if self._interleaved else batch * self._positions)

    def copy(self) -> Clock:
        other = Clock(self.settings, self._positions, self._interleaved)
        other.opened_s = self.now_s
        return other
