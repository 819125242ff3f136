"""Sweeps: many trials in one folder, run by any number of workers to the same bytes.

    sweep.yaml       the resolved sweep, its axes written out
    trials.csv       a row a trial, in the plan's order
    timings.csv      seconds and memory of each trial: what differs from run to run
    trials/NAME/     a run folder a trial; NAME: the first 16 digits of its identity

A finished trial is skipped, so that a sweep is resumed by starting it again; an edited one runs what
is new. The folders of the trials are the truth, and the tables are made from them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from analogsim.config.schema import Experiment
from analogsim.config.sweeps import Sweep, Trial, load_sweep
from analogsim.errors import ArgumentError, RunFolderError
from analogsim.experiment.results import held
from analogsim.experiment.run import checked_backend, stop_signals
from analogsim.experiment.state import State, Tables, Watcher, standings, write_if_new
from analogsim.experiment.tables import Results, load_results
from analogsim.experiment.together import run_together
from analogsim.experiment.trials import Ended, Task, record_failure, reporter_for, run_trial
from analogsim.training.build import check_data, check_plan
from analogsim.training.data import load_data
from analogsim.training.seeds import seeds_at_once

TABLES_EVERY_S = 1.0


@dataclass(frozen=True)
class Options:
    """How a sweep is run; nothing of it changes a result.

    workers: processes, 1 for none but this one. scheduler: a dask cluster's address or a Slurm
    file, in place of processes here. threads: of each worker. work: what trains a trial, another than
    `run_trial` each by itself.
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

    def run(self, tasks: Sequence[Task], stop: Callable[[], bool]) -> list[Ended]:
        """Train trials that are sent together."""
        return [self.work(tasks[0], stop)] if len(tasks) == 1 else run_together(tasks, stop)


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
    if options.scheduler is None:
        checked_backend(options.backend, options.device)
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
        tables = Tables(sweep, folder, state)
        groups = grouped(sweep, [trials[name] for name in state.left], options)
        write_if_new(folder / "sweep.yaml", sweep.text)
        tables.write()
        if groups:
            tasks = [[_task(trial, folder, options) for trial in group] for group in groups]
            _run(tasks, folder, options, state, tables, watcher)
    return state


def _run(
    groups: list[list[Task]], folder: Path, options: Options, state: State, tables: Tables, watcher: Watcher
) -> None:
    halt: list[str] = []
    failed: list[str] = []  # now, not by an earlier start

    def begun(task: Task) -> None:
        state.running.add(task.name)
        watcher.moved(state)

    def ended(task: Task, how: Ended) -> None:
        state.running.discard(task.name)
        state.ended[task.name] = how
        if how.halt is not None:
            halt.append(how.halt)
        elif how.status == "failed":
            failed.append(task.name)
            watcher.message(f"trial {task.name} failed: {how.error}")
            try:
                record_failure(Path(task.folder), how)
            except RunFolderError as error:  # as why it failed may be; trials.csv has it
                watcher.message(str(error))
        state.finished_here += how.status != "pending"
        tables.write(after_s=TABLES_EVERY_S)
        watcher.moved(state)

    watcher.moved(state)
    with stop_signals() as signalled:

        def stop() -> bool:
            return bool(signalled() or halt or (options.fail_fast and failed))

        try:
            if options.workers == 1 and options.scheduler is None:
                for group in groups:
                    if stop():
                        break
                    for task in group:
                        begun(task)
                    for task, how in zip(group, options.run(group, stop)):
                        ended(task, how)
            else:
                from analogsim.experiment.cluster import run_all

                run_all(groups, folder, options, stop, begun, ended)
        finally:
            tables.write()
        state.interrupted = bool(signalled() and state.left)
    if halt:
        raise RunFolderError(halt[0])


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


def grouped(sweep: Sweep, trials: Sequence[Trial], options: Options) -> list[list[Trial]]:
    """Seeds of one configuration that are trained together, as far as memory allows and every worker has some.

    On a cluster's own scheduler, whose workers come and go, and on a GPU each trial is sent by itself. Refuses
    training data that cannot be read, and networks and losses that do not fit it.
    """
    at_once = _checked_data(trials)
    alone = not sweep.batched_seeds or options.work is not run_trial
    if alone or options.scheduler is not None or options.device != "cpu":
        return [[trial] for trial in trials]
    alike: dict[tuple[str, str], list[Trial]] = {}
    for trial in trials:
        alike.setdefault((trial.run, _but_seeds(trial.experiment)), []).append(trial)
    share = max(1, len(trials) // options.workers)
    groups: list[list[Trial]] = []
    for seeds in alike.values():
        parts = -(-len(seeds) // min(at_once[seeds[0].name], share))
        size = -(-len(seeds) // parts)  # of equal parts
        groups += [seeds[start : start + size] for start in range(0, len(seeds), size)]
    return groups


def _but_seeds(experiment: Experiment) -> str:
    return json.dumps(experiment.model_dump(mode="json") | {"seeds": None})


def _checked_data(trials: Iterable[Trial]) -> dict[str, int]:
    """How many seeds of every trial's configuration fit into memory together, by the trial's name."""
    alike: dict[str, list[Trial]] = {}  # trials of one network on the same data
    for trial in trials:
        experiment = trial.experiment
        text = json.dumps([experiment.data, experiment.network.model_dump(mode="json"), experiment.training.loss])
        alike.setdefault(text, []).append(trial)
    first = {_told(each): each[0].experiment for each in alike.values()}
    data = {name: load_data(name) for name in dict.fromkeys(experiment.data for experiment in first.values())}
    networks = check_data(first, data).values()
    return {
        trial.name: seeds_at_once(trial.experiment, network)
        for each, network in zip(alike.values(), networks)
        for trial in each
    }


def _told(trials: Sequence[Trial]) -> str:
    """Trials in a message: `trial 0123456789abcdef (danp, learner.samples=10) and 4 more`."""
    first, more = trials[0], len(trials) - 1
    where = ", ".join([first.run, *(f"{key}={value}" for key, value in first.point.items())])
    return f"trial {first.name} ({where})" + (f" and {more} more" if more else "")


def available_workers(device: str = "cpu") -> int:
    """The cores this process may use, or the GPUs there are."""
    if device == "cuda":
        return max(1, torch.cuda.device_count())
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
