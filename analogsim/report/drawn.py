"""What the page's script draws, as plain numbers: lines, trials with their curves, axes, and what can be switched off.

The script takes the means and bands itself, over the trials that are switched on:

    minmax, std, ci95   as in pictures/bands.py; Student's t_{0.975, n-1} comes with the numbers

Names are indices into lists, so that a thousand curves stay small.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import to_hex
from scipy.special import stdtrit

from analogsim.experiment.results import FIGURES
from analogsim.experiment.tables import Results
from analogsim.pictures import style
from analogsim.pictures.groups import axes_of, grouped, kind_of
from analogsim.pictures.style import GROUP, Column, Table

DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
SYMBOLS = {"o": "circle", "s": "square", "D": "diamond", "^": "triangle-up", "v": "triangle-down", "P": "cross"}
MOST_EPOCHS = 400  # points of a curve that are drawn
MOST_SWITCHES = 30  # values of an axis that get a check box each
MOST_TOGETHER = 12  # lines in one panel; more are put into panels by run
MOST_PANELS = 6
LINE = "line"
WORDS = {  # of each figure: as a choice, and along an axis
    "test_accuracy": ("test accuracy, as read on the chip", "test accuracy (%)"),
    "test_accuracy_ideal": ("test accuracy, same weights read noise-free", "noise-free test accuracy (%)"),
    "train_accuracy": ("training accuracy", "training accuracy (%)"),
    "test_loss": ("test loss", "test loss"),
    "train_loss": ("training loss", "training loss"),
    "angle_deg": ("angle to the BP update", "angle to the BP update (°)"),
}
ALONG = ("epoch", "reads", "step", "writes")


def named(results: Results) -> Table:
    """The trials with a column `line`: what tells each from those of other configurations, its seed left out."""
    numeric, names = axes_of(results)
    trials, _, _ = grouped(results, ["run", *names, *numeric])
    apart = references(trials, [*names, *numeric])
    said = zip(trials["run"], trials[GROUP], apart)
    return trials.assign(**{LINE: [_name(run, group, alone) for run, group, alone in said]})


def _name(run: str, group: str, reference: bool) -> str:
    if reference and run not in group.split(" · "):
        return f"{run} · {group}" if group else run
    return group or run


def references(trials: Table, axes: Sequence[str]) -> Column:
    """Whether each trial's variant leaves one of the axes unused."""
    return pd.concat([pd.Series(False, trials.index), *(_empty(trials[axis]) for axis in axes)], axis=1).any(axis=1)


def _empty(values: Column) -> Column:
    return values.isna() | (values == "")


def drawn(results: Results, band: str) -> dict[str, Any]:
    """All that the page draws; `data` of its script."""
    numeric, names = axes_of(results)
    kind = kind_of(results)
    trials = named(results)
    lines = list(dict.fromkeys(trials[LINE]))
    sweep, groups, places = _sweep(results, numeric, names, kind)
    switches = _switches(trials, [*names, *numeric])
    indices = [{value: index for index, value in enumerate(values)} for _, values in switches]
    table: Table = results.curves
    curves = _curves(table)
    looks = _looks(trials, lines, numeric, names)
    panels = _panels(results, trials, looks, numeric, names)
    wanted = [f"{when}_{name}" for when in ("final", "best") for name in FIGURES]
    rows = []
    for place, (_, row) in enumerate(trials.iterrows()):
        rows.append(
            {
                "id": row["trial"],
                "line": lines.index(row[LINE]),
                "group": groups[place],
                "at": places[place],
                "seed": int(row["seed"]),
                "switches": [index.get(row[name], -1) for (name, _), index in zip(switches, indices)],
                "status": row["status"],
                "figures": {name: _plain(row[name]) for name in wanted},
                "curve": curves.get((row["trial"], row["run"], row["seed"])),
            }
        )
    some = [name for name in WORDS if table[name].notna().any()] or [f"test_{kind}"]
    return {
        "band": band,
        "student": [None, None, *(round(float(stdtrit(n - 1, 0.975)), 6) for n in range(2, len(trials) + 1))],
        "lines": looks,
        "panels": panels,
        "trials": rows,
        "switches": [{"label": style.label_of(name), "values": list(map(style.written, vs))} for name, vs in switches],
        "curves": {
            "x": [[name, style.label_of(name), style.label_of(name)] for name in ALONG],
            "y": [[name, *WORDS[name]] for name in sorted(some, key=lambda name: name != f"test_{kind}")],
        },
        "sweep": sweep,
    }


