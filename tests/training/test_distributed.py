"""A training split over processes is the training of one process, to rounding.

Most of it is held in one process: threads whose sums meet at a barrier. What torchrun adds (processes, gloo,
folders, signals, errors) is in tests/experiment/test_torchrun.py.
"""

import threading
from dataclasses import replace
from functools import cache

import pytest
import torch
import torch.distributed as dist

from analogsim.config.loader import load_plan
from analogsim.errors import ArgumentError, ProcessesError
from analogsim.training.build import build_trainer
from analogsim.training.data import load_data
from analogsim.training.distributed import ALONE, Team, check_shared, shared_out

ROUNDING = 1e-5  # of a figure; float32 sums in another order, over six steps
MEETING_S = 120

CONVOLUTION = {"conv": {"channels": 3, "kernel": 3, "stride": 2}}
CASES = {
    "danp, noisy nodes": {},
    "danp, converters and noisy cells, with its angle": {"chip": "crossbar-generic", "training.angle": True},
    "danp, R of the first 40 rows": {"decorrelation.samples": 40},
    "danp, R in every third step": {"decorrelation.every": 3},
    "danp, R on crossbars": {"chip": {"name": "mixed", "node_noise": {"sigma": 1e-2}, "decorrelation": "on_chip"}},
    "dnp, perturbed twice": {"chip": "ideal", "learner.rule": "dnp", "learner.baseline": "noisy", "learner.samples": 2},
    "dinp": {"chip": "ideal", "learner.rule": "dinp"},
    "dbp": {"learner.rule": "dbp"},
    "convolution": {"network.hidden": [], "network.layers": [CONVOLUTION, {"dense": 8}]},
    "1/f noise and drift": {"chip": "pcm-nandakumar", "learner.rule": "anp"},
    "pulses from factors": {"chip": "reram-es", "learner.rule": "bp", "optimizer": {"name": "on_chip", "lr": 0.01}},
    "regression": {"training.loss": "mse"},
}
OWN = {"chip": "ideal", "learner.baseline": "clean"}  # perturbations of the learner's
TIMED = {"chip": "pcm-nandakumar", "learner.rule": "anp"}
PRICES = {"read_J": 1e-9, "read_s": 1e-7, "conversion_J": 1e-12, "conversion_s": 1e-9}
SAMPLES_CASES = {
    "danp, noisy nodes": {"learner.samples": 7},
    "danp, converters and noisy cells, with its angle": {"chip": "crossbar-generic", "training.angle": True},
    "danp, R of the first 40 rows": {"decorrelation.samples": 40},
    "danp, R on crossbars": {"chip": {"name": "mixed", "node_noise": {"sigma": 1e-2}, "decorrelation": "on_chip"}},
    "np": OWN | {"learner.rule": "np"},
    "dnp, perturbed twice": {"chip": "ideal", "learner.rule": "dnp", "learner.baseline": "noisy"},
    "inp": OWN | {"learner.rule": "inp"},
    "dinp, twins": {"chip": "ideal", "learner.rule": "dinp", "learner.baseline": "noisy"},
    "convolution": {"network.hidden": [], "network.layers": [CONVOLUTION, {"dense": 8}]},
    "1/f noise and drift": TIMED,
    "1/f noise, passes of a vector in a row": TIMED
    | {"chip": {"name": "pcm-nandakumar", "pass_schedule": "interleaved"}},
    "pulses from factors": {"chip": "reram-es", "learner.rule": "anp", "optimizer": {"name": "on_chip", "lr": 0.01}},
    "joules and seconds": {"chip": {"name": "priced", "node_noise": {"sigma": 1e-2}, "costs": PRICES}},
    "a batch of fewer rows than processes": {"training.split": "auto", "training.batch": 229},
}
SAMPLES_CASES = {
    name: {"learner.samples": 4, "training.split": "samples"} | case for name, case in SAMPLES_CASES.items()
}


