"""The bench runs from end to end on small sizes, and counts the products that steps do. What it measures is never
asserted."""

import importlib
import json
import math
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="benchmarks/ is in a checkout alone")

DENSE = ("network.hidden=[16, 40]", "training.batch=20")  # W R is cheaper in the last layer, not in the second
CONV = "network.layers=[{conv: {channels: 4, kernel: 3, stride: 2}}, {conv: {channels: 6, kernel: 3}}, {dense: 50}]"
CLEAN = ("chip=ideal", "learner.baseline=clean", "learner.perturbation=1.0e-3")
STEPS = {
    "danp": ("cifar10_danp", DENSE),
    "danp, K = 5": ("cifar10_danp", (*DENSE, "learner.samples=5")),
    "anp": ("cifar10_danp", (*DENSE, "learner.rule=anp")),
    "dinp, ideal": ("cifar10_danp", (*DENSE, *CLEAN, "learner.rule=dinp")),
    "inp, ideal": ("cifar10_danp", (*DENSE, *CLEAN, "learner.rule=inp")),
    "dinp, noisy": ("cifar10_danp", (*DENSE, "learner.rule=dinp", "chip=gaussian-node", "chip.injection_port=true")),
    "dinp, ideal, both noisy": ("cifar10_danp", (*DENSE, *CLEAN, "learner.rule=dinp", "learner.baseline=noisy")),
    "danp, noisy cells": ("cifar10_danp", (*DENSE, "chip=crossbar-generic")),
    "danp, large batch": ("cifar10_danp", ("network.hidden=[16]", "training.batch=60")),  # C R in the last layer
    "convolutions": ("cifar10_convnet", (CONV, "training.batch=20")),
    "convolutions, noisy cells": ("cifar10_convnet", (CONV, "training.batch=20", "chip=crossbar-generic")),
}


