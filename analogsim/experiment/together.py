"""Trials that are seeds of one configuration, trained together in run folders of their own.

Training together changes no number of a trial and nothing of how it ends: one that was begun before, that was
stopped, or that could not be trained with the others is gone on with by itself (trials.py).
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from analogsim.atomic import write_text
from analogsim.config.loader import Plan
from analogsim.config.schema import Experiment
from analogsim.experiment.results import summarise, write_curves, write_json
from analogsim.experiment.run import Reporter, Run, checked_backend, environment
from analogsim.experiment.threads import threads_limited
from analogsim.experiment.trials import (
    Ended,
    Task,
    claimed_trial,
    load_once,
    peak_memory_MB,
    reporter_for,
    run_trial,
    standing,
)
from analogsim.training import checkpoint
from analogsim.training.build import build_trainer
from analogsim.training.loop import Trainer
from analogsim.training.seeds import train_together

TABLES_EVERY_S = 1.0  # of a trial that is trained


def run_together(tasks: Sequence[Task], stop: Callable[[], bool]) -> list[Ended]:
    """Train these trials to their ends or to `stop()`; whatever happens is said of each, not raised."""
    try:
        with threads_limited(tasks[0].threads), ExitStack() as stack:
            free = [stack.enter_context(claimed_trial(Path(task.folder), stop)) for task in tasks]
            fresh = [task for task in tasks if not (Path(task.folder) / "config.yaml").is_file()]
            if all(free) and len(fresh) > 1:
                _train(fresh, stop)
    except Exception:
        pass  # alone, below, each trial says for itself what it is
    return [_finished(task) or (Ended("pending") if stop() else run_trial(task, stop)) for task in tasks]


def _finished(task: Task) -> Ended | None:
    ended = standing(Path(task.folder), peak_memory_MB())
    if ended.status not in ("ok", "diverged"):
        return None
    shutil.rmtree(Path(task.folder) / "checkpoints", ignore_errors=True)
    return ended


def _train(tasks: Sequence[Task], stop: Callable[[], bool]) -> None:
    trials = [_Trial(task) for task in tasks]
    trainers = [trial.trainer for trial in trials]
    train_together(trainers, stop, [trial.after_step for trial in trials], [trial.after_epoch for trial in trials])
    for trial in trials:
        if trial.trainer.progress.status == "running":
            trial.save()


class _Trial:
    """A trial begun: its folder, its trainer, and what is written meanwhile.

    Many and short as such trials are, their tables are written once a second, and checkpoints every
    `training.checkpoint_s`; a kill costs no more than that.
    """

    trainer: Trainer

    def __init__(self, task: Task):
        experiment = Experiment.model_validate_json(task.experiment).anchored()
        self.run, self.folder = Run(task.run, experiment.seeds[0], experiment), Path(task.folder)
        self.reporter: Reporter = reporter_for(task.log, self.folder)
        backend = checked_backend(task.backend, task.device)
        self.trainer = build_trainer(experiment, load_once(experiment.data), self.run.seed, backend, task.device)
        write_json(self.folder / "environment.json", environment(backend, task.device))
        write_text(self.folder / "config.yaml", Plan({task.run: experiment}).to_yaml())
        self.reporter.begin(self.run.name, self.run.seed, self.trainer)
        self.saved = self.written = time.monotonic()

    def save(self) -> None:
        checkpoint.save(self.run.checkpoints(self.folder), self.trainer.checkpoint())
        self.saved = time.monotonic()

    def after_step(self) -> None:
        self.reporter.step(self.trainer)
        if time.monotonic() - self.saved >= self.run.experiment.training.checkpoint_s:
            self.save()

    def after_epoch(self) -> None:
        progress = self.trainer.progress
        if time.monotonic() - self.written >= TABLES_EVERY_S or progress.status != "running":
            if progress.status == "running":
                self.save()  # first: with tables there is always a checkpoint to go on from
            write_curves(self.folder, [self.run.labels | row for row in progress.rows])
            write_json(self.folder / "summary.json", [summarise(self.run.labels, progress.rows, progress.status)])
            self.written = time.monotonic()
        self.reporter.epoch(self.trainer)
