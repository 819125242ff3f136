"""What a step takes besides weights, R and the optimiser's tensors: 2 × the activities and one batch, and not more.

3 × the activities where passes are run and told a few at a time, and where a read takes a variance an output too.

Counted from torch's own record of every allocation (memory that Numba kernels take for a row of noise is not in it).
Activities: x, x* and a of every layer. A temporary of units × inputs × batch would be many times as large.
"""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from analogsim import load_chip
from analogsim.backends.numba import NumbaBackend
from analogsim.chip import passes as passes_module
from analogsim.config import schema
from analogsim.contracts import Factors
from analogsim.training.build import build_trainer
from analogsim.training.data import Dataset

BATCH, WIDTH, DEPTH = 200, 96, 3
RULES = {
    "danp": ("gaussian-node", {"rule": "danp"}, 2),
    "danp, K = 30": ("gaussian-node", {"rule": "danp", "samples": 30}, 3),
    "anp": ("crossbar-generic", {"rule": "anp"}, 3),
    "dnp": ("ideal", {"rule": "dnp", "baseline": "clean", "perturbation": 1e-3}, 2),
    "dinp": ("ideal", {"rule": "dinp", "baseline": "clean", "perturbation": 1e-3}, 3),
    "dbp": ("gaussian-node", {"rule": "dbp"}, 2),
}


def trainer_of(name):
    chip, learner, _ = RULES[name]
    generator = torch.Generator().manual_seed(1)
    x, y = torch.rand(BATCH, WIDTH, generator=generator), torch.arange(BATCH) % 10
    plan = schema.Experiment(
        data="digits",
        chip=load_chip(chip),
        network=schema.Network(hidden=(WIDTH,) * DEPTH),
        learner=schema.LearnerSettings(**learner),
        training=schema.TrainingSettings(epochs=1, batch=BATCH),
    ).resolved()
    return build_trainer(plan, Dataset("wide", x, y, x, y, 1.0, 10), 0, "numba")


def peak_of_a_step(name):
    """Most bytes alive at once of those that the third step allocates."""
    trainer, rows = trainer_of(name), torch.arange(BATCH)
    with torch.no_grad():
        for _ in range(2):
            trainer._step(rows, with_angle=False)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as taken:
            trainer._step(rows, with_angle=False)
    alive = peak = 0
    for event in taken.profiler.kineto_results.events():
        if event.name() == "[memory]":
            alive += event.nbytes()
            peak = max(peak, alive)
    return peak


def allowed(name):
    """So many passes' x, x* and a; the batch; and one matrix, the largest temporary of R's step."""
    units = [WIDTH] * DEPTH + [10]
    activities = 4 * BATCH * sum(2 * WIDTH + width for width in units)
    return RULES[name][2] * activities + 4 * BATCH * WIDTH + 4 * WIDTH**2


def two_at_once(monkeypatch):
    """As at 3 × 1024 and batch 1000: the passes of K = 30 are run two at a time."""
    monkeypatch.setattr(passes_module, "STACKED_BYTES", 2 * 8 * BATCH * (WIDTH * DEPTH + 10))


@pytest.mark.parametrize("name", RULES)
def test_a_step_takes_its_activities_and_a_batch(name, monkeypatch):
    two_at_once(monkeypatch)
    peak = peak_of_a_step(name)
    assert 2 * 4 * BATCH * WIDTH * DEPTH < peak <= allowed(name)  # more than a and x*: the record is not empty


def outer_a_sample(factors):
    """The gradient of every sample, then their sum."""
    return torch.einsum("bi,bj->bij", factors.errors, factors.inputs).sum(0)


def cell_by_cell(backend, x, matrix):
    """A matrix a vector, as a read with noise in every cell would take."""
    return (x[..., None, :] * matrix).sum(-1)


def keep_all(monkeypatch):
    monkeypatch.setattr(passes_module, "STACKED_BYTES", 2**40)


MEMORY_BUGS = {
    "a matrix a vector read": ("danp", lambda patch: patch.setattr(NumbaBackend, "product", cell_by_cell)),
    "a gradient a sample": (
        "danp",
        lambda patch: patch.setattr(
            "analogsim.training.optimizer.torch.mm", lambda e, x, out: out.copy_(outer_a_sample(Factors(e.T, x)))
        ),
    ),
    "all noise samples at once": ("danp, K = 30", keep_all),
}


@pytest.mark.parametrize("bug", MEMORY_BUGS)
def test_the_record_catches_more(bug, monkeypatch):
    name, plant = MEMORY_BUGS[bug]
    two_at_once(monkeypatch)
    plant(monkeypatch)
    assert peak_of_a_step(name) > 1.5 * allowed(name)
