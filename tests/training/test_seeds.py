"""Seeds trained together come to what each comes to alone: curves, states and ledgers, bit for bit."""

import numpy as np
import pytest
import torch

from analogsim.chip.side_by_side import ChipsSideBySide
from analogsim.config.loader import Override, load_plan
from analogsim.experiment.threads import threads_limited
from analogsim.learners.side_by_side import SideBySide
from analogsim.network import Network
from analogsim.training import optimizer, seeds
from analogsim.training.build import build_trainer
from analogsim.training.data import Dataset
from analogsim.training.seeds import seeds_at_once, train_together

ROWS, SIDE = 70, 5  # 25 inputs and 70 rows: no size here is a whole number of vector registers
BASE = {
    "data": "digits",
    "chip": "ideal",
    "network": {"hidden": [12, 9]},
    "training": {"epochs": 2, "batch": 32},
    "seeds": 3,
}
CASES = {
    "danp": {"learner.rule": "danp", "chip": "gaussian-node"},
    "anp": {"learner.rule": "anp", "chip": "gaussian-node"},
    "three samples": {"learner.rule": "danp", "learner.samples": 3, "chip": "gaussian-node"},
    "folded": {"learner.rule": "danp", "chip": "gaussian-node", "training.batch": 70, "network.hidden": [30, 9]},
    "folded, clean": {
        "learner.rule": "dnp",
        "learner.perturbation": 0.01,
        "training.batch": 70,
        "network.hidden": [30, 9],
    },
    "dnp, noisy": {"learner.rule": "dnp", "learner.baseline": "noisy", "learner.perturbation": 0.01},
    "dnp, both": {
        "learner.rule": "dnp",
        "learner.baseline": "noisy",
        "learner.perturbation": 0.01,
        "learner.difference": "both",
    },
    "np, clean": {"learner.rule": "np", "learner.perturbation": 0.01},
    "danp, clean": {"learner.rule": "danp", "learner.perturbation": 0.01},
    "dinp": {"learner.rule": "dinp", "learner.perturbation": 0.01},
    "inp, noisy": {"learner.rule": "inp", "learner.baseline": "noisy", "learner.perturbation": 0.01},
    "dbp": {"learner.rule": "dbp", "chip": "gaussian-node"},
    "bp, no noise": {"learner.rule": "bp"},
    "sgd": {"learner.rule": "dbp", "optimizer.name": "sgd", "optimizer.momentum": 0.9},
    "angle": {"learner.rule": "danp", "chip": "gaussian-node", "training.angle": True},
    "subset": {"learner.rule": "danp", "chip": "gaussian-node", "decorrelation.samples": 10},
    "every third": {"learner.rule": "danp", "chip": "gaussian-node", "decorrelation.every": 3},
    "no bias": {"learner.rule": "danp", "chip": "gaussian-node", "network.bias": False},
    "crossbars": {"learner.rule": "danp", "chip": "crossbar-generic"},
    "pulses": {"learner.rule": "bp", "chip": "capacitor", "optimizer.name": "on_chip"},
    "convolution": {
        "learner.rule": "danp",
        "chip": "gaussian-node",
        "network.hidden": [],
        "network.layers": [{"conv": {"channels": 3, "kernel": 3}}, {"dense": 6}],
    },
}


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(5)
    y = torch.from_numpy(rng.integers(0, 3, ROWS))
    x = torch.from_numpy(rng.normal(size=(ROWS, SIDE, SIDE)).astype(np.float32)) + y[:, None, None]
    return Dataset("small", x, y, x[:20], y[:20], 1.0, 3)


def trainers(data, case, backend="auto"):
    (experiment,) = load_plan(BASE, [Override(key, value, "test") for key, value in case.items()]).variants.values()
    return [build_trainer(experiment, data, seed, backend) for seed in experiment.seeds]


def nothing():
    pass


def together(ones, stop=lambda: False):
    with threads_limited(1):
        train_together(ones, stop, [nothing] * len(ones), [nothing] * len(ones))
    return [result(one) for one in ones]


def alone(ones):
    with threads_limited(1):
        for one in ones:
            one.run()
    return [result(one) for one in ones]


def result(trainer):
    """All but the time it took."""
    saved = trainer.checkpoint()
    rows = [{name: value for name, value in row.items() if name != "seconds"} for row in saved.record["rows"]]
    state = {name: (tensor.shape, tensor.numpy().tobytes()) for name, tensor in saved.tensors.items()}
    return repr(saved.record | {"seconds": None, "rows": rows}), state  # text: NaN equals itself


