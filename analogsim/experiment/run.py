"""Train every variant and seed of a plan into one run folder; stop and go on at any instant."""

from __future__ import annotations

import json
import platform
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from analogsim.atomic import write_text
from analogsim.backends import get_backend
from analogsim.config.loader import Plan
from analogsim.config.schema import Experiment
from analogsim.errors import ArgumentError, RunFolderError
from analogsim.experiment.results import RUN_COLUMNS, summarise, write_curves, write_json
from analogsim.training import checkpoint
from analogsim.training.build import build_trainer, check_data, check_plan
from analogsim.training.data import Dataset, load_data
from analogsim.training.distributed import ALONE, Team, check_shared
from analogsim.training.doctor import diagnose
from analogsim.training.loop import Progress, Trainer


class Reporter:
    """Told what happens; does nothing. `analogsim.progress` shows it on a terminal.

    heard: whether somebody reads its messages; advice, which takes passes of the chip, is left out otherwise.
    """

    heard = False

    def message(self, text: str) -> None: ...
    def begin(self, run: str, seed: int, trainer: Trainer) -> None: ...
    def step(self, trainer: Trainer) -> None: ...
    def epoch(self, trainer: Trainer) -> None: ...


@dataclass(frozen=True)
class Run:
    """One variant with one seed."""

    name: str
    seed: int
    experiment: Experiment

    @property
    def labels(self) -> dict[str, Any]:
        learner = self.experiment.learner
        names = (self.name, self.experiment.chip.name, learner.rule, learner.baseline, self.seed)
        return dict(zip(RUN_COLUMNS, names))

    def checkpoints(self, folder: Path) -> Path:
        return folder / "checkpoints" / self.name / f"seed-{self.seed}"


@dataclass
class Outcome:
    """What a command did. interrupted: stopped by a signal, to be gone on with."""

    folder: Path
    interrupted: bool = False
    statuses: dict[tuple[str, int], str] = field(default_factory=dict)


def train(
    plan: Plan,
    folder: Path,
    backend: str,
    device: str,
    resume: bool,
    reporter: Reporter,
    load: Callable[[str], Dataset] = load_data,
    stop: Callable[[], bool] | None = None,
    team: Team = ALONE,
) -> Outcome:
    """Train every run of the plan, one after the other. The folder must be claimed.

    backend, device: as on the command line; a resumed folder keeps those it began with. load: what
    gives a data set by name. stop: asked between two steps; None: Ctrl-C and SIGTERM stop. team: of processes
    that train together, each of which calls this; the first alone writes and should report.
    Raises AnalogsimError for what the user can mend; what is computed stays in the folder.
    """
    plan = Plan({name: experiment.anchored() for name, experiment in plan.variants.items()})
    runs = [Run(name, seed, e) for name, e in plan.variants.items() for seed in e.seeds]
    progress = {run: Progress() for run in runs}  # in the order of the tables
    data: dict[str, Dataset] = {}
    with team.in_turn():  # what the first finds wrong, it alone says; what it fetches, the others find
        check_plan(plan.variants)
        facts = folder / "environment.json"
        begun = resume and facts.is_file()
        if begun:
            backend, device = _as_begun(facts)
        backend, device = checked_backend(backend, team.device(device)), device
        for name in dict.fromkeys(experiment.data for experiment in plan.variants.values()):
            data[name] = load(name)
        check_data(plan.variants, data)
        check_shared(((e, data[e.data]) for e in plan.variants.values()), team)
        if not begun and team.leads:
            write_json(facts, environment(backend, device, team.size))
            write_text(folder / "config.yaml", plan.to_yaml())  # last: what has one can be resumed
        if resume:
            for run in runs:
                saved = checkpoint.load_latest(run.checkpoints(folder), reporter.message, with_tensors=False)
                if saved is not None:
                    progress[run] = _progress(saved.record, run.checkpoints(folder))
            if team.leads:
                _write_tables(folder, progress)
    device, outcome = team.device(device), Outcome(folder)
    with stop_signals(team.size == 1) if stop is None else nullcontext(stop) as stopped:
        for run in runs:
            if progress[run].status == "running":
                progress[run] = _train_one(
                    run, folder, data[run.experiment.data], backend, device, progress, stopped, reporter, team
                )
            outcome.statuses[run.name, run.seed] = progress[run].status
            if team.any(stopped()):
                outcome.interrupted = progress[run].status == "running" or run is not runs[-1]
                break
    return outcome


