"""The page's two tables: configurations with final and best figures over their seeds, and trials one by one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from analogsim.experiment.tables import Results
from analogsim.pictures import style
from analogsim.pictures.bands import banded
from analogsim.pictures.groups import kind_of
from analogsim.pictures.style import Table
from analogsim.report.drawn import LINE, named

WORDS_OF = {
    "final_test_accuracy": "final test accuracy (%)",
    "best_test_accuracy": "best test accuracy (%)",
    "final_test_accuracy_ideal": "final, read noise-free (%)",
    "best_epoch": "best epoch",
    "reads": "chip reads",
}
UNSOUND = ("diverged", "failed", "pending", "running")


@dataclass(frozen=True)
class Cell:
    """What a table shows, and what it sorts by: a number, or None where there is none."""

    text: str
    value: float | str | None = None


@dataclass(frozen=True)
class Sheet:
    columns: list[tuple[str, bool]]  # words, whether it holds numbers
    rows: list[list[Cell]]


def configurations(results: Results, band: str) -> Sheet:
    """A row a configuration: how its seeds ended, and the means of their figures with a band."""
    trials, kind = named(results), kind_of(results)
    first = trials.drop_duplicates(LINE).set_index(LINE)
    labels = ["run"] if first["run"].nunique() > 1 or not results.axes else []
    for name in dict.fromkeys(["rule", "chip", "baseline", *results.axes]):
        if first[name].nunique(dropna=False) > 1 and not _says(first, labels, name):
            labels.append(name)
    labels = labels or ["run"]
    figures = [f"{when}_test_{kind}" for when in ("final", "best")]
    figures += ["final_test_accuracy_ideal", "final_test_loss"] if kind == "accuracy" else []
    shares = {name: banded(_counted(trials, name), LINE, name, band) for name in figures if trials[name].notna().any()}
    more = [name for name in ("best_epoch", "reads") if trials[name].notna().any()]
    means = {name: trials.groupby(LINE)[name].mean() for name in more}
    columns = [(style.label_of(name), style.is_number(trials[name])) for name in labels]
    columns += [(WORDS_OF.get(name, style.label_of(name)), True) for name in (*shares, *more)]
    columns.append(("seeds", False))
    rows = []
    for name, group in trials.groupby(LINE, sort=False):
        counts = group["status"].value_counts()
        row = [_label(first.loc[name, label]) for label in labels]
        for figure, found in shares.items():
            row.append(_banded(found.loc[name] if name in found.index else None, figure, band))
        row += [Cell(large_text(float(means[key][name])), _sound(means[key][name])) for key in more]
        ends = [f"{counts[status]} {status}" for status in UNSOUND if status in counts]
        row.append(Cell(", ".join([str(len(group)), *ends]), float(len(group))))
        rows.append(row)
    return Sheet(columns, rows)


def _counted(trials: Table, figure: str) -> Table:
    """A diverged trial's accuracy counts as it was last read; its loss is no figure any more."""
    return trials if style.is_share(figure) else trials[trials["status"] != "diverged"]


def _says(table: Table, labels: list[str], name: str) -> bool:
    """Whether one of the columns there already has the very same words, or tells the baseline."""
    same = any((table[label].astype(str) == table[name].astype(str)).all() for label in labels)
    groups = len(table[labels].drop_duplicates()) if labels else 1
    return same or (name == "baseline" and len(table[[*labels, name]].drop_duplicates()) == groups)


def trials_table(results: Results) -> Sheet:
    """A row a trial."""
    trials: Table = results.trials
    kind = kind_of(results)
    labels = ["trial", "run", *(name for name in ("chip", "rule", "baseline") if trials[name].nunique() > 1)]
    labels += [axis for axis in results.axes if axis not in labels]
    figures = [f"final_test_{kind}", f"best_test_{kind}", "best_epoch", "epochs", "reads"]
    columns = [(style.label_of(name), style.is_number(trials[name])) for name in labels]
    columns += [("seed", True), ("status", False), *((style.label_of(name), True) for name in figures)]
    rows = []
    for _, row in trials.iterrows():
        cells = [_label(row[name]) for name in labels] + [_count(int(row["seed"])), Cell(row["status"], row["status"])]
        for name in figures:
            value = float(row[name])
            text = figure_text(value, kind) if name.endswith(kind) else large_text(value)
            cells.append(Cell(text, _sound(value)))
        rows.append(cells)
    return Sheet(columns, rows)


def _label(value: Any) -> Cell:
    if isinstance(value, float) and math.isnan(value):
        return Cell("–", None)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return Cell(style.written(value) if value != "" else "–", float(value) if number else str(value))


def _count(number: int) -> Cell:
    return Cell(str(number), float(number))


def _banded(found: Any, figure: str, band: str) -> Cell:
    """`91.2 (90.1–92.0)`, or `91.2 ± 0.5`."""
    if found is None or math.isnan(found["mean"]):
        return Cell("", None)
    kind = "accuracy" if style.is_share(figure) else "loss"
    mean, low, high = (figure_text(found[name], kind, unit=False) for name in ("mean", "low", "high"))
    half = figure_text(found["high"] - found["mean"], kind, unit=False)
    spread = f" ({low}–{high})" if band == "minmax" else f" ± {half}"
    return Cell(mean + (spread if found["n"] > 1 else ""), float(found["mean"]))


def _sound(value: Any) -> float | None:
    return None if math.isnan(value) else float(value)


def figure_text(value: float, kind: str, unit: bool = True) -> str:
    """`91.2 %`, or a loss in three digits; nothing where there is none."""
    if math.isnan(value):
        return ""
    if kind == "accuracy":
        return f"{100 * value:.1f}{' %' if unit else ''}"
    return f"{value:.3g}"


def large_text(value: float) -> str:
    """12, 34.5k, 5.6M, 7.8G; nothing where there is none."""
    if math.isnan(value):
        return ""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= size:
            return f"{value / (1e3 if letter == 'k' else size):.3g}{letter}"
    return f"{value:.4g}"
