"""Accuracy against technology, from a run folder of `analogsim train chips`.

    python examples/chips_picture.py RUN [-o FOLDER]

A row a chip: best test accuracy with ideal writes, and written as that technology is. Draws chips.png
and writes chips.csv.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

import analogsim
from analogsim.pictures.style import COLOURS

OWN = " own writes"


def table(run: Path) -> pd.DataFrame:
    """Best test accuracy in %, chips as rows, best first; NaN where a chip's own write is the ideal one."""
    trials = analogsim.load_results(run).trials
    best = trials.groupby("run")["best_test_accuracy"].mean() * 100
    names = sorted({str(name).removesuffix(OWN) for name in best.index})
    rows = [{"chip": name, "ideal writes": best.get(name), "own writes": best.get(name + OWN)} for name in names]
    return pd.DataFrame(rows).sort_values(["own writes", "ideal writes"], na_position="first", ignore_index=True)


def main(run: Path, out: Path) -> pd.DataFrame:
    found = table(run)
    figure = Figure(figsize=(7.5, 0.27 * len(found) + 1.2), layout="constrained")
    axis = figure.subplots()
    at = range(len(found))
    axis.hlines(at, found["own writes"].fillna(found["ideal writes"]), found["ideal writes"], color="0.8", zorder=0)
    axis.plot(found["ideal writes"], at, "o", color=COLOURS[0], label="ideal writes")
    axis.plot(found["own writes"], at, "s", mfc="none", color=COLOURS[1], label="written as the technology is")
    axis.axvline(10, color="0.6", linestyle=":", linewidth=1)
    axis.text(10.5, -0.4, "chance", fontsize=8, color="0.4")
    axis.set_yticks(at, found["chip"], fontsize=8)
    axis.set(xlabel="best test accuracy (%)", xlim=(0, 100))
    axis.grid(axis="x", alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8, loc="lower center")
    out.mkdir(parents=True, exist_ok=True)
    figure.savefig(out / "chips.png", dpi=130)
    found.round(1).to_csv(out / "chips.csv", index=False)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("-o", "--out", type=Path, default=Path("."))
    arguments = parser.parse_args()
    print(main(arguments.run, arguments.out).to_string(index=False, float_format="%.1f"))
