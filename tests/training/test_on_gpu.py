"""Trainings on a GPU are those on the CPU: the same noise, products to rounding; and no step waits between two looks.

Where there is no GPU, NumPy stands in for one: its sums in float64 round otherwise than torch's.
"""

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from analogsim.backends import has_triton
from analogsim.backends.reference import NumpyBackend
from analogsim.backends.torch import full_precision
from analogsim.training import checkpoint
from analogsim.training.captured import WARM, recorder_of

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device here")
triton = pytest.mark.skipif(not has_triton(), reason="Triton 3.6 or later is not installed")
ON_GPU = [pytest.param("torch", "cuda", marks=cuda), pytest.param("triton", "cuda", marks=[cuda, triton])]
elsewhere = pytest.mark.parametrize(("backend", "device"), [("numpy", "cpu"), *ON_GPU])
ROUNDING = 1e-2  # of a tensor's largest number; of a loss a tenth of it. Ten steps, each off where a loss difference is

CONVOLUTION = {"network.hidden": [], "network.layers": [{"conv": {"channels": 3, "kernel": 3}}, {"dense": 8}]}
CELLS = {"chip": {"name": "cells", "cell": {"read_noise": {"law": "constant", "sigma_uS": 0.3}}}}
STEPS = {
    "danp": {},
    "danp, convolution": CONVOLUTION,
    "danp, noisy cells": CELLS,
    "dnp, perturbed twice": {"chip": "ideal", "learner.rule": "dnp", "learner.baseline": "noisy"},
    "dbp": {"learner.rule": "dbp"},
    "anp, sgd": {"learner.rule": "anp", "optimizer.name": "sgd", "optimizer.lr": 0.1},
}
every_step = pytest.mark.parametrize("name", STEPS)


def check_same(trainer, expected):
    """Curves and the state at the end, to rounding."""
    assert len(trainer.progress.rows) == len(expected.progress.rows) == 3
    for row, right in zip(trainer.progress.rows, expected.progress.rows):
        assert [row[name] for name in ("epoch", "step", "reads", "writes", "status")] == [
            right[name] for name in ("epoch", "step", "reads", "writes", "status")
        ]
        for name in ("train_loss", "test_loss"):
            assert row[name] == pytest.approx(right[name], rel=ROUNDING / 10)
    state, right = trainer.checkpoint().tensors, expected.checkpoint().tensors
    assert state.keys() == right.keys()
    for name in state:
        largest = float(right[name].double().abs().max())
        torch.testing.assert_close(state[name].cpu(), right[name], rtol=0, atol=ROUNDING * largest)


def trained(trainer):
    trainer.run()
    return trainer


@every_step
@elsewhere
def test_a_training_is_the_cpus(backend, device, name, trainer_of):
    found = trained(trainer_of(recorder_of(device), backend, device, **STEPS[name]))
    check_same(found, trained(trainer_of(**STEPS[name])))


def another_step(self, y, stream, address, *rest):
    return STAGE(self, y, stream, replace(address, step=address.step + 1), *rest)


def samples_from_nought(self, y, stream, address, *rest):
    return STAGE(self, y, stream, replace(address, first_sample=address.first_sample + 1), *rest)


def in_tf32(self, x, matrix):
    """Ten bits of each factor's fraction."""
    short = [(part.view(torch.int32) + 2**12 & -(2**13)).view(torch.float32) for part in (x, matrix)]
    return PRODUCT(self, *short)


STAGE, PRODUCT = NumpyBackend.output_stage, NumpyBackend.product
DEVICE_BUGS = {
    "noise of the next step": ("output_stage", another_step),
    "noise of the next sample": ("output_stage", samples_from_nought),
    "products in TF32": ("product", in_tf32),
}


@pytest.mark.parametrize("bug", DEVICE_BUGS)
def test_the_comparison_with_the_cpu_catches(bug, trainer_of, monkeypatch):
    monkeypatch.setattr(NumpyBackend, *DEVICE_BUGS[bug])
    with pytest.raises(AssertionError):
        check_same(trained(trainer_of(None, "numpy")), trained(trainer_of()))


@elsewhere
def test_a_training_begun_there_goes_on_on_the_cpu(backend, device, trainer_of, tmp_path):
    begun = trainer_of(recorder_of(device), backend, device)
    begun.run(lambda: begun.progress.step == 8)  # two of its steps were played, on a GPU
    checkpoint.save(tmp_path, begun.checkpoint())
    taken_up = trainer_of()
    taken_up.load(checkpoint.load_latest(tmp_path, pytest.fail))
    assert taken_up.progress.step == 8
    assert all(tensor.device.type == "cpu" for tensor in taken_up.checkpoint().tensors.values())
    check_same(trained(taken_up), trained(trainer_of()))


@contextmanager
def no_waiting():
    """Whatever waits for the device raises, what is sent to it included."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@cuda
@every_step
@pytest.mark.parametrize("backend", ["torch", pytest.param("triton", marks=triton)])
@pytest.mark.parametrize("recorded", [True, False])
def test_no_step_on_a_gpu_waits_between_two_looks(recorded, backend, name, trainer_of):
    recorder = recorder_of("cuda") if recorded else None
    trainer = trainer_of(recorder, backend, "cuda", **STEPS[name], **{"training.batch": 13})  # ten steps an epoch
    with full_precision():
        steps = trainer.steps(lambda: False, lambda: None, lambda: None)
        asked = next(steps)
        for _ in range(WARM + 2):  # compiled, recorded, and held against a plain step
            asked = steps.send(trainer._step(*asked))
        with no_waiting():
            for _ in range(3):
                asked = steps.send(trainer._step(*asked))
            with pytest.raises(RuntimeError):
                trainer._look()
    assert trainer.progress.step == WARM + 5
