"""A trained network on another chip: accuracy over time and over programming draws.

    RUN's last checkpoint -> targets, biases, decorrelation matrices -> programmed -> read at t = t_1, t_2, ...

A draw is another chip of that description, with faults, errors and noise of its own, programmed once and read at
all times; draw k has the stream (run's seed, "transfer", k), which training never uses. t counts from programming.
At each time the slow part of 1/f noise has its right spread; between times it stays what it was.

    evaluations/CHIP/draws.csv       a row a run, draw and time
                     accuracy.csv    a row a variant and time: mean and band over draws and seeds; as trained
                     chip.yaml, environment.json, accuracy.png
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from analogsim.atomic import write_text
from analogsim.backends import get_backend
from analogsim.backends.torch import full_precision
from analogsim.chip.chip import SimulatedChip
from analogsim.config.chip import ChipDescription
from analogsim.config.loader import load_plan
from analogsim.config.yaml_tree import dump
from analogsim.contracts import LayerUpdate, Learner, WeightUpdate
from analogsim.errors import ArgumentError, RunFolderError
from analogsim.experiment.results import write_json
from analogsim.experiment.run import Run, environment
from analogsim.learners.decorrelation import Decorrelated
from analogsim.streams import Stream
from analogsim.training import checkpoint, oracle
from analogsim.training.build import build_trainer
from analogsim.training.data import Dataset, load_data
from analogsim.training.loop import Trainer

UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "y": 31_557_600}  # a year of 365.25 days
DRAW_COLUMNS = ("run", "seed", "chip", "draw", "time_s", "test_accuracy", "test_loss")


@dataclass(frozen=True)
class Evaluation:
    """folder: where the tables are. table: as accuracy.csv. figure: what it is of, accuracy or loss."""

    folder: Path
    chip: str
    table: pd.DataFrame
    figure: str


def times_s(text: str) -> list[float]:
    """`1h,1d,30d` in seconds, in order. Units: s, m or min, h, d, y."""
    times: set[float] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+\.?\d*(?:[eE][+-]?\d+)?)\s*([a-z]+)\s*", part)
        seconds = float(match[1]) * UNITS.get(match[2], math.nan) if match else math.nan
        if not 0 < seconds < math.inf:
            raise ArgumentError("--at", part.strip(), "times above 0 such as 30s,10min,1h,30d,1y")
        times.add(seconds)
    return sorted(times)


def time_name(seconds: float) -> str:
    """The same the other way, in the largest unit of 1 or more."""
    unit = next((name for name in ("y", "d", "h", "min") if seconds >= UNITS[name]), "s")
    return f"{seconds / UNITS[unit]:.3g} {unit}"


def evaluate(
    folder: Path,
    description: ChipDescription,
    at_s: Sequence[float] = (),
    repeats: int = 5,
    out: Path | None = None,
    variants: Sequence[str] = (),
    backend: str = "auto",
    device: str = "cpu",
    warn: Callable[[str], None] = lambda text: None,
) -> Evaluation:
    """Read the trained networks of a run folder on another chip. The folder must be claimed.

    at_s: seconds since programming; none: at the chip's first read. repeats: draws. variants: names, all if none.
    Raises ChipError for a time outside what the chip's laws were measured over, before any is read;
    RunFolderError where there is nothing trained; what is read stays in the tables if a later part fails.
    """
    if repeats < 1:
        raise ArgumentError("--repeats", repeats, "a whole number, 1 or more")
    runs = _runs(folder, variants)
    times = list(at_s) or [description.clock.t_first_read_s]
    _check_times(description, times)
    target = _fresh(folder, description.name, out)
    backend = get_backend(backend, device).name
    rows: list[dict[str, Any]] = []
    table, figure = pd.DataFrame(), ""
    trained: dict[str, list[dict[str, Any]]] = {}  # last rows of the curves
    data: dict[str, Dataset] = {}
    for run in runs:
        name = run.experiment.data
        if name not in data:
            data[name] = load_data(name)
        trainer = _trained(run, folder, data[name], backend, device, warn)
        if trainer is None:
            continue
        trained.setdefault(run.name, []).append(trainer.progress.rows[-1])
        for draw in range(repeats):
            chip = program(trainer, description, run.experiment.training.batch, draw, run.seed, backend, device)
            if not rows:
                _check_laws(chip, times)
                write_text(target / "chip.yaml", dump(description.model_dump(mode="json")))
                write_json(target / "environment.json", environment(backend, device))
            for seconds, score in read_at(chip, trainer, times):
                labels = (run.name, run.seed, description.name, draw, seconds, score.accuracy, score.loss)
                rows.append(dict(zip(DRAW_COLUMNS, labels)))
            table, figure = _write(target, rows, trained)
    if not rows:
        raise RunFolderError(f"{folder}: no trained network here whose weights are finite")
    return Evaluation(target, description.name, table, figure)


def program(
    trainer: Trainer, description: ChipDescription, batch: int, draw: int, seed: int, backend: str, device: str
) -> SimulatedChip:
    """The trainer's network on another chip: its weights as targets, biases and decorrelation as they are.

    batch: how far apart passes of a sample are taken to be, for 1/f noise (chip.py).
    """
    source = trainer.chip
    assert isinstance(source, SimulatedChip)
    stream = Stream.from_seed(seed).child("transfer", draw)
    chip = SimulatedChip(description, source.network, source.targets, stream, backend, device, batch)
    layers = (LayerUpdate(bias=-bias, decorrelation=matrix) for bias, matrix in zip(*digital(source, trainer.learner)))
    chip.update(WeightUpdate(tuple(layers)))  # biases begin at 0
    return chip


def digital(source: SimulatedChip, learner: Learner) -> tuple[Sequence[Tensor], Sequence[Tensor | None]]:
    """(biases, decorrelation matrices) of every layer."""
    none = [None] * len(source.biases)
    return source.biases, learner.matrices if isinstance(learner, Decorrelated) else none


def read_at(chip: SimulatedChip, trainer: Trainer, times: Sequence[float]) -> Iterator[tuple[float, oracle.Score]]:
    """(time, score on the test data) at seconds since programming, in rising order."""
    data = trainer.data
    for seconds in times:
        _age(chip, seconds)
        with torch.no_grad(), full_precision():
            view = oracle.evaluation_view(chip)
            yield (
                seconds,
                oracle.evaluate(view, lambda part: data.batch("test", part), len(data.x_test), trainer.loss),
            )


def _age(chip: SimulatedChip, seconds: float) -> None:
    chip.age(seconds - chip.description.clock.t_first_read_s - chip.clock.now_s)


def _check_times(description: ChipDescription, times: Sequence[float]) -> None:
    clock = description.clock
    earliest = clock.t_first_read_s
    if min(times) < earliest:
        allowed = f"{time_name(earliest)} or later: chip {description.name} is first read then"
        raise ArgumentError("--at", time_name(min(times)), allowed)


def _check_laws(chip: SimulatedChip, times: Sequence[float]) -> None:
    """Ask every law for every time, before anything is read."""
    for seconds in times:
        view = chip.view("times")
        _age(view, seconds)
        _ = view.weights


def _runs(folder: Path, variants: Sequence[str]) -> list[Run]:
    plan = load_plan(folder / "config.yaml")
    for name in variants:
        if name not in plan.variants:
            raise ArgumentError("--variant", name, ", ".join(plan.variants))
    chosen = {name: e for name, e in plan.variants.items() if not variants or name in variants}
    return [Run(name, seed, experiment) for name, experiment in chosen.items() for seed in experiment.seeds]


def _trained(
    run: Run, folder: Path, data: Dataset, backend: str, device: str, warn: Callable[[str], None]
) -> Trainer | None:
    """A trainer with the run's last checkpoint; None, after a warning, where there is nothing to read."""
    title, path = f"{run.name} seed {run.seed}", run.checkpoints(folder)
    saved = checkpoint.load_latest(path, warn) if path.is_dir() else None
    if saved is None:
        warn(f"{title}: left out, it has no checkpoint yet")
        return None
    trainer = build_trainer(run.experiment, data, run.seed, backend, device)
    try:
        trainer.load(saved)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise RunFolderError(f"{path}: its checkpoints do not fit config.yaml; was that changed?") from error
    progress = trainer.progress
    assert isinstance(trainer.chip, SimulatedChip)
    if not all(bool(torch.isfinite(tensor).all()) for tensor in trainer.chip.targets):
        warn(f"{title}: left out, it diverged and its weights are not finite")
        return None
    if progress.status == "running":
        warn(f"{title}: trained for {progress.epoch - 1} of {run.experiment.training.epochs} epochs so far")
    return trainer