def run(script: str, *options: str) -> str:
    command = [sys.executable, str(BENCHMARKS / script), *options]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def bench(monkeypatch):
    """The module of that name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def test_the_bench_runs(tmp_path):
    figures = tmp_path / "figures.json"
    shown = run("run.py", "--quick", "--busy", "--peers", "--runs=2", "--device=cpu", f"--json={figures}", "--markdown")
    written = json.loads(figures.read_text())
    assert written["machine"]["versions"]["torch"]
    works = [row["work"] for row in written["rows"]]
    assert len(set(works)) == len(works) >= 9
    for row in written["rows"]:
        assert f"| {row['work']} |" in shown
        assert math.isfinite(row["ratio"])
        assert row["ratio"] > 0
        assert len(row["runs"]) == 2
        assert row["ratio"] in row["runs"]


def test_the_steps_run(monkeypatch, bench):
    steps, rows = bench("step_ratios"), bench("rows")
    monkeypatch.setattr(steps, "memory_row", lambda work, *_: rows.Row(f"{work}, memory", 1.0, 1.0, 0.0, 0.0))
    found = steps.rows(1, "cpu", quick=True)
    assert len({row.work for row in found}) == len(found) >= 13
    timed = [row for row in found if row.milliseconds]
    assert all(math.isfinite(row.ratio) and row.ratio > 0 for row in timed)
    assert [row.work for row in timed if row.floor is None] == ["danp step, 3 × 1024, share that is products"]
    assert all(0 < row.floor <= 1 for row in timed if row.floor is not None)


def test_one_step_and_its_memory_are_of_the_experiment_asked_for():
    options = (
        "--device=cpu",
        "--repeats=1",
        "--experiment=cifar10_convnet",
        f"--set={CONV}",
        "--set=training.batch=30",
    )
    assert "step, cifar10_convnet, batch 30" in run("step_ratios.py", *options)
    peak, _, allowed = map(int, run("step_ratios.py", *options, "--memory").split())
    assert 0 < peak < 64e6  # R of the other network's first layer alone: 38 MB, and a step of it, as much again
    assert 0 < allowed < 64e6


def test_the_growth_of_cost_runs(tmp_path, monkeypatch, bench):
    scaling = bench("scaling")
    for name, sizes in (("WIDTHS", (4, 8, 16)), ("BATCHES", (1, 2, 3)), ("DEPTHS", (1, 2, 3)), ("SAMPLES", (1, 2, 3))):
        monkeypatch.setattr(scaling, name, sizes)
    monkeypatch.setattr(sys, "argv", ["scaling.py", "--repeats=1", "--device=cpu", f"--out={tmp_path}"])
    scaling.main()
    assert {path.name for path in tmp_path.iterdir()} == {"scaling.csv", "scaling.png"}
    monkeypatch.setattr(sys, "argv", ["scaling.py", "--busy", "--device=cuda"])
    with pytest.raises(SystemExit):
        scaling.main()


def test_the_table_is_of_the_median_run(bench):
    rows = bench("rows")
    runs = [
        [rows.Row("a", ratio, 1.0, 2.0, 1.0, "n", 0.5), rows.Row("b", ratio, 0.8, 0.0, 0.0, at_least=True)]
        for ratio in (0.7, 1.5, 1.2)
    ]
    middle = rows.median_rows(runs)
    assert [row.ratio for row in middle] == [1.2, 1.2]
    assert [row.missed for row in middle] == [True, False]
    assert rows.table(middle, markdown=True).splitlines() == [
        "| work | ratio | all runs | target | floor | ms | bare ms | note |",
        "|---|---|---|---|---|---|---|---|",
        "| a | 1.20* | 0.70 … 1.50 | 1.00 | 0.50 | 2.0 | 1.0 | n |",
        "| b | 1.20 | 0.70 … 1.50 | ≥ 0.80 |  |  |  |  |",
        "",
        "\\* misses its target",
    ]
    assert "all runs" not in rows.table(runs[0])
    assert "0.70*" in rows.table(runs[0])


class Done(TorchDispatchMode):
    """Shapes of all products made inside: the rows by every matrix's (k, n), since passes are stacked into one."""

    def __init__(self):
        super().__init__()
        self.rows = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out, name = func(*args, **(kwargs or {})), func.overloadpacket.__name__
        if name == "convolution":
            units = out.shape[1]
            self.rows[args[1][0].numel(), units] += out.numel() // units
        elif name in ("mm", "addmm", "addmm_"):
            left, right = args[-2:]
            self.rows[tuple(right.shape)] += len(left)
        elif name in ("bmm", "baddbmm", "mv", "addmv", "dot", "convolution_backward"):
            raise AssertionError(f"{name} is not counted")
        return out


def rows_of(shapes) -> Counter:
    rows = Counter()
    for m, k, n in shapes:
        rows[k, n] += m
    return rows


@pytest.mark.parametrize("name", STEPS)
def test_needed_products_are_those_a_step_makes(bench, name):
    products, trainers = bench("products"), bench("trainers")
    trainer = trainers.make_trainer(*STEPS[name])
    counted = products.Products.of(trainer)
    with torch.no_grad(), Done() as done:
        trainers.step_of(trainer)()
    needed = rows_of(counted.needed())
    if name == "convolutions":  # the image is read through W R, though x*_0 is at hand: the matrices are small
        first = counted.layers[0]
        needed[first.inputs, first.inputs] += first.units
    assert done.rows == needed
    assert products.macs(counted.needed()) <= products.macs(counted.counted())


@pytest.mark.parametrize("name", ["dinp, ideal", "danp, K = 5"])
def test_passes_timed_alone_leave_nothing_folded(bench, name):
    products, trainers = bench("products"), bench("trainers")
    trainer = trainers.make_trainer(*STEPS[name])
    counted = products.Products.of(trainer)
    passes, step = trainers.passes_of(trainer), trainers.step_of(trainer)
    for work, needed in (
        (passes, counted.needed_passes()),
        (passes, counted.needed_passes()),
        (step, counted.needed()),
    ):
        with torch.no_grad(), Done() as done:
            work()
        assert done.rows == rows_of(needed)
