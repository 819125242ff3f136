"""One trial of a sweep: trained in a run folder of its own, wherever the sweep sends it.

A trial's folder alone says how it stands: summary.json of a finished one, error.json of a failed one,
checkpoints of one begun. So nothing is lost with the process that runs it or with the one that counts.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from analogsim.config.loader import Plan
from analogsim.config.schema import Experiment
from analogsim.errors import AnalogsimError, ArgumentError, FolderInUseError, RunFolderError
from analogsim.experiment.results import claimed, trial_figures, write_json
from analogsim.experiment.run import Reporter, train
from analogsim.experiment.threads import threads_limited
from analogsim.training.data import load_data

NO_ROOM = (
    errno.ENOSPC,
    errno.EFBIG,
    errno.EROFS,
    errno.EIO,
    getattr(errno, "EDQUOT", None),
)  # end a sweep, not a trial
STOP_EVERY_S = 0.25

load_once = lru_cache(maxsize=2)(load_data)  # a worker trains many trials on the same data


@dataclass(frozen=True)
class Task:
    """What a worker needs to know of a trial."""

    name: str
    folder: str  # the trial's, from the root
    run: str
    experiment: str  # as JSON
    backend: str = "auto"
    device: str = "cpu"
    threads: int = 1
    log: str | None = None


@dataclass(frozen=True)
class Ended:
    """How a trial ended: ok, diverged, failed, or stopped and to be gone on with.

    halt: why no other trial could do better, as on a full disk. figures: its part of trials.csv.
    """

    status: str
    error: str = ""
    traceback: str | None = None
    halt: str | None = None
    seconds: float | None = None
    memory_MB: float | None = None
    figures: dict[str, Any] = field(default_factory=dict)


def run_trial(task: Task, stop: Callable[[], bool]) -> Ended:
    """Train a trial, or go on with it, to its end or to `stop()`; whatever it raises is said, not raised."""
    folder = Path(task.folder)
    try:
        with threads_limited(task.threads), claimed_trial(folder, stop) as free:
            if not free:
                return Ended("pending")
            ended = standing(folder)
            if ended.status in ("ok", "diverged"):  # by an earlier sweep that did not live to know
                return ended
            experiment = Experiment.model_validate_json(task.experiment)
            resume = (folder / "config.yaml").is_file()
            plan = Plan({task.run: experiment})
            reporter = reporter_for(task.log, folder)
            train(plan, folder, task.backend, task.device, resume, reporter, load_once, stop)
            ended = standing(folder, peak_memory_MB())
            if ended.status in ("ok", "diverged"):
                shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # large, and of no more use
            return ended
    except AnalogsimError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno in NO_ROOM:
            return Ended("pending", halt=str(error))
        reason = " ".join(str(error).split("\n"))
        return Ended("failed", reason.replace(task.folder, task.name))  # a table names no place of this machine
    except Exception as error:
        told = str(error).strip().split("\n")[0]
        reason = f"{type(error).__name__}: {told}" if told else type(error).__name__
        return Ended("failed", reason, "".join(traceback.format_exception(error)))


def reporter_for(log: str | None, folder: Path, also: Reporter | None = None) -> Reporter:
    """What a training tells besides its tables: nothing more than `also`, or TensorBoard's event files too."""
    if log is None:
        return also or Reporter()
    if log != "tensorboard":
        raise ArgumentError("--log", log, "tensorboard")
    from analogsim.experiment.tensorboard import EventFiles

    return EventFiles(folder, also)


@contextmanager
def claimed_trial(folder: Path, stop: Callable[[], bool]) -> Iterator[bool]:
    """The folder as this trial's; waits while a worker of a sweep that was killed still has it."""
    while True:
        try:
            _forget_failure(folder)
            with claimed(folder, (folder / "config.yaml").is_file()):
                yield True
                return
        except FolderInUseError:
            if stop():
                yield False
                return
            time.sleep(STOP_EVERY_S)


def _forget_failure(folder: Path) -> None:
    try:
        (folder / "error.json").unlink(missing_ok=True)
    except OSError as error:
        raise RunFolderError(f"{folder}: cannot be written: {error.strerror or error}") from error


def standing(folder: Path, memory_MB: float | None = None) -> Ended:
    """How a trial stands by its folder; `error` of a pending one says what in it cannot be read."""
    try:
        (summary,) = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        if summary["status"] in ("ok", "diverged"):
            figures = trial_figures(summary)
            return Ended(summary["status"], seconds=summary["seconds"], memory_MB=memory_MB, figures=figures)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        return Ended("pending", f"{folder / 'summary.json'}: cannot be read: {reason}")
    try:
        failed = json.loads((folder / "error.json").read_text(encoding="utf-8"))
        return Ended("failed", str(failed["error"]), failed.get("traceback"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Ended("pending")


def record_failure(folder: Path, ended: Ended) -> None:
    write_json(folder / "error.json", {"error": ended.error, "traceback": ended.traceback})


def peak_memory_MB() -> float | None:
    """The most memory this process has held so far; None where the system does not say."""
    if os.name != "posix":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)
