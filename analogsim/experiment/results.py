"""A run folder: who may write in it, what it holds, and its tables.

    config.yaml        the fully resolved experiment
    environment.json   versions, backend, threads, git commit
    curves.csv         a row an epoch of every run, epoch 0 untrained
    summary.json       final and best figures of every run
    plots/             pictures
    checkpoints/       RUN/seed-N/, what `--resume` goes on from

Imports nothing heavy, so that a folder in use is refused at once.
"""

from __future__ import annotations

import csv
import io
import json
import math
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from analogsim.atomic import STRAY, remove_strays, write_text
from analogsim.errors import FolderInUseError, RunFolderError

UNBEGUN = (".lock", "environment.json")  # all that is left of a run killed before its config.yaml
RUN_COLUMNS = ("run", "chip", "rule", "baseline", "seed")
EPOCH_COLUMNS = (
    "epoch",
    "step",
    "reads",
    "writes",
    "train_loss",
    "train_accuracy",
    "test_loss",
    "test_accuracy",
    "test_accuracy_ideal",
    "angle_deg",
    "seconds",
    "status",
)
FIGURES = ("train_loss", "train_accuracy", "test_loss", "test_accuracy", "test_accuracy_ideal")
TRIAL_FIGURES = (  # of trials.csv: what a trial came to, in one row
    "status",
    "epochs",
    "reads",
    "writes",
    *(f"final_{name}" for name in FIGURES),
    "best_epoch",
    *(f"best_{name}" for name in FIGURES),
    "error",
)

COST_COLUMNS = ("pulses", "energy_J", "latency_s")  # where some chip sends pulses, or says what things cost


@contextmanager
def claimed(folder: Path, resume: bool) -> Iterator[None]:
    """Hold a run folder for this process alone.

    A new run makes the folder, or takes an empty one; `resume` needs one that holds a run.
    Raises RunFolderError when it is in use, holds something already, or cannot be written.
    """
    with held(folder, lambda: _fit(folder, resume)):
        remove_strays(folder)
        yield


@contextmanager
def held(folder: Path, fit: Callable[[], None]) -> Iterator[None]:
    """Make a folder and hold its lock; `fit` raises where it does not suit.

    Raises RunFolderError, FolderInUseError where another process has the lock.
    """
    lock = FileLock(folder / ".lock")
    try:
        fit()
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        message = f"{folder}: another process is writing here; wait for it, or give another --out"
        raise FolderInUseError(message) from None
    except OSError as error:
        raise RunFolderError(f"{folder}: cannot be written: {error.strerror or error}") from error
    try:
        fit()  # again: another process may have begun and ended meanwhile
        yield
    finally:
        lock.release()


def _fit(folder: Path, resume: bool) -> None:
    if resume and not (folder / "config.yaml").is_file():
        raise RunFolderError(f"{folder}: nothing to resume here, it has no config.yaml")
    if not resume and folder.is_dir() and not _unbegun(folder):
        way = f"`analogsim train --resume {shlex.quote(str(folder))}`"
        raise RunFolderError(f"{folder}: not empty; go on with {way}, or give another --out")


def _unbegun(folder: Path) -> bool:
    paths = folder.iterdir() if folder.is_dir() else [folder]
    return all(path.name in UNBEGUN or path.match(STRAY) for path in paths)


def fresh_folder(name: str) -> Path:
    """runs/NAME, or the first of runs/NAME-2, runs/NAME-3, … that holds no run."""
    for number in count(1):
        folder = Path("runs") / (name if number == 1 else f"{name}-{number}")
        if not folder.exists() or _unbegun(folder):
            return folder
    raise AssertionError("count() does not end")


def write_curves(folder: Path, rows: Iterable[dict[str, Any]]) -> None:
    """curves.csv, whole; a figure that does not exist stays empty."""
    rows = list(rows)
    costs = (name for name in COST_COLUMNS if any(name in row for row in rows))
    write_text(folder / "curves.csv", csv_text((*RUN_COLUMNS, *EPOCH_COLUMNS, *costs), rows))


def csv_text(columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> str:
    """A table of these columns; None and what a row lacks stay empty, another key is a ValueError."""
    text = io.StringIO()
    writer: csv.DictWriter[str] = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2) + "\n")


def summarise(labels: dict[str, Any], rows: Sequence[dict[str, Any]], status: str) -> dict[str, Any]:
    """One run in a few figures. Best epoch: highest test accuracy, or lowest test loss."""
    last = rows[-1]
    finite = [row for row in rows if row["test_loss"] == row["test_loss"]] or [last]
    if last["test_accuracy"] is not None:
        best = max(finite, key=lambda row: row["test_accuracy"])
    else:
        best = min(finite, key=lambda row: row["test_loss"])
    return {
        **labels,
        "status": status,
        "epochs": last["epoch"],
        "reads": last["reads"],
        "writes": last["writes"],
        "seconds": last["seconds"],
        "final": {name: _finite(last[name]) for name in FIGURES},
        "best": {"epoch": best["epoch"], **{name: _finite(best[name]) for name in FIGURES}},
    }


def trial_figures(summary: dict[str, Any]) -> dict[str, Any]:
    """A summary's status and figures as one flat row of trials.csv."""
    final = {f"final_{name}": summary["final"][name] for name in FIGURES}
    best = {"best_epoch": summary["best"]["epoch"]} | {f"best_{name}": summary["best"][name] for name in FIGURES}
    return {name: summary[name] for name in ("status", "epochs", "reads", "writes")} | final | best | {"error": ""}


def _finite(figure: float | None) -> float | None:
    """JSON knows no NaN and no infinity."""
    return figure if figure is not None and math.isfinite(figure) else None
