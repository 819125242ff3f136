"""The loop: what is counted, what is recorded, when it stops, and that it learns."""

import math
from collections import Counter

import pytest
import torch

from analogsim.config import schema
from analogsim.config.loader import load_chip
from analogsim.contracts import Factors, LayerUpdate, Probe, WeightUpdate
from analogsim.training import oracle
from analogsim.training.build import build_trainer
from analogsim.training.data import Dataset, load_data

RULES = ("bp", "np", "anp", "inp", "dbp", "dnp", "danp", "dinp")
ROWS, BATCH = 13, 5  # 3 steps an epoch, the last of 3 rows


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(1)
    x, y = torch.rand(ROWS, 6, generator=generator), torch.arange(ROWS) % 4
    return Dataset("tiny", x, y, x[:7], y[:7], 1.0, 4)


def trainer_of(
    data, rule="danp", chip="ideal", seed=0, backend="torch", epochs=2, batch=BATCH, hidden=(5,), lr=1e-3,
    rate=1e-2, optimizer="adam", angle=False, own_learner=None, **learner,
):  # fmt: skip
    plan = schema.Experiment(
        data="digits",
        chip=load_chip(chip),
        network=schema.Network(hidden=hidden),
        learner=schema.LearnerSettings(rule=rule, **learner),
        decorrelation=schema.DecorrelationSettings(rate=rate),
        optimizer=schema.OptimizerSettings(name=optimizer, lr=lr),
        training=schema.TrainingSettings(epochs=epochs, batch=batch, angle=angle),
    ).resolved()
    return build_trainer(plan, data, seed, backend, learner=own_learner)


def bits(trainer):
    return {name: tensor.numpy().tobytes() for name, tensor in trainer.checkpoint().tensors.items()}


def curve(trainer):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in trainer.progress.rows]


class Recorder:
    """A learner that asks one pass, notes what it is told and changes nothing (or what it is given)."""

    def __init__(self, gradient=None):
        self.batches, self.inputs, self.gradient = [], [], gradient

    def ask(self, step, batch):
        self.batches.append((step, batch))
        return (Probe(),)

    def tell(self, activities, losses):
        assert not torch.is_grad_enabled()
        ((first, _),) = zip(activities, losses)
        self.inputs.append(first.inputs[0].clone())
        fill = self.gradient(len(self.inputs)) if self.gradient else 0.0
        return WeightUpdate(
            tuple(
                LayerUpdate(Factors(torch.full_like(a, fill), x), torch.full_like(a[0], fill))
                for a, x in zip(first.pre_activations, first.inputs)
            )
        )

    def state(self):
        return {}

    def load(self, state):
        pass


# Steps and batches


def test_every_row_once_an_epoch_the_last_batch_smaller_and_the_order_new(data):
    learner = Recorder()
    trainer = trainer_of(data, own_learner=learner)
    trainer.run()
    assert learner.batches == [(0, 5), (1, 5), (2, 3), (3, 5), (4, 5), (5, 3)]
    first, second = torch.cat(learner.inputs[:3]), torch.cat(learner.inputs[3:])
    rows = Counter(map(tuple, data.x_train.tolist()))
    assert Counter(map(tuple, first.tolist())) == Counter(map(tuple, second.tolist())) == rows
    assert not torch.equal(first, second)
    assert not torch.equal(first, data.x_train)