def _fresh(folder: Path, chip: str, out: Path | None) -> Path:
    """`out` if it is new or empty, or the first free one of evaluations/CHIP, CHIP-2, ..."""
    if out is not None:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise RunFolderError(f"{out}: not empty; give another --out")
        return out
    name = re.sub(r"[^A-Za-z0-9._+=-]+", "-", chip).strip(".-") or "chip"
    for number in count(1):
        path = folder / "evaluations" / (name if number == 1 else f"{name}-{number}")
        if not path.exists():
            return path
    raise AssertionError("count() does not end")


def _write(
    target: Path, rows: list[dict[str, Any]], trained: dict[str, list[dict[str, Any]]]
) -> tuple[pd.DataFrame, str]:
    draws = pd.DataFrame(rows, columns=list(DRAW_COLUMNS))
    figure = "accuracy" if all(row["test_accuracy"] is not None for row in rows) else "loss"
    table = summary(draws, figure)
    own = {run: sum(row[f"test_{figure}"] for row in ends) / len(ends) for run, ends in trained.items()}
    table["trained"] = table["run"].map(own.get)
    for name, written in (("draws.csv", draws), ("accuracy.csv", table)):
        write_text(target / name, written.to_csv(index=False, lineterminator="\n"))
    return table, figure


def summary(draws: pd.DataFrame, figure: str) -> pd.DataFrame:
    """A row a run and time: run, chip, time_s, draws, and mean, sd, min, max of test_<figure>.

    sd: of one draw, sqrt(Σ (f - mean)² / (n - 1)); empty where there is one. All seeds of a variant together.
    """
    by = draws.groupby(["run", "chip", "time_s"], sort=False)[f"test_{figure}"]
    return by.agg(draws="size", mean="mean", sd="std", min="min", max="max").reset_index()
