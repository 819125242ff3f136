"""Shows a training on the terminal: a bar with loss, accuracy and time left, or plain lines."""

from __future__ import annotations

import sys
import time
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from analogsim.experiment.estimate import duration
from analogsim.experiment.run import Reporter
from analogsim.experiment.state import State, Watcher
from analogsim.training.loop import Trainer


class Lines(Reporter):
    """A line an epoch, for logs and pipes."""

    heard = True

    def message(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def begin(self, run: str, seed: int, trainer: Trainer) -> None:
        self._title = f"{run} seed {seed}"
        self._started, self._first = time.monotonic(), trainer.progress.step

    def epoch(self, trainer: Trainer) -> None:
        progress = trainer.progress
        done, all_steps = progress.step - self._first, trainer.epochs * trainer.batches
        left = (time.monotonic() - self._started) / done * (all_steps - progress.step) if done else 0.0
        end = "diverged" if progress.status == "diverged" else f"{left:.0f} s left" if left else ""
        epoch = progress.rows[-1]["epoch"]
        print(f"{self._title}  epoch {epoch}/{trainer.epochs}  {figures(trainer)}  {end}".rstrip(), flush=True)


class Live:
    """A live display; messages are printed above it."""

    _bar: Progress

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def message(self, text: str) -> None:
        self._bar.console.print(text, style="yellow", markup=False, highlight=False)


class Bar(Live, Reporter):
    """A live bar a run."""

    heard = True

    def __init__(self, console: Console):
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f}%  {task.fields[figures]}"),
            TimeRemainingColumn(compact=True),
        )
        self._bar = Progress(*columns, console=console)
        self._task: TaskID | None = None

    def begin(self, run: str, seed: int, trainer: Trainer) -> None:
        total, done = trainer.epochs * trainer.batches, trainer.progress.step
        self._task = self._bar.add_task(f"{run} seed {seed}", total=total, completed=done, figures="")

    def step(self, trainer: Trainer) -> None:
        assert self._task is not None
        self._bar.update(self._task, completed=trainer.progress.step)

    def epoch(self, trainer: Trainer) -> None:
        assert self._task is not None
        diverged = "  diverged" if trainer.progress.status == "diverged" else ""
        self._bar.update(self._task, completed=trainer.progress.step, figures=figures(trainer) + diverged)


class SweepLines(Watcher):
    """A line now and then, for logs and pipes: at most one in two seconds, and the last."""

    def __init__(self) -> None:
        self._next = 0.0

    def message(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def moved(self, state: State) -> None:
        if state.left and time.monotonic() < self._next:
            return
        self._next = time.monotonic() + 2.0
        print(standing(state), flush=True)


class SweepBar(Live, Watcher):
    """A live bar of all trials."""

    def __init__(self, console: Console):
        columns = (BarColumn(bar_width=None), TextColumn("{task.description}"))
        self._bar = Progress(*columns, console=console)
        self._task = self._bar.add_task("", total=None)

    def moved(self, state: State) -> None:
        ended = len(state.ended) - len(state.left)
        self._bar.update(self._task, total=len(state.ended), completed=ended, description=standing(state))


def standing(state: State) -> str:
    """`12 of 40 done, 1 failed, 2 running, 3 min left`."""
    text = f"{state.count('ok', 'diverged')} of {len(state.ended)} done, {state.count('failed')} failed"
    text += f", {len(state.running)} running" if state.left else ""
    left_s = state.left_s
    return text if not state.left or left_s is None else f"{text}, {duration(left_s)} left"


def figures(trainer: Trainer) -> str:
    """Loss and accuracies of the last epoch in a few words."""
    row = trainer.progress.rows[-1]
    text = f"loss {row['train_loss']:.3f}"
    if row["test_accuracy"] is None:
        return f"{text} test {row['test_loss']:.3f}"
    return f"{text} train {row['train_accuracy']:.1%} test {row['test_accuracy']:.1%}"
