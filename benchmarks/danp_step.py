"""A DANP training step against its bare matrix products, in one run.

    python benchmarks/danp_step.py [--hidden 1024 1024 1024] [--batch 1000] [--repeats 7]

The products of a step, counted: two passes (x*_0 = R_0 x shared), the weight gradients, and the
decorrelation update in its cheaper form. Prints the medians, their ratio and the peak memory.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from itertools import pairwise

import torch

from analogsim.config.loader import Override, load_plan
from analogsim.streams import Address, Stream
from analogsim.training.build import build_trainer
from analogsim.training.data import Dataset


def products(sizes: list[int], batch: int) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """(a, b, out) of every product of one step, on random data, memory for its result included."""
    shapes: list[tuple[int, int, int]] = []
    for layer, (inputs, units) in enumerate(pairwise(sizes)):
        shapes += [(batch, inputs, inputs)] * (1 if layer == 0 else 2)  # R x
        shapes += [(batch, inputs, units)] * 2  # W x*
        shapes += [(units, batch, inputs)]  # gradient
        if batch < inputs:
            shapes += [(batch, inputs, inputs), (inputs, batch, inputs)]  # X*ᵀ (X* R)
        else:
            shapes += [(inputs, batch, inputs), (inputs, inputs, inputs)]  # C R
    pool: dict[tuple[int, int], torch.Tensor] = {}
    for m, k, n in shapes:
        pool.setdefault((m, k), torch.randn(m, k))
        pool.setdefault((k, n), torch.randn(k, n))
    results = {(m, n): torch.empty(m, n) for m, _, n in shapes}
    return [(pool[m, k], pool[k, n], results[m, n]) for m, k, n in shapes]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hidden", type=int, nargs="+", default=[1024, 1024, 1024])
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--chip", default="gaussian-node")
    arguments = parser.parse_args()
    overrides = [
        Override("network.hidden", arguments.hidden, "benchmark"),
        Override("training.batch", arguments.batch, "benchmark"),
        Override("chip", arguments.chip, "benchmark"),
    ]
    (experiment,) = load_plan("cifar10_danp", overrides).variants.values()
    x = torch.from_numpy(Stream.from_seed(0).normal(Address(), 2 * arguments.batch, 3072))
    x = x.mul_(50).add_(128).clamp_(0, 255).to(torch.uint8)
    y = torch.arange(len(x)) % 10
    trainer = build_trainer(experiment, Dataset("noise", x, y, x[:10], y[:10], 255.0, 10), seed=0)
    trainer.progress.untrained_loss = float("inf")
    rows = torch.arange(arguments.batch)
    operands = products([3072, *arguments.hidden, 10], arguments.batch)

    def bare() -> None:
        for a, b, out in operands:
            torch.mm(a, b, out=out)

    def median(work: Callable[[], object]) -> float:
        work()
        times = []
        for _ in range(arguments.repeats):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    with torch.no_grad():
        floor = median(bare)
    step = median(lambda: trainer._step(rows, with_angle=False))
    flops = sum(2 * a.shape[0] * a.shape[1] * b.shape[1] for a, b, _ in operands)
    print(f"bare products  {floor * 1e3:8.1f} ms   {flops / floor / 1e9:6.0f} GFLOP/s   1.00")
    print(f"danp step      {step * 1e3:8.1f} ms   {flops / step / 1e9:6.0f} GFLOP/s   {step / floor:.2f}")
    print(f"peak memory    {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GB")


if __name__ == "__main__":
    main()