def _curves(curves: Table) -> dict[Any, dict[str, list[Any]]]:
    """The columns of each trial's curve, thinned where it is long."""
    found: dict[Any, dict[str, list[Any]]] = {}
    columns = [name for name in (*ALONG, *WORDS) if curves[name].notna().any()]
    for key, rows in curves.groupby(["trial", "run", "seed"], sort=False):
        step = -(-len(rows) // MOST_EPOCHS)
        kept = rows[(rows["epoch"] % step == 0) | (rows["epoch"] == rows["epoch"].max())]
        found[key] = {name: [_plain(value) for value in kept[name]] for name in columns}
    return found


def _switches(trials: Table, axes: Sequence[str]) -> list[tuple[str, list[Any]]]:
    """What the reader can switch off by check boxes: each column, and its values."""
    names = ["rule", *axes, "chip", "seed"]
    runs = trials["run"].nunique()
    if not any(
        len(trials[["run", name]].drop_duplicates()) == trials[name].nunique() == runs for name in ("rule", "chip")
    ):
        names.insert(0, "run")
    found = [(name, style.in_order(trials[name])) for name in dict.fromkeys(names)]
    return [(name, values) for name, values in found if 1 < len(values) <= MOST_SWITCHES]


def _looks(trials: Table, lines: list[str], numeric: list[str], names: list[str]) -> list[dict[str, Any]]:
    """Each line's name, colour, dash and marker. Along a numeric axis colours go by its value, dashes by the rest."""
    apart = references(trials, [*names, *numeric])
    first = trials.assign(apart=apart).drop_duplicates(LINE).set_index(LINE)
    ordinary = [name for name in lines if not first.loc[name, "apart"]]
    alone = [name for name in lines if first.loc[name, "apart"]]
    found: dict[str, dict[str, Any]] = {}
    if numeric:
        shades = style.looks(style.in_order(trials[numeric[0]]), ordered=True)
        kinds = [tuple(first.loc[name, ["run", *names, *numeric[1:]]]) for name in ordinary]
        order = list(dict.fromkeys(kinds))
        for name, one in zip(ordinary, kinds):
            look = shades[first.loc[name, numeric[0]]]
            found[name] = _look(name, look.colour, order.index(one), style.MARKERS[order.index(one) % 7])
    else:
        for index, (name, look) in enumerate(style.looks(ordinary).items()):
            found[name] = _look(name, look.colour, index // len(style.COLOURS), look.marker)
    for index, name in enumerate(alone):
        found[name] = _look(name, "#000000", index + 1, None)
    return [found[name] for name in lines]


def _panels(
    results: Results, trials: Table, looks: list[dict[str, Any]], numeric: list[str], names: list[str]
) -> list[str]:
    """The panels of the learning curves, one a run where lines are many; sets each line's (-1: a reference, in all)."""
    apart = references(trials, [*names, *numeric])
    group = grouped(results, ["run", *names, *numeric[1:]])[0][GROUP]
    panels = list(dict.fromkeys(group[~apart])) if numeric and len(looks) > MOST_TOGETHER else [""]
    panels = panels if 0 < len(panels) <= MOST_PANELS else [""]
    first = trials.assign(apart=apart, panel=group).drop_duplicates(LINE).set_index(LINE)
    for look in looks:
        row = first.loc[look["name"]]
        look["dash"] = "solid" if len(panels) > 1 and not row["apart"] else look["dash"]
        look["panel"] = 0 if len(panels) == 1 else -1 if row["apart"] else panels.index(row["panel"])
    return panels


def _look(name: str, colour: Any, dash: int, marker: str | None) -> dict[str, Any]:
    symbol = SYMBOLS.get(marker, "x") if marker else None
    return {"name": name, "colour": to_hex(colour), "dash": DASHES[dash % len(DASHES)], "symbol": symbol}


def _sweep(
    results: Results, numeric: list[str], names: list[str], kind: str
) -> tuple[dict[str, Any] | None, list[int], list[list[int]]]:
    """The sweep's picture, and each trial's group and place in it (-1: a reference, or an axis it does not use)."""
    axes = numeric[:2] if len(numeric) > 1 else [*numeric, *names][:1]
    if not axes:
        return None, [-1] * len(results.trials), [[]] * len(results.trials)
    rest = ["run", *(name for name in (*names, *numeric) if name not in axes)]
    trials, _, _ = grouped(results, rest)
    apart = references(trials, axes)
    called = [group or run for group, run in zip(trials[GROUP], trials["run"])]
    groups = list(dict.fromkeys(name for name, alone in zip(called, apart) if not alone))
    values = [style.in_order(trials[axis]) for axis in axes]
    looks = [
        _look(name, look.colour, i // 7, look.marker) for i, (name, look) in enumerate(style.looks(groups).items())
    ]
    ys = [name for name in FIGURES if trials[f"final_{name}"].notna().any()] or [f"test_{kind}"]
    picture = {
        "axes": [_axis(axis, trials[axis], shown) for axis, shown in zip(axes, values)],
        "groups": looks,
        "y": [[name, *WORDS[name]] for name in sorted(ys, key=lambda name: name != f"test_{kind}")],
    }
    places = [
        [shown.index(value) if value in shown else -1 for value, shown in zip(row, values)]
        for row in trials[axes].itertuples(index=False)
    ]
    return picture, [-1 if alone else groups.index(name) for name, alone in zip(called, apart)], places


def _axis(name: str, column: Column, values: list[Any]) -> dict[str, Any]:
    """An axis of the sweep: where each of its values stands on a logarithmic scale, and whether it begins with one."""
    numbers = style.is_number(column)
    positive = [value for value in values if numbers and 0 < value < math.inf]
    logarithmic = bool(positive and min(values) >= 0 and max(positive) / min(positive) >= style.LOG_SPAN)
    step = 10.0 if len(positive) < 2 else max(2.0, positive[1] / positive[0])
    zero = positive[0] / step if positive else 0.0  # a zero stands a step below the smallest value
    return {
        "label": style.label_of(name),
        "numeric": numbers,
        "log": logarithmic,
        "texts": [style.written(value) for value in values],
        "values": [_plain(value) for value in values] if numbers else list(range(len(values))),
        "places": [_plain(value or zero) for value in values] if logarithmic else None,
    }


def _plain(value: Any) -> Any:
    """A number that JSON can hold, of six digits: nothing for what is not finite."""
    if value is None or not np.isfinite(value):
        return None
    number = float(value)
    return int(number) if number.is_integer() and abs(number) < 1e15 else float(f"{number:.6g}")
