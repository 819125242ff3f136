"""1/f noise as a perturbation: what two reads of a cell share cancels in δa, and teaches nothing.

    python examples/correlated_noise.py [--data npz:FILE] [--epochs 2] [-o FOLDER]

DANP learns on phase-change memory (pcm-nandakumar, written ideally, its 1/f noise the only perturbation)
from two passes of a batch, either whole passes one after the other, so that the reads of a sample lie a
batch apart, or sample by sample, one read apart. Left: σ of δa in a layer against the lag, measured, beside
√(1 - ρ(τ)) of the law. Right: what it does to learning, with ideal converters and behind an ADC of 7 bits:
DANP divides by ‖δa‖², so that a smaller perturbation teaches as well.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import pandas as pd
import torch
from matplotlib.figure import Figure

import analogsim
from analogsim.chip.chip import SimulatedChip
from analogsim.contracts import LayerUpdate, Probe, WeightUpdate
from analogsim.network import Network
from analogsim.physics.flicker import correlation
from analogsim.pictures.style import COLOURS
from analogsim.streams import Address, Stream

T_READ_S, BATCH = 2.5e-7, 1000
IDEAL = {"dac": None, "adc": None, "write": {"mode": "ideal"}}
ADC = {"bits": 7, "bound": 20.0}


def sigma_of_difference(schedule: str, t_read_s: float) -> float:
    """Root mean square of a(2) - a(1) over 200 samples and 40 draws of a layer of 64 × 64."""
    chip = analogsim.load_chip("pcm-nandakumar").replace(
        **IDEAL, **{"pass_schedule": schedule, "clock.t_read_s": t_read_s}
    )
    network = Network.dense(64, (), 64)
    x = torch.from_numpy(Stream.from_seed(1).normal(Address(), 200, 64))
    total, draws = 0.0, 40
    for seed in range(draws):
        simulated = SimulatedChip(chip, network, network.initial_weights(Stream.from_seed(2)), Stream.from_seed(seed))
        simulated.update(WeightUpdate((LayerUpdate(),)))
        first, second = (activities.pre_activations[0] for activities in simulated.passes(x, [Probe(), Probe()]))
        total += float((second - first).square().mean())
    return math.sqrt(total / draws)


def main(data: str, epochs: int, out: Path, seeds: int = 1) -> pd.DataFrame:
    """Measure, train, draw; the learning curves."""
    t_first = analogsim.load_chip("pcm-nandakumar").clock.t_first_read_s
    times = [T_READ_S * 10**k for k in range(8)]
    measured = [sigma_of_difference("interleaved", t) for t in times]  # the lag is one read
    law = [math.sqrt(1 - float(correlation(t, t_first, t_r_s=T_READ_S))) for t in times]
    scale = measured[0] / law[0]
    experiment = {
        "data": data, "chip": {"base": "pcm-nandakumar", **IDEAL}, "network": {"hidden": [500]},
        "training": {"epochs": epochs, "batch": BATCH}, "seeds": seeds,
        "variants": {
            "whole batch": {}, "interleaved": {"chip.pass_schedule": "interleaved"},
            "whole batch + ADC": {"chip.adc": ADC},
            "interleaved + ADC": {"chip.adc": ADC, "chip.pass_schedule": "interleaved"},
        },
    }  # fmt: skip
    curves = analogsim.train(experiment).curves
    figure = Figure(figsize=(10, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(times, [scale * value for value in law], color="0.4", label="law, √(1 − ρ(τ)), scaled to the first point")
    left.plot(times, measured, "o", color=COLOURS[0], label="measured")
    for name, lag, colour in (("interleaved", T_READ_S, COLOURS[1]), ("whole batch", BATCH * T_READ_S, COLOURS[2])):
        left.axvline(lag, color=colour, linestyle="--", linewidth=1)
        left.text(lag * 1.15, 0, name, rotation=90, va="bottom", fontsize=8, color=colour)
    left.set(xscale="log", xlabel="lag between the two reads of a sample (s)", ylabel="σ of δa", ylim=(0, None))
    looks = {"interleaved": (COLOURS[1], "s"), "whole batch": (COLOURS[2], "^")}
    for name, group in curves.groupby("run", sort=False):
        colour, marker = looks[str(name).removesuffix(" + ADC")]
        run = group.groupby("epoch")["test_accuracy"].mean() * 100
        dashes = "--" if str(name).endswith("ADC") else "-"
        right.plot(run.index, run, dashes, color=colour, marker=marker, label=name)
    right.set(xlabel="epoch", ylabel="test accuracy (%)", xticks=range(epochs + 1))
    for axis in (left, right):
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=8)
    out.mkdir(parents=True, exist_ok=True)
    figure.savefig(out / "correlated_noise.png", dpi=130)
    curves.drop(columns="seconds", errors="ignore").to_csv(out / "correlated_noise.csv", index=False)
    pd.DataFrame({"lag_s": times, "sigma_of_difference": measured}).to_csv(
        out / "correlated_noise_lags.csv", index=False
    )
    return curves


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("-o", "--out", type=Path, default=Path("."))
    arguments = parser.parse_args()
    main(arguments.data, arguments.epochs, arguments.out)
