"""TensorBoard's event files of a run folder: tensorboard/RUN/seed-N, a scalar a figure and epoch."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from analogsim.errors import ArgumentError
from analogsim.experiment.results import FIGURES
from analogsim.experiment.run import Reporter
from analogsim.training.loop import Trainer

try:
    from torch.utils.tensorboard import SummaryWriter  # type: ignore[attr-defined]
except ImportError:
    raise ArgumentError(
        "--log", "tensorboard", "it where it is installed: pip install analogsim-danp[tensorboard]"
    ) from None

_TAGS = {name: "/".join(reversed(name.split("_", 1))) for name in FIGURES} | {"angle_deg": "angle_deg"}


class EventFiles(Reporter):
    """Writes every epoch's figures; a run gone on with is written anew from its first epoch, so none stands twice."""

    def __init__(self, folder: Path, also: Reporter | None = None):
        self._folder, self._also = folder / "tensorboard", also or Reporter()
        self.heard = self._also.heard
        self._writer: Any = None

    def message(self, text: str) -> None:
        self._also.message(text)

    def begin(self, run: str, seed: int, trainer: Trainer) -> None:
        self.close()
        folder = self._folder / run / f"seed-{seed}"
        shutil.rmtree(folder, ignore_errors=True)
        self._writer = SummaryWriter(str(folder))
        for row in trainer.progress.rows:
            self._write(row)
        self._also.begin(run, seed, trainer)

    def step(self, trainer: Trainer) -> None:
        self._also.step(trainer)

    def epoch(self, trainer: Trainer) -> None:
        self._write(trainer.progress.rows[-1])
        if trainer.progress.status != "running":
            self.close()
        self._also.epoch(trainer)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer = None

    def _write(self, row: dict[str, Any]) -> None:
        for name, tag in _TAGS.items():
            if row[name] is not None:
                self._writer.add_scalar(tag, row[name], row["epoch"])
        self._writer.flush()
