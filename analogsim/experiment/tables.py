"""The results of a run folder or a sweep folder as two pandas tables.

    trials   a row a trial: trial, run, chip, rule, baseline, seed, the axes, status, final and best figures, error
    curves   a row an epoch: the same labels, then the columns of curves.csv

A trial is one variant of an experiment with one seed and one value of every axis; `trial` is the first
16 digits of its identity. A variant without a named axis has an empty cell there. What cannot be read
is named in `problems`; the rest is there.
"""

from __future__ import annotations

import csv
import io
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from analogsim.config.loader import load_plan
from analogsim.config.sweeps import identity
from analogsim.config.yaml_tree import read_tree
from analogsim.errors import AnalogsimError, RunFolderError
from analogsim.experiment.results import EPOCH_COLUMNS, RUN_COLUMNS, TRIAL_FIGURES, trial_figures

LABELS = ("trial", *RUN_COLUMNS)
DONE = ("ok", "diverged")
_TEXT = {"trial", "run", "chip", "rule", "baseline", "status", "error"}
Rows = list[dict[str, str]]


@dataclass(frozen=True)
class Results:
    """What a folder holds.

    axes: the columns of a sweep's axes, in its order (() for a run folder). problems: a line for all
    that could not be read.
    """

    folder: Path
    kind: Literal["run", "sweep"]
    axes: tuple[str, ...]
    trials: pd.DataFrame
    curves: pd.DataFrame
    problems: tuple[str, ...]


def load_results(folder: str | Path) -> Results:
    """The tables of a run folder or a sweep folder.

    Accuracies are fractions of 1; a figure that does not exist is NaN. A torn line, a trial that cannot
    be read, is left out, named in `problems` and warned of. Raises RunFolderError where there is neither
    a run nor a sweep.
    """
    folder = Path(folder)
    problems: list[str] = []
    if (folder / "trials.csv").is_file():
        results = _sweep(folder, problems)
    elif (folder / "curves.csv").is_file():
        results = _run(folder, problems)
    else:
        raise RunFolderError(f"{folder}: no results here: neither a sweep's trials.csv nor a run's curves.csv")
    for problem in problems:
        warnings.warn(problem, stacklevel=2)
    return results


def _sweep(folder: Path, problems: list[str]) -> Results:
    header, rows = read_table(folder / "trials.csv", problems.append)
    head, tail = len(LABELS), len(header) - len(TRIAL_FIGURES)
    if tuple(header[:head]) != LABELS or tuple(header[tail:]) != TRIAL_FIGURES:
        raise RunFolderError(f"{folder / 'trials.csv'}: line 1: not the columns of a sweep's table")
    axes = tuple(header[head:tail])
    curves: Rows = []
    for row in rows:
        if row["status"] in DONE:
            labels = {name: row[name] for name in header[:tail]}
            path = folder / "trials" / row["trial"] / "curves.csv"
            try:
                columns, epochs = read_table(path, problems.append)
            except RunFolderError as error:
                problems.append(str(error))
                continue
            if tuple(columns) != (*RUN_COLUMNS, *EPOCH_COLUMNS):
                problems.append(f"{path}: line 1: not the columns of a run's curves")
                continue
            curves += [epoch | labels for epoch in epochs]
    names = _axis_names(folder, axes, rows)
    return Results(
        folder,
        "sweep",
        names,
        frame(header, rows),
        frame((*header[:tail], *EPOCH_COLUMNS), curves),
        tuple(problems),
    )


def _axis_names(folder: Path, columns: Sequence[str], rows: Rows) -> tuple[str, ...]:
    """The axes' columns, and `chip` first where the sweep has an axis over chips."""
    try:
        axes: Any = read_tree(folder / "sweep.yaml").value.get("axes") or {}
    except AnalogsimError:  # a combined folder has none
        return tuple(columns)
    zipped = axes.get("zip") or ()
    groups = [axes, *([zipped] if isinstance(zipped, dict) else zipped)]
    return (*(("chip",) if any("chip" in group for group in groups) else ()), *columns)


def _run(folder: Path, problems: list[str]) -> Results:
    plan = load_plan(folder / "config.yaml")
    trials = {(name, str(seed)): identity(e, seed)[:16] for name, e in plan.variants.items() for seed in e.seeds}
    summaries: list[dict[str, Any]] = []
    try:
        summaries = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        rows = [{name: summary[name] for name in RUN_COLUMNS} | trial_figures(summary) for summary in summaries]
    except (OSError, ValueError, KeyError, TypeError) as error:
        problems.append(f"{folder / 'summary.json'}: cannot be read: {_reason(error)}")
        rows = []
    labelled = [{name: _text(value) for name, value in row.items()} for row in rows]
    _, curves = read_table(folder / "curves.csv", problems.append)
    for row in (*labelled, *curves):
        row["trial"] = trials.get((row["run"], row["seed"]), "")
    return Results(
        folder,
        "run",
        (),
        frame((*LABELS, *TRIAL_FIGURES), labelled),
        frame((*LABELS, *EPOCH_COLUMNS), curves),
        tuple(problems),
    )


def read_table(path: Path, complain: Callable[[str], None]) -> tuple[list[str], Rows]:
    """The header and rows of one of our CSV files; a torn or misshapen line is named and left out.

    Raises RunFolderError for a file that cannot be read at all.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RunFolderError(f"{path}: cannot be read: {_reason(error)}") from None
    if text and not text.endswith("\n"):
        whole, newline, _ = text.rpartition("\n")
        text = whole + newline
        number = text.count("\n") + 1
        complain(f"{path}: line {number}: torn; the line is left out")
    header: list[str] = []
    rows: Rows = []
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        for row in reader:
            if not header:
                header = row
            elif len(row) != len(header):
                complain(f"{path}: line {reader.line_num}: torn or altered; the line is left out")
            else:
                rows.append(dict(zip(header, row)))
    except csv.Error as error:
        complain(f"{path}: line {reader.line_num}: {error}; the rest of the file is left out")
    if not header:
        raise RunFolderError(f"{path}: is empty")
    return header, rows


def frame(columns: Sequence[str], rows: Rows) -> pd.DataFrame:
    """The rows as a table: whole numbers, numbers, truth values or text, column by column."""
    return pd.DataFrame({name: _column(name, [row[name] for row in rows]) for name in columns})


def _column(name: str, cells: list[str]) -> pd.Series:
    if name in _TEXT:
        return pd.Series(cells, dtype="str")
    if not cells or not any(cells):
        return pd.Series([float("nan")] * len(cells), dtype="float64")
    if set(cells) <= {"true", "false"}:
        return pd.Series([cell == "true" for cell in cells], dtype="bool")
    try:
        return pd.Series([int(cell) for cell in cells], dtype="int64")
    except (ValueError, OverflowError):
        pass
    try:
        return pd.Series([float(cell) if cell else float("nan") for cell in cells], dtype="float64")
    except ValueError:
        return pd.Series(cells, dtype="str")


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
