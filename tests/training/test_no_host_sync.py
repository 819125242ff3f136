"""A step on the torch backend asks nothing of the device: on a GPU, every number brought to the host is a wait.

Held on CPU tensors, by watching for what would wait there: numbers and arrays taken out of tensors, branches on
tensors, and operations whose result's shape depends on values.
"""

from collections import Counter

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from analogsim.config.loader import load_plan
from analogsim.training import loop
from analogsim.training.build import build_trainer
from analogsim.training.data import load_data

WAITING = ("_local_scalar_dense", "item", "nonzero", "masked_select", "is_nonzero", "equal", "unique_dim", "_unique2")
TAKING = ("item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__", "__array__")


class Operations(TorchDispatchMode):
    """Counts operations that wait, in C++ as in Python."""

    def __init__(self):
        super().__init__()
        self.waits = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name().removeprefix("aten::").split(".")[0]
        masked = name == "index" and any(i is not None and i.dtype == torch.bool for i in args[1])
        self.waits[name] += name in WAITING or masked
        return function(*args, **kwargs or {})


class Methods(TorchFunctionMode):
    """Counts calls that take values out of a tensor; on the CPU some reach no operation."""

    def __init__(self):
        super().__init__()
        self.waits = Counter()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        self.waits[name] += name in TAKING
        return function(*args, **kwargs or {})


def waits(trainer, steps=3):
    """What waited in these steps, by name."""
    rows = torch.arange(300).view(steps, -1)
    with Operations() as operations, Methods() as methods, loop.full_precision():
        for step in range(steps):
            trainer._step(rows[step], with_angle=False)
    return +(operations.waits + methods.waits)


def trainer_of(**changes):
    base = {"data": "digits", "chip": "gaussian-node", "network": {"hidden": [12, 9]}, "variants": {"one": changes}}
    return build_trainer(load_plan(base).variants["one"], load_data("digits"), 1, "torch")


CONVOLUTION = {"network.hidden": [], "network.layers": [{"conv": {"channels": 3, "kernel": 3}}, {"dense": 8}]}
STEPS = {
    "danp": {},
    "danp, many samples": {"learner.samples": 5},
    "danp, convolution": CONVOLUTION,
    "danp, a subset for R": {"decorrelation.samples": 40},
    "danp, R in every other step": {"decorrelation.every": 2},
    "dbp": {"learner.rule": "dbp"},
    "dnp, perturbed twice": {"chip": "ideal", "learner.rule": "dnp", "learner.baseline": "noisy"},
    "dinp": {"chip": "ideal", "learner.rule": "dinp"},
    "anp, sgd": {"learner.rule": "anp", "optimizer.name": "sgd"},
}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_waits_for_nothing(name):
    assert waits(trainer_of(**STEPS[name])) == {}


def asks_a_number(trainer, monkeypatch):
    tell = trainer.learner.rule.tell

    def bug(activities, losses):
        update = tell(activities, losses)
        return update if float(update.layers[0].bias.sum()) < 1e9 else None

    monkeypatch.setattr(type(trainer.learner.rule), "tell", lambda self, *told: bug(*told))


def branches_on_a_tensor(trainer, monkeypatch):
    step = trainer.optimizer.step
    monkeypatch.setattr(trainer.optimizer, "step", lambda update: step(update) if update.layers[0].bias.any() else None)


def picks_by_a_mask(trainer, monkeypatch):
    loss = trainer.loss
    monkeypatch.setattr(trainer, "loss", lambda outputs, y: (outputs[y > 3], loss(outputs, y))[1])


def takes_a_list(trainer, monkeypatch):
    loss = trainer.loss
    monkeypatch.setattr(trainer, "loss", lambda outputs, y: (y.tolist(), loss(outputs, y))[1])


WAIT_BUGS = {
    "a learner asks a number": asks_a_number,
    "a branch on a tensor": branches_on_a_tensor,
    "rows picked by a mask": picks_by_a_mask,
    "a list of a tensor's values": takes_a_list,
}


@pytest.mark.parametrize("bug", WAIT_BUGS)
def test_the_watch_catches(bug, monkeypatch):
    trainer = trainer_of()
    WAIT_BUGS[bug](trainer, monkeypatch)
    assert waits(trainer)


# --- losses looked at now and then ------------------------------------------------------------------


def rows_of(trainer):
    trainer.run()
    return [{name: value for name, value in row.items() if name != "seconds"} for row in trainer.progress.rows]


def test_losses_looked_at_once_an_epoch_give_the_same_curve(monkeypatch):
    changes = {"training.epochs": 2, "training.batch": 300}
    expected = rows_of(trainer_of(**changes))
    monkeypatch.setattr(loop.Trainer, "_looks", lambda self, batches: False)
    found = rows_of(trainer_of(**changes))
    assert len(found) == 3
    for row, right in zip(found, expected):
        assert row.pop("train_loss") == pytest.approx(right.pop("train_loss"), rel=1e-12)
        assert row == right


def test_a_checkpoint_holds_losses_that_were_not_looked_at_yet(monkeypatch):
    monkeypatch.setattr(loop.Trainer, "_looks", lambda self, batches: False)
    trainer = trainer_of(**{"training.batch": 300})
    trainer.run(stop=lambda: trainer.progress.step == 2)
    assert trainer.progress.loss_sum == 0
    record = trainer.checkpoint().record
    assert record["loss_sum"] / record["seen"] == pytest.approx(2.5, rel=0.3)
    assert (record["seen"], record["batches"]) == (600, 2)
