"""The page's first figures, what was run in a few lines, and every divergence and failure with its reason."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from analogsim.errors import AnalogsimError
from analogsim.experiment.tables import Results, read_table
from analogsim.pictures import style
from analogsim.pictures.bands import banded
from analogsim.pictures.groups import kind_of
from analogsim.pictures.style import Column, Table
from analogsim.report.drawn import LINE, named
from analogsim.report.tables import UNSOUND, figure_text, large_text
from analogsim.training.loop import DIVERGED


def headline(results: Results) -> list[tuple[str, str, str]]:
    """The first figures a reader looks for: words, figure, remark."""
    trials: Table = results.trials
    counts = trials["status"].value_counts()
    parts = [f"{counts[name]} {name}" for name in UNSOUND if name in counts]
    noun = "run" if results.kind == "run" else "trial"
    tiles = [(f"{noun}{'' if len(trials) == 1 else 's'}", str(len(trials)), ", ".join(parts) or "all finished")]
    kind = kind_of(results)
    table = named(results)
    for when in ("best", "final"):
        column = f"{when}_test_{kind}"
        means = banded(table[table["status"] == "ok"], LINE, column)["mean"].dropna()
        if len(means):
            where = means.idxmax() if kind == "accuracy" else means.idxmin()
            remark = str(where) if len(means) > 1 else "mean over seeds"
            tiles.append((f"{when} test {kind}", figure_text(means[where], kind), remark))
    reads = trials["reads"].sum()
    if reads > 0:
        tiles.append(("chip reads (vectors)", large_text(reads), "all trials together"))
    seconds = _seconds(results)
    if seconds > 0:
        tiles.append(("training time", _time(seconds), "all trials together"))
    return tiles


def overview(results: Results, settings: Sequence[tuple[str, str, bool]]) -> list[tuple[str, str]]:
    """What was run, in a few lines."""
    said = {key: value for key, value, _ in settings}
    trials: Table = results.trials
    rows = [
        ("data", said.get("data", "")),
        ("hidden layers", said.get("network.layers") or said.get("network.hidden", "")),
        ("runs", _list(trials["run"])),
        ("rules", _list(trials["rule"])),
        ("chips", _list(trials["chip"])),
        ("baseline", _list(trials["baseline"])),
    ]
    rows += [(f"swept: {style.label_of(axis)}", _list(trials[axis])) for axis in results.axes if axis != "chip"]
    rows.append(("seeds", _list(trials["seed"])))
    rows += [(key, said.get(f"training.{key}", "")) for key in ("epochs", "batch")]
    if set(trials["run"]) == set(trials["rule"]):
        rows = [row for row in rows if row[0] != "runs"]
    return [(key, value) for key, value in rows if value]


def _list(values: Column, most: int = 8) -> str:
    shown = [style.written(value) for value in style.in_order(values)]
    if len(shown) > most:
        return f"{', '.join(shown[:3])} … {shown[-1]} ({len(shown)} values)"
    return ", ".join(shown)


@dataclass(frozen=True)
class Trouble:
    """A trial that diverged or failed: its labels, the reason, and what Python said where it failed."""

    trial: str
    name: str
    seed: int
    status: str
    reason: str
    traceback: str


def troubles(results: Results) -> list[Trouble]:
    """Every trial that came to no good end, in the plan's order."""
    table = named(results)
    found = []
    curves: Table = results.curves
    last = curves.drop_duplicates(["trial", "run", "seed"], keep="last").set_index(["trial", "run", "seed"])
    for _, row in table[table["status"].isin(["diverged", "failed"])].iterrows():
        reason, traceback = row["error"], ""
        if row["status"] == "diverged":
            reason = (
                f"in epoch {row['epochs']:g} its training loss was no number, or {DIVERGED:g} times the untrained one"
            )
            key = (row["trial"], row["run"], row["seed"])
            if key in last.index:
                loss = float(last.loc[key, "train_loss"])
                reason += f": {loss:.4g}" if math.isfinite(loss) else ""
        else:
            traceback = _traceback(results.folder / "trials" / row["trial"] / "error.json")
        found.append(Trouble(row["trial"], row[LINE], int(row["seed"]), row["status"], reason, traceback))
    return found


def _traceback(path: Path) -> str:
    try:
        return str(json.loads(path.read_text(encoding="utf-8")).get("traceback") or "")
    except (OSError, ValueError, AttributeError):
        return ""


def _seconds(results: Results) -> float:
    """Training time of all trials: a sweep's own record of it, or the last of each curve."""
    try:
        _, rows = read_table(results.folder / "timings.csv", lambda text: None)
        return sum(float(row["seconds"]) for row in rows if row.get("seconds"))
    except (AnalogsimError, ValueError):
        curves: Table = results.curves
        return float(curves.groupby(["trial", "run", "seed"])["seconds"].max().sum())


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
