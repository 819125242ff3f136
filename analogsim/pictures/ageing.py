"""A trained network's accuracy on another chip, over time since programming (`analogsim evaluate`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from analogsim.atomic import write_atomic
from analogsim.pictures.style import COLOURS, MARKERS

if TYPE_CHECKING:
    from analogsim.experiment.evaluate import Evaluation


def plot_evaluation(found: Evaluation) -> Path:
    """accuracy.png (or loss.png) beside the tables: mean and min..max over draws, against time since programming."""
    from analogsim.experiment.evaluate import time_name  # torch and all; no other picture needs it

    figure = Figure(figsize=(5.6, 3.9), layout="constrained")
    axis, scale = figure.subplots(), 100 if found.figure == "accuracy" else 1
    for index, (name, run) in enumerate(found.table.groupby("run", sort=False)):
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
        mean, low, high = (run[column] * scale for column in ("mean", "min", "max"))
        axis.errorbar(
            run["time_s"], mean, [mean - low, high - mean], color=colour, marker=marker, capsize=3, label=str(name)
        )
        axis.fill_between(run["time_s"], low, high, color=colour, alpha=0.15, linewidth=0)
        axis.axhline(float(run["trained"].iloc[0]) * scale, color=colour, linestyle="--", linewidth=1)
    times = sorted(set(found.table["time_s"]))
    unit = " (%)" if found.figure == "accuracy" else ""
    axis.set(xscale="log", xlabel="time since programming", ylabel=f"test {found.figure}{unit}")
    axis.set_xticks(times, [time_name(seconds) for seconds in times])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlim(times[0] / 2, times[-1] * 2)
    axis.plot([], [], "--", color="grey", linewidth=1, label="as trained, on its own chip")
    axis.set_title(f"{found.chip}: mean and range of {max(found.table['draws'])} draws", fontsize=10)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=9)
    path = found.folder / f"{found.figure}.png"
    return write_atomic(path, lambda file: figure.savefig(file, dpi=130, format="png"))
