"""How cost grows: with the width, the batch, the depth, and the passes K of a step; on log-log axes.

    python benchmarks/scaling.py [--busy] [--quick] [--device cuda] [--out FOLDER]

Writes scaling.csv and scaling.png; of a GPU, scaling-cuda.csv and scaling-cuda.png. A slope is fitted over the larger
half of each curve, where what does not grow no longer counts: cost ~ size^slope. Networks have a square first layer,
and noise for data.
"""

from __future__ import annotations

import analogsim  # noqa: F401  before torch, as in the command: it says how OpenMP's threads wait

# isort: split
import argparse
import csv
import gc
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import timing
import torch
import trainers

from analogsim.chip.crossbar import Crossbar
from analogsim.config.loader import load_chip
from analogsim.streams import Address, Stream
from analogsim.training.data import Dataset

WIDTHS = (256, 512, 1024, 2048, 4096, 8192)
BATCHES = (1, 4, 16, 64, 256, 1024, 4096)
DEPTHS = (1, 2, 3, 5, 7, 9)
SAMPLES = (1, 3, 10, 30, 100)
QUICK = 3  # sizes of each
PANELS = {
    "width": ("width of the layer (units)", "batch 100"),
    "batch": ("batch (vectors)", "width 1024"),
    "depth": ("hidden layers", "width 512, batch 256"),
    "samples": ("K (perturbed passes a step)", "3 × 512, batch 256"),
}
READS = {"read, node noise": "gaussian-node", "read, cell noise, DAC, ADC": "crossbar-generic"}
Works = dict[str, timing.Work]
Point = tuple[str, str, int, float]  # panel, work, size, seconds


def noise(rows: int, columns: int, device: str) -> torch.Tensor:
    return torch.from_numpy(Stream.from_seed(rows).normal(Address(), rows, columns)).to(device)


def step_work(rule: str, hidden: Sequence[int], batch: int, device: str, samples: int = 1) -> timing.Work:
    """A training step of 10 classes whose inputs are as many as the first layer's units."""
    settings = (f"learner.rule={rule}", f"network.hidden={list(hidden)}", f"training.batch={batch}")
    drawn = (f"learner.samples={samples}",) if samples > 1 else ()
    x, y = noise(batch, hidden[0], "cpu"), torch.arange(batch) % 10
    data = Dataset("noise", x, y, x[:10], y[:10], 1.0, 10)
    return trainers.step_of(trainers.ready(trainers.load("cifar10_danp", settings + drawn), data, device))


def read_works(width: int, batch: int, device: str) -> Works:
    weight, x = noise(width, width, device) / width**0.5, noise(batch, width, device)
    out = torch.empty_like(x)
    found: Works = {"bare product": lambda: torch.mm(x, weight.T, out=out)}
    for name, chip in READS.items():
        crossbar = Crossbar(weight, load_chip(chip))
        found[name] = lambda crossbar=crossbar: crossbar.read(x)
    return found


def works(panel: str, size: int, device: str) -> Works:
    """What is timed at one point of a panel."""
    if panel in ("width", "batch"):
        width, batch = (size, 100) if panel == "width" else (1024, size)
        return read_works(width, batch, device) | {"danp step": step_work("danp", [width], batch, device)}
    if panel == "depth":
        return {f"{rule} step": step_work(rule, [512] * size, 256, device) for rule in ("danp", "anp", "bp")}
    return {f"{rule} step": step_work(rule, [512] * 3, 256, device, size) for rule in ("danp", "anp")}


def measured(repeats: int, count: int | None, device: str) -> Iterator[Point]:
    sizes = {"width": WIDTHS, "batch": BATCHES, "depth": DEPTHS, "samples": SAMPLES}
    for panel, all_of_them in sizes.items():
        for size in all_of_them[:count]:
            here = works(panel, size, device)
            for work, seconds in zip(here, timing.medians(list(here.values()), repeats if size < 4096 else 3)):
                yield panel, work, size, seconds
            del here
            gc.collect()


def slope(points: Sequence[tuple[int, float]]) -> float:
    """Of log seconds over log size, least squares over the larger half."""
    sizes, seconds = np.log(np.array(points[len(points) // 2 :])).T
    return float(np.polyfit(sizes, seconds, 1)[0])


def draw(points: Sequence[Point], path: Path, unit: str) -> None:
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    from analogsim.pictures.style import COLOURS, MARKERS

    names = list(dict.fromkeys(work for _, work, _, _ in points))
    figure = Figure(figsize=(9, 7), layout="constrained")
    for axes, (panel, (label, fixed)) in zip(figure.subplots(2, 2).flat, PANELS.items()):
        for work in names:
            curve = [(size, seconds) for where, what, size, seconds in points if (where, what) == (panel, work)]
            if len(curve) < 2:
                continue
            at = names.index(work)
            axes.loglog(
                *zip(*((size, seconds * 1e3) for size, seconds in curve)),
                color=COLOURS[at],
                marker=MARKERS[at],
                markersize=5,
                linewidth=1.4,
                label=f"{work}: slope {slope(curve):.2f}",
            )
        ticks = sorted({size for where, _, size, _ in points if where == panel})
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.set_xticks([], minor=True)
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set(xlabel=label, ylabel=f"{unit} (ms)", title=fixed)
        axes.title.set_fontsize(10)
        axes.grid(alpha=0.3, linewidth=0.5)
        axes.legend(fontsize=8, frameon=False, loc="upper left")
        low, high = axes.get_ylim()
        axes.set_ylim(low, high * (high / low) ** 0.25)  # room for the legend
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--busy", action="store_true", help="processor time of one thread: others use the machine")
    parser.add_argument("--quick", action="store_true", help=f"the {QUICK} smallest sizes of each")
    parser.add_argument("--repeats", type=int, default=7, metavar="N", help="turns; 3 from size 4096 on")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, metavar="FOLDER")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    given = parser.parse_args()
    if given.busy and given.device != "cpu":
        parser.error("--busy counts a processor's time, not a GPU's")
    if given.busy:
        timing.count_processor_time()
    points = []
    for point in measured(given.repeats, QUICK if given.quick else None, given.device):
        print("{:8} {:28} {:6} {:12.6f} s".format(*point), flush=True)
        points.append(point)
    name = "scaling" if given.device == "cpu" else f"scaling-{given.device}"
    with (given.out / f"{name}.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("panel", "work", "size", "seconds"))
        writer.writerows((*point[:3], f"{point[3]:.6g}") for point in points)
    draw(points, given.out / f"{name}.png", "processor time, one thread" if given.busy else "time, median")


if __name__ == "__main__":
    main()
