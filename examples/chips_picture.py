"""Accuracy against technology, from a run folder of `analogsim train chips`, or from several.

    python examples/chips_picture.py RUN... [-o FOLDER]

A row a chip: best test accuracy with ideal writes, and written as that technology is, and what the
doctor says of it. Draws chips.png and writes chips.csv.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

import analogsim
from analogsim.pictures.style import COLOURS
from analogsim.training.doctor import diagnose

OWN = " own writes"


def table(runs: list[Path]) -> pd.DataFrame:
    """Best test accuracy in %, chips as rows, worst first; NaN where a chip's own write is the ideal one."""
    trials = pd.concat([analogsim.load_results(run).trials for run in runs])
    best = trials.groupby("run")["best_test_accuracy"].mean() * 100
    told = {name: text for run in runs for name, text in advice(run).items()}
    rows = [
        {"chip": name, "ideal writes": best.get(name), "own writes": best.get(name + OWN), "doctor": doctor}
        for name in sorted({str(name).removesuffix(OWN) for name in best.index})
        for doctor in [told.get(name + OWN, told[name])]
    ]
    return pd.DataFrame(rows).sort_values(["own writes", "ideal writes"], na_position="first", ignore_index=True)


def advice(run: Path) -> dict[str, str]:
    """What `analogsim doctor` would say of each variant, in one line."""
    plan = analogsim.load_plan(run / "config.yaml")
    data = {name: analogsim.load_data(name) for name in {one.data for one in plan.variants.values()}}
    return {name: "; ".join(diagnose(one, data[one.data], one.seeds[0]).advice) for name, one in plan.variants.items()}


def main(runs: list[Path], out: Path) -> pd.DataFrame:
    found = table(runs)
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
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("-o", "--out", type=Path, default=Path("."))
    arguments = parser.parse_args()
    print(main(arguments.runs, arguments.out).to_string(index=False, float_format="%.1f"))
