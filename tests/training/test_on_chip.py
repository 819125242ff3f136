"""Training on chips that are written as real ones are: `optimizer: on_chip`, pulses, verification, costs, resuming."""

import pytest
import torch

from analogsim import Crossbar
from analogsim.config.chip import ChipDescription
from analogsim.config.schema import Experiment, LearnerSettings, Network, OptimizerSettings, TrainingSettings
from analogsim.contracts import Factors, LayerUpdate, WeightUpdate
from analogsim.network import Network as Layers
from analogsim.training import checkpoint
from analogsim.training.build import build_trainer
from analogsim.training.data import Dataset
from analogsim.training.optimizer import Optimizer

ON_CHIP = OptimizerSettings(name="on_chip", lr=0.05)
CELL = {"read_noise": {"law": "sqrt", "k_sqrt_uS": 0.1}}
PULSED = {"mode": "pulsed", "cell": {"model": "soft_bounds", "dw_min": 0.005, "c2c": 0.3, "w_max_d2d": 0.1}}
VERIFY = {"mode": "verify", "threshold_uS": 0.1}
COSTS = {"read_J": 1e-9, "conversion_J": 1e-11, "pulse_J": 1e-10, "pulse_s": 1e-7}
CHIPS = {
    "ideal write": {"cell": CELL},
    "verify": {"cell": CELL | {"programming": {"law": "constant", "sigma_uS": 0.2}}, "write": VERIFY, "costs": COSTS},
    "pulsed": {"cell": CELL | {"weight_headroom": 2.0}, "write": PULSED},
    "on-chip decorrelation": {"cell": CELL, "decorrelation": "on_chip"},
    "on-chip decorrelation by pulses": {
        "cell": CELL | {"weight_headroom": 2.0},
        "write": PULSED | {"cell": PULSED["cell"] | {"write_noise": 5.0}},
        "decorrelation": "on_chip",
    },
    "telegraph": {"node_noise": {"telegraph": {"amplitude": 0.05, "flip_probability": 0.1}}, "costs": COSTS},
}
every_chip = pytest.mark.parametrize("name", CHIPS)


def numbers(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(1)
    x, y = torch.rand(53, 6, generator=generator), torch.arange(53) % 4
    return Dataset("tiny", x, y, x[:7], y[:7], 1.0, 4)


def trainer_of(data, name, optimizer=ON_CHIP, rule="danp"):
    plan = Experiment(
        data="digits",
        chip=ChipDescription.model_validate(CHIPS[name]),
        network=Network(hidden=(5,)),
        learner=LearnerSettings(rule=rule),
        optimizer=optimizer,
        training=TrainingSettings(epochs=2, batch=20, angle=True),
    ).resolved()
    return build_trainer(plan, data, 0, "numba")


def end(trainer):
    tensors = {name: tensor.numpy().tobytes() for name, tensor in trainer.checkpoint().tensors.items()}
    return tensors, [{k: v for k, v in row.items() if k != "seconds"} for row in trainer.progress.rows]


@every_chip
@pytest.mark.parametrize("optimizer", [ON_CHIP, OptimizerSettings(lr=0.02)], ids=lambda o: o.name)
@pytest.mark.parametrize("rule", ["danp", "dbp"])
def test_a_run_goes_on_to_the_same_bytes_from_every_step(tmp_path, data, name, optimizer, rule):
    whole = trainer_of(data, name, optimizer, rule)
    whole.run()
    trainer = trainer_of(data, name, optimizer, rule)
    for step in range(1, 7):
        trainer.run(lambda: trainer.progress.step >= step)  # noqa: B023 - called within this turn
        checkpoint.save(tmp_path, trainer.checkpoint())
        trainer = trainer_of(data, name, optimizer, rule)
        trainer.load(checkpoint.load_latest(tmp_path, pytest.fail))
    assert end(trainer) == end(whole)


def test_factors_go_to_the_chip_as_the_rule_made_them():
    layers = Layers.dense(3, (), 2)
    optimizer = Optimizer(ON_CHIP, layers)
    factors = Factors(numbers(4, 2), numbers(4, 3))
    (change,) = optimizer.step(WeightUpdate((LayerUpdate(factors, torch.ones(2)),))).layers
    assert torch.equal(change.weight.errors, factors.errors * 0.05)
    assert change.weight.inputs is factors.inputs
    assert torch.equal(change.bias, torch.full((2,), 0.05))
    (change,) = optimizer.step(WeightUpdate((LayerUpdate(factors.dense()),))).layers
    assert torch.equal(change.weight, factors.dense() * 0.05)
    assert change.bias is None
    assert optimizer.state() == {}


def test_on_chip_without_pulses_is_plain_gradient_descent(data):
    ours, theirs = (trainer_of(data, "ideal write", o) for o in (ON_CHIP, OptimizerSettings(name="sgd", lr=0.05)))
    ours.run(), theirs.run()
    for a, b in zip(ours.chip.weights, theirs.chip.weights):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_pulse_trains_and_dense_pulses_follow_the_gradient(data):
    """The mean change of 200 on-chip updates from one state is -η G; a dense update's is within a pulse of it.

    (31 slots hold all the pulses that the largest product asks for, 18, so no probability is cut at 1.)
    """
    gradient = Factors(numbers(20, 5) * 0.02, numbers(20, 6).abs())
    whole = gradient.dense()
    chip = {"cell": {"weight_max": 1.0}, "write": {"mode": "pulsed", "cell": {"model": "constant", "dw_min": 0.01}}}
    description = ChipDescription.model_validate(chip)
    changes = []
    for seed in range(200):
        crossbar = Crossbar(torch.zeros(5, 6), description, seed=seed)
        crossbar.write(gradient)
        changes.append(-crossbar.weight)
    mean, error = torch.stack(changes).mean(0), torch.stack(changes).std(0) / 200**0.5
    assert ((mean - whole).abs() < 5 * error).all()
    crossbar = Crossbar(torch.zeros(5, 6), description)
    for _ in range(7):
        crossbar.write(whole / 7)
    assert ((crossbar.weight + whole).abs() <= 0.01 + 1e-6).all()


@every_chip
def test_costs_are_in_the_curves_where_there_are_any(data, name):
    trainer = trainer_of(data, name)
    trainer.run()
    first, last = trainer.progress.rows[0], trainer.progress.rows[-1]
    assert ("pulses" in last) == ("write" in CHIPS[name])
    assert ("energy_J" in last) == ("latency_s" in last) == ("costs" in CHIPS[name])
    for column in ("pulses", "energy_J"):
        assert column not in last or last[column] > first[column]
