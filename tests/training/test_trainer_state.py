"""A trainer is its seed and its saved state: same bytes again, from any step, whatever the rule."""

import math

import pytest
import torch

from analogsim.config.loader import load_chip
from analogsim.config.schema import (
    DecorrelationSettings,
    Experiment,
    LearnerSettings,
    Network,
    OptimizerSettings,
    TrainingSettings,
)
from analogsim.training import checkpoint, oracle
from analogsim.training.build import build_trainer
from analogsim.training.data import Dataset

RULES = ("bp", "np", "anp", "inp", "dbp", "dnp", "danp", "dinp")
CHIPS = ("ideal", "gaussian-node", "crossbar-generic")
RUNNABLE = [
    (rule, chip) for rule in RULES for chip in CHIPS if chip == "ideal" or rule.removeprefix("d") in ("bp", "anp")
]
every_case = pytest.mark.parametrize(("rule", "chip"), RUNNABLE)


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(1)
    x, y = torch.rand(13, 6, generator=generator), torch.arange(13) % 4
    return Dataset("tiny", x, y, x[:7], y[:7], 1.0, 4)


def trainer_of(data, rule="danp", chip="ideal", seed=0, backend="numba", optimizer=None, epochs=2, **learner):
    plan = Experiment(
        data="digits",
        chip=load_chip(chip),
        network=Network(hidden=(5,)),
        learner=LearnerSettings(rule=rule, **learner),
        decorrelation=DecorrelationSettings(rate=1e-2),
        optimizer=optimizer or OptimizerSettings(),
        training=TrainingSettings(epochs=epochs, batch=5, angle=True),
    ).resolved()
    return build_trainer(plan, data, seed, backend)


def end(trainer):
    """Everything a finished run is, but the time it took."""
    tensors = {name: tensor.numpy().tobytes() for name, tensor in trainer.checkpoint().tensors.items()}
    rows = [{name: value for name, value in row.items() if name != "seconds"} for row in trainer.progress.rows]
    return tensors, rows


def run(trainer):
    trainer.run()
    return end(trainer)


@every_case
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(data, rule, chip):
    first = run(trainer_of(data, rule, chip))
    assert run(trainer_of(data, rule, chip)) == first
    tensors, rows = run(trainer_of(data, rule, chip, seed=1))
    assert rows != first[1]
    assert tensors["chip/weight0"] != first[0]["chip/weight0"]


@every_case
@pytest.mark.parametrize(
    "optimizer", [OptimizerSettings(), OptimizerSettings(name="sgd"), OptimizerSettings(name="sgd", momentum=0.9)]
)
def test_a_run_goes_on_to_the_same_bytes_from_every_step(tmp_path, data, rule, chip, optimizer):
    """Save and stop after each of the six steps in turn, and go on in a trainer built anew."""
    whole = trainer_of(data, rule, chip, optimizer=optimizer)
    whole.run()
    trainer = trainer_of(data, rule, chip, optimizer=optimizer)
    for step in range(1, 7):
        trainer.run(lambda: trainer.progress.step >= step)  # noqa: B023 - called within this turn
        assert trainer.progress.step == step
        assert trainer.progress.status == ("running" if step < 6 else "ok")
        checkpoint.save(tmp_path, trainer.checkpoint())
        trainer = trainer_of(data, rule, chip, optimizer=optimizer)
        trainer.load(checkpoint.load_latest(tmp_path, pytest.fail))
    assert end(trainer) == end(whole)


def test_what_a_hook_saves_is_never_between_a_last_step_and_its_epochs_row(data):
    """Its angle, or its divergence, would be lost: neither is in the checkpoint before the row is."""
    whole = run(trainer_of(data))
    saved = []
    trainer = trainer_of(data)

    def save():
        state = trainer.checkpoint()
        saved.append(checkpoint.Checkpoint({name: t.clone() for name, t in state.tensors.items()}, state.record))

    trainer.run(after_step=save, after_epoch=save)
    assert len(saved) == 1 + 2 * 3
    for state in saved:
        again = trainer_of(data)
        again.load(state)
        assert run(again) == whole


