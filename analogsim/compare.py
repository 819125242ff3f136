"""Runs side by side: final and best figures, epochs and chip reads to given accuracies, a paired test over seeds.

    t = mean(d) / (s_d / √n),   d_i = figure of a run - figure of the first run, seed i     (n - 1 degrees of freedom)

is Student's paired t test, two-sided, over the seeds both have; Wilcoxon's signed-rank test on request, which
asks for no normal differences but cannot fall below p = 0.05 with fewer than 6 seeds. Neither is corrected for
several comparisons. A diverged trial counts with what it read when it was given up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from rich.box import SIMPLE_HEAD
from rich.table import Table as Sheet
from scipy import stats

from analogsim.errors import ArgumentError
from analogsim.experiment.tables import Results, load_results
from analogsim.pictures.bands import BANDS, banded, check_band
from analogsim.pictures.curves import draw_curves
from analogsim.pictures.groups import axes_of, grouped, kind_of, told
from analogsim.pictures.style import GROUP, Table

TESTS = {"t": "paired Student t test", "wilcoxon": "Wilcoxon signed-rank test"}


@dataclass(frozen=True)
class Comparison:
    """table: a row a run, the first one the yardstick: run, seeds, diverged, failed; mean, low, high and n of final,
    best, and `epochs to 0.8` and `reads to 0.8` of the trials that got there; difference and p of the final figure
    against the first run's, over so many pairs. trials, curves: of all runs, column `run` naming them apart.
    kind: accuracy, or loss where there are no classes.
    """

    table: Table
    trials: Table
    curves: Table
    kind: str
    at: tuple[float, ...]
    band: str
    test: str


def levels(text: str) -> tuple[float, ...]:
    """`0.8,0.9` as numbers."""
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise ArgumentError("--at", text, "numbers with commas between, as in 0.8,0.9") from None


def compare(
    runs: Sequence[str | Path | Results], at: Sequence[float] = (), band: str = "minmax", test: str = "t"
) -> Comparison:
    """Compare every run of those folders, and each point of a sweep's axes, with the first.

    at: accuracies as fractions (losses, where there are no classes) to be reached. band: minmax, ci95 or std.
    test: t or wilcoxon. Raises ArgumentError, and RunFolderError for a folder without results.
    """
    check_band(band)
    if test not in TESTS:
        raise ArgumentError("--test", test, ", ".join(TESTS))
    found = [told(run if isinstance(run, Results) else load_results(run)) for run in runs]
    kinds = {kind_of(results) for results in found}
    if len(kinds) != 1:
        raise ArgumentError(
            "RUN", " ".join(str(one.folder) for one in found), "runs on data of one kind, classes or not"
        )
    (kind,) = kinds
    top = 1.0 if kind == "accuracy" else np.inf
    if wrong := [level for level in at if not 0 < level <= top]:
        raise ArgumentError(
            "--at", wrong[0], "accuracies as fractions, as in 0.8,0.9" if top == 1 else "losses above 0"
        )
    trials, curves = _together(found)
    table = _table(trials, curves, kind, tuple(at), band, test)
    return Comparison(table, trials, curves, kind, tuple(at), band, test)


def _together(found: Sequence[Results]) -> tuple[Table, Table]:
    """All trials and curves; `run` says the folder too where there are several, and the axes' values."""
    folders = [results.folder for results in found]
    if len({folder.absolute() for folder in folders}) < len(folders):
        raise ArgumentError("RUN", " ".join(map(str, folders)), "each folder once")
    plain = len({folder.name for folder in folders}) == len(folders)
    trials, curves = [], []
    for results in found:
        numeric, names = axes_of(results)
        one, rows, group = grouped(results, ["run", *names, *numeric])
        name = results.folder.name if plain else str(results.folder)
        for table, parts in ((one, trials), (rows, curves)):
            label = table[GROUP] if group else table["run"]
            if len(found) > 1:
                label = name + ": " + label if group else pd.Series(name, table.index)
            parts.append(table.assign(run=label))
    return pd.concat(trials, ignore_index=True), pd.concat(curves, ignore_index=True)


def _table(trials: Table, curves: Table, kind: str, at: tuple[float, ...], band: str, test: str) -> Table:
    shown = ["ok", "diverged", "running"]
    figures = {"final": f"final_test_{kind}", "best": f"best_test_{kind}"}
    reached = {level: _reached(curves, f"test_{kind}", level) for level in at}
    rows: list[dict[str, Any]] = []
    first = None
    for run, group in trials.groupby("run", sort=False):
        row: dict[str, Any] = {"run": run, "seeds": int(group["status"].isin(shown).sum())}
        row |= {status: int((group["status"] == status).sum()) for status in ("diverged", "failed")}
        done = group[group["status"].isin(shown)]
        for name, column in figures.items():
            row |= _banded(name, done, column, band)
        for level, times in reached.items():
            mine = times[times["run"] == run]
            for what in ("epoch", "reads"):
                row |= _banded(f"{what.removesuffix('s')}s to {level:g}", mine, what, band)
        first = done if first is None else first
        rows.append(row | _paired(first, done, figures["final"], test))
    return pd.DataFrame(rows)


