"""Sweeps: many trials in one folder, run by any number of workers to the same bytes.

    sweep.yaml       the resolved sweep, its axes written out
    trials.csv       a row a trial, in the plan's order
    timings.csv      seconds and memory of each trial: what differs from run to run
    trials/NAME/     a run folder a trial; NAME: the first 16 digits of its identity

A finished trial is skipped, so that a sweep is resumed by starting it again; an edited one runs what
is new. The folders of the trials are the truth, and the tables are made from them.
"""

from __future__ import annotations

import csv
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analogsim.atomic import write_text
from analogsim.config.schema import Experiment
from analogsim.config.sweeps import Sweep, Trial, load_sweep
from analogsim.errors import ArgumentError, RunFolderError
from analogsim.experiment.results import RUN_COLUMNS, TRIAL_FIGURES, csv_text, held
from analogsim.experiment.run import stop_signals
from analogsim.experiment.tables import Results, load_results
from analogsim.experiment.trials import Ended, Task, record_failure, reporter_for, run_trial, standing
from analogsim.training.build import build_network, check_plan
from analogsim.training.data import load_data

DONE = ("ok", "diverged")
TABLES_EVERY_S = 1.0


class Watcher:
    """Told how a sweep goes; does nothing. `analogsim.progress` shows it on a terminal."""

    def message(self, text: str) -> None: ...
    def moved(self, state: State) -> None: ...


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


@dataclass(frozen=True)
class Options:
    """How a sweep is run; nothing of it changes a result.

    workers: processes, 1 for none but this one. scheduler: a dask cluster's address or a Slurm
    file, in place of processes here. threads: of each worker. work: what trains a trial.
    """

    workers: int = 1
    retry_failed: bool = False
    fail_fast: bool = False
    scheduler: str | None = None
    backend: str = "auto"
    device: str = "cpu"
    threads: int = 1
    log: str | None = None
    work: Callable[[Task, Callable[[], bool]], Ended] = run_trial


def sweep(
    source: str | Path | Mapping[str, Any] | Experiment,
    out: str | Path,
    axes: Mapping[str, Any] | None = None,
    **options: Any,
) -> Results:
    """Run a sweep, or go on with it, and give its tables: `analogsim.sweep("sweep.yaml", "out", workers=4)`.

    source: a file, a shipped name, a mapping, or an Experiment. axes: dotted key -> values, in place of
    the source's. options: the fields of `Options`; with workers > 1 the calling script needs
    `if __name__ == "__main__":`, as processes of Python do. Raises AnalogsimError for what the user can
    mend and KeyboardInterrupt after Ctrl-C; what is computed stays in the folder.
    """
    known = {name for name in Options.__dataclass_fields__ if name != "work"}
    for name, value in options.items():
        if name not in known:
            raise ArgumentError(name, value, f"one of {', '.join(sorted(known))}")
    if isinstance(source, Experiment):
        source = source.model_dump(mode="json")
    state = run_sweep(load_sweep(source, axes=axes), Path(out), Options(**options), Watcher())
    if state.interrupted:
        raise KeyboardInterrupt
    return load_results(out)


def run_sweep(sweep: Sweep, folder: Path, options: Options, watcher: Watcher) -> State:
    """Train what is left of a sweep. Raises AnalogsimError for what the user can mend."""
    trials = {trial.name: trial for trial in sweep.trials}
    reporter_for(options.log, folder)
    check_plan({name: trial.experiment for name, trial in trials.items()})
    with held(folder, lambda: _fit(folder)):
        for stray in folder.glob(".*.part"):
            stray.unlink(missing_ok=True)
        (folder / ".stop").unlink(missing_ok=True)
        state = State(standings(sweep, folder, watcher.message))
        if options.retry_failed:
            for name, ended in state.ended.items():
                if ended.status == "failed":
                    state.ended[name] = Ended("pending")
        others = {path.name for path in folder.glob("trials/*")} - trials.keys()
        if others:
            text = "1 trial in the folder is" if len(others) == 1 else f"{len(others)} trials in the folder are"
            watcher.message(f"{text} not of this sweep; they are kept, and left out of its tables")
        tables = _Tables(sweep, folder, state)
        if state.left:
            _check_data([trials[name] for name in state.left])
        _write_if_new(folder / "sweep.yaml", sweep.text)
        tables.write()
        tasks = [_task(trials[name], folder, options) for name in state.left]
        if tasks:
            _run(tasks, folder, options, state, tables, watcher)
    return state


