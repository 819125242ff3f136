"""The paper's ConvNet on CIFAR-10 beside the peaks it published, from a run of `cifar10_convnet_baselines`.

    python examples/convnet_picture.py RUN [-o FOLDER]

RUN: a run folder, or a curves.csv. Draws cifar10_convnet.png, test accuracy against epochs and against chip reads, and
writes cifar10_convnet.md, the best epochs as a table. Peaks: Dalm et al. 2023, arXiv 2310.00965, table 3.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from analogsim.pictures.style import COLOURS, MARKERS

PEAKS = {"danp": (58.2, 52.6), "dinp": (57.9, 52.2), "bp": (100, 62.1)}  # train, test %


def table(curves: pd.DataFrame) -> pd.DataFrame:
    """A row a run: its best accuracies in %, its reads, and what the paper reports of the rule."""
    rows = []
    for name, run in curves.groupby("run", sort=False):
        last, (train, test) = run.iloc[-1], PEAKS[run["rule"].iloc[0]]
        chip = f"{last['chip']}, {last['baseline']} baseline" if last["rule"] != "bp" else last["chip"]
        row = {"run": name, "chip": chip, "epochs": last["epoch"]}
        row |= {f"{part} %, best": f"{run[f'{part}_accuracy'].max():.1%}"[:-1] for part in ("train", "test")}
        rows.append(
            row | {"chip reads": f"{last['reads'] / 1e9:.2f} G", "paper's peak, train / test %": f"{train} / {test}"}
        )
    return pd.DataFrame(rows)


def draw(curves: pd.DataFrame) -> Figure:
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    by_epoch, by_reads = figure.subplots(1, 2, sharey=True)
    for (name, run), colour, marker in zip(curves.groupby("run", sort=False), COLOURS, MARKERS):
        style = {"color": colour, "marker": marker, "markersize": 4.5, "label": name}
        by_epoch.plot(run["epoch"], run["test_accuracy"] * 100, **style)
        trained = run[run["reads"] > 0]
        by_reads.plot(trained["reads"], trained["test_accuracy"] * 100, **style)
    for rule, (_, test) in PEAKS.items():
        for axis in (by_epoch, by_reads):
            axis.axhline(test, color="0.55", linestyle=":", linewidth=1)
        below = rule == "dinp"
        by_epoch.annotate(f"{rule}: {test}", (0, test), va="top" if below else "bottom", fontsize=8, color="0.35")
    by_epoch.set(xlabel="epoch", ylabel="test accuracy, on the chip (%)", ylim=(5, 68))
    by_reads.set(xlabel="chip reads (vectors)", xscale="log")
    by_reads.annotate(
        "dotted: the paper's peaks, over more epochs", (0.98, 0.03), xycoords="axes fraction", ha="right", fontsize=8
    )
    for axis in (by_epoch, by_reads):
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    figure.legend(*by_epoch.get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False)
    return figure


def main(run: Path, out: Path) -> pd.DataFrame:
    curves = pd.read_csv(run / "curves.csv" if run.is_dir() else run)
    out.mkdir(parents=True, exist_ok=True)
    draw(curves).savefig(out / "cifar10_convnet.png", dpi=130)
    found = table(curves)
    lines = [list(found.columns), ["---"] * len(found.columns), *found.astype(str).values.tolist()]
    (out / "cifar10_convnet.md").write_text("".join(f"| {' | '.join(line)} |\n" for line in lines))
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("-o", "--out", type=Path, default=Path("."))
    arguments = parser.parse_args()
    print(main(arguments.run, arguments.out).to_string(index=False))
