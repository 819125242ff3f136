"""What a step takes besides weights, R and the optimiser's tensors: 2 × the activities and one batch, and not more.

3 × the activities where passes are run and told a few at a time, and where a read takes a variance an output too;
1.25 × of a convolution, whose vectors (x*, kernel² times the image) are held once and not driven or squared whole.

Counted from torch's own record of every allocation (memory that Numba kernels take for a row of noise is not in it).
Activities: x, x* and a of every layer. A temporary of units × inputs × batch would be many times as large.
"""

import math

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from analogsim import load_chip
from analogsim.backends.numba import NumbaBackend
from analogsim.chip import crossbar as crossbar_module
from analogsim.chip import passes as passes_module
from analogsim.config import schema
from analogsim.config.chip import ChipDescription
from analogsim.contracts import Factors
from analogsim.network import ConvLayer
from analogsim.training.build import build_trainer
from analogsim.training.data import Dataset

BATCH, WIDTH, DEPTH = 200, 96, 3
DENSE = {"hidden": (WIDTH,) * DEPTH}
CONV = {"layers": [{"conv": {"channels": 8, "kernel": 3, "stride": 2}}, {"conv": {"channels": 6, "kernel": 3}}]}
RULES = {  # chip, learner, how many times the activities, network
    "danp": ("gaussian-node", {"rule": "danp"}, 2, DENSE),
    "danp, K = 30": ("gaussian-node", {"rule": "danp", "samples": 30}, 3, DENSE),
    "anp": ("crossbar-generic", {"rule": "anp"}, 3, DENSE),
    "dnp": ("ideal", {"rule": "dnp", "baseline": "clean", "perturbation": 1e-3}, 2, DENSE),
    "dinp": ("ideal", {"rule": "dinp", "baseline": "clean", "perturbation": 1e-3}, 3, DENSE),
    "dbp": ("gaussian-node", {"rule": "dbp"}, 2, DENSE),
    "danp at positions": ("gaussian-node", {"rule": "danp"}, 1.25, CONV),
    "danp at positions, K = 10": ("gaussian-node", {"rule": "danp", "samples": 10}, 1.6, CONV),
    "danp at positions, cells": ("crossbar-generic", {"rule": "danp"}, 1.25, CONV),
    "anp at positions, cells": ("cells", {"rule": "anp"}, 1.25, CONV),
    "dbp at positions": ("gaussian-node", {"rule": "dbp"}, 1.1, CONV),
}
CELLS = ChipDescription.model_validate({"name": "cells", "cell": {"read_noise": {"law": "sqrt", "k_sqrt_uS": 0.1}}})
SIDE, CHANNELS = 12, 3


def trainer_of(name):
    chip, learner, _, network = RULES[name]
    generator = torch.Generator().manual_seed(1)
    shape = (WIDTH,) if network is DENSE else (SIDE, SIDE, CHANNELS)
    x, y = torch.rand(BATCH, *shape, generator=generator), torch.arange(BATCH) % 10
    plan = schema.Experiment(
        data="digits",
        chip=CELLS if chip == "cells" else load_chip(chip),
        network=schema.Network(**network),
        learner=schema.LearnerSettings(**learner),
        training=schema.TrainingSettings(epochs=1, batch=BATCH),
    ).resolved()
    return build_trainer(plan, Dataset("wide", x, y, x, y, 1.0, 10), 0, "numba")


def peak_and_allowed(name):
    """Most bytes alive at once of those that the third step allocates, and how many they may be."""
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
    return peak, allowed(trainer.chip.network.layers, RULES[name][2])


def allowed(layers, times):
    """So many passes' x, x* and a; the batch; and one matrix, the largest temporary of R's step."""
    activities = sum(one.size + math.prod(one.input_shape) + math.prod(one.output_shape) for one in layers)
    return 4 * (BATCH * (times * activities + layers[0].size) + max(one.inputs for one in layers) ** 2)


def a_part_at_once(monkeypatch):
    """As at the sizes they are meant for: passes of K > 1 two at a time, vectors by some 30 samples."""
    monkeypatch.setattr(passes_module, "STACKED_BYTES", 2 * 8 * BATCH * (WIDTH * DEPTH + 10))
    for module in (crossbar_module, passes_module):
        monkeypatch.setattr(module, "STREAMED_BYTES", 2**16)


@pytest.mark.parametrize("name", RULES)
def test_a_step_takes_its_activities_and_a_batch(name, monkeypatch):
    a_part_at_once(monkeypatch)
    peak, most = peak_and_allowed(name)
    assert most / 3 < peak <= most  # the record is not empty


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


def drive_all(monkeypatch):
    for module in (crossbar_module, passes_module):
        monkeypatch.setattr(module, "STREAMED_BYTES", 2**40)


def patches_of_images(monkeypatch):
    drive_all(monkeypatch)
    monkeypatch.setattr(crossbar_module.Crossbar, "reads_images", property(lambda self: False))


def errors_at_patches(self, errors, *matrices):
    columns = (errors @ matrices[0] @ matrices[1]).transpose(1, 2)
    x = torch.nn.functional.fold(columns, (self.height, self.width), self.kernel, stride=self.stride)
    return x.permute(0, 2, 3, 1).flatten(1, 2)


POSITION_BUGS = {  # each takes another x* of the second layer
    "every vector driven and squared at once": ("danp at positions, cells", drive_all),
    "patches where an image would do": ("anp at positions, cells", patches_of_images),
    "errors at every patch": ("dbp at positions", lambda patch: patch.setattr(ConvLayer, "adjoint", errors_at_patches)),
}


@pytest.mark.parametrize("bug", [*MEMORY_BUGS, *POSITION_BUGS])
def test_the_record_catches_more(bug, monkeypatch):
    name, plant = (MEMORY_BUGS | POSITION_BUGS)[bug]
    a_part_at_once(monkeypatch)
    plant(monkeypatch)
    peak, most = peak_and_allowed(name)
    assert peak > (1.5 if bug in MEMORY_BUGS else 1.1) * most
