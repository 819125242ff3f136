"""Ways for a learner to reach the chip's hidden noise that work, kept here so that the list is honest.

test_any_chip_…    follows from what is read, and so on a lab's chip too: the noise is hidden in that
                   nobody hands it over, not in that nothing can be worked out.
test_in_process_…  in-process Python is not a security boundary (README): code in the same
                   interpreter can find the chip, whatever the chip does.
One that stops working is good news: move it to test_barrier.py.
"""

import gc
import subprocess
import sys
from pathlib import Path
from types import FunctionType, ModuleType

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from analogsim.chip import passes
from analogsim.chip.chip import SimulatedChip
from analogsim.config import schema
from analogsim.config.loader import Plan, load_chip, load_plan
from analogsim.contracts import LayerUpdate, Probe, WeightUpdate
from analogsim.network import Network
from analogsim.streams import Address, Stream
from analogsim.training.build import build_trainer
from analogsim.training.data import Dataset
from analogsim.training.loop import Trainer

SEED, ROWS, INPUTS, UNITS, SIGMA = 1009, 96, 12, 16, np.float32(1e-3)
X = torch.from_numpy(Stream.from_seed(7).normal(Address(), ROWS, INPUTS))


def experiment(rule="anp", **learner):
    return schema.Experiment(
        data="npz:none",
        chip=load_chip("gaussian-node"),
        network=schema.Network(hidden=(UNITS,)),
        learner=schema.LearnerSettings(rule=rule, **learner),
        training=schema.TrainingSettings(batch=ROWS, epochs=2),
        seeds=(SEED,),
    ).resolved()


class Spy:
    """A learner that does as it should, and calls `act` with what it is told; `network` is its own."""

    def __init__(self, learner, act):
        self.learner, self.network, self.act, self.found, self.ask = learner, learner.network, act, [], learner.ask

    def tell(self, activities, losses):
        activities, losses = list(activities), list(losses)
        self.found.append(self.act(self, activities))
        return self.learner.tell(activities, losses)


def spied(act, rule="anp", backend="numba", spy=Spy, **learner):
    """(what `act` brought back from each of two steps, the trainer)."""
    data = Dataset("numbers", X, torch.arange(ROWS) % 4, X, torch.arange(ROWS) % 4, 1.0, 4)
    trainer = build_trainer(experiment(rule, **learner), data, SEED, backend)
    trainer.learner = spying = spy(trainer.learner, act)
    trainer.run()
    return spying.found, trainer


def noise(stream, step=0, turn=0):
    """What the chip of that stream adds to the first layer in a pass."""
    return torch.from_numpy(stream.child("noise", 0).normal(Address(step, turn), ROWS, UNITS) * SIGMA)


TRUTH = Stream.from_seed(SEED).child("chip")


def same(found, truth):
    pair = torch.stack([found.flatten(), truth.flatten()])
    return float(torch.corrcoef(pair)[0, 1]) > 0.99


# --- on any chip ----------------------------------------------------------------------------------


def test_any_chip_shows_its_noise_to_a_rule_that_knows_the_weights():
    """n = a - W x* - b. BP must know W; its copy is exact while writing is."""
    found, _ = spied(lambda spy, told: told[0].pre_activations[0] - told[0].inputs[0] @ spy.learner.weights[0].T, "bp")
    assert same(found[0], noise(TRUTH))


def test_any_chip_shows_its_noise_against_the_mean_of_many_passes():
    """a_k - ⟨a⟩ over K passes on one input misses 1/K of the noise's power. No weights are needed."""
    found, _ = spied(
        lambda spy, told: told[0].pre_activations[0] - sum(t.pre_activations[0] for t in told) / 101, samples=100
    )
    assert same(found[0], noise(TRUTH))


def test_any_chip_shows_its_noise_where_there_is_no_input():
    """R = 0 makes x* = 0, and a = b + n. It is the noise of a pass that says nothing of the weights."""
    root, network = Stream.from_seed(SEED), Network.dense(INPUTS, (UNITS,), 4)
    weights = network.initial_weights(root.child("initial weights"))
    chip = SimulatedChip(load_chip("gaussian-node"), network, weights, TRUTH)
    chip.update(WeightUpdate((LayerUpdate(decorrelation=torch.zeros(INPUTS, INPUTS)), LayerUpdate())))
    assert torch.equal(chip.run(X, Probe()).pre_activations[0], noise(TRUTH, step=1))


# --- in one process -------------------------------------------------------------------------------


def by_frames(spy, told):
    frame, chips = sys._getframe(), []
    while frame := frame.f_back:
        chips += [value.chip for value in frame.f_locals.values() if type(value) is Trainer]
    return chips


def by_garbage_collector(spy, told):
    return [thing for thing in gc.get_objects() if type(thing) is SimulatedChip]


def by_profiler(spy, told):
    """Watches the next step's passes; the profiler is a global hook."""
    if spy.found:
        sys.setprofile(None)
        return spy.found[0]
    chips = []
    sys.setprofile(lambda frame, event, arg: chips.append(frame.f_locals.get("self")))
    return chips


