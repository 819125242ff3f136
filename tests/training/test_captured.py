"""Steps recorded and played again give the training of plain steps, bit for bit.

A CPU stands in for the GPU (conftest.py): operations are written down and done again, without the step's Python.
"""

import gc
import json
import warnings
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch

from analogsim.backends import interpreted
from analogsim.config.loader import load_plan
from analogsim.contracts import Probe
from analogsim.network import Network
from analogsim.training import captured, checkpoint, optimizer
from analogsim.training.build import build_trainer
from analogsim.training.data import load_data
from analogsim.training.loop import Trainer

triton = pytest.mark.skipif(find_spec("triton") is None or not interpreted(), reason="needs Triton's interpreter")
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device here")

ROWS, BATCH, EPOCHS = 260, 50, 2  # five full batches an epoch, and one of 10
PLAYED = EPOCHS * (ROWS // BATCH) - captured.WARM - 1  # the step that is recorded is made plainly


def digits(rows=ROWS):
    data, test = load_data("digits"), rows // 4
    few = {"x_train": data.x_train[:rows], "y_train": data.y_train[:rows]}
    return replace(data, **few, x_test=data.x_test[:test], y_test=data.y_test[:test])


def trainer_of(recorder=None, backend="torch", device="cpu", rows=ROWS, **changes):
    base = {"data": "digits", "chip": "gaussian-node", "network": {"hidden": [12, 9]}}
    base |= {"training": {"epochs": EPOCHS, "batch": BATCH}, "variants": {"one": changes}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("analogsim.training.build.recorder_of", lambda device: recorder)
        return build_trainer(load_plan(base).variants["one"], digits(rows), 1, backend, device)


def end(trainer):
    """Everything that a run is, but the time it took."""
    saved = trainer.checkpoint()
    tensors = {name: tensor.cpu().numpy().tobytes() for name, tensor in saved.tensors.items()}
    for row in saved.record["rows"]:
        del row["seconds"]
    return tensors, json.dumps(saved.record | {"seconds": 0.0})


def run(trainer):
    trainer.run()
    return end(trainer)


IDEAL = {"chip": "ideal"}
CONVOLUTION = {"network.hidden": [], "network.layers": [{"conv": {"channels": 3, "kernel": 3}}, {"dense": 8}]}
STEPS = {
    "danp": {},
    "danp, five samples": {"learner.samples": 5},
    "danp, a subset for R": {"decorrelation.samples": 40},
    "danp, few samples for R": {"decorrelation.samples": 5},
    "danp, convolution": CONVOLUTION,
    "danp, no biases": {"network.bias": False},
    "danp, clean baseline": {**IDEAL, "learner.perturbation": 1e-2},
    "danp, interleaved, a clock": {"chip.pass_schedule": "interleaved", "chip.clock": {"t_read_s": 1e-7}},
    "anp, sgd": {"learner.rule": "anp", "optimizer.name": "sgd", "optimizer.lr": 0.1},
    "anp, sgd with momentum": {"learner.rule": "anp", "optimizer.name": "sgd", "optimizer.momentum": 0.9},
    "bp": {"learner.rule": "bp"},
    "dbp, ideal": {**IDEAL, "learner.rule": "dbp"},
    "dbp, convolution": {**CONVOLUTION, "learner.rule": "dbp"},
    "np": {**IDEAL, "learner.rule": "np"},
    "dnp, perturbed twice": {**IDEAL, "learner.rule": "dnp", "learner.baseline": "noisy"},
    "dnp, both": {**IDEAL, "learner.rule": "dnp", "learner.baseline": "noisy", "learner.difference": "both"},
    "inp, perturbed twice": {**IDEAL, "learner.rule": "inp", "learner.baseline": "noisy"},
    "dinp": {**IDEAL, "learner.rule": "dinp", "learner.samples": 2},
    "dinp, convolution": {**IDEAL, **CONVOLUTION, "learner.rule": "dinp"},
}


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("name", STEPS)
def test_a_recorded_training_is_the_plain_one(name, replays):
    recorder = replays()
    assert run(trainer_of(recorder, **STEPS[name])) == run(trainer_of(**STEPS[name]))
    assert (recorder.recorded, recorder.plays) == (1, PLAYED)


@pytest.mark.parametrize(
    ("changes", "full"),
    [({"training.batch": 52}, 10), ({"training.batch": 999, "training.epochs": 7}, 7), ({"training.angle": True}, 10)],
)
def test_batches_without_a_rest_or_with_all_rows_and_angles(changes, full, replays):
    """An angle is of the smaller batch at an epoch's end."""
    recorder = replays()
    assert run(trainer_of(recorder, **changes)) == run(trainer_of(**changes))
    assert recorder.plays == full - captured.WARM - 1


def test_a_full_batch_with_an_angle_is_made_plainly(replays):
    recorder, changes = replays(), {"training.batch": 52, "training.angle": True}
    found = trainer_of(recorder, **changes)
    assert run(found) == run(trainer_of(**changes))
    assert found.progress.rows[-1]["angle_deg"] > 1
    assert recorder.plays == 10 - 2 - captured.WARM - 1


@triton
@pytest.mark.parametrize("changes", [{}, {**IDEAL, "learner.rule": "dnp"}], ids=["danp", "dnp"])
def test_a_recorded_training_on_triton_is_the_plain_one(changes, replays):
    small = {"training.batch": 4, "training.epochs": 1, "network.hidden": [6], "rows": 24}  # the interpreter is slow
    recorder = replays()
    found = run(trainer_of(recorder, "triton", **small, **changes))
    assert found == run(trainer_of(None, "triton", **small, **changes))
    assert recorder.plays == 6 - captured.WARM - 1


@cuda
@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("backend", ["torch", pytest.param("triton", marks=triton)])
def test_a_recorded_training_on_a_gpu_is_the_plain_one(name, backend):
    device = torch.device("cuda")
    recorder = captured.recorder_of(device)
    assert run(trainer_of(recorder, backend, "cuda", **STEPS[name])) == run(
        trainer_of(None, backend, "cuda", **STEPS[name])
    )


# --- kill, resume, and what others do between steps ------------------------------------------------


@pytest.mark.parametrize("name", ["danp", "anp, sgd with momentum", "dnp, perturbed twice", "dbp, ideal"])
def test_a_run_goes_on_to_the_same_bytes(name, replays, tmp_path):
    """Saved and taken up in a new trainer, within an epoch and at its end, ahead of the recording and after."""
    whole = run(trainer_of(**STEPS[name]))
    trainer = trainer_of(replays(), **STEPS[name])
    for step in (2, 5, 7, 11):
        trainer.run(lambda: trainer.progress.step >= step)  # noqa: B023 - called within this turn
        checkpoint.save(tmp_path, trainer.checkpoint())
        trainer = trainer_of(replays(), **STEPS[name])
        trainer.load(checkpoint.load_latest(tmp_path, pytest.fail))
    assert run(trainer) == whole


def test_a_run_stopped_and_taken_up_by_the_same_trainer(replays):
    recorder = replays()
    trainer = trainer_of(recorder)
    for step in (6, 7, 12):
        trainer.run(lambda: trainer.progress.step >= step)  # noqa: B023 - called within this turn
    assert run(trainer) == run(trainer_of())
    assert (recorder.recorded, recorder.plays) == (1, PLAYED)


def test_a_state_loaded_back_is_gone_on_from(replays):
    """Optimisers take other memory at a load: what was recorded before must not be played."""
    whole, trainer, saved = run(trainer_of()), trainer_of(replays()), []
    trainer.run(lambda: trainer.progress.step >= 6)
    state = trainer.checkpoint()
    saved = checkpoint.Checkpoint(
        {name: t.clone() for name, t in state.tensors.items()}, json.loads(json.dumps(state.record))
    )
    trainer.run(lambda: trainer.progress.step >= 9)
    trainer.load(saved)
    assert run(trainer) == whole


def test_a_pass_that_somebody_runs_between_two_steps_counts_as_ever(replays):
    def trained(recorder):
        trainer = trainer_of(recorder)
        x = trainer.data.batch("test", slice(0, 4))[0]

        def look():
            if trainer.progress.step in (2, 3, 7, 8):
                trainer.chip.run(x, Probe())

        trainer.run(after_step=look)
        return end(trainer)

    recorder = replays()
    assert trained(recorder) == trained(None)
    assert recorder.plays == PLAYED - 4


def test_a_learner_put_in_another_ones_place_is_asked(replays):
    trainer = trainer_of(replays(), **STEPS["bp"])
    trainer.run(lambda: trainer.progress.step >= 7)
    kept = trainer.learner

    class Own:
        asked = 0

        def ask(self, step, batch):
            self.asked += 1
            return kept.ask(step, batch)

        def tell(self, activities, losses):
            return kept.tell(activities, losses)

    trainer.learner = Own()
    trainer.run(lambda: trainer.progress.step >= 9)
    assert trainer.learner.asked == 2


# --- where steps are not recorded ------------------------------------------------------------------

PLAIN = {
    "cells": {"chip": "crossbar-generic"},
    "tiles of cells": {"chip": "isaac"},
    "an ADC": {"chip.adc": {"bits": 8, "bound": 4.0}},
    "telegraph noise": {"chip.node_noise": {"telegraph": {"amplitude": 0.1, "flip_probability": 0.2}}},
    "R on the chip": {"chip.decorrelation": "on_chip"},
    "no steps of an optimiser": {"optimizer.name": "on_chip"},
    "R in every other step": {"decorrelation.every": 2},
}


@pytest.mark.parametrize("name", PLAIN)
def test_other_steps_are_made_plainly_and_nothing_is_said(name, replays):
    recorder = replays()
    trainer = trainer_of(recorder, **PLAIN[name])
    trainer.run(lambda: trainer.progress.step >= 5)
    assert recorder.recorded == 0
    assert trainer._recording is not None
    assert not trainer._recording.serves


def test_passes_that_do_not_fit_side_by_side_are_not_recorded(replays, monkeypatch):
    monkeypatch.setattr("analogsim.chip.passes.STACKED_BYTES", 8 * BATCH * (12 + 9 + 10) * 3)
    for samples, recorded in ((2, 1), (3, 0)):
        recorder = replays()
        trainer = trainer_of(recorder, **{"learner.samples": samples})
        trainer.run(lambda: trainer.progress.step >= 5)  # noqa: B023 - called within this turn
        assert recorder.recorded == recorded


def test_on_a_cpu_or_with_capture_off_a_trainer_is_a_plain_one(replays):
    assert captured.recorder_of("cpu") is None
    assert type(trainer_of()) is Trainer
    assert type(trainer_of(replays())) is captured.CapturedTrainer
    assert type(trainer_of(replays(), **{"training.capture": "auto"})) is captured.CapturedTrainer
    assert type(trainer_of(replays(), **{"training.capture": "off"})) is Trainer


@pytest.mark.parametrize("at", ["the first pass", "the write", "the end"])
def test_where_a_recording_fails_the_plain_steps_go_on(at, replays, monkeypatch):
    """As where a library waits for the device, or memory runs out."""
    recorder = replays()
    trainer, plain = trainer_of(recorder), recorder.record
    owner, name = {
        "the first pass": (trainer.learner.rule.__class__, "tell"),
        "the write": (trainer.chip._crossbars[1].cells.__class__, "write"),
        "the end": (captured.Recording, "_plain"),
    }[at]
    whole = getattr(owner, name)

    def failing(*args):
        done = whole(*args)
        torch.zeros(1).item()
        return done

    def record(work):
        with monkeypatch.context() as within:
            within.setattr(owner, name, failing)
            return plain(work)

    recorder.record = record
    with pytest.warns(UserWarning, match=r"not recorded as a CUDA graph \(.*not permitted"):
        found = run(trainer)
    assert recorder.plays == 0
    assert found == run(trainer_of())


# --- bugs that would freeze a step in what is played ----------------------------------------------


def chips_step(trainer, monkeypatch):
    monkeypatch.setattr(trainer.chip, "hold_step", lambda held: None)


def learners_step(trainer, monkeypatch):
    monkeypatch.setattr(captured, "HeldStep", lambda number, held: number)


def step_reckoned_with(trainer, monkeypatch):
    ask = trainer.learner.rule.ask
    monkeypatch.setattr(trainer.learner.rule, "ask", lambda step, batch: ask(step + 0, batch))


def batch(trainer, monkeypatch):
    plain = captured.Recording._set

    def bug(self, rows):
        plain(self, self._rows.clone() if self._play is not None else rows)

    monkeypatch.setattr(captured.Recording, "_set", bug)


def adams_count(trainer, monkeypatch):
    plain = optimizer.adam

    def bug(changes, gradients, first, second, largest, steps, **settings):
        number = float(trainer.progress.step)
        plain(changes, gradients, first, second, largest, [torch.full((), number) for _ in steps], **settings)
        for step in steps:
            step.add_(1)

    monkeypatch.setattr(optimizer, "adam", bug)


def losses(trainer, monkeypatch):
    plain = captured.Recording._record

    def bug(self):
        kept, self._sums = self._sums, torch.zeros_like(self._sums)
        plain(self)
        self._sums = kept

    monkeypatch.setattr(captured.Recording, "_record", bug)


FROZEN_BUGS = {
    "chip's step recorded as a number": (chips_step, "danp"),
    "learner's step recorded as a number": (learners_step, "dnp, perturbed twice"),
    "learner's step reckoned with": (step_reckoned_with, "dnp, perturbed twice"),
    "rows of the recorded batch": (batch, "bp"),
    "Adam's count recorded as a number": (adams_count, "bp"),
    "losses of the recorded step": (losses, "bp"),
}


@pytest.mark.parametrize("bug", FROZEN_BUGS)
def test_the_first_play_catches(bug, replays, monkeypatch):
    """... and from there on the steps are plain: the numbers are right even so."""
    plant, name = FROZEN_BUGS[bug]
    recorder = replays()
    trainer = trainer_of(recorder, **STEPS[name])
    plant(trainer, monkeypatch)
    with pytest.warns(UserWarning, match="other numbers than the plain step"):
        found = run(trainer)
    assert recorder.plays == 1
    monkeypatch.undo()
    assert found == run(trainer_of(**STEPS[name]))


@pytest.mark.parametrize("bug", FROZEN_BUGS)
def test_without_that_look_the_bytes_catch(bug, replays, monkeypatch):
    plant, name = FROZEN_BUGS[bug]
    expected = run(trainer_of(**STEPS[name]))
    trainer = trainer_of(replays(), **STEPS[name])
    plant(trainer, monkeypatch)
    monkeypatch.setattr(captured, "_same_bits", lambda one, other: True)
    assert run(trainer) != expected


def uncounted_reads(monkeypatch):
    plain = captured.SimulatedChip.played_again
    monkeypatch.setattr(
        captured.SimulatedChip, "played_again", lambda self, counts, samples: plain(self, [0 for _ in counts], samples)
    )


def uncounted_time(monkeypatch):
    plain = captured.SimulatedChip.played_again
    monkeypatch.setattr(captured.SimulatedChip, "played_again", lambda self, counts, samples: plain(self, counts, 0))


def uncounted_step(monkeypatch):
    plain = captured.SimulatedChip.played_again

    def bug(self, counts, samples):
        plain(self, counts, samples)
        self._step -= 1

    monkeypatch.setattr(captured.SimulatedChip, "played_again", bug)


HOST_BUGS = {
    "reads of a play not counted": uncounted_reads,
    "time of a play not counted": uncounted_time,
    "steps played not counted": uncounted_step,
}


@pytest.mark.parametrize("bug", HOST_BUGS)
def test_the_bytes_catch(bug, replays, monkeypatch):
    changes = {"chip.clock": {"t_read_s": 1e-7, "t_update_s": 1e-6}}
    expected = run(trainer_of(**changes))
    HOST_BUGS[bug](monkeypatch)
    assert run(trainer_of(replays(), **changes)) != expected


# --- memory that a recording works on ---------------------------------------------------------------


def storages(root):
    """Where all tensors lie that an object leads to."""
    seen, todo, found = set(), [root], set()
    while todo:
        thing = todo.pop()
        if id(thing) in seen or isinstance(thing, type):
            continue
        seen.add(id(thing))
        if isinstance(thing, torch.Tensor):
            found.add(thing.untyped_storage().data_ptr())
        elif type(thing).__module__.split(".")[0] in ("analogsim", "builtins") and not callable(thing):
            todo += gc.get_referents(thing)
    return found


@pytest.mark.parametrize("name", ["danp", "dnp, perturbed twice", "dinp", "dbp, ideal", "anp, sgd with momentum"])
def test_what_a_recording_reads_is_there_as_long_as_the_trainer(name, replays):
    """A graph holds addresses, not tensors: all from outside must be memory that is kept, and never replaced."""
    recorder = replays()
    trainer = trainer_of(recorder, **STEPS[name])
    trainer.run(lambda: trainer.progress.step >= 6)
    read = {at for at, tensor in recorder.operations.read.items() if tensor.numel()}
    trainer.run(lambda: trainer.progress.step >= 12)  # one of them the smaller batch, made plainly
    recorder.operations = None
    assert read - storages(trainer) == set()
    assert len(read) > 8


def test_memory_that_does_not_last_would_be_seen(replays, monkeypatch):
    passing, plain = torch.ones(()), Network.derivative
    monkeypatch.setattr(Network, "derivative", lambda self, a: plain(self, a) * passing)
    recorder = replays()
    trainer = trainer_of(recorder, **STEPS["bp"])
    trainer.run(lambda: trainer.progress.step >= 5)
    read = {at for at, tensor in recorder.operations.read.items() if tensor.numel()}
    recorder.operations = None
    assert read - storages(trainer) == {passing.untyped_storage().data_ptr()}


# --- the stand-in itself ----------------------------------------------------------------------------


def test_a_recording_is_played_on_the_same_memory_and_does_nothing_before(replays):
    given, kept = torch.arange(3.0), torch.zeros(3)

    def work():
        kept.add_(torch.sqrt(given.view(3, 1) * 2).view(-1))

    play = replays().record(work)
    assert kept.tolist() == [0, 0, 0]
    given.copy_(torch.tensor([2.0, 8.0, 18.0]))
    play()
    play()
    assert kept.tolist() == [4, 8, 12]


@pytest.mark.parametrize(
    "work", [lambda: torch.ones(1).item(), lambda: torch.tensor(2.0), lambda: torch.ones(2).nonzero()]
)
def test_what_would_wait_cannot_be_recorded(work, replays):
    with pytest.raises(RuntimeError, match="not permitted"):
        replays().record(work)