def _train_one(
    run: Run,
    folder: Path,
    data: Dataset,
    backend: str,
    device: str,
    progress: dict[Run, Progress],
    stopped: Callable[[], bool],
    reporter: Reporter,
    team: Team,
) -> Progress:
    trainer = build_trainer(run.experiment, data, run.seed, backend, device, team=team)
    checkpoints = run.checkpoints(folder)
    saved = checkpoint.load_latest(checkpoints, lambda text: None) if checkpoints.is_dir() else None
    if saved is not None:
        try:
            trainer.load(saved)
        except (KeyError, RuntimeError, TypeError, ValueError) as error:  # another shape, another version
            raise RunFolderError(f"{checkpoints}: its checkpoints do not fit config.yaml; was that changed?") from error
    elif reporter.heard and run.seed == run.experiment.seeds[0]:
        for text in diagnose(run.experiment, data, run.seed, backend, device).advice:
            reporter.message(f"{run.name}: {text}")
    if team.size > 1:
        team.check_alike(trainer.checkpoint().tensors)
    progress[run] = trainer.progress
    reporter.begin(run.name, run.seed, trainer)
    last_save = time.monotonic()

    def save() -> None:
        nonlocal last_save
        checkpoint.save(checkpoints, trainer.checkpoint())
        last_save = time.monotonic()

    def after_step() -> None:
        reporter.step(trainer)
        if team.leads and time.monotonic() - last_save >= run.experiment.training.checkpoint_s:
            save()

    def after_epoch() -> None:
        if team.leads:
            save()
            _write_tables(folder, progress)
        reporter.epoch(trainer)

    trainer.run(stopped, after_step, after_epoch)
    if trainer.progress.status == "running" and team.leads:
        save()
    return trainer.progress


def _progress(record: dict[str, Any], checkpoints: Path) -> Progress:
    try:
        return Progress(**record)
    except TypeError:
        raise RunFolderError(f"{checkpoints}: its checkpoints are of another version of analogsim") from None


def _as_begun(facts: Path) -> tuple[str, str]:
    """The backend and device a folder began with; sets its number of threads."""
    try:
        before = json.loads(facts.read_text())
        backend, device, threads = str(before["backend"]), str(before["device"]), int(before["threads"])
        torch.set_num_threads(threads)
    except (ValueError, KeyError, TypeError, OverflowError, RuntimeError):
        raise RunFolderError(f"{facts}: damaged; it must name backend, device and threads") from None
    return backend, device


def checked_backend(backend: str, device: str) -> str:
    """The backend's name, `auto` resolved. Raises ArgumentError for what is not there."""
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise ArgumentError("device", device, "cpu, cuda, or cuda:N")
    if device.startswith("cuda"):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count == 0:
            raise ArgumentError("device", device, "cpu: torch sees no CUDA device here")
        if int(device.partition(":")[2] or 0) >= count:
            raise ArgumentError("device", device, f"cpu, or cuda:N with N below {count}")
    return get_backend(backend, device).name


def environment(backend: str, device: str, processes: int = 1) -> dict[str, Any]:
    """What the figures were made with."""
    names = ("analogsim-danp", "numpy", "numba", "torch", "scipy", "scikit-learn", "pydantic")
    return {
        "backend": backend,
        "device": device,
        "device_name": torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.processor(),
        "threads": torch.get_num_threads(),
        **({"processes": processes} if processes > 1 else {}),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "versions": {name: _version(name) for name in names},
        "git_commit": _git_commit(),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@cache
def _git_commit() -> str | None:
    """The commit of analogsim's own sources, where they are a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _write_tables(folder: Path, progress: dict[Run, Progress]) -> None:
    write_curves(folder, (run.labels | row for run, one in progress.items() for row in one.rows))
    write_json(
        folder / "summary.json",
        [summarise(run.labels, one.rows, one.status) for run, one in progress.items() if one.rows],
    )


@contextmanager
def stop_signals(heed_second: bool = True) -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C or SIGTERM has asked for a stop between two steps; a second one is obeyed at once.

    heed_second: False where a second comes by itself: torchrun hands on the first, and then sends SIGTERM.
    """
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped.is_set
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, frame: Any) -> None:
        stopped.set()
        if heed_second:
            for each, handler in before.items():
                signal.signal(each, handler)

    for number in before:
        signal.signal(number, handle)
    try:
        yield stopped.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
