"""A step on the torch backend asks nothing of the device: on a GPU, every number brought to the host is a wait.

Held on CPU tensors, by watching for what would wait there: numbers and arrays taken out of tensors, branches on
tensors, and operations whose result's shape depends on values; and on meta tensors, which have no values to look at.
What a chip does with its cells where nothing is at hand (at_hand.py) is held to the very bits of what it does on the
host.
"""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from analogsim import at_hand
from analogsim.at_hand import Picked
from analogsim.chip import crossbar
from analogsim.config.loader import bundled, load_chip, load_plan
from analogsim.training import loop
from analogsim.training.build import build_trainer
from analogsim.training.data import load_data
from analogsim.training.distributed import ALONE, Team

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
        out = function(*args, **kwargs or {})
        sent = name in ("_to_copy", "copy_") and out.is_meta and not args[name == "copy_"].is_meta
        self.waits["from host to device"] += sent
        return out


class Methods(TorchFunctionMode):
    """Counts calls that take values out of a tensor; on the CPU some reach no operation."""

    def __init__(self):
        super().__init__()
        self.waits = Counter()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        self.waits[name] += name in TAKING
        return function(*args, **kwargs or {})


def waits(trainer, steps=3, batch=100):
    """What waited in these steps, by name."""
    rows = torch.arange(steps * batch).view(steps, batch)
    with Operations() as operations, Methods() as methods, loop.full_precision():
        for step in range(steps):
            trainer._step(rows[step], with_angle=False)
    return +(operations.waits + methods.waits)


def trainer_of(device="cpu", team=ALONE, **changes):
    base = {"data": "digits", "chip": "gaussian-node", "network": {"hidden": [12, 9]}, "variants": {"one": changes}}
    data = load_data("digits")
    data = replace(data, x_train=data.x_train.to(device), y_train=data.y_train.to(device))
    return build_trainer(load_plan(base).variants["one"], data, 1, "torch", device, team=team)


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


# --- chips with cells -------------------------------------------------------------------------------

CHIPS = sorted(path.stem for path in bundled("devices").glob("*.yaml"))
PULSED = [name for name in CHIPS if load_chip(name).write.mode == "pulsed"]
ROUNDS = "a write takes as many rounds of pulses as the cell with most gets, and nobody knows how many ahead"
STILL_WAITING = dict.fromkeys(PULSED, ROUNDS)  # once a write of a layer

NANDAKUMAR, GENERIC, CMO = {"chip": "pcm-nandakumar"}, {"chip": "crossbar-generic"}, {"chip": "reram-cmo"}
SMALL_TILES = {"chip.tile.rows": 20, "chip.tile.columns": 8}
VARIANTS = {
    "column": GENERIC | SMALL_TILES | {"chip.cell.weight_scale": "column"},
    "tile": GENERIC | SMALL_TILES | {"chip.cell.weight_scale": "tile"},
    "verified, column": NANDAKUMAR | SMALL_TILES | {"chip.cell.weight_scale": "column"},
    "verified, tile": NANDAKUMAR | SMALL_TILES | {"chip.cell.weight_scale": "tile"},
    "fixed range": NANDAKUMAR | {"chip.cell.weight_max": 0.3},
    "tries": NANDAKUMAR | {"chip.write.tolerance_uS": 0.5, "chip.write.max_tries": 5},
    "clipped": NANDAKUMAR | {"chip.cell.programming_clip": "range", "chip.cell.g_max_d2d": 0.1},
    "ideal write": NANDAKUMAR | {"chip.write": {"mode": "ideal"}},
    "faults": CMO | {"chip.cell.g_max_d2d": 0.1, "chip.cell.faults.stuck_low": 0.01},
    "offset": GENERIC | {"chip.cell.mapping": "offset", "chip.adc.bound": "calibrated"},
    "alike": GENERIC | {"chip.cell.read_noise": {"law": "constant", "sigma_uS": 0.5}, "chip.adc.noise": 0.1},
    "alike, no DAC": GENERIC | {"chip.dac": None, "chip.cell.read_noise": None, "chip.adc.noise": 0.1},
    "R on chip": GENERIC | {"chip.decorrelation": "on_chip"},
}
QUIET_STEPS = {name: {"chip": name} for name in CHIPS if name not in STILL_WAITING} | VARIANTS
PULSED_STEPS = {name: {"chip": name} for name in PULSED} | {
    f"{name}, on chip": {"chip": name, "optimizer": "on_chip"} for name in PULSED
}