@cache
def digits(regression=False):
    """230 rows to train on: batches of 100, 100 and 30."""
    data = load_data("digits")
    data = replace(data, x_train=data.x_train[:230], y_train=data.y_train[:230], x_test=data.x_test[:75])
    data = replace(data, y_test=data.y_test[:75])
    if not regression:
        return data
    targets = (torch.nn.functional.one_hot(y, 10).float() for y in (data.y_train, data.y_test))
    return replace(data, **dict(zip(("y_train", "y_test"), targets)))


def experiment(changes):
    base = {"data": "digits", "chip": "gaussian-node", "network": {"hidden": [12]}, "decorrelation": {"rate": 1e-2}}
    return load_plan(base | {"training": {"epochs": 2, "batch": 100}, "variants": {"one": changes}}).variants["one"]


class Meeting:
    """Where threads leave a tensor each and find what all of them left."""

    def __init__(self, size):
        self.left, self.barrier = [None] * size, threading.Barrier(size, timeout=MEETING_S)

    def reduced(self, rank, tensor, how):
        self.left[rank] = tensor.clone()
        self.barrier.wait()
        together = torch.stack(self.left)
        self.barrier.wait()
        return together.sum(0) if how == dist.ReduceOp.SUM else together.aminmax(dim=0)[how == dist.ReduceOp.MAX]


class Threads(Team):
    """A process of a team, in a thread."""

    def __init__(self, rank, size, meeting):
        super().__init__(rank, size)
        self.meeting = meeting

    def _reduced(self, tensor, how):
        return tensor.copy_(self.meeting.reduced(self.rank, tensor, how))