def by_the_shared_network(spy, told):
    """The chip calls the network object that the learner holds too; frozen is not immutable."""
    if spy.found:
        return spy.found[0]
    chips, plain = [], spy.network.activation

    def activation(a):
        chips.append(sys._getframe(2).f_locals["self"])
        return plain(a)

    object.__setattr__(spy.network, "activation", activation)
    return chips


@pytest.mark.parametrize("way", [by_frames, by_garbage_collector, by_profiler, by_the_shared_network])
def test_in_process_a_chip_is_found(way):
    found, trainer = spied(way)
    assert any(thing is trainer.chip for thing in found[-1])
    assert same(torch.from_numpy(trainer.chip._crossbars[0]._stream.normal(Address(), ROWS, UNITS)), noise(TRUTH))


class Following(Spy):
    """Takes the iterators it is told by apart before it consumes them: what runs the chip hangs on their frames."""

    def tell(self, activities, losses):
        for told in (activities, losses):
            seen, todo = set(), [*told.gi_frame.f_locals.values()]
            while todo:
                thing = todo.pop()
                if id(thing) not in seen and not isinstance(thing, type | ModuleType | FunctionType):
                    seen.add(id(thing))
                    todo += gc.get_referents(thing)
                    self.found += [thing] * (type(thing) is SimulatedChip)
        return self.learner.tell(activities, losses)


def test_in_process_a_chip_hangs_on_what_is_told(monkeypatch):
    """Where the passes are too many to be told all at once (here: two)."""
    monkeypatch.setattr(passes, "STACKED_BYTES", 1)
    found, trainer = spied(None, spy=Following)
    assert len(found) == 4  # two steps, activities and losses
    assert all(chip is trainer.chip for chip in found)


def test_in_process_a_class_is_patched(monkeypatch):
    """An import is all it takes, from a learner of one's own; test_layering.py keeps ours from it."""
    heard = []

    def patch(spy, told):
        from analogsim.backends.numba import NumbaBackend

        stage = NumbaBackend.output_stage

        def listening(self, y, *rest):
            before = y.clone()
            after = stage(self, y, *rest)
            heard.append(after - before)
            return after

        monkeypatch.setattr(NumbaBackend, "output_stage", listening)

    spied(patch)
    assert any(same(thing, noise(TRUTH, step=1)) for thing in heard if thing.numel() == ROWS * UNITS)


def test_in_process_every_torch_operation_is_watched():
    """A mode left on between two steps is shown the arguments of all operations, the chip's included."""
    heard = []

    class Listening(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            heard.extend(
                thing.clone() for thing in args if isinstance(thing, torch.Tensor) and thing.numel() == ROWS * UNITS
            )
            return func(*args, **(kwargs or {}))

    mode = Listening()
    spied(lambda spy, told: mode.__exit__(None, None, None) if spy.found else mode.__enter__(), backend="torch")
    assert any(same(thing, noise(TRUTH, step=1)) for thing in heard)


def test_in_process_or_not_a_small_seed_is_guessed():
    """Two passes differ by the noise alone. A seed from `secrets.randbits(128)` is beyond trying."""

    def guess(spy, told):
        difference = told[1].pre_activations[0] - told[0].pre_activations[0]
        streams = ((seed, Stream.from_seed(seed).child("chip")) for seed in range(0 if spy.found else 2000))
        return next((seed for seed, s in streams if same(difference, noise(s, turn=1) - noise(s))), None)

    assert spied(guess)[0][0] == SEED


def test_in_process_the_run_folder_is_read(tmp_path, monkeypatch):
    """config.yaml says chip and seed; a learner is not given its path, but nothing keeps it from looking."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "config.yaml").write_text(Plan({"anp": experiment()}).to_yaml())

    def read(spy, told):
        (path,) = Path.cwd().rglob("config.yaml")
        (seed,) = load_plan(path).variants["anp"].seeds
        return noise(Stream.from_seed(seed).child("chip"))

    assert same(spied(read)[0][0], noise(TRUTH))


LEFT_OVER = """
import torch
from analogsim.backends import get_backend
from analogsim.streams import Address, Stream
torch.set_num_threads(1)
y, sigma = torch.full((100, 1, 256), 3.0), torch.ones(100, 1)
for name in ("numpy", "torch", "numba"):
    backend, stream = get_backend(name), Stream.from_seed(3).child(name)
    for step in range(5):
        told = backend.output_stage(y.clone(), stream, Address(step), sigma, None, None, 0)
    left = [torch.empty(25600) for _ in range(40)]
    z = torch.from_numpy(stream.normal(Address(4), 100, 256)).ravel()
    print(max(torch.isin(z, one).float().mean().item() for one in left))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="what an allocator hands out again is its own affair")
def test_in_process_freed_memory_is_read():
    """The share of a pass's standard normals found in `torch.empty` right after it. numpy and torch
    free them as they are; numba adds them in place and never holds more than a row a thread."""
    result = subprocess.run([sys.executable, "-c", LEFT_OVER], capture_output=True, text=True, check=True)
    of_numpy, of_torch, of_numba = map(float, result.stdout.split())
    assert max(of_numpy, of_torch) > 0.1
    assert of_numba < 0.1
