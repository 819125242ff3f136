"""Steps recorded and played again give the training of plain steps, bit for bit.

A CPU stands in for the GPU (conftest.py): operations are written down and done again, without the step's Python.
"""

import gc
import json

import pytest
import torch

from analogsim.backends import has_triton, interpreted
from analogsim.contracts import Probe
from analogsim.network import Network
from analogsim.training import captured, checkpoint

pytestmark = pytest.mark.filterwarnings("error")
installed = pytest.mark.skipif(not has_triton(), reason="Triton 3.6 or later is not installed")
interpreter = pytest.mark.skipif(not interpreted(), reason="Triton compiles here, for a GPU")
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device here")

PLAYED = 10 - captured.WARM - 1  # of ten full batches (conftest.py); the step that is recorded is made plainly

IDEAL = {"chip": "ideal"}
CONVOLUTION = {"network.hidden": [], "network.layers": [{"conv": {"channels": 3, "kernel": 3}}, {"dense": 8}]}
STEPS = {
    "danp": {},
    "danp, five samples": {"learner.samples": 5},
    "danp, a subset for R": {"decorrelation.samples": 20},
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


@pytest.mark.parametrize("name", STEPS)
def test_a_recorded_training_is_the_plain_one(name, replays, trainer_of, run, plain):
    recorder = replays()
    assert run(trainer_of(recorder, **STEPS[name])) == plain(**STEPS[name])
    assert (recorder.recorded, recorder.plays) == (1, PLAYED)


@pytest.mark.parametrize(
    ("changes", "full"),
    [({"training.batch": 26}, 10), ({"training.batch": 999, "training.epochs": 7}, 7), ({"training.angle": True}, 10)],
)
def test_batches_without_a_rest_or_with_all_rows_and_angles(changes, full, replays, trainer_of, run, plain):
    """An angle is of the smaller batch at an epoch's end."""
    recorder = replays()
    assert run(trainer_of(recorder, **changes)) == plain(**changes)
    assert recorder.plays == full - captured.WARM - 1


def test_a_full_batch_with_an_angle_is_made_plainly(replays, trainer_of, run, plain):
    recorder, changes = replays(), {"training.batch": 26, "training.angle": True}
    found = trainer_of(recorder, **changes)
    assert run(found) == plain(**changes)
    assert found.progress.rows[-1]["angle_deg"] > 1
    assert recorder.plays == 10 - 2 - captured.WARM - 1


@installed
@interpreter
@pytest.mark.parametrize("changes", [{}, {**IDEAL, "learner.rule": "dnp"}], ids=["danp", "dnp"])
def test_a_recorded_training_on_triton_is_the_plain_one(changes, replays, trainer_of, run):
    small = {"training.batch": 4, "training.epochs": 1, "network.hidden": [6], "rows": 24}  # the interpreter is slow
    recorder = replays()
    found = run(trainer_of(recorder, "triton", **small, **changes))
    assert found == run(trainer_of(None, "triton", **small, **changes))
    assert recorder.plays == 6 - captured.WARM - 1


class Counted:
    """A recorder whose plays are counted, whatever it is."""

    def __init__(self, recorder):
        self.recorder, self.aside, self.plays = recorder, recorder.aside, 0

    def record(self, work):
        play = self.recorder.record(work)

        def counted():
            self.plays += 1
            play()

        return counted


def check_played(recorder, trainer_of, run, backend="torch", device="cpu", **changes):
    """The training is recorded, played, and the one of plain steps."""
    counted = Counted(recorder)
    found = run(trainer_of(counted, backend, device, **changes))
    assert found == run(trainer_of(None, backend, device, **changes))
    assert counted.plays == PLAYED


@cuda
@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("backend", ["torch", pytest.param("triton", marks=installed)])
def test_a_recorded_training_on_a_gpu_is_the_plain_one(name, backend, trainer_of, run):
    check_played(captured.recorder_of("cuda"), trainer_of, run, backend, "cuda", **STEPS[name])


def test_a_training_that_is_never_played_would_show(replays, monkeypatch, trainer_of, run):
    check_played(replays(), trainer_of, run)
    monkeypatch.setattr(captured, "fits", lambda trainer: False)
    with pytest.raises(AssertionError, match="0 == 6"):
        check_played(replays(), trainer_of, run)


# --- kill, resume, and what others do between steps ------------------------------------------------


@pytest.mark.parametrize("name", ["danp", "anp, sgd with momentum", "dnp, perturbed twice", "dbp, ideal"])
def test_a_run_goes_on_to_the_same_bytes(name, replays, tmp_path, trainer_of, run, plain):
    """Saved and taken up in a new trainer: ahead of the recording and after plays of it; at the end of an epoch."""
    for folder, stops, played in (("within", (2, 9), 2), ("at its end", (6,), 1)):
        recorder = replays()
        trainer = trainer_of(recorder, **STEPS[name])
        for step in stops:
            trainer.run(lambda: trainer.progress.step >= step)  # noqa: B023 - called within this turn
            checkpoint.save(tmp_path / folder, trainer.checkpoint())
            before, trainer = trainer, trainer_of(recorder, **STEPS[name])
            trainer.load(checkpoint.load_latest(tmp_path / folder, pytest.fail))
        assert (before.progress.step, recorder.plays) == (stops[-1], played)
        assert run(trainer) == plain(**STEPS[name])


def test_a_run_stopped_and_taken_up_by_the_same_trainer(replays, trainer_of, run, plain):
    recorder = replays()
    trainer = trainer_of(recorder)
    for step in (6, 7, 12):
        trainer.run(lambda: trainer.progress.step >= step)  # noqa: B023 - called within this turn
    assert run(trainer) == plain()
    assert (recorder.recorded, recorder.plays) == (1, PLAYED)


def test_a_state_loaded_back_is_gone_on_from(replays, trainer_of, run, plain):
    """Optimisers take other memory at a load: what was recorded before must not be played."""
    whole, trainer, saved = plain(), trainer_of(replays()), []
    trainer.run(lambda: trainer.progress.step >= 6)
    state = trainer.checkpoint()
    saved = checkpoint.Checkpoint(
        {name: t.clone() for name, t in state.tensors.items()}, json.loads(json.dumps(state.record))
    )
    trainer.run(lambda: trainer.progress.step >= 9)
    trainer.load(saved)
    assert run(trainer) == whole


def test_a_pass_that_somebody_runs_between_two_steps_counts_as_ever(replays, trainer_of, run):
    def trained(recorder):
        trainer = trainer_of(recorder)
        x = trainer.data.batch("test", slice(0, 4))[0]

        def look():
            if trainer.progress.step in (2, 3, 7, 8):
                trainer.chip.run(x, Probe())

        return run(trainer, after_step=look)

    recorder = replays()
    assert trained(recorder) == trained(None)
    assert recorder.plays == PLAYED - 4


def test_a_learner_put_in_another_ones_place_is_asked(replays, trainer_of):
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
def test_what_a_recording_reads_is_there_as_long_as_the_trainer(name, replays, trainer_of):
    """A graph holds addresses, not tensors: all from outside must be memory that is kept, and never replaced."""
    recorder = replays()
    trainer = trainer_of(recorder, **STEPS[name])
    trainer.run(lambda: trainer.progress.step >= 6)
    read = {at for at, tensor in recorder.operations.read.items() if tensor.numel()}
    trainer.run(lambda: trainer.progress.step >= 12)  # one of them the smaller batch, made plainly
    recorder.operations = None
    assert read - storages(trainer) == set()
    assert len(read) > 8


def test_memory_that_does_not_last_would_be_seen(replays, monkeypatch, trainer_of):
    passing, plain = torch.ones(()), Network.derivative
    monkeypatch.setattr(Network, "derivative", lambda self, a: plain(self, a) * passing)
    recorder = replays()
    trainer = trainer_of(recorder, **STEPS["bp"])
    trainer.run(lambda: trainer.progress.step >= 5)
    read = {at for at, tensor in recorder.operations.read.items() if tensor.numel()}
    recorder.operations = None
    assert read - storages(trainer) == {passing.untyped_storage().data_ptr()}
