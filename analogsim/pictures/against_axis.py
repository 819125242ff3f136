"""A figure of each trial against one axis of a sweep: mean and band over seeds, and references as lines.

A trial that diverged is marked ×: at what it read when it was given up, which counts in the mean of an
accuracy; a loss is no figure then, and its × stands at the edge of the panel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analogsim.pictures import style
from analogsim.pictures.bands import banded, spread_of
from analogsim.pictures.style import Column, Table

MOST_TICKS = 9  # values of a linear axis that are each given a tick


def draw_against_axis(
    trials: Table,
    x: str,
    figures: Sequence[str] = ("final_test_accuracy", "best_test_accuracy"),
    hue: str | None = None,
    col: str | None = None,
    band: str = "minmax",
    note: str = "",
) -> Figure:
    """One panel for each figure and value of `col`; a line (points, for an axis of names) a value of `hue`.

    trials: as `Results.trials`. Rows whose `x` is empty are a reference: a level line, in the colour of the
    only group of the same rule where there is one, else in black. Without one, a thin dashed line shows what
    the same weights score read noise-free. note: more to say above the picture.
    """
    done = trials[trials["status"].isin(["ok", "diverged"])]
    empty = done[x].isna() | (done[x] == "")
    reference, swept = done[empty], done[~empty]
    keys = [None] if hue is None else style.in_order(swept[hue])
    looks = dict(style.looks(keys, ordered=hue is not None and style.is_number(swept[hue])))
    cols = [None] if col is None else style.in_order(swept[col]) or [None]
    panels = [(figure, value) for figure in figures for value in cols]
    across = len(figures) if col is None else style.in_a_row(len(cols), 4)
    side_by_side = 0.0 if style.is_number(swept[x]) else 0.5
    shifts = {key: side_by_side * ((index + 0.5) / len(looks) - 0.5) for index, key in enumerate(looks)}
    lines = _references(reference, swept, hue, looks)
    ideal = reference.empty and style.is_number(swept[x]) and any(_tells(swept, figure) for figure in figures)
    handles = [style.handle(look) for look in looks.values()] if hue and len(looks) > 1 else []
    handles += [style.handle(look, lw=1.6) for look, _ in lines]
    if ideal:
        handles.append(style.handle(style.Look("same weights, read noise-free", "0.4", None, style.DASHES[1]), lw=1))
    if (done["status"] == "diverged").any():
        handles.append(style.diverged_handle())
    title = style.label_of(hue) if hue and len(looks) > 1 and style.is_number(swept[hue]) else ""
    sheet, axes = style.new_figure(len(panels), across, handles, title)
    marked: list[tuple[Axes, Table, str, dict[Any, float]]] = []
    for axis, (figure, value) in zip(axes.flat, panels):
        part = swept if value is None else swept[swept[col] == value]
        places = _scaled(axis, part[x] if len(part) else swept[x])
        shares = style.is_share(figure)
        for key, look in looks.items():
            group = part if hue is None else part[part[hue] == key]
            _draw(axis, group, x, figure, look, band, places, shifts[key])
            if ideal and shares:
                _draw_ideal(axis, group, x, figure, look, places)
        for look, rows in lines:
            _level(axis, rows, figure, look, band)
        if not shares:
            style.scale(axis, "y", part[part["status"] == "ok"][figure])
        style.finish(axis, style.label_of(x), style.label_of(figure), style.panel_title(col, value))
        marked.append((axis, part, figure, places))
        if not len(part) and not len(reference):
            style.say(axis, "no finished trial yet")
    if len({style.label_of(figure).split(" ", 1)[1] for figure in figures}) == 1:  # final and best of one figure
        style.level([axis for axis, *_ in marked], style.LEAST_SHARE if style.is_share(figures[0]) else 0.0)
    for axis, part, figure, places in marked:
        _mark(axis, part, x, figure, hue, looks, places, shifts)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    if heading := "; ".join(filter(None, [spread_of(swept, (x, hue, col), band), left_out(trials), note])):
        sheet.suptitle(heading, fontsize=10)
    return sheet


def left_out(trials: Table) -> str:
    """What a picture cannot show: `1 trial failed, 3 pending`."""
    counts = trials["status"].value_counts()
    words = [f"{counts[name]} {name}" for name in ("failed", "pending", "running") if name in counts]
    return "not shown: " + ", ".join(words) if words else ""


def _tells(trials: Table, figure: str) -> bool:
    """Whether the noise-free reading of the same weights differs from what the chip reads."""
    ideal = f"{figure}_ideal"
    return ideal in trials and bool(((trials[ideal] - trials[figure]).abs() > 2e-3).any())


def _references(
    reference: Table, swept: Table, hue: str | None, looks: dict[Any, style.Look]
) -> list[tuple[style.Look, Table]]:
    """Each reference run's look and trials."""
    lines = []
    for index, (name, rows) in enumerate(reference.groupby("run", sort=False)):
        same = [
            key for key in looks if hue and set(swept[swept[hue] == key]["rule"]) == {rows["rule"].iloc[0]}
        ]  # fmt: skip
        colour = looks[same[0]].colour if len(same) == 1 else "black"
        lines.append((style.Look(str(name), colour, None, style.DASHES[0 if same else index % 3]), rows))
    return lines


