"""How every picture looks: colours, markers, labels with units, scales, legends, files.

Colours are Okabe and Ito's, told apart by colour-blind readers; markers and dashes serve in grey.
Ordered values are coloured by viridis up to where it is too light to see, so that grey keeps their order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps, rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator, NullLocator

from analogsim.atomic import write_atomic
from analogsim.errors import ArgumentError

# pandas' own types take a column for a table or an array: they would refuse what is right.
Table = Any  # a pandas DataFrame
Column = Any  # a pandas Series

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8F8500")
MARKERS = "osD^vPX"  # one fewer than colours, so that the pairs repeat after 56
DASHES = ((0, (5, 2)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)))
FORMATS = ("png", "svg", "pdf")
GROUP = "group"  # the column that names what tells trials apart, made for a picture
PANEL = "panel"  # the like for panels
LEAST_SHARE = 2.0  # percent that an axis of accuracies spans at least
LOG_SPAN = 99.0  # from about two decades on, an axis is logarithmic

LABELS = {
    "epoch": "epoch",
    "step": "update",
    "reads": "chip reads (vectors)",
    "writes": "cells written",
    "seconds": "training time (s)",
    "seed": "seed",
    "angle_deg": "angle to the BP update (degrees)",
    "chip.node_noise.sigma": "node noise σ (pre-activation units)",
    "chip.cell.read_noise.k_sqrt_uS": "read noise k (√µS)",
    "chip.cell.read_noise.sigma_uS": "read noise σ (µS)",
    "chip.cell.read_noise.k": "read noise k (of the conductance)",
    "chip.cell.g_max_uS": "g_max (µS)",
    "chip.cell.g_min_uS": "g_min (µS)",
    "chip.adc.bits": "ADC resolution (bits)",
    "chip.dac.bits": "DAC resolution (bits)",
    "chip.adc.bound": "ADC full scale (cells at g_max)",
    "chip.dac.bound": "DAC full scale (input units)",
    "learner.samples": "K (perturbed passes an update)",
    "learner.perturbation": "perturbation σ (pre-activation units)",
    "decorrelation.rate": "decorrelation rate α",
    "optimizer.lr": "learning rate η",
    "training.batch": "batch (rows)",
    "training.epochs": "epochs trained",
}
UNITS = {"_sqrt_uS": "√µS", "_uS": "µS", "_s": "s", "_deg": "degrees", "_V": "V", "_K": "K", "_ohm": "Ω"}
FIGURES = {"accuracy_ideal": "accuracy, same weights read noise-free (%)", "accuracy": "accuracy (%)", "loss": "loss"}


@dataclass(frozen=True)
class Look:
    """How one group is drawn. value: what tells it from the others; None for a reference."""

    label: str
    colour: Any
    marker: str | None
    dashes: Any = "-"


def label_of(column: str) -> str:
    """A column in words, with its unit."""
    if column in LABELS:
        return LABELS[column]
    for ending, words in FIGURES.items():
        if column.endswith(ending):
            return " ".join([*column.removesuffix(ending).replace("_", " ").split(), words])
    unit = next((f" ({unit})" for ending, unit in UNITS.items() if column.endswith(ending)), "")
    return column.removeprefix("chip.").replace("_", " " if "." not in column else "_") + unit


def is_share(column: str) -> bool:
    """Whether a figure is a fraction, drawn in percent."""
    return "accuracy" in column


def is_number(values: Column) -> bool:
    """Whether an axis can be drawn to scale."""
    return pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)


def in_order(values: Column) -> list[Any]:
    """The distinct values: numbers from small to large, others as they come."""
    distinct = [value for value in values.dropna().unique() if value != ""]
    return sorted(distinct) if is_number(values) else distinct


def written(value: Any) -> str:
    """A value as a tick or a legend says it."""
    if not isinstance(value, float):
        return str(value)
    small = 0 < abs(value) < 1e-2
    text = f"{value:.2e}" if small else f"{value:.4g}"
    number, _, power = text.partition("e")
    number = number.rstrip("0").rstrip(".") if small else number
    return f"{number}e{int(power)}" if power else number


def looks(values: Sequence[Any], ordered: bool = False) -> dict[Any, Look]:
    """A look for each value: colours in turn, or for an ordered quantity along viridis."""
    if not ordered:
        pairs = ((COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i in range(len(values)))
    else:
        shades = (0.85 * i / max(1, len(values) - 1) for i in range(len(values)))
        pairs = ((colormaps["viridis"](shade), MARKERS[i % len(MARKERS)]) for i, shade in enumerate(shades))
    return {value: Look(written(value), *pair) for value, pair in zip(values, pairs)}


def scale(axis: Axes, which: str, values: Column) -> None:
    """Logarithmic from two decades on (linear up to the smallest, where 0 is among them); else linear."""
    numbers = values[values.abs() < math.inf].dropna()
    positive = numbers[numbers > 0]
    apart = positive.min() > 0 and positive.max() / positive.min() >= LOG_SPAN if len(positive) else False
    if not apart or (numbers < 0).any():
        return
    set_scale = axis.set_xscale if which == "x" else axis.set_yscale
    if len(positive) == len(numbers):
        set_scale("log")
    else:
        set_scale("symlog", linthresh=float(positive.min()), linscale=0.4)
        (axis.xaxis if which == "x" else axis.yaxis).set_minor_locator(NullLocator())


def in_a_row(panels: int, most: int) -> int:
    """How many of so many panels stand in each row, the last one included as evenly as can be."""
    return -(-panels // -(-panels // most)) if panels else 1


def new_figure(
    panels: int, across: int, handles: Sequence[Artist] = (), title: str = "", width: float = 4.9, height: float = 3.7
) -> tuple[Figure, Any]:
    """A figure of panels, `across` in a row, and one legend below them all, where it covers nothing."""
    down, wide = -(-panels // across), max(5.4, width * across)
    columns = _legend_columns([len(str(one.get_label())) for one in handles], wide)
    rows = -(-len(handles) // columns) + bool(title)
    figure = Figure(figsize=(wide, height * down + 0.21 * rows + 0.25), layout="constrained")
    if handles:
        place: dict[str, Any] = {"loc": "outside lower center", "ncols": columns, "frameon": False, "fontsize": 9}
        figure.legend(handles=list(handles), title=title, **place)
    return figure, figure.subplots(down, across, squeeze=False)


def _legend_columns(lengths: Sequence[int], inches: float) -> int:
    """The most columns, as even as matplotlib makes them, that so many letters of 9 points fit into."""
    for rows in range(1, len(lengths)):
        columns = -(-len(lengths) // rows)
        longest = [part.max() for part in np.array_split(lengths, columns)]
        if sum(0.62 + 0.078 * length for length in longest) <= inches:
            return columns
    return 1


def finish(axis: Axes, xlabel: str, ylabel: str, title: str = "", whole: bool = False) -> None:
    """Labels, a light grid, no box. whole: the x axis counts."""
    axis.set(xlabel=xlabel, ylabel=ylabel)
    if title:
        axis.set_title(title, fontsize=10)
    if tuple(axis.dataLim.intervalx) == (0, 0):  # epoch 0 alone
        axis.set(xlim=(-0.5, 0.5), xticks=[0])
    elif whole:
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    elif axis.get_xscale() == "linear" and axis.get_xlim()[1] >= 1e4:
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))  # 200k, 3M
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def panel_title(column: str | None, value: Any) -> str:
    """What tells a panel from its neighbours; a group says it all itself."""
    if column is None or value is None:
        return ""
    return (
        written(value) if column in ("run", "chip", "rule", GROUP, PANEL) else f"{label_of(column)}: {written(value)}"
    )


def level(axes: Sequence[Axes], least: float = 0.0) -> None:
    """The same y limits for all, so that panels can be compared, and at least so far apart."""
    limits = [axis.get_ylim() for axis in axes]
    low, high = min(low for low, _ in limits), max(high for _, high in limits)
    linear = all(axis.get_yscale() == "linear" for axis in axes)
    room = max(0.02 * (high - low) if len(set(limits)) > 1 else 0.0, (least - high + low) / 2) if linear else 0.0
    for axis in axes:
        axis.set_ylim(low - room, high + room)


def say(axis: Axes, text: str) -> None:
    """A word in the middle of a panel with nothing else to show."""
    axis.set(xticks=[], yticks=[])
    axis.text(0.5, 0.5, text, transform=axis.transAxes, ha="center", va="center", color="0.4", fontsize=10)


def handle(look: Look, **settings: Any) -> Line2D:
    """What stands for a look in a legend."""
    drawn: dict[str, Any] = {"color": look.colour, "marker": look.marker, "linestyle": look.dashes, "markersize": 4}
    return Line2D([], [], **{**drawn, "label": look.label, **settings})


def diverged_handle() -> Line2D:
    return Line2D([], [], color="black", marker="x", markersize=7, mew=1.8, linestyle="", label="diverged")


def check_format(path: Path) -> Path:
    """The same. Raises ArgumentError where its ending names no format there is."""
    if path.suffix[1:].lower() not in FORMATS:
        raise ArgumentError("-o", str(path), "a name ending in " + ", ".join(f".{form}" for form in FORMATS))
    return path


def write_figure(figure: Figure, path: Path) -> Path:
    """The picture in the format of its name; the same figure gives the same bytes."""
    form = check_format(path).suffix[1:].lower()
    metadata: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(form, {})
    with rc_context({"svg.hashsalt": "analogsim"}):  # else an SVG's names are random
        return write_atomic(path, lambda file: figure.savefig(file, dpi=130, format=form, metadata=metadata))