def test_a_diverging_run_diverges_at_the_same_step_from_every_checkpoint(data):
    fast = OptimizerSettings(name="sgd", lr=20.0)
    trainer, saved = trainer_of(data, "bp", optimizer=fast, epochs=9), []

    def save():
        state = trainer.checkpoint()
        saved.append(checkpoint.Checkpoint({name: t.clone() for name, t in state.tensors.items()}, state.record))

    trainer.run(after_step=save, after_epoch=save)
    assert trainer.progress.status == "diverged"
    assert len(saved) > 1
    for state in saved:
        again = trainer_of(data, "bp", optimizer=fast, epochs=9)
        again.load(state)
        assert run(again) == end(trainer)


def test_a_chip_in_use_elsewhere_is_not_disturbed_by_a_load(data):
    """A checkpoint hands out tensors by reference; loading it must copy, not share."""
    one, other = trainer_of(data, "dbp"), trainer_of(data, "dbp")
    one.run(lambda: one.progress.step >= 2)
    other.load(one.checkpoint())
    before = {name: tensor.clone() for name, tensor in one.checkpoint().tensors.items()}
    other.run()
    assert all(torch.equal(tensor, before[name]) for name, tensor in one.checkpoint().tensors.items())


def test_the_copy_that_bp_keeps_is_the_chips_own_weights(data):
    """The optimiser moves both by the same amounts, so on an ideal write they never part."""
    for rule in ("bp", "dbp"):
        trainer = trainer_of(data, rule)
        trainer.run()
        mine = [
            tensor for name, tensor in trainer.checkpoint().tensors.items() if "learner" in name and "weight" in name
        ]
        assert all(torch.equal(a, b) for a, b in zip(mine, trainer.chip.weights, strict=True))


@every_case
def test_backends_agree_on_the_curves(data, rule, chip):
    """Same noise, other roundings: losses agree to 1e-5 after five epochs."""
    curves = {}
    for backend in ("numpy", "numba", "torch"):
        curves[backend] = run(trainer_of(data, rule, chip, backend=backend, epochs=5))[1]
    for one, other in zip(curves["numpy"] + curves["numba"], curves["torch"] * 2):
        assert one["reads"] == other["reads"]
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-5)
        assert one["test_loss"] == pytest.approx(other["test_loss"], rel=1e-5)
        assert one["test_accuracy"] == other["test_accuracy"]


def test_numba_with_more_threads_gives_the_same_bytes(data, monkeypatch):
    one = run(trainer_of(data, chip="crossbar-generic"))
    monkeypatch.setattr("analogsim.backends.numba.LEAST", 1)
    torch.set_num_threads(2)
    try:
        assert run(trainer_of(data, chip="crossbar-generic")) == one
    finally:
        torch.set_num_threads(1)


# Angles


@pytest.mark.parametrize("rule", RULES)
def test_the_angle_is_0_for_bp_on_an_ideal_chip_and_acute_for_the_others(data, rule):
    """20 averaged passes leave the others well within 90 degrees (a random direction is at 90 ± 8)."""
    trainer = trainer_of(data, rule, samples=20, epochs=4)
    trainer.run()
    untrained, *angles = (row["angle_deg"] for row in trainer.progress.rows)
    assert untrained is None
    assert all(angle < 1 if rule.endswith("bp") else 1 < angle < 75 for angle in angles)


def test_the_angle_of_bp_on_a_noisy_chip_is_small_but_there(data):
    trainer = trainer_of(data, "bp", "crossbar-generic")
    trainer.run()
    assert all(0.1 < row["angle_deg"] < 20 for row in trainer.progress.rows[1:])


def test_no_angle_where_none_was_asked_for(data):
    trainer = trainer_of(data)
    trainer.angle = False
    trainer.run()
    assert [row["angle_deg"] for row in trainer.progress.rows] == [None] * 3


def test_the_angle_by_hand(data):
    trainer = trainer_of(data, "bp")
    x, y = data.batch("train", slice(0, 5))
    truth = oracle.true_gradient(trainer.chip, None, x, y, trainer.loss)
    weights = [weight.clone().double().requires_grad_() for weight in trainer.chip.weights]
    hidden = torch.nn.functional.leaky_relu(x.double() @ weights[0].T, 0.2)
    loss = torch.nn.functional.cross_entropy(hidden @ weights[1].T, y)
    for layer, gradient in zip(truth.layers, torch.autograd.grad(loss, weights)):
        assert torch.allclose(layer.weight.dense().double(), gradient, rtol=1e-4, atol=1e-7)
    assert oracle.angle_deg(truth, truth) == pytest.approx(0, abs=1e-5)
    assert math.isfinite(oracle.angle_deg(truth, truth))
