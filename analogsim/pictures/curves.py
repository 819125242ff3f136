"""Learning curves: a figure against epochs beside the same against chip reads, mean and band over seeds.

A trial that diverged is marked × where it was given up. Its accuracy is held from there on, so that the
mean does not rise for its going; its loss, which is no figure any more, leaves the mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure

from analogsim.pictures import style
from analogsim.pictures.bands import banded, spread_of
from analogsim.pictures.style import Column, Table

MOST_WITH_TRAIN = 6  # lines in a panel; with more, those of the training set would only confuse
MOST_IN_LEGEND = 8  # ordered values; more get a colour bar
TRAIN = style.Look("training", "0.4", None, ":")


def draw_curves(
    curves: Table,
    y: str,
    xs: Sequence[str] = ("epoch", "reads"),
    hue: str | None = None,
    col: str | None = None,
    band: str = "minmax",
    training: bool = True,
    note: str = "",
) -> Figure:
    """One panel for each x and value of `col`; a line for each value of `hue`.

    curves: as `Results.curves`. y: one of its figures, such as test_accuracy. Rows whose `hue` is empty are a
    reference, drawn in black in every panel and named by their run. training: the training set's as dotted
    lines, where lines are few. note: more to say above the picture.
    """
    empty = curves[hue].isna() | (curves[hue] == "") if hue else pd.Series(False, curves.index)
    reference, curves = (curves[empty], curves[~empty]) if not empty.all() else (curves[:0], curves)
    looks = _looks(curves, hue)
    names = list(dict.fromkeys(reference["run"]))
    references = {name: style.Look(name, "black", None, style.DASHES[i % 3]) for i, name in enumerate(names)}
    cols = [None] if col is None else style.in_order(curves[col])
    across = len(xs) if col is None else style.in_a_row(len(cols), 4)
    rows = [[(x, value) for value in (cols or [None])] for x in xs]
    padding = -len(rows[0]) % across if len(rows) > 1 and col else 0
    panels = [panel for row in rows for panel in [*row, *[None] * padding]]  # each x begins a row
    train = (
        _train_column(y) if training and len(curves) and len(looks) <= MOST_WITH_TRAIN and not reference.size else None
    )
    bar = hue is not None and style.is_number(curves[hue]) and len(looks) > MOST_IN_LEGEND
    handles = [] if bar or not (hue and len(looks) > 1) else [style.handle(look) for look in looks.values()]
    handles += [style.handle(look, lw=1.6) for look in references.values()]
    if train:
        handles += [style.handle(style.Look("test, on the chip", "0.4", None)), style.handle(TRAIN)]
    if "diverged" in {*curves["status"], *reference["status"]}:
        handles.append(style.diverged_handle())
    title = style.label_of(hue) if hue and not bar and style.is_number(curves[hue]) else ""
    figure, axes = style.new_figure(len(panels), across, handles, title)
    shown = [(axis, *panel) for axis, panel in zip(axes.flat, panels) if panel]
    for axis, x, value in shown:
        part = curves if value is None else curves[curves[col] == value]
        for key, look in looks.items():
            group = part if hue is None else part[part[hue] == key]
            if train:
                _draw(axis, group, x, train, style.Look("", look.colour, None, ":"), None)
            _draw(axis, group, x, y, look, band)
        for name, look in references.items():
            _draw(axis, reference[reference["run"] == name], x, y, look, band)
        _limit(axis, pd.concat([curves, reference]), y, train)
        title = style.panel_title(col, value)
        style.finish(axis, style.label_of(x), style.label_of(_bare(y)), title, whole=x == "epoch")
        if not part[y].notna().any() and not reference[y].notna().any():
            style.say(axis, f"{y} was not recorded" if len(part) else "nothing trained yet")
    style.level([axis for axis, *_ in shown], style.LEAST_SHARE if style.is_share(y) else 0.0)
    for axis, x, value in shown:
        part = curves if value is None else curves[curves[col] == value]
        for key, look in looks.items():
            _mark(axis, part if hue is None else part[part[hue] == key], x, y, look)
        for name, look in references.items():
            _mark(axis, reference[reference["run"] == name], x, y, look)
    for axis in set(axes.flat) - {axis for axis, *_ in shown}:
        axis.set_visible(False)
    if bar and hue:
        _bar(figure, axes, curves[hue], hue)
    if heading := "; ".join(filter(None, [spread_of(curves, (hue, col), band), note])):
        figure.suptitle(heading, fontsize=10)
    return figure


def _looks(curves: Table, hue: str | None) -> dict[Any, style.Look]:
    if hue is None:
        return style.looks(["all"])
    return style.looks(style.in_order(curves[hue]), ordered=style.is_number(curves[hue]))


def _train_column(y: str) -> str | None:
    return {"test_accuracy": "train_accuracy", "test_loss": "train_loss"}.get(y)


def _bare(y: str) -> str:
    """What both the training's and the test's line show."""
    return y.removeprefix("test_")


def _held(group: Table, y: str) -> Table:
    """The rows that make the mean: a diverged trial's accuracy held to the end, its last loss left out."""
    if not (group["status"] == "diverged").any():
        return group
    if not style.is_share(y):
        return group[group["status"] != "diverged"]
    epochs = np.sort(group["epoch"].unique())
    reads = group.groupby("epoch")[["reads", "step", "seconds"]].mean()
    parts = [group]
    for _, last in group[group["status"] == "diverged"].iterrows():
        later = epochs[epochs > last["epoch"]]
        if len(later):
            rest = pd.DataFrame({"epoch": later, y: last[y], "seed": last["seed"], "status": "ok"})
            parts.append(rest.join(reads, on="epoch"))
    return pd.concat(parts, ignore_index=True)


