"""A figure over two axes of a sweep: a cell a pair of values, its mean over seeds written in it.

Cells are of one size whatever the axes' spacing. × n marks where n trials diverged (an accuracy counts as
it was read when they were given up; a loss does not count), a hatch where no trial has finished.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

from analogsim.pictures import style
from analogsim.pictures.against_axis import left_out
from analogsim.pictures.style import Table

MOST_WRITTEN = 15  # cells in a row, beyond which figures would not fit into them


def draw_heatmap(
    trials: Table,
    x: str,
    y: str,
    figures: Sequence[str] = ("final_test_accuracy",),
    col: str | None = None,
    note: str = "",
) -> Figure:
    """One panel for each figure and value of `col`, all of one figure on one colour scale.

    trials: as `Results.trials`. x, y: its columns. Rows with an empty one are references, named with their
    figures above the panels. note: more to say above the picture.
    """
    done = trials[trials["status"].isin(["ok", "diverged"])]
    empty = done[x].isna() | done[y].isna() | (done[x] == "") | (done[y] == "")
    reference, swept = done[empty], done[~empty]
    values = [style.in_order(swept[name]) for name in (x, y)]
    cols = [None] if col is None else style.in_order(swept[col]) or [None]
    panels = [(figure, value) for figure in figures for value in cols]
    across = len(figures) if col is None else style.in_a_row(len(cols), 3)
    width, height = (max(1, len(v)) for v in values)
    sheet, axes = style.new_figure(
        len(panels), across, (), "", max(4.4, 1.9 + 0.52 * width), max(3.2, 1.2 + 0.42 * height)
    )
    images: dict[str, AxesImage] = {}
    for figure in figures:
        shown = swept if style.is_share(figure) else swept[swept["status"] == "ok"]
        means = shown.groupby([name for name in (x, y, col) if name])[figure].mean() * _scale(figure)
        limits = (means.min(), means.max()) if means.notna().any() else (0.0, 1.0)
        for axis, (name, value) in zip(axes.flat, panels):
            if name == figure:
                part = shown if value is None else shown[shown[col] == value]
                lost = swept if value is None else swept[swept[col] == value]
                image = _panel(axis, part, lost[lost["status"] == "diverged"], x, y, figure, values, limits)
                images[figure] = image
                notes = [style.label_of(figure)] if len(figures) > 1 and col is None else []
                notes += [style.panel_title(col, value)] if value is not None else []
                axis.set_title("\n".join([*notes, *_levels(reference, figure)]), fontsize=10)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    if col is None:
        for axis, (figure, _) in zip(axes.flat, panels):
            bar = sheet.colorbar(images[figure], ax=axis, shrink=0.9)
            if len(figures) == 1:  # else the title says it
                bar.set_label(style.label_of(figure), fontsize=9)
    else:
        for figure in figures:
            mine = [axis for axis, (name, _) in zip(axes.flat, panels) if name == figure]
            sheet.colorbar(images[figure], ax=mine, shrink=0.9).set_label(style.label_of(figure), fontsize=9)
    seeds = done["seed"].nunique()
    words = [f"mean of {seeds} seeds" if seeds > 1 else "", left_out(trials), note]
    if heading := "; ".join(filter(None, words)):
        sheet.suptitle(heading, fontsize=10)
    return sheet


def _scale(figure: str) -> int:
    return 100 if style.is_share(figure) else 1


def _levels(reference: Table, figure: str) -> list[str]:
    means = reference.groupby("run", sort=False)[figure].mean() * _scale(figure)
    unit = " %" if style.is_share(figure) else ""
    return [f"{run}: {_figure(value)}{unit}" for run, value in means.items() if np.isfinite(value)]


def _figure(value: float) -> str:
    return f"{value:.1f}" if 1 <= abs(value) < 1000 else f"{value:.2g}"


def _panel(
    axis: Axes,
    part: Table,
    lost: Table,
    x: str,
    y: str,
    figure: str,
    values: list[list],
    limits: tuple[float, float],
) -> AxesImage:
    across, down = values
    grid = np.full((len(down) or 1, len(across) or 1), np.nan)
    for (at_x, at_y), mean in part.groupby([x, y])[figure].mean().items():
        grid[down.index(at_y), across.index(at_x)] = mean * _scale(figure)
    low, high = limits
    high = high if high > low else low + 1e-9
    image = axis.imshow(grid, origin="lower", aspect="auto", cmap="cividis", vmin=low, vmax=high)
    counts = lost.groupby([x, y]).size()
    for row in range(len(down)):
        for column in range(len(across)):
            mean, gone = grid[row, column], int(counts.get((across[column], down[row]), 0))
            if np.isnan(mean):
                place = (column - 0.5, row - 0.5)
                axis.add_patch(Rectangle(place, 1, 1, fill=False, hatch="///", edgecolor="0.7", lw=0))
            words = [] if np.isnan(mean) or len(across) > MOST_WRITTEN else [_figure(mean)]
            words += [f"×{gone}" if gone > 1 else "×"] if gone else []
            light = np.isnan(mean) or mean > low + 0.55 * (high - low)
            style_of: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 8, "linespacing": 0.95}
            axis.text(column, row, "\n".join(words), color="black" if light else "white", **style_of)
    for which, shown in ((axis.xaxis, across), (axis.yaxis, down)):
        which.set_ticks(range(len(shown)), [style.written(value) for value in shown])
        which.set_tick_params(length=0)
    if len(across) > 5 and max(len(style.written(value)) for value in across) > 4:
        axis.tick_params(axis="x", rotation=45)
    axis.set(xlabel=style.label_of(x), ylabel=style.label_of(y))
    if not len(part) and not len(lost):
        style.say(axis, "no finished trial yet")
    return image