@pytest.fixture
def far(monkeypatch):
    """Nothing is at hand, as on a device."""
    monkeypatch.setattr(at_hand, "HOST", frozenset())


@pytest.mark.parametrize("name", QUIET_STEPS)
def test_a_step_of_a_chip_waits_for_nothing(name, far):
    assert waits(trainer_of(**QUIET_STEPS[name]), steps=2, batch=20) == {}


@pytest.mark.parametrize("name", PULSED_STEPS)
def test_a_write_by_pulses_waits_once(name, far):
    trainer = trainer_of(**PULSED_STEPS[name])
    writes = 2 * len(trainer.chip.weights)
    assert waits(trainer, steps=2, batch=20) == {"__int__": writes, "_local_scalar_dense": writes}


@pytest.mark.parametrize("name", ["crossbar-generic", "isaac", "pcm-nandakumar", "sonos-tcas", "tile"])  # 1 to 5 s each
def test_a_step_runs_on_tensors_without_values(name, monkeypatch):
    monkeypatch.setattr(crossbar, "_finite", lambda values: True)  # looks at the first weights
    trainer = trainer_of("meta", **QUIET_STEPS[name])
    with Operations() as operations, loop.full_precision():
        trainer._step(torch.arange(20, device="meta"), with_angle=False)
    assert +operations.waits == {}
    assert all(weight.is_meta for weight in trainer.chip.targets)


def end_of(changes):
    """All that a few steps leave behind: (tensors as bytes, counts)."""
    trainer = trainer_of(**changes)
    with loop.full_precision():
        for step in range(3):
            trainer._step(torch.arange(100 * step, 100 * step + 100), with_angle=False)
    tensors, ledger = trainer.checkpoint().tensors, trainer.chip.ledger
    return {name: (tensor.dtype, tensor.numpy().tobytes()) for name, tensor in tensors.items()}, repr(ledger)


@pytest.mark.parametrize("name", QUIET_STEPS | PULSED_STEPS)
def test_steps_are_the_same_to_the_bit_where_nothing_is_at_hand(name, monkeypatch):
    changes = (QUIET_STEPS | PULSED_STEPS)[name]
    here = end_of(changes)
    monkeypatch.setattr(at_hand, "HOST", frozenset())
    assert end_of(changes) == here


def numbers_in_a_row(self, draw):
    return draw(len(self.mask if self.index is None else self.index))


def total_of_all(self, values):
    return values.sum()


@pytest.mark.parametrize(("name", "bug"), [("drawn", numbers_in_a_row), ("total", total_of_all)])
def test_the_comparison_catches(name, bug, monkeypatch):
    changes = {"chip": "reram-es", "optimizer": "on_chip"} if name == "drawn" else VARIANTS["tries"]
    here = end_of(changes)
    monkeypatch.setattr(at_hand, "HOST", frozenset())
    monkeypatch.setattr(Picked, name, bug)
    assert end_of(changes) != here


# --- several processes ------------------------------------------------------------------------------


class OneOfTwo(Team):
    """A process that meets no other: what it would sum up with the other one's is its own. sent: what that was."""

    def __init__(self, rank=0):
        super().__init__(rank, 2)
        self.sent = []

    def sharing(self, passes):
        self._passes = passes  # no copy: what is sent stays at hand
        return self

    def _reduced(self, tensor, how):
        self.sent.append((tensor.dtype, tuple(tensor.shape), how))
        return tensor

    @property
    def met(self):
        """Sums of numbers on the host, which wait for the other process; a GPU's own are float32."""
        return sum(dtype != torch.float32 for dtype, _, _ in self.sent)


