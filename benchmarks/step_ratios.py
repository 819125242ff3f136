"""Training steps against their bare matrix products, in one run.

    python benchmarks/step_ratios.py [--repeats 7] [--experiment cifar10_danp] [--set KEY=VALUE ...] [--profile]

Bare products are counted, not traced, and done with torch.mm on random data of their shapes. One pass: R x and
W x* of every layer, a convolution's at all its positions. A step: its first pass, the products of its further
passes but for the first layer's, which they share, the weight gradients, and the decorrelation update in the cheaper
of its two forms. What is measured may do with less (W R folded, layers reused). Work and products take turns;
figures are medians.
"""

from __future__ import annotations

import analogsim  # noqa: F401  before torch, as in the command: it says how OpenMP's threads wait

# isort: split
import argparse
import ctypes
import gc
import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from rows import Row

from analogsim.config.loader import load_plan, parse_set
from analogsim.network import Layer
from analogsim.streams import Address, Stream
from analogsim.training.build import build_trainer
from analogsim.training.data import Dataset
from analogsim.training.loop import Trainer

Shape = tuple[int, int, int]  # of a product (m, k) by (k, n)
NET = "cifar10_danp"
DINP = ("learner.rule=dinp", "learner.baseline=clean", "learner.perturbation=1.0e-3", "chip=ideal")
MANY = 30


def pass_products(layers: Sequence[Layer], batch: int, first: bool = True, decorrelated: bool = True) -> list[Shape]:
    """R x and W x* of one pass. first: the first layer's too."""
    shapes: list[Shape] = []
    for layer in layers[0 if first else 1 :]:
        vectors = batch * layer.positions
        shapes += [(vectors, layer.inputs, layer.inputs)] * decorrelated + [(vectors, layer.inputs, layer.units)]
    return shapes


def update_products(layers: Sequence[Layer], batch: int) -> list[Shape]:
    """Weight gradients and the step of R."""
    shapes: list[Shape] = []
    for layer in layers:
        inputs, vectors = layer.inputs, batch * layer.positions
        shapes += [(layer.units, vectors, inputs)]
        if vectors < inputs:
            shapes += [(vectors, inputs, inputs), (inputs, vectors, inputs)]  # X*ᵀ (X* R)
        else:
            shapes += [(inputs, vectors, inputs), (inputs, inputs, inputs)]  # C R
    return shapes


class Bare:
    """Products of those shapes, memory for operands and results held."""

    def __init__(self, shapes: Sequence[Shape]):
        pool: dict[tuple[int, int], torch.Tensor] = {}
        for m, k, n in shapes:
            for shape in ((m, k), (k, n)):
                pool.setdefault(shape, torch.randn(shape))
        results = {(m, n): torch.empty(m, n) for m, _, n in shapes}
        self._operands = [(pool[m, k], pool[k, n], results[m, n]) for m, k, n in shapes]
        self.gigaflop = sum(2 * m * k * n for m, k, n in shapes) / 1e9

    def __call__(self) -> None:
        for a, b, out in self._operands:
            torch.mm(a, b, out=out)


def make_trainer(experiment: str = NET, settings: Sequence[str] = ()) -> Trainer:
    """Of an experiment of examples/ on images of noise, past its first step."""
    plan = load_plan(experiment, [parse_set(text) for text in settings])
    chosen = next(iter(plan.variants.values()))
    x = torch.from_numpy(Stream.from_seed(0).normal(Address(), 2 * chosen.training.batch, 3072)).view(-1, 32, 32, 3)
    x = x.mul_(50).add_(128).clamp_(0, 255).to(torch.uint8)
    y = torch.arange(len(x)) % 10
    trainer = build_trainer(chosen, Dataset("noise", x, y, x[:10], y[:10], 255.0, 10), seed=0)
    trainer.progress.untrained_loss = float("inf")
    step_of(trainer)()
    return trainer


def step_of(trainer: Trainer) -> Callable[[], object]:
    rows = torch.arange(trainer.batch)
    return lambda: trainer._step(rows, with_angle=False)


def passes_of(trainer: Trainer) -> Callable[[], object]:
    """The passes of a step alone, each let go as it comes."""
    x, _ = trainer.data.batch("train", torch.arange(trainer.batch))
    steps = iter(range(1 << 30))

    def run() -> None:
        trainer.chip._step = 10_000 + next(steps)  # a step of its own each time
        trainer.chip._pass = -1
        for activities in trainer.chip.passes(x, trainer.learner.ask(trainer.chip._step, len(x))):
            del activities

    return run


