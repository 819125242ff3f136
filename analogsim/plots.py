"""Pictures from results; nothing here trains."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analogsim.atomic import write_atomic
from analogsim.experiment.results import EPOCH_COLUMNS

# Okabe and Ito's colours: told apart by colour-blind readers; markers and dashes serve in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
MARKERS = "osD^vPX"  # one fewer than colours, so that the pairs repeat after 56


def plot_curves(folder: Path) -> Path:
    """plots/curves.png: train and test curves of a run folder, mean and min..max over seeds."""
    missing = {column: ["", "nan"] for column in EPOCH_COLUMNS}  # pandas' own would take a run called NA for none
    curves = pd.read_csv(folder / "curves.csv", dtype={"run": str}, keep_default_na=False, na_values=missing)
    accuracy = bool(curves["test_accuracy"].notna().any())
    panels = (("accuracy", "accuracy (%)"), ("loss", "loss")) if accuracy else (("loss", "loss"),)
    figure = Figure(figsize=(5.2 * len(panels), 3.9), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)
    for axis, (figure_name, label) in zip(axes[0], panels):
        for index, (name, run) in enumerate(curves.groupby("run", sort=False)):
            _draw(axis, run, figure_name, str(name), index)
        axis.set(xlabel="epoch", ylabel=label)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    styles = [
        axes[0][-1].plot([], [], style, color="grey", label=label)[0]
        for style, label in (("-", "test, on the chip"), (":", "train"))
    ]
    axes[0][0].legend(frameon=False, fontsize=9)
    if len(panels) > 1:
        axes[0][-1].legend(handles=styles, frameon=False, fontsize=9)
    seeds = len(set(curves["seed"]))
    if seeds > 1:
        figure.suptitle(f"mean and range of {seeds} seeds", fontsize=10)
    path = write_atomic(folder / "plots" / "curves.png", lambda file: figure.savefig(file, dpi=130, format="png"))
    return path


def _draw(axis: Axes, run: pd.DataFrame, figure: str, name: str, index: int) -> None:
    colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
    scale = 100 if figure == "accuracy" else 1
    if "diverged" in set(run["status"]):
        name += " (diverged)"
    for split, style in (("test", "-"), ("train", ":")):
        by_epoch = run.groupby("epoch")[f"{split}_{figure}"].agg(["mean", "min", "max"]) * scale
        every = max(1, len(by_epoch) // 10)
        axis.plot(
            by_epoch.index,
            by_epoch["mean"],
            style,
            color=colour,
            marker=marker if split == "test" else None,
            markevery=every,
            markersize=4,
            label=name if split == "test" else None,
        )
        axis.fill_between(by_epoch.index, by_epoch["min"], by_epoch["max"], color=colour, alpha=0.15, linewidth=0)