def trained(changes, size=1, kind=Threads):
    """The trainers of all processes after 2 epochs."""
    data, asked = digits(changes.get("training.loss") == "mse"), experiment(changes)
    meeting, trainers, errors = Meeting(size), [None] * size, []

    def train(rank):
        try:
            team = ALONE if size == 1 else kind(rank, size, meeting)
            trainers[rank] = build_trainer(asked, data, 3, "torch", team=team)
            trainers[rank].run()
        except Exception as error:
            errors.append(error)
            meeting.barrier.abort()

    threads = [threading.Thread(target=train, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise next((error for error in errors if not isinstance(error, threading.BrokenBarrierError)), errors[0])
    return trainers


@cache
def alone(case, cases="rows"):
    return trained((CASES if cases == "rows" else SAMPLES_CASES)[case])[0]


def check_same(trainer, expected):
    """Figures of every epoch and the state at the end; counts and accuracies are equal, all else to rounding."""
    assert len(trainer.progress.rows) == len(expected.progress.rows) == 3
    for row, right in zip(trainer.progress.rows, expected.progress.rows):
        assert row.keys() == right.keys()
        for name in row.keys() - {"seconds"}:
            close = isinstance(right[name], float) and "accuracy" not in name
            assert row[name] == (pytest.approx(right[name], rel=ROUNDING) if close else right[name]), name
    state, right = trainer.checkpoint().tensors, expected.checkpoint().tensors
    assert state.keys() == right.keys()
    for name in state:
        torch.testing.assert_close(state[name], right[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size", [2, 3])
def test_processes_train_as_one_does(case, size):
    for trainer in trained(CASES[case], size):
        check_same(trainer, alone(case))


@pytest.mark.parametrize("case", SAMPLES_CASES)
@pytest.mark.parametrize("size", [2, 3])
def test_processes_with_samples_of_their_own_train_as_one_does(case, size):
    for trainer in trained(SAMPLES_CASES[case], size):
        check_same(trainer, alone(case, "samples"))


# --- planted bugs ---------------------------------------------------------------------------------


class SamplesFromNought(Threads):
    """Every process takes its samples for the batch's first."""

    def take(self, whole):
        mine = super().take(whole)
        self.first = 0
        return mine


class SamplesOfTheOther(Threads):
    """Two processes, each with the other's noise."""

    def take(self, whole):
        mine = super().take(whole)
        self.first = 0 if self.first else whole - self.rows
        return mine


class EveryPartWeighsTheSame(Threads):
    def mean(self, update, factored=False):
        self.rows, rows = self.whole / self.size, self.rows
        update = super().mean(update, factored)
        self.rows = rows
        return update


class GradientsNotShared(Threads):
    def mean(self, update, factored=False):
        return update


class OwnCovariance(Threads):
    """R of this process's rows: nothing else is a matrix as large as the layer's input is wide."""

    def sum(self, tensor):
        return tensor if tensor.shape == (12, 12) else super().sum(tensor)


class OwnRowsTakeTime(Threads):
    """The clock counts this process's rows alone."""

    def take(self, whole):
        mine = super().take(whole)
        self.whole = self.rows
        return mine


class OwnReadsCounted(Threads):
    def count(self, chip, before):
        pass


class PassesFromNought(Threads):
    """Every process takes its passes for the step's first: the same noise in all. Reads and time are right."""

    def begin(self, whole):
        mine = super().begin(whole)
        self.right, self.skipped = self.skipped, self.wrong(self.skipped)
        return mine

    def wrong(self, skipped):
        return 0

    def count(self, chip, before):
        chip.skip(self.right - self.skipped)
        self.skipped = self.right
        super().count(chip, before)


class PassesOneBefore(PassesFromNought):
    """The last pass of a process is the first of the next."""

    def wrong(self, skipped):
        return max(skipped - 1, 0)


class OwnPassesTakeTime(Threads):
    """The time of the passes that others run at a step's end does not go by."""

    def count(self, chip, before):
        chip.skip = lambda passes: None
        super().count(chip, before)
        del chip.skip


class EveryMeanWeighsTheSame(Threads):
    """The mean over a process's samples, however many they are."""

    def mean(self, update, factored=False):
        self.samples_of = lambda samples: samples / self.size
        update = super().mean(update, factored)
        del self.samples_of
        return update


class FirstPassByAll(Threads):
    """Losses of the first pass, which all have run, are added up."""

    totals = Threads.sums


class FirstPassCountedByAll(Threads):
    """Reads are added up, those of the first pass too."""

    def count(self, chip, before):
        if before is not None:
            own = self._passes.before(self._part(self._passes.samples).stop) - self.skipped
            chip.ledger.share(before, own, self._passes.before(self._passes.samples) + self.size - 1)


class DecorrelatedByAll(Threads):
    """Each process takes the batch for its own rows of one as much larger, and adds up."""

    share_of_rows = Threads.share


TEAM_BUGS = {
    "sample numbers begin at 0 in every process": (SamplesFromNought, "danp, noisy nodes"),
    "a learner's sample numbers begin at 0 in every process": (SamplesFromNought, "dnp, perturbed twice"),
    "processes with each other's sample numbers": (
        SamplesOfTheOther,
        "danp, converters and noisy cells, with its angle",
    ),
    "parts of a batch weigh alike whatever their size": (EveryPartWeighsTheSame, "dbp"),
    "gradients of one's own rows": (GradientsNotShared, "danp, noisy nodes"),
    "decorrelation of one's own rows": (OwnCovariance, "danp, noisy nodes"),
    "time of one's own rows": (OwnRowsTakeTime, "1/f noise and drift"),
    "reads of one's own rows": (OwnReadsCounted, "danp, noisy nodes"),
}
SAMPLES_BUGS = {
    "passes begin at 0 in every process": (PassesFromNought, "danp, noisy nodes"),
    "a learner's passes begin at 0 in every process": (PassesFromNought, "np"),
    "passes of a layer at a time begin at 0 in every process": (PassesFromNought, "inp"),
    "a process begins with the last pass of the one before": (PassesOneBefore, "danp, noisy nodes"),
    "a process's twins begin with the last of the one before": (PassesOneBefore, "dinp, twins"),
    "time of one's own passes": (OwnPassesTakeTime, "1/f noise and drift"),
    "means over samples weigh alike however many": (EveryMeanWeighsTheSame, "danp, noisy nodes"),
    "gradients of one's own samples": (GradientsNotShared, "danp, noisy nodes"),
    "losses of the first pass from every process": (FirstPassByAll, "danp, noisy nodes"),
    "reads of one's own passes": (OwnReadsCounted, "danp, noisy nodes"),
    "reads of the first pass from every process": (FirstPassCountedByAll, "danp, noisy nodes"),
    "decorrelation summed over processes that have all rows": (DecorrelatedByAll, "danp, noisy nodes"),
}


@pytest.mark.parametrize("bug", SAMPLES_BUGS)
def test_the_comparison_of_samples_catches(bug):
    kind, case = SAMPLES_BUGS[bug]
    with pytest.raises((AssertionError, ProcessesError)):
        check_same(trained(SAMPLES_CASES[case], 3, kind)[0], alone(case, "samples"))


@pytest.mark.parametrize("bug", TEAM_BUGS)
def test_the_comparison_catches(bug):
    kind, case = TEAM_BUGS[bug]
    size = 2 if kind is SamplesOfTheOther else 3
    with pytest.raises((AssertionError, ProcessesError)):  # chips that drift apart are found on the way
        check_same(trained(CASES[case], size, kind)[0], alone(case))


# --- a team's own ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("whole", [0, 1, 6, 7, 100, 101])
def test_parts_are_the_batch_in_order_and_of_one_size(size, whole):
    parts = [Team(rank, size).take(whole) for rank in range(size)]
    assert [row for part in parts for row in range(part.start, part.stop)] == list(range(whole))
    lengths = [part.stop - part.start for part in parts]
    assert max(lengths) - min(lengths) <= 1


def test_a_batch_smaller_than_the_team_is_refused():
    data = digits()
    check_shared([(experiment({}), data)], Team(0, 30))
    with pytest.raises(ProcessesError, match=r"training.batch: 100 makes a batch of 30 rows of the 230 of digits, too"):
        check_shared([(experiment({}), data)], Team(0, 31))
    check_shared([(experiment({"training.batch": 1}), data)], ALONE)


def test_rows_are_shared_out_where_there_are_enough_and_samples_elsewhere():
    for changes, size, by_rows in (
        ({"learner.samples": 40}, 30, True),
        ({"learner.samples": 40}, 31, False),
        ({"learner.samples": 40, "training.split": "samples"}, 2, False),
        ({"learner.samples": 40, "training.split": "batch"}, 30, True),
        ({"learner.rule": "bp"}, 30, True),
        ({"training.split": "samples"}, 1, True),
    ):
        asked = experiment(changes)
        check_shared([(asked, digits())], Team(0, size))
        team = shared_out(Team(0, size), asked, digits(), 2)
        assert (team.share is team.share_of_rows) == by_rows


@pytest.mark.parametrize(
    ("changes", "size", "message"),
    [
        ({"training.split": "samples"}, 2, r"samples, and learner.samples: 1 are too few for 2 processes; allowed: 2"),
        (
            {"training.split": "samples", "learner.rule": "dbp"},
            2,
            "samples, and rule dbp has none for 2 processes; all",
        ),
        ({"training.split": "batch", "learner.samples": 40}, 31, "31 rows or more, or fewer processes$"),
        ({"learner.samples": 30}, 31, "31 rows or more, 31 learner.samples or more, or fewer processes$"),
        ({"learner.rule": "bp"}, 31, "31 rows or more, or fewer processes$"),
    ],
)
def test_what_no_split_can_share_out_is_refused(changes, size, message):
    with pytest.raises(ProcessesError, match=message):
        check_shared([(experiment(changes), digits())], Team(1, size))


def test_noise_that_goes_on_from_sample_to_sample_is_refused():
    asked = experiment({"chip": "smtj-node"})
    check_shared([(asked, digits())], ALONE)
    with pytest.raises(ProcessesError, match=r"^chip smtj-node: node_noise.telegraph goes on .* allowed: one process$"):
        check_shared([(asked, digits())], Team(1, 2))


def test_a_team_takes_a_gpu_a_process():
    assert [Team(1, 2, 1).device(name) for name in ("cpu", "cuda")] == ["cpu", "cuda:1"]
    assert ALONE.device("cuda:1") == "cuda:1"
    with pytest.raises(ArgumentError, match="device: 'cuda:1' is not allowed; allowed: cpu or cuda where several"):
        Team(1, 2, 1).device("cuda:1")