def _banded(name: str, rows: Table, column: str, band: str) -> dict[str, Any]:
    """mean, low, high and n of one column under a name."""
    found = banded(rows.assign(all=0), "all", column, band)
    if not len(found):
        return {name: np.nan, f"{name} low": np.nan, f"{name} high": np.nan, f"{name} n": 0}
    mean, low, high, n = found.iloc[0]
    return {name: mean, f"{name} low": low, f"{name} high": high, f"{name} n": int(n)}


def _reached(curves: Table, figure: str, level: float) -> Table:
    """The first epoch of each trial at which the figure is as good as `level`, and the reads by then."""
    good = curves[figure] >= level if "accuracy" in figure else curves[figure] <= level
    return curves[good].groupby(["run", "trial"], sort=False, as_index=False)[["epoch", "reads"]].first()


def _paired(first: Table, other: Table, figure: str, test: str) -> dict[str, Any]:
    """Mean difference over the seeds both have, its p, and how many there are; NaN where there is none to tell."""
    both = first[["seed", figure]].merge(other[["seed", figure]], on="seed").dropna()
    difference = (both.iloc[:, 2] - both.iloc[:, 1]).to_numpy(float)
    n = len(difference)
    found = {"difference": difference.mean() if n else np.nan, "p": np.nan, "pairs": n}
    if first is other:
        return found | {"difference": np.nan}
    if n < 2:
        return found
    if np.ptp(difference) == 0:  # no spread: a test has nothing to measure by
        return found | {"p": 1.0 if difference[0] == 0 else np.nan}
    outcome: Any = stats.ttest_1samp(difference, 0.0) if test == "t" else stats.wilcoxon(difference)
    return found | {"p": float(outcome.pvalue)}


def draw(comparison: Comparison) -> Figure:
    """The runs' learning curves over each other, the levels to be reached as thin lines."""
    figure = draw_curves(comparison.curves, f"test_{comparison.kind}", hue="run", band=comparison.band, training=False)
    scale = 100 if comparison.kind == "accuracy" else 1
    for axis in figure.axes:
        for level in comparison.at:
            axis.axhline(scale * level, color="0.6", lw=0.8, zorder=0)
    return figure


def sheets(comparison: Comparison) -> list[Sheet]:
    """The tables as a terminal shows them: figures, and epochs and reads to the levels, if any."""
    percent = comparison.kind == "accuracy"
    scale, form, unit = (100, ".1f", " (%)") if percent else (1, ".3g", "")
    first = comparison.table["run"].iloc[0] if len(comparison.table) else ""
    band = f"mean and {BANDS[comparison.band]} over seeds"
    title = f"test {comparison.kind}{unit}, {band}"
    words = f"Δ: final against {first}; p: {TESTS[comparison.test]} over common seeds, two-sided, uncorrected"
    figures = _sheet(title, words, ["seeds", "final", "best", "Δ", "p"])
    times = [f"{what} to {level:g}" for level in comparison.at for what in ("epochs", "reads")]
    reached = _sheet(f"to reach a test {comparison.kind}, {band} that do", "", times)
    for _, row in comparison.table.iterrows():
        notes = [f"{row[name]} {name}" for name in ("diverged", "failed") if row[name]]
        cells = [row["run"], " ".join([str(row["seeds"]), *([f"({', '.join(notes)})"] if notes else [])])]
        cells += [_said(row, name, comparison.band, lambda v: f"{scale * v:{form}}") for name in ("final", "best")]
        cells.append("" if np.isnan(row["difference"]) else f"{scale * row['difference']:+{form}}")
        cells.append("" if row["run"] == first else "–" if np.isnan(row["p"]) else f"{row['p']:.2g}")
        figures.add_row(*cells)
        cells = [row["run"]]
        for name in times:
            said = _said(row, name, comparison.band, _epochs if name.startswith("epochs") else _reads)
            of = f" ({row[f'{name} n']} of {row['seeds']})" if row[f"{name} n"] < row["seeds"] else ""
            cells.append(said + of if said else "not reached")
        reached.add_row(*cells)
    return [figures, reached] if times else [figures]


def _sheet(title: str, caption: str, heads: Sequence[str]) -> Sheet:
    shown = Sheet(box=SIMPLE_HEAD, title=title, caption=caption, title_justify="left", caption_justify="left")
    shown.add_column("run", overflow="fold")
    for head in heads:
        shown.add_column(head, justify="right", overflow="fold")
    return shown


def _epochs(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _reads(value: float) -> str:
    """12300 as 12.3k."""
    return EngFormatter(places=1, sep="")(value).replace(".0", "") if value else "0"


def _said(row: Any, name: str, band: str, form: Callable[[float], str]) -> str:
    """`93.1 [92.8, 93.6]`, or `93.1 ± 0.4`; a figure of one trial alone, none as nothing."""
    mean, low, high = (row[key] for key in (name, f"{name} low", f"{name} high"))
    if np.isnan(mean):
        return ""
    if row[f"{name} n"] < 2:
        return form(mean)
    return form(mean) + (f" [{form(low)}, {form(high)}]" if band == "minmax" else f" ± {form(high - mean)}")
