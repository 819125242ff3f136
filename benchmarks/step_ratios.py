"""Training steps against their bare matrix products, in one run.

    python benchmarks/step_ratios.py [--repeats 7] [--device cuda] [--quick] [--markdown]
    python benchmarks/step_ratios.py --experiment cifar10_danp [--set KEY=VALUE ...] [--profile | --memory]

Bare products are counted from the shapes (products.py) and done with torch.mm on random numbers, a convolution's at
all its positions. What is measured may do with less (W R folded, layers reused): a row's floor is what is needed of
the products counted. Work and products take turns; figures are medians.
"""

from __future__ import annotations

import analogsim  # noqa: F401  before torch, as in the command: it says how OpenMP's threads wait

# isort: split
import argparse
import ctypes
import gc
import itertools
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from products import Bare, Products, macs
from rows import Row, table
from timing import medians
from trainers import make_trainer, passes_of, step_of

from analogsim.training.loop import Trainer

NET, CONVNET = "cifar10_danp", "cifar10_convnet"
DINP = ("learner.rule=dinp", "learner.baseline=clean", "learner.perturbation=1.0e-3", "chip=ideal")
SMALL = "training.batch=20"  # --quick
MANY = 30
WIDTH = 1024
DEPTHS = (1, 3, 6, 9)
IMAGES = 50_000  # CIFAR-10's, an epoch


@torch.no_grad()
def step_row(
    work: str,
    experiment: str,
    settings: Sequence[str],
    repeats: int,
    target: float | None = None,
    device: str = "cpu",
) -> Row:
    """A step against its products."""
    trainer = make_trainer(experiment, settings, device)
    products = Products.of(trainer)
    counted, needed = products.counted(), macs(products.needed())
    ours, bare = medians([step_of(trainer), Bare(counted, device)], repeats)
    billions = macs(counted) / 1e9
    note = f"{billions:.2f} GMAC counted, {needed / 1e9:.2f} needed; bare at {2 * billions / bare:.0f} GFLOP/s"
    work = f"{work}, batch {trainer.batch}"
    return Row(work, ours / bare, target, ours * 1e3, bare * 1e3, note, needed / macs(counted))


@torch.no_grad()
def share_row(settings: Sequence[str], repeats: int, device: str) -> Row:
    """How much of a step is the products it needs. The target is a GPU's."""
    trainer = make_trainer(NET, settings, device)
    step, bare = medians([step_of(trainer), Bare(Products.of(trainer).needed(), device)], repeats)
    target, note = 0.8 if device == "cuda" else None, "the products needed, bare, over the step"
    return Row(
        "danp step, 3 × 1024, share that is products", bare / step, target, step * 1e3, bare * 1e3, note, None, True
    )


@torch.no_grad()
def epoch_row(hidden: int, settings: Sequence[str], repeats: int, device: str, steps: int = 0) -> Row:
    """The steps of an epoch, one after another, against their products. steps: 0 for all of them, or so many timed."""
    trainer = make_trainer(NET, [f"network.hidden={[WIDTH] * hidden}", *settings], device)
    all_steps = IMAGES // trainer.batch
    steps = steps or all_steps
    products = Products.of(trainer)
    counted = products.counted()
    ours, bare = medians([step_of(trainer, steps), Bare(counted, device)], repeats)
    ours, bare = ours * all_steps / steps, bare * all_steps
    note = f"{1 / ours:.3g} epochs a second, {all_steps} steps each"
    floor = macs(products.needed()) / macs(counted)
    return Row(f"danp epoch, {hidden} × {WIDTH}", ours / bare, None, ours * 1e3, bare * 1e3, note, floor)


@torch.no_grad()
def many_row(settings: Sequence[str], repeats: int, device: str = "cpu", samples: int = MANY) -> Row:
    """A whole step of K noise samples against the products of K separate passes."""
    trainer = make_trainer(NET, [f"learner.samples={samples}", *settings], device)
    products = Products.of(trainer)
    one_pass = products.one_pass()
    ours, bare = medians([step_of(trainer), Bare(one_pass, device)], repeats)
    bare, floor = samples * bare, macs(products.needed()) / (samples * macs(one_pass))
    note = f"the whole step, gradients and R included; one bare pass timed, times {samples}"
    work, target = f"danp step, K = {samples}, against {samples} passes", 0.35 if samples == MANY else None
    return Row(work, ours / bare, target, ours * 1e3, bare * 1e3, note, floor)