def _scaled(axis: Axes, values: Column) -> dict[Any, float]:
    """Set the x axis up; the place of each value on it."""
    shown = style.in_order(values)
    if not style.is_number(values):
        axis.set_xticks(range(len(shown)), [style.written(value) for value in shown])
        if sum(len(style.written(value)) for value in shown) > 34:
            axis.tick_params(axis="x", rotation=25)
            for label in axis.get_xticklabels():
                label.set(ha="right", rotation_mode="anchor")
        axis.set_xlim(-0.5, max(len(shown), 1) - 0.5)
        return {value: float(place) for place, value in enumerate(shown)}
    style.scale(axis, "x", values)
    if axis.get_xscale() == "linear" and 0 < len(shown) <= MOST_TICKS:
        axis.set_xticks(shown, [style.written(value) for value in shown])
    return {value: float(value) for value in shown}


def _draw(
    axis: Axes, group: Table, x: str, figure: str, look: style.Look, band: str, places: dict, shift: float
) -> None:
    sound = group if style.is_share(figure) else group[group["status"] != "diverged"]
    found = banded(sound, x, figure, band).dropna()
    if not len(found):
        return
    found = found * ([100, 100, 100, 1] if style.is_share(figure) else 1)
    at = np.array([places[value] for value in found.index]) + shift
    numeric = style.is_number(group[x])
    drawn: dict[str, Any] = {"color": look.colour, "marker": look.marker, "markersize": 5}
    axis.plot(at, found["mean"], linestyle=look.dashes if numeric else "", **drawn)
    if numeric and len(found) > 1:
        axis.fill_between(at, found["low"], found["high"], color=look.colour, alpha=0.15, linewidth=0)
    else:
        axis.vlines(at, found["low"], found["high"], color=look.colour, lw=1.4)


def _draw_ideal(axis: Axes, group: Table, x: str, figure: str, look: style.Look, places: dict) -> None:
    found = banded(group, x, f"{figure}_ideal")["mean"].dropna() * 100
    axis.plot([places[value] for value in found.index], found, color=look.colour, lw=1, linestyle=style.DASHES[1])


def _level(axis: Axes, rows: Table, figure: str, look: style.Look, band: str) -> None:
    found = banded(rows.assign(all=0), "all", figure, band).dropna() * (100 if style.is_share(figure) else 1)
    for _, one in found.iterrows():
        axis.axhline(one["mean"], color=look.colour, linestyle=look.dashes, lw=1.6)
        if one["high"] > one["low"]:
            axis.axhspan(one["low"], one["high"], color=look.colour, alpha=0.08, linewidth=0)


def _mark(
    axis: Axes,
    part: Table,
    x: str,
    figure: str,
    hue: str | None,
    looks: dict[Any, style.Look],
    places: dict[Any, float],
    shifts: dict[Any, float],
) -> None:
    """× where a trial diverged; at the edge where its figure is none."""
    low, high = axis.get_ylim()
    ends = part[part["status"] == "diverged"]
    values = ends[figure].to_numpy(float) * (100 if style.is_share(figure) else np.nan)
    values = np.clip(np.where(np.isfinite(values), values, low if style.is_share(figure) else high), low, high)
    for (_, row), value in zip(ends.iterrows(), values):
        key = None if hue is None else row[hue]
        look, at = looks[key], places[row[x]] + shifts[key]
        axis.plot([at], [value], "x", color=look.colour, markersize=8, mew=1.8, zorder=5, clip_on=False)
    axis.set_ylim(low, high)