SPLITS = {"rows": {}, "samples": {"learner.samples": 4, "training.split": "samples"}}
TEAM_STEPS = {
    "danp": {},
    "danp, a subset for R": {"decorrelation.samples": 40},
    "danp, converters": GENERIC,
    "danp, verified writes": NANDAKUMAR,
    "dnp, perturbed twice": STEPS["dnp, perturbed twice"],
}


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", TEAM_STEPS)
def test_a_step_of_two_processes_waits_for_nothing(name, split, far):
    trainer = trainer_of(team=OneOfTwo(), **TEAM_STEPS[name] | SPLITS[split])
    assert waits(trainer, steps=2) == {}
    assert trainer.team.sent
    assert trainer.team.met == 0


def steps_that_wait(trainer, after_step=lambda: None):
    """Numbers of steps of the first epoch: after which something waited; before which `stop` was asked; told of."""
    waited, asked, told = [], [], []
    done, team = trainer.progress, trainer.team

    def stop():
        asked.append(done.batches)
        return False

    def told_of_step():
        told.append(done.batches)
        after_step()

    with Operations() as operations, Methods() as methods, loop.full_precision():
        steps = trainer.steps(stop, told_of_step, lambda: None)
        rows = next(steps)
        for step in range(1, trainer.batches + 1):
            operations.waits.clear()
            methods.waits.clear()
            met = getattr(team, "met", 0)
            answer = trainer._step(*rows)
            rows = steps.send(answer) if step < trainer.batches else next(steps, None)
            if +(operations.waits + methods.waits) or getattr(team, "met", 0) > met:
                waited.append(step)
    return waited, asked, told


TEN = {"training.epochs": 1, "training.batch": 150}  # steps an epoch


@pytest.fixture
def every_fourth(far, monkeypatch):
    monkeypatch.setattr(loop, "LOOK_EVERY", 4)


def test_an_epoch_waits_only_where_it_looks(every_fourth):
    waited, asked, told = steps_that_wait(trainer_of(**TEN))
    assert waited == [4, 8, 10]
    assert (asked, told) == ([*range(10)], [*range(1, 10)])


@pytest.mark.parametrize("split", SPLITS)
def test_an_epoch_of_two_processes_waits_only_where_it_looks(split, every_fourth):
    waited, asked, told = steps_that_wait(trainer_of(team=OneOfTwo(), **TEN, **SPLITS[split]))
    assert waited == [4, 8, 10]
    assert (asked, told) == ([0, 4, 8], [4, 8])


@pytest.mark.parametrize("split", SPLITS)
def test_two_processes_send_the_same_in_the_same_order(split, every_fourth):
    """Though the first alone saves: a sum that one of them leaves out would end the other one's."""
    sent = []
    for rank in (0, 1):
        trainer = trainer_of(team=OneOfTwo(rank), **TEN, **SPLITS[split])
        steps_that_wait(trainer, trainer.checkpoint if rank == 0 else lambda: None)
        sent.append(trainer.team.sent)
    assert sent[0] == sent[1]


def looks_always(monkeypatch):
    monkeypatch.setattr(loop.Trainer, "_looks", lambda self, batches: True)


def asks_for_reads(monkeypatch):
    count = Team.count

    def bug(self, chip, before):
        count(self, chip, before)
        chip.ledger.load(self.sum(chip.ledger.state()))

    monkeypatch.setattr(Team, "count", bug)


def asks_to_stop(monkeypatch):
    begin = Team.begin
    monkeypatch.setattr(Team, "begin", lambda self, whole: (self.any(False), begin(self, whole))[1])


TEAM_WAIT_BUGS = {
    "processes look after every step": looks_always,
    "reads summed over processes in every step": asks_for_reads,
    "processes agree to go on ahead of every step": asks_to_stop,
}


@pytest.mark.parametrize("bug", TEAM_WAIT_BUGS)
def test_the_watch_of_processes_catches(bug, every_fourth, monkeypatch):
    TEAM_WAIT_BUGS[bug](monkeypatch)
    assert steps_that_wait(trainer_of(team=OneOfTwo(), **TEN))[0] == [*range(1, 11)]


# --- what the watch sees ----------------------------------------------------------------------------


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