def _draw(axis: Axes, group: Table, x: str, y: str, look: style.Look, band: str | None) -> None:
    group = _held(group, y)
    if not len(group) or not group[y].notna().any():
        return
    scale = 100 if style.is_share(y) else 1
    finite = group.assign(**{y: group[y].where(np.isfinite(group[y])) * scale})
    found = banded(finite, "epoch", y, band or "minmax")
    at = found.index.to_numpy(float) if x == "epoch" else finite.groupby("epoch", sort=True)[x].mean().to_numpy()
    every = max(1, len(found) // 8)
    drawn: dict[str, Any] = {
        "color": look.colour,
        "marker": look.marker,
        "markevery": every,
        "markersize": 4,
        "linestyle": look.dashes,
    }
    axis.plot(at, found["mean"], **drawn)
    if band and (found["high"] > found["low"]).any():
        axis.fill_between(at, found["low"], found["high"], color=look.colour, alpha=0.15, linewidth=0)


def _limit(axis: Axes, part: Table, y: str, train: str | None) -> None:
    """A loss axis spans what was learnt; one that went off goes off the panel. Logarithmic from two decades on."""
    if style.is_share(y) or not len(part):
        return
    sound = part[part["status"] != "diverged"][[y, train] if train else [y]].stack()
    sound = sound[np.isfinite(sound)]
    if not len(sound):
        return
    style.scale(axis, "y", sound)
    if axis.get_yscale() == "linear":
        room = 0.05 * (sound.max() - sound.min()) or 0.1 * abs(sound.max()) or 0.1
        axis.set_ylim(sound.min() - room, sound.max() + room)


def _mark(axis: Axes, group: Table, x: str, y: str, look: style.Look) -> None:
    """× where a trial diverged; at the edge where its figure is off the panel or none."""
    ends = group[group["status"] == "diverged"]
    if ends.empty:
        return
    low, high = axis.get_ylim()
    worst = low if style.is_share(y) else high
    values = ends[y].to_numpy(float) * (100 if style.is_share(y) else 1)
    values = np.clip(np.where(np.isfinite(values), values, worst), low, high)
    places = ends[x].to_numpy(float)
    left, right = axis.get_xlim()
    axis.plot(places, values, "x", color=look.colour, markersize=7, mew=1.8, zorder=5, clip_on=False)
    axis.set(xlim=(min(left, places.min()), max(right, places.max())), ylim=(low, high))


def _bar(figure: Figure, axes: Any, values: Column, hue: str) -> None:
    """A colour bar in the shades of `style.looks`, a tick a value."""
    shown = style.in_order(values)
    shades = ListedColormap([look.colour for look in style.looks(shown, ordered=True).values()])
    norm = BoundaryNorm(np.arange(len(shown) + 1) - 0.5, len(shown))
    bar = figure.colorbar(ScalarMappable(norm, shades), ax=axes, shrink=0.9, pad=0.02)
    bar.set_ticks(range(len(shown)), labels=[style.written(value) for value in shown])
    bar.ax.tick_params(labelsize=8, length=0)
    bar.set_label(style.label_of(hue))