def test_the_training_loss_is_the_mean_over_rows_not_over_batches(data):
    """With weights that never change it equals the untrained loss, whatever the batches."""
    for batch in (1, 5, 13, 1000):
        trainer = trainer_of(data, own_learner=Recorder(), batch=batch)
        trainer.run()
        untrained, *others = (row["train_loss"] for row in trainer.progress.rows)
        assert others == pytest.approx([untrained] * 2, rel=1e-6)
        assert trainer.batches == -(-ROWS // batch)


def test_no_epochs_is_one_row_of_an_untrained_network(data):
    trainer = trainer_of(data, epochs=0)
    trainer.run()
    (row,) = trainer.progress.rows
    assert (row["epoch"], row["step"], row["reads"], row["status"]) == (0, 0, 0, "ok")
    assert trainer.progress.status == "ok"


def test_hooks_are_called_after_each_step_within_an_epoch_and_after_each_epoch(data):
    trainer, calls = trainer_of(data), []
    progress = trainer.progress
    trainer.run(
        after_step=lambda: calls.append((progress.epoch, progress.batches)),
        after_epoch=lambda: calls.append(progress.epoch - 1),
    )
    assert calls == [0, (1, 1), (1, 2), 1, (2, 1), (2, 2), 2]


PASSES = {  # rule, baseline, K -> passes an update, by hand; two layers
    ("bp", "clean", 1): 1,
    ("np", "clean", 1): 2,
    ("np", "noisy", 1): 2,
    ("anp", "clean", 1): 2,
    ("anp", "noisy", 3): 4,
    ("inp", "clean", 4): 9,
    ("inp", "noisy", 3): 12,
}


@pytest.mark.parametrize("prefix", ["", "d"])
@pytest.mark.parametrize("case", PASSES)
def test_reads_are_passes_times_rows_times_layers(data, prefix, case):
    """Evaluations, angles and warnings are not the training's and are not counted."""
    rule, baseline, samples = case
    trainer = trainer_of(data, prefix + rule, baseline=baseline, samples=samples, angle=True)
    trainer.run()
    an_epoch = PASSES[case] * ROWS * 2
    assert [row["reads"] for row in trainer.progress.rows] == [0, an_epoch, 2 * an_epoch]


def test_writes_are_cells_two_a_weight_in_differential_pairs(data):
    weights = 6 * 5 + 5 * 4
    for chip, cells in (("ideal", 1), ("crossbar-generic", 2)):
        trainer = trainer_of(data, "dbp", chip)
        trainer.run()
        assert [row["writes"] for row in trainer.progress.rows] == [cells * weights * (1 + n) for n in (0, 3, 6)]


# Looking does not touch


@pytest.mark.parametrize("chip", ["gaussian-node", "crossbar-generic"])
@pytest.mark.parametrize("rule", ["danp", "bp"])
def test_how_often_one_looks_changes_nothing(data, chip, rule):
    alone = trainer_of(data, rule, chip)
    alone.run()
    watched = trainer_of(data, rule, chip, angle=True)

    def look():
        watched._evaluate(oracle.evaluation_view(watched.chip), "test")
        watched._evaluate(oracle.evaluation_view(watched.chip), "train")
        watched._evaluate(oracle.noise_free_view(watched.chip), "test")
        watched.chip.view("doctor").noise_and_steps(data.x_test)
        watched.chip.view("doctor", noisy=False).saturated_shares(data.x_test)

    look()
    watched.run(lambda: look() or False, look, look)
    assert bits(watched) == bits(alone)
    assert watched.chip.ledger == alone.chip.ledger
    for one, other in zip(curve(watched), curve(alone)):
        assert one | {"angle_deg": None} == other


def test_an_evaluation_is_read_on_the_chip_and_the_ideal_one_is_not(data):
    trainer = trainer_of(data, chip="gaussian-node")
    one, again = (trainer._evaluate(oracle.evaluation_view(trainer.chip), "test") for _ in "ab")
    quiet = trainer._evaluate(oracle.noise_free_view(trainer.chip), "test")
    assert one == again
    assert one.loss != quiet.loss
    assert one.loss == pytest.approx(quiet.loss, rel=1e-2)


# Divergence


def losses_of(trainer, values):
    """Make every step's loss the next of `values`, and every evaluation's 1."""
    values = iter(values)
    step, now = trainer._step, [1.0]
    trainer.loss = lambda outputs, y: outputs.double().sum(1) * 0 + now[0]

    def scripted(*args, **kwargs):
        now[0] = next(values)
        result = step(*args, **kwargs)
        now[0] = 1.0
        return result

    trainer._step = scripted


@pytest.mark.parametrize(
    ("at", "bad"),
    [(0, 10.0001), (3, 10.0001), *((at, bad) for at in range(4) for bad in (200.0, math.inf, math.nan))],
)
def test_a_mean_loss_beyond_ten_times_the_untrained_stops_the_run(data, bad, at):
    """The mean over the epoch so far: each epoch has three batches."""
    trainer = trainer_of(data, own_learner=Recorder(), epochs=5)
    losses_of(trainer, [1.0] * at + [bad])
    trainer.run()
    epochs = at // 3 + 1
    assert [row["status"] for row in trainer.progress.rows] == ["ok"] * epochs + ["diverged"]
    assert [row["epoch"] for row in trainer.progress.rows] == list(range(epochs + 1))
    assert trainer.progress.rows[-1]["step"] == at + 1
    assert trainer.progress.status == "diverged"
    trainer.run()
    assert len(trainer.progress.rows) == epochs + 1


def test_one_odd_batch_among_good_ones_is_no_divergence(data):
    trainer = trainer_of(data, own_learner=Recorder(), epochs=1)
    losses_of(trainer, [1.0, 15.0, 1.0])
    trainer.run()
    assert trainer.progress.status == "ok"


def test_ten_times_the_untrained_loss_is_not_yet_diverged(data):
    trainer = trainer_of(data, own_learner=Recorder(), epochs=1)
    losses_of(trainer, [10.0] * 3)
    trainer.run()
    assert trainer.progress.status == "ok"
    assert trainer.progress.rows[-1]["train_loss"] == pytest.approx(10)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of what this is about
@pytest.mark.parametrize("chip", ["ideal", "gaussian-node", "crossbar-generic", "reram-es"])
@pytest.mark.parametrize("backend", ["numpy", "numba", "torch"])
@pytest.mark.parametrize("value", [math.nan, math.inf, 1e38])
def test_weights_gone_to_nan_or_infinity_end_as_diverged(data, chip, backend, value):
    learner = Recorder(lambda step: value if step == 2 else 0.0)
    trainer = trainer_of(data, chip=chip, backend=backend, own_learner=learner, optimizer="sgd", lr=1.0)
    trainer.run()
    assert [row["status"] for row in trainer.progress.rows] == ["ok", trainer.progress.status] == ["ok", "diverged"]
    assert trainer.progress.rows[0]["test_loss"] < 5


# Learning


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_learns_digits_in_an_epoch(rule):
    chip = "gaussian-node" if rule in ("bp", "dbp", "anp", "danp") else "ideal"
    trainer = trainer_of(load_data("digits"), rule, chip, batch=20, epochs=1, hidden=(32,), lr=3e-3)
    trainer.run()
    before, after = trainer.progress.rows
    assert after["test_loss"] < 0.9 * before["test_loss"]
    assert after["test_accuracy"] > before["test_accuracy"] + 0.1
