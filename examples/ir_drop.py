"""IR drop: how far first order is from the exact nodal solution, over tile size and wire resistance.

    python examples/ir_drop.py [-o FOLDER]

Square tiles of differential pairs, weights normal and clipped at 3 σ = 25 µS. The error is ‖W - W_exact‖ / ‖W_exact‖
(Frobenius) of the pair's effective weights: the root mean square error of an output over that output's own,
for inputs that are independent and of mean 0. Wire resistances per cell: docs/laws.md.
Writes ir_drop.csv and ir_drop.png to FOLDER (default: where it is called); about half a minute on one core.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from analogsim.physics.conductance import differential_pair
from analogsim.physics.wires import drops, exact, first_order
from analogsim.pictures.style import MARKERS

G_MAX_US = 25.0
SIZES = (16, 32, 64, 128, 256)
WIRES = {0.47: "65 nm", 1.34: "45 nm", 2.97: "22 nm", 4.9: "14 nm", 10.1: "7 nm"}  # Ω per cell
SHADES = ("#fdae61", "#f46d43", "#d53e4f", "#9e0142", "#40003a")  # light to dark: told apart in grey
MODELS = {
    "ignored": ("wires left out:  $G$", lambda g, ohm: g),
    "linear": ("linear:  $G\\,(1 - \\delta)$", lambda g, ohm: g * (1 - drops(g, ohm))),
    "first_order": ("first_order:  $G\\,/\\,(1 + \\delta)$", first_order),
}


def errors(size: int, ohm: float, seed: int = 0) -> dict[str, float]:
    """The relative error of every model for one tile of random weights."""
    weight = np.random.default_rng((seed, size)).normal(0, 1 / 3, (size, size)).clip(-1, 1)
    legs = differential_pair(torch.tensor(weight), 1.0, 0.0, G_MAX_US)
    true = np.subtract(*(exact(leg.numpy(), ohm) for leg in legs))
    found = {}
    for name, (_, model) in MODELS.items():
        plus, minus = (model(leg, ohm).numpy() for leg in legs)
        found[name] = float(np.linalg.norm(plus - minus - true) / np.linalg.norm(true))
    return found


def table(sizes=SIZES, wires=tuple(WIRES)) -> pd.DataFrame:
    """One row a tile size and wire resistance."""
    rows = [{"tile": size, "segment_ohm": ohm, **errors(size, ohm)} for size in sizes for ohm in wires]
    return pd.DataFrame(rows)


def draw(found: pd.DataFrame) -> Figure:
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    axes = figure.subplots(1, len(MODELS), sharey=True)
    for axis, (name, (title, _)) in zip(axes, MODELS.items()):
        for index, ohm in enumerate(sorted(set(found["segment_ohm"]))):
            rows = found[found["segment_ohm"] == ohm]
            colour = SHADES[index % len(SHADES)]
            label = f"{ohm} Ω  ({WIRES.get(ohm, 'wire')})"
            axis.loglog(rows["tile"], 100 * rows[name], marker=MARKERS[index], ms=5, color=colour, label=label)
        axis.axhline(1, color="grey", lw=0.8, ls=":")
        axis.set(title=title, xlabel="rows and columns of the tile")
        axis.xaxis.set_major_locator(FixedLocator(list(set(found["tile"]))))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_formatter("{x:.0f}")
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("error of the weights (%)")
    axes[0].yaxis.set_major_formatter("{x:g}")
    axes[0].text(found["tile"].max(), 1.15, "1 %", color="grey", fontsize=8, ha="right")
    style = {"frameon": False, "fontsize": 8.5, "title_fontsize": 8.5}
    axes[0].legend(reverse=True, title="wire, cell to cell", **style)
    return figure


def main(folder: Path = Path(), sizes=SIZES, wires=tuple(WIRES)) -> pd.DataFrame:
    found = table(sizes, wires)
    folder.mkdir(parents=True, exist_ok=True)
    found.to_csv(folder / "ir_drop.csv", index=False, float_format="%.4g")
    draw(found).savefig(folder / "ir_drop.png", dpi=130)
    print(found.to_string(index=False, float_format="{:.2g}".format))
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, default=Path("."))
    main(parser.parse_args().out)