@torch.no_grad()
def layerwise_rows(settings: Sequence[str], repeats: int, device: str = "cpu") -> list[Row]:
    """The passes of a dinp and an inp step, and the whole steps, against L separate passes."""
    rows = []
    for rule, target in (("dinp", 0.4), ("inp", None)):
        trainer = make_trainer(NET, [*DINP, f"learner.rule={rule}", *settings], device)
        products = Products.of(trainer)
        one_pass, layers = products.one_pass(), len(products.layers)
        works = [passes_of(trainer), step_of(trainer), Bare(one_pass, device)]
        passes, step, one = medians(works, repeats)
        note = f"clean pass included; one bare pass timed, times {layers}"
        for work, ours, needed, aim, about in (
            ("passes, ideal chip", passes, products.needed_passes(), target, note),
            ("step, ideal chip", step, products.needed(), None, "the same with gradients, R and optimizer"),
        ):
            bare, floor = layers * one, macs(needed) / (layers * macs(one_pass))
            work = f"{rule} {work}, against {layers} passes"
            rows.append(Row(work, ours / bare, aim, ours * 1e3, bare * 1e3, about, floor))
    return rows


def memory_row(work: str, experiment: str = NET, settings: Sequence[str] = ()) -> Row:
    """Bytes of a step, in a process of its own, against what they may be."""
    command = [sys.executable, __file__, "--memory", "--experiment", experiment]
    command += [f"--set={text}" for text in settings]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
    peak, process, allowed = (int(word) for word in out.split())
    mega = f"{peak / 2**20:.0f} MB of tensors, {allowed / 2**20:.0f} allowed"
    note = f"{mega}: weights, R, 2 × activities, optimizer, batch; the process grew by {process / 2**20:.0f} MB"
    return Row(f"{work}, peak memory, of what is allowed", peak / allowed, 1.0, 0.0, 0.0, note)


def measure_memory(experiment: str, settings: Sequence[str]) -> tuple[int, int, int]:
    """(bytes of tensors alive at the peak of a step, growth of the process's peak over two more, bytes allowed).

    Tensors: those alive before it, and torch's record of what it allocates. The process: above what a step on a small
    batch leaves behind; what the C library keeps of freed memory varies it by some tens of MB from run to run.
    """
    make_trainer(experiment, [*settings, SMALL])  # compiles, opens thread pools
    before = resident("VmRSS")
    trainer = make_trainer(experiment, settings)
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


def rows(repeats: int = 7, device: str = "cpu", quick: bool = False) -> list[Row]:
    """Every figure of this file. quick: on small batches."""
    small = [SMALL] if quick else []
    generic = [*small, "chip=crossbar-generic"]
    found = [
        step_row("danp step, 3 × 1024, CIFAR-10", NET, small, repeats, 1.15, device),
        step_row("danp step, the paper's ConvNet", CONVNET, small, repeats, 1.30, device),
        step_row("danp step, the ConvNet on crossbar-generic", CONVNET, generic, repeats, None, device),
        share_row(small, repeats, device),
        many_row(small, repeats, device),
        *layerwise_rows(small, repeats, device),
    ]
    if device == "cuda" or quick:  # minutes on a CPU
        depths = DEPTHS[:1] if quick else DEPTHS
        found += [epoch_row(hidden, small, repeats, device, steps=2 * quick) for hidden in depths]
    if device == "cpu":
        found += [
            memory_row("danp step", NET, small),
            memory_row(f"danp step, K = {MANY}", NET, [*small, f"learner.samples={MANY}"]),
            memory_row("danp step, the paper's ConvNet", CONVNET, small),
        ]
    return found


@torch.no_grad()
def show_profile(experiment: str, settings: Sequence[str], device: str) -> None:
    step = step_of(make_trainer(experiment, settings, device))
    with torch.profiler.profile() as profile:
        step()
    print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=18, max_name_column_width=36))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", help="one step of this experiment of examples/ alone, with --set")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="small batches: does it all run?")
    parser.add_argument("--markdown", action="store_true", help="print the table as markdown")
    parser.add_argument("--profile", action="store_true", help="print where the step's time goes")
    parser.add_argument("--memory", action="store_true", help="print peak, growth and allowed bytes, and no more")
    given = parser.parse_args()
    experiment = given.experiment or NET
    if given.memory:
        if given.device != "cpu":
            parser.error("--memory is of a process on the CPU")
        with torch.no_grad():
            print(*measure_memory(experiment, given.settings))
    elif given.profile:
        show_profile(experiment, given.settings, given.device)
    elif given.experiment or given.settings:
        one = step_row(f"step, {experiment}", experiment, given.settings, given.repeats, device=given.device)
        print(table([one], given.markdown))
    else:
        print(table(rows(given.repeats, given.device, given.quick), given.markdown))


if __name__ == "__main__":
    main()