@pytest.mark.parametrize("case", CASES)
def test_every_seed_comes_to_what_it_comes_to_alone(data, case):
    expected = alone(trainers(data, CASES[case]))
    assert together(trainers(data, CASES[case])) == expected
    assert len({row for row, _ in expected}) == 3


@pytest.mark.parametrize(("case", "steps"), [("danp", 6), ("dnp, noisy", 6), ("three samples", 0), ("crossbars", 0)])
def test_which_chips_are_read_side_by_side(data, monkeypatch, case, steps):
    read, original = [], ChipsSideBySide._plainly
    monkeypatch.setattr(ChipsSideBySide, "_plainly", lambda *asked: read.append(1) or original(*asked))
    together(trainers(data, CASES[case]))
    assert len(read) == steps


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_on_other_backends(data, backend):
    case = CASES["danp"]
    assert together(trainers(data, case, backend)) == alone(trainers(data, case, backend))


DIVERGING = {"learner.rule": "danp", "chip": "gaussian-node", "chip.node_noise.sigma": 0.1, "training.epochs": 6}


def test_a_seed_that_diverges_leaves_the_others_as_they_are(data):
    """Of eight seeds some diverge and some do not, at steps of their own."""
    case = DIVERGING | {"optimizer.lr": 0.3, "seeds": 8}
    ones = trainers(data, case)
    expected = alone(trainers(data, case))
    assert together(ones) == expected
    ended = {(one.progress.status, one.progress.step) for one in ones}
    assert {status for status, _ in ended} == {"ok", "diverged"}
    assert len(ended) > 2


def test_all_stop_between_two_steps_and_go_on_alone(data):
    case = CASES["danp"]
    asked = []

    def stop():
        asked.append(1)
        return len(asked) > 8  # in the third round, after two of the three seeds were asked

    ones = trainers(data, case)
    together(ones, stop)
    assert [one.progress.step for one in ones] == [3, 3, 2]
    again = trainers(data, case)
    for one, stopped in zip(again, ones):
        one.load(stopped.checkpoint())
    assert alone(again) == alone(trainers(data, case))


def _swapped(self, x, probes, original=ChipsSideBySide.passes):
    activities, inputs = original(self, x, probes)
    return activities, inputs[::-1]


def _others_update(optimizers, gradients, original=optimizer.step_together):
    return original(optimizers, [gradients[-1], *gradients[:-1]])


def _means_over_all(self, activities, losses, inputs, original=SideBySide.tell):
    updates = original(self, activities, losses, inputs)
    return [updates[0]] * len(updates)


BUGS = {
    "x* of another seed": (ChipsSideBySide, "passes", _swapped),
    "gradient of another seed": (seeds, "step_together", _others_update),
    "one update for all": (SideBySide, "tell", _means_over_all),
}


@pytest.mark.parametrize("bug", BUGS)
def test_training_together_catches_seeds_mixed_up(data, monkeypatch, bug):
    expected = alone(trainers(data, CASES["danp"]))
    monkeypatch.setattr(*BUGS[bug])
    assert together(trainers(data, CASES["danp"])) != expected


@pytest.mark.parametrize("kind", ["chip", "shuffle", "perturbation"])
def test_two_seeds_with_one_stream_are_caught(data, kind):
    case = CASES["dnp, noisy"] if kind == "perturbation" else CASES["danp"]
    expected = alone(trainers(data, case))
    ones = trainers(data, case)
    if kind == "chip":
        first, second = (one.chip._crossbars[0] for one in ones[:2])
        second._stream = first._stream
        second._make_tiles()  # it is they that draw
    elif kind == "shuffle":
        ones[1].shuffle = ones[0].shuffle
    else:
        object.__setattr__(ones[1].learner.rule, "perturbation", ones[0].learner.rule.perturbation)
    got = together(ones)
    assert (got[0], got[2]) == (expected[0], expected[2])
    assert got[1] != expected[1]


def test_time_is_shared_out(data):
    ones = trainers(data, CASES["danp"])
    assert ones[0].together == 1
    together(ones)
    assert {one.together for one in ones} <= {1, 2, 3}
    assert all(one.progress.seconds > 0 for one in ones)


def test_memory_says_how_many_seeds_go_together():
    (experiment,) = load_plan(BASE).variants.values()
    assert seeds_at_once(experiment, Network.dense(64, (128,), 10)) > 100
    assert 1 < seeds_at_once(experiment, Network.dense(784, (500,), 10)) < 20
    assert seeds_at_once(experiment, Network.dense(3072, (4000, 4000), 10)) == 1