def medians(works: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Seconds of each, taking turns, after one turn untimed."""
    times: list[list[float]] = [[] for _ in works]
    for turn in range(repeats + 1):
        for work, taken in zip(works, times):
            start = time.perf_counter()
            work()
            if turn:
                taken.append(time.perf_counter() - start)
    return [statistics.median(taken) for taken in times]


def row(work: str, ours: float, bare: float, target: float | None, note: str) -> Row:
    return Row(work, ours / bare, target, ours * 1e3, bare * 1e3, note)


@torch.no_grad()
def step_row(experiment: str, settings: Sequence[str], repeats: int, target: float | None = None) -> Row:
    """A two-pass step against its products."""
    trainer = make_trainer(experiment, settings)
    layers, batch = trainer.chip.network.layers, trainer.batch
    bare = Bare(
        pass_products(layers, batch) + pass_products(layers, batch, first=False) + update_products(layers, batch)
    )
    ours, floor = medians([step_of(trainer), bare], repeats)
    rate = f"{bare.gigaflop:.0f} GFLOP, bare at {bare.gigaflop / floor:.0f} GFLOP/s"
    return row(f"danp step, {experiment}", ours, floor, target, rate)


@torch.no_grad()
def many_row(repeats: int, samples: int = MANY) -> Row:
    """A whole step of K noise samples against the products of K separate passes."""
    trainer = make_trainer(NET, [f"learner.samples={samples}"])
    bare = Bare(pass_products(trainer.chip.network.layers, trainer.batch))
    ours, one = medians([step_of(trainer), bare], repeats)
    note = f"the whole step, gradients and R included; one bare pass timed, times {samples}"
    return row(f"danp step, K = {samples}", ours, samples * one, 0.35 if samples == MANY else None, note)


@torch.no_grad()
def layerwise_rows(repeats: int) -> list[Row]:
    """The passes of a dinp and an inp step, and the whole steps, against L separate passes."""
    rows = []
    for rule, target in (("dinp", 0.4), ("inp", None)):
        trainer = make_trainer(NET, [*DINP, f"learner.rule={rule}"])
        layers, batch, mixed = trainer.chip.network.layers, trainer.batch, rule == "dinp"
        bare = Bare(pass_products(layers, batch, decorrelated=mixed))
        passes, step, one = medians([passes_of(trainer), step_of(trainer), bare], repeats)
        note = f"clean pass included; one bare pass timed, times {len(layers)}"
        rows.append(row(f"{rule} passes, ideal chip", passes, len(layers) * one, target, note))
        rows.append(row(f"{rule} step, ideal chip", step, len(layers) * one, None, "with gradients, R and optimizer"))
    return rows


def memory_row(settings: Sequence[str] = (), work: str = "danp step, peak memory") -> Row:
    """Bytes of a step, in a process of its own, against what they may be."""
    command = [sys.executable, __file__, "--memory", *(f"--set={text}" for text in settings)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
    peak, process, allowed = (int(word) for word in out.split())
    mega = f"{peak / 2**20:.0f} MB of tensors, {allowed / 2**20:.0f} allowed"
    note = f"{mega}: weights, R, 2 × activities, optimizer, batch; the process grew by {process / 2**20:.0f} MB"
    return Row(work, peak / allowed, 1.0, 0.0, 0.0, note)


def measure_memory(settings: Sequence[str]) -> tuple[int, int, int]:
    """(bytes of tensors alive at the peak of a step, growth of the process's peak over two more, bytes allowed).

    Tensors: those alive before it, and torch's record of what it allocates. The process: above what a step of a tiny
    network leaves behind; what the C library keeps of freed memory varies it by some tens of MB from run to run.
    """
    make_trainer(NET, ["network.hidden=[16]", "training.batch=20", *settings])  # compiles, opens thread pools
    before = resident("VmRSS")
    trainer = make_trainer(NET, settings)
    resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew: building takes more than a step does
    for _ in range(2):
        step_of(trainer)()
    process = resident("VmHWM") - before
    alive = [thing.untyped_storage() for thing in gc.get_objects() if type(thing) is torch.Tensor]
    storages = {storage.data_ptr(): storage.nbytes() for storage in alive}
    del alive
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as taken:
        step_of(trainer)()
    sizes = [event.nbytes() for event in taken.profiler.kineto_results.events() if event.name() == "[memory]"]
    peak = sum(storages.values()) + max(itertools.accumulate(sizes))
    return peak, process, allowed_bytes(trainer) + trainer.data.x_train.numel()


def resident(name: str) -> int:
    """Bytes of this process in memory: VmRSS, now, or VmHWM, at its peak (Linux). What is free is given back before."""
    if name == "VmRSS":
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def allowed_bytes(trainer: Trainer) -> int:
    """Weights, biases and R + 2 × (x, x*, a of every layer) + the optimiser's tensors + one batch."""
    layers, batch = trainer.chip.network.layers, trainer.batch
    weights = sum(layer.units * layer.inputs + layer.units for layer in layers)
    matrices = sum(layer.inputs**2 for layer in layers)
    activities = batch * sum(
        layer.size + layer.positions * layer.inputs + layer.positions * layer.units for layer in layers
    )
    optimizer = 4 * weights  # the gradient, two moments, the change
    return 4 * (weights + matrices + 2 * activities + optimizer + batch * layers[0].size)


def rows(repeats: int = 7) -> list[Row]:
    """Every figure of this file."""
    return [
        step_row(NET, (), repeats, 1.15),
        step_row("cifar10_convnet", (), repeats),
        many_row(repeats),
        *layerwise_rows(repeats),
        memory_row(),
        memory_row([f"learner.samples={MANY}"], f"danp step, K = {MANY}, peak memory"),
    ]


def show(found: Sequence[Row]) -> None:
    print(f"{'work':34}{'ratio':>7}{'target':>8}{'ms':>10}{'bare ms':>10}  note")
    for one in found:
        target = "" if one.target is None else f"{one.target:.2f}"
        print(f"{one.work:34}{one.ratio:7.3f}{target:>8}{one.milliseconds:10.1f}{one.bare_ms:10.1f}  {one.note}")


@torch.no_grad()
def show_profile(experiment: str, settings: Sequence[str]) -> None:
    step = step_of(make_trainer(experiment, settings))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        step()
    print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=18, max_name_column_width=36))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", help="one step of this experiment of examples/ alone, with --set")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--profile", action="store_true", help="print where the step's time goes")
    parser.add_argument("--memory", action="store_true", help="print the peak and the allowed bytes, and no more")
    given = parser.parse_args()
    experiment = given.experiment or NET
    if given.memory:
        with torch.no_grad():
            print(*measure_memory(given.settings))
    elif given.profile:
        show_profile(experiment, given.settings)
    elif given.experiment or given.settings:
        show([step_row(experiment, given.settings, given.repeats)])
    else:
        show(rows(given.repeats))


if __name__ == "__main__":
    main()
