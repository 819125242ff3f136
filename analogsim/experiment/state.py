"""How far a sweep is, trial by trial, and the tables made from it: trials.csv and timings.csv."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analogsim.atomic import write_text
from analogsim.config.sweeps import Sweep, Trial
from analogsim.experiment.results import RUN_COLUMNS, TRIAL_FIGURES, csv_text
from analogsim.experiment.trials import Ended, standing


@dataclass
class State:
    """Where a sweep stands: how every trial ended so far, in the plan's order, and which run now."""

    ended: dict[str, Ended]
    running: set[str] = field(default_factory=set)
    interrupted: bool = False
    began: float = field(default_factory=time.monotonic)
    finished_here: int = 0

    def count(self, *statuses: str) -> int:
        return sum(ended.status in statuses for ended in self.ended.values())

    @property
    def left(self) -> list[str]:
        return [name for name, ended in self.ended.items() if ended.status == "pending"]

    @property
    def left_s(self) -> float | None:
        """Time left at the pace since the start; None before the first trial has ended."""
        took = time.monotonic() - self.began
        return took / self.finished_here * len(self.left) if self.finished_here else None


class Watcher:
    """Told how a sweep goes; does nothing. `analogsim.progress` shows it on a terminal."""

    def message(self, text: str) -> None: ...
    def moved(self, state: State) -> None: ...


def standings(sweep: Sweep, folder: Path, complain: Callable[[str], None]) -> dict[str, Ended]:
    """How every trial of the plan stands in the folder."""
    found: dict[str, Ended] = {}
    measured = timings(folder)
    for trial in sweep.trials:
        ended = standing(folder / "trials" / trial.name, measured.get(trial.name))
        if ended.status == "pending" and ended.error:
            complain(f"{ended.error}; the trial is trained again")
            ended = Ended("pending")
        found[trial.name] = ended
    return found


def timings(folder: Path) -> dict[str, float]:
    """Peak memory in MB of the trials that were measured."""
    try:
        with (folder / "timings.csv").open(newline="", encoding="utf-8") as file:
            return {row["trial"]: float(row["peak_memory_MB"]) for row in csv.DictReader(file) if row["peak_memory_MB"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


class Tables:
    """trials.csv and timings.csv, written when something has changed, and not too often."""

    def __init__(self, sweep: Sweep, folder: Path, state: State):
        self.sweep, self.folder, self.state = sweep, folder, state
        self.columns = ("trial", *RUN_COLUMNS, *sweep.columns, *TRIAL_FIGURES)
        self.written = 0.0

    def write(self, after_s: float = 0.0) -> None:
        if time.monotonic() - self.written < after_s:
            return
        write_if_new(self.folder / "trials.csv", csv_text(self.columns, map(self._row, self.sweep.trials)))
        ended = self.state.ended.items()
        rows = [
            {"trial": name, "seconds": how.seconds, "peak_memory_MB": how.memory_MB and round(how.memory_MB)}
            for name, how in ended
            if how.seconds is not None
        ]
        write_if_new(self.folder / "timings.csv", csv_text(("trial", "seconds", "peak_memory_MB"), rows))
        self.written = time.monotonic()

    def _row(self, trial: Trial) -> dict[str, Any]:
        ended = self.state.ended[trial.name]
        return trial.labels | (ended.figures or {"status": ended.status, "error": ended.error})


def write_if_new(path: Path, text: str) -> None:
    """A finished sweep started again changes no byte, and no file's time either."""
    try:
        if path.read_bytes() == text.encode():
            return
    except OSError:
        pass
    write_text(path, text)
