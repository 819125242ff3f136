"""A step told as it is run: the same training, however few passes fit side by side, and few of them alive."""

from itertools import chain, tee
from weakref import WeakSet

import pytest
import torch

from analogsim.chip import passes as passes_module
from analogsim.config import schema
from analogsim.config.loader import load_chip
from analogsim.contracts import Activities
from analogsim.training import loop
from analogsim.training.build import build_trainer
from analogsim.training.data import Dataset
from analogsim.training.loop import side_by_side

ROWS, BATCH, SAMPLES = 12, 6, 30


def trainer_of(rule="danp", chip="gaussian-node", **learner):
    generator = torch.Generator().manual_seed(1)
    x, y = torch.rand(ROWS, 6, generator=generator), torch.arange(ROWS) % 4
    plan = schema.Experiment(
        data="digits",
        chip=load_chip(chip),
        network=schema.Network(hidden=(5,)),
        learner=schema.LearnerSettings(rule=rule, samples=SAMPLES, **learner),
        training=schema.TrainingSettings(epochs=2, batch=BATCH),
    ).resolved()
    return build_trainer(plan, Dataset("tiny", x, y, x, y, 1.0, 4), 0, "numpy")


class Told:
    """A learner that notes of what kind it was told."""

    def __init__(self, learner):
        self.learner, self.kinds, self.ask, self.state = learner, [], learner.ask, learner.state

    def tell(self, activities, losses):
        self.kinds.append((isinstance(activities, tuple), isinstance(losses, tuple)))
        return self.learner.tell(activities, losses)


@pytest.mark.parametrize(("rule", "chip"), [("np", "ideal"), ("inp", "ideal"), ("anp", "gaussian-node")])
@pytest.mark.parametrize("prefix", ["", "d"])
def test_the_training_is_the_same(rule, chip, prefix, monkeypatch):
    """All passes told at once, or one by one as they are run: to rounding."""
    ends = []
    for size, at_once in ((2**40, True), (1, False)):
        monkeypatch.setattr(passes_module, "STACKED_BYTES", size)
        trainer = trainer_of(prefix + rule, chip)
        if not prefix:  # the loop asks a decorrelated learner for its matrices
            trainer.learner = Told(trainer.learner)
        trainer.run()
        if not prefix:
            assert trainer.learner.kinds == [(at_once, at_once)] * 4
        ends.append(trainer)
    for one, two in zip(*(trainer.chip.weights for trainer in ends)):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
    one, two = (trainer.progress.rows[-1] for trainer in ends)
    assert one["train_loss"] == pytest.approx(two["train_loss"], rel=1e-5)
    assert one["train_accuracy"] == two["train_accuracy"]
    assert vars(ends[0].chip.ledger) == vars(ends[1].chip.ledger)


def most_alive(monkeypatch):
    alive, most = WeakSet(), [0]

    class Held(Activities):
        __hash__, __eq__ = object.__hash__, object.__eq__

        def __init__(self, *parts):
            super().__init__(*parts)
            alive.add(self)
            most[0] = max(most[0], len(alive))

    monkeypatch.setattr(passes_module, "Activities", Held)
    monkeypatch.setattr(passes_module, "STACKED_BYTES", 1)
    trainer_of("danp").run()
    return most[0]


def test_few_of_thirty_passes_are_alive_at_once(monkeypatch):
    """The first, the one just run, and one or two that the rule at work has yet to let go."""
    assert most_alive(monkeypatch) <= 4


def by_tee(passes):
    one, other = tee(passes)
    return (told for told, _ in one), (losses for _, losses in other)


def test_passes_that_are_held_would_show(monkeypatch):
    """itertools.tee lets go of 57 at a time."""
    monkeypatch.setattr(loop, "side_by_side", by_tee)
    assert most_alive(monkeypatch) == 1 + SAMPLES


# In whatever order a learner goes through them

ORDERS = {"in turn": "al" * 5, "activities first": "aaaaalllll", "losses first": "lllllaaaaa", "mixed": "aalllaaall"}


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_either_is_whole_and_run_once(order):
    run = []

    def passes():
        for number in range(5):
            run.append(number)
            yield f"a{number}", f"l{number}"

    activities, losses = side_by_side(passes())
    read = {"a": activities, "l": losses}
    seen = [next(read[which]) for which in order]
    assert [name for name in seen if name[0] == "a"] == [f"a{number}" for number in range(5)]
    assert [name for name in seen if name[0] == "l"] == [f"l{number}" for number in range(5)]
    assert run == [0, 1, 2, 3, 4]
    assert list(chain(activities, losses)) == []


def test_none_is_run_before_it_is_come_to():
    run = []
    activities, losses = side_by_side((run.append(number), number) for number in range(3))
    assert run == []
    next(losses), next(losses)
    assert run == [0, 1]
    next(activities)
    assert run == [0, 1]