def _run(tasks: list[Task], folder: Path, options: Options, state: State, tables: _Tables, watcher: Watcher) -> None:
    halt: list[str] = []

    def begun(task: Task) -> None:
        state.running.add(task.name)
        watcher.moved(state)

    def ended(task: Task, how: Ended) -> None:
        state.running.discard(task.name)
        state.ended[task.name] = how
        if how.halt is not None:
            halt.append(how.halt)
        elif how.status == "failed":
            record_failure(Path(task.folder), how)
            watcher.message(f"trial {task.name} failed: {how.error}")
        state.finished_here += how.status != "pending"
        tables.write(after_s=TABLES_EVERY_S)
        watcher.moved(state)

    watcher.moved(state)
    with stop_signals() as signalled:

        def stop() -> bool:
            return bool(signalled() or halt or (options.fail_fast and state.count("failed")))

        try:
            if options.workers == 1 and options.scheduler is None:
                for task in tasks:
                    if stop():
                        break
                    begun(task)
                    ended(task, options.work(task, stop))
            else:
                from analogsim.experiment.cluster import run_all

                run_all(tasks, folder, options, stop, begun, ended)
        finally:
            tables.write()
        state.interrupted = bool(signalled() and state.left)
    if halt:
        raise RunFolderError(halt[0])


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


class _Tables:
    """trials.csv and timings.csv, written when something has changed, and not too often."""

    def __init__(self, sweep: Sweep, folder: Path, state: State):
        self.sweep, self.folder, self.state = sweep, folder, state
        self.columns = ("trial", *RUN_COLUMNS, *sweep.columns, *TRIAL_FIGURES)
        self.written = 0.0

    def write(self, after_s: float = 0.0) -> None:
        if time.monotonic() - self.written < after_s:
            return
        _write_if_new(self.folder / "trials.csv", csv_text(self.columns, map(self._row, self.sweep.trials)))
        ended = self.state.ended.items()
        rows = [
            {"trial": name, "seconds": how.seconds, "peak_memory_MB": how.memory_MB and round(how.memory_MB)}
            for name, how in ended
            if how.seconds is not None
        ]
        _write_if_new(self.folder / "timings.csv", csv_text(("trial", "seconds", "peak_memory_MB"), rows))
        self.written = time.monotonic()

    def _row(self, trial: Trial) -> dict[str, Any]:
        ended = self.state.ended[trial.name]
        return trial.labels | (ended.figures or {"status": ended.status, "error": ended.error})


def _write_if_new(path: Path, text: str) -> None:
    """A finished sweep started again changes no byte, and no file's time either."""
    try:
        if path.read_bytes() == text.encode():
            return
    except OSError:
        pass
    write_text(path, text)


def _fit(folder: Path) -> None:
    if not folder.exists() or (folder / "sweep.yaml").is_file():
        return
    ours = (".lock", ".stop", "timings.csv")
    if not folder.is_dir() or any(path.name not in ours and not path.match(".*.part") for path in folder.iterdir()):
        raise RunFolderError(f"{folder}: not empty, and no sweep's folder; give another -o")


def _task(trial: Trial, folder: Path, options: Options) -> Task:
    return Task(
        trial.name,
        str((folder / "trials" / trial.name).absolute()),
        trial.run,
        trial.experiment.model_dump_json(),
        options.backend,
        options.device,
        options.threads,
        options.log,
    )


def _check_data(trials: Iterable[Trial]) -> None:
    """Refuse before any training data that cannot be read, and networks that do not fit it."""
    seen: set[str] = set()
    data: dict[str, Any] = {}
    for trial in trials:
        experiment = trial.experiment
        text = json.dumps([experiment.data, experiment.network.model_dump(mode="json")])
        if text not in seen:
            seen.add(text)
            if experiment.data not in data:
                data[experiment.data] = load_data(experiment.data)
            build_network(experiment, data[experiment.data])


def available_workers() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
