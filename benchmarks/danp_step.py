"""A DANP training step against its bare matrix products, in one run.

    python benchmarks/danp_step.py [EXPERIMENT] [--set KEY=VALUE ...] [--repeats 7] [--profile]

EXPERIMENT: cifar10_danp (3 × 1024) unless another of examples/, as cifar10_convnet. The products of a
step, counted: R x of two passes (the first layer's shared), W x* of two passes (the first layer's
shared), the weight gradients, and the decorrelation update in its cheaper form; a convolution's
over all its positions. Step and products take turns. Prints the medians, their ratio, peak memory.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable, Sequence

import torch

from analogsim.config.loader import load_plan, parse_set
from analogsim.network import Layer
from analogsim.streams import Address, Stream
from analogsim.training.build import build_trainer
from analogsim.training.data import Dataset


def products(layers: Sequence[Layer], batch: int) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """(a, b, out) of every product of one step, on random data, memory for its result included."""
    shapes: list[tuple[int, int, int]] = []
    for index, layer in enumerate(layers):
        inputs, units, vectors = layer.inputs, layer.units, batch * layer.positions
        shapes += [(vectors, inputs, inputs), (vectors, inputs, units)] * (1 if index == 0 else 2)  # R x, W x*
        shapes += [(units, vectors, inputs)]  # gradient
        if vectors < inputs:
            shapes += [(vectors, inputs, inputs), (inputs, vectors, inputs)]  # X*ᵀ (X* R)
        else:
            shapes += [(inputs, vectors, inputs), (inputs, inputs, inputs)]  # C R
    pool: dict[tuple[int, int], torch.Tensor] = {}
    for m, k, n in shapes:
        pool.setdefault((m, k), torch.randn(m, k))
        pool.setdefault((k, n), torch.randn(k, n))
    results = {(m, n): torch.empty(m, n) for m, _, n in shapes}
    return [(pool[m, k], pool[k, n], results[m, n]) for m, k, n in shapes]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", nargs="?", default="cifar10_danp")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--profile", action="store_true", help="print where the step's time goes")
    arguments = parser.parse_args()
    plan = load_plan(arguments.experiment, [parse_set(text) for text in arguments.settings])
    experiment = next(iter(plan.variants.values()))
    batch = experiment.training.batch
    x = torch.from_numpy(Stream.from_seed(0).normal(Address(), 2 * batch, 3072)).view(-1, 32, 32, 3)
    x = x.mul_(50).add_(128).clamp_(0, 255).to(torch.uint8)
    y = torch.arange(len(x)) % 10
    trainer = build_trainer(experiment, Dataset("noise", x, y, x[:10], y[:10], 255.0, 10), seed=0)
    trainer.progress.untrained_loss = float("inf")
    rows = torch.arange(batch)
    trainer._step(rows, with_angle=False)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    operands = products(trainer.chip.network.layers, batch)

    def bare() -> None:
        for a, b, out in operands:
            torch.mm(a, b, out=out)

    def seconds(work: Callable[[], object]) -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    times = [(seconds(bare), seconds(lambda: trainer._step(rows, with_angle=False))) for _ in range(arguments.repeats)]
    floor, step = (statistics.median(column) for column in zip(*times))
    flops = sum(2 * a.shape[0] * a.shape[1] * b.shape[1] for a, b, _ in operands)
    print(f"bare products  {floor * 1e3:8.1f} ms   {flops / floor / 1e9:6.0f} GFLOP/s   1.00")
    print(f"step           {step * 1e3:8.1f} ms   {flops / step / 1e9:6.0f} GFLOP/s   {step / floor:.2f}")
    print(f"peak memory    {peak:.2f} GB (step alone, before the products' own operands)")
    if arguments.profile:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            trainer._step(rows, with_angle=False)
        print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=18, max_name_column_width=36))


if __name__ == "__main__":
    with torch.no_grad():
        main()
