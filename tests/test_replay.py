"""The replay: all that a learner does follows from the activities and losses it is told.

200 steps of every rule run on a real chip while everything told to the learner is recorded. Then
a fresh interpreter, in which no file of analogsim/chip can be imported, asks and tells the same
rule from the record: every probe, gradient and amount to subtract must come out bit for bit.
"""

import hashlib
import json
import subprocess
import sys
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import numba
import numpy as np
import pytest
import torch

from analogsim.backends import get_backend
from analogsim.backends.torch import full_precision
from analogsim.config import schema
from analogsim.contracts import Activities, Capabilities
from analogsim.learners.activity_perturbation import ActivityPerturbation
from analogsim.learners.backpropagation import BackPropagation
from analogsim.learners.decorrelation import Decorrelated
from analogsim.learners.iterative_perturbation import IterativePerturbation
from analogsim.learners.node_perturbation import NodePerturbation
from analogsim.learners.perturbation import Drawn, Perturbation
from analogsim.network import Network
from analogsim.streams import Stream
from analogsim.training.losses import cross_entropy
from analogsim.training.optimizer import Optimizer

STEPS, BATCH, RATE = 200, 8, 1e-2
SIZES = 64, (10,), 10
OPTIMIZER = schema.OptimizerSettings(lr=1e-3)
BLOCKED = ("analogsim.chip", "analogsim.training.build", "analogsim.training.loop", "analogsim.training.oracle")
# Rule, chip, and what the learner's settings say besides.
CASES = {
    "bp-noisy": ("bp", "gaussian-node", {}),
    "np": ("np", "ideal", {"baseline": "clean", "perturbation": 1e-3}),
    "np-noisy": ("np", "ideal", {"baseline": "noisy", "perturbation": 1e-3}),
    "np-both": ("np", "ideal", {"baseline": "noisy", "perturbation": 1e-3, "difference": "both"}),
    "anp": ("anp", "ideal", {"baseline": "clean", "perturbation": 1e-3, "samples": 2}),
    "anp-noisy": ("anp", "gaussian-node", {"baseline": "noisy", "perturbation": "intrinsic"}),
    "inp": ("inp", "ideal", {"baseline": "clean", "perturbation": 1e-3}),
    "inp-noisy": ("inp", "ideal", {"baseline": "noisy", "perturbation": 1e-3}),
    "dbp": ("dbp", "crossbar-generic", {}),
    "dnp-noisy": ("dnp", "ideal", {"baseline": "noisy", "perturbation": 1e-3}),
    "danp-noisy": ("danp", "gaussian-node", {"baseline": "noisy", "perturbation": "intrinsic", "samples": 2}),
    "danp-crossbar": ("danp", "crossbar-generic", {"baseline": "noisy", "perturbation": "intrinsic"}),
    "dinp": ("dinp", "ideal", {"baseline": "clean", "perturbation": 1e-3}),
}


def digest(thing):
    """SHA-256 of every bit of the tensors in a nest of contracts, forms included."""
    sha, todo = hashlib.sha256(), [thing]
    while todo:
        part = todo.pop()
        if isinstance(part, torch.Tensor):
            sha.update(f"{part.dtype}{tuple(part.shape)}".encode() + part.detach().numpy().tobytes())
        elif isinstance(part, tuple | Drawn):  # ε, drawn here to its last bit
            todo += part
        elif is_dataclass(part):
            todo += [getattr(part, field.name) for field in fields(part)]
        else:
            sha.update(repr(part).encode())
    return sha.hexdigest()


class Recorder:
    """The learner and the optimiser of a trainer, overheard. `told` is all the replay is given."""

    def __init__(self, trainer):
        self.learner, self.optimizer, self.loss = trainer.learner, trainer.optimizer, trainer.loss
        self.told, self.done = {}, []
        self.factored, self.tf32 = trainer.optimizer.factored, trainer.optimizer.tf32
        trainer.learner, trainer.optimizer, trainer.loss = self, self, self.lose

    def ask(self, step, batch):
        probes = self.learner.ask(step, batch)
        self.done.append([digest(probes)])
        return probes

    def lose(self, outputs, targets):
        if outputs.requires_grad:  # a training pass, not an evaluation
            self.targets = targets
        return self.loss(outputs, targets)

    def tell(self, activities, losses):
        activities, losses = list(activities), list(losses)  # which runs the passes
        parts = {"targets": self.targets}
        for k, (a, loss) in enumerate(zip(activities, losses)):
            parts |= {f"{k}/outputs": a.outputs.detach(), f"{k}/loss": loss.detach()}
            parts |= {f"{k}/inputs{layer}": x for layer, x in enumerate(a.inputs)}
            parts |= {f"{k}/pre{layer}": pre for layer, pre in enumerate(a.pre_activations)}
        for name, tensor in parts.items():
            self.told.setdefault(name, []).append(tensor.clone())
        update = self.learner.tell(activities, losses)
        self.done[-1].append(digest(update))
        return update

    def step(self, gradient):
        changes = self.optimizer.step(gradient)
        self.done[-1].append(digest(changes))
        return changes


def record(case, folder):
    """200 steps on the real chip; returns what was done, and leaves in `folder` what was told."""
    from analogsim.config.loader import load_chip
    from analogsim.training.build import build_trainer
    from analogsim.training.data import load_data

    rule, chip, settings = CASES[case]
    experiment = schema.Experiment(
        data="digits",
        chip=load_chip(chip),
        network=schema.Network(hidden=SIZES[1]),
        learner=schema.LearnerSettings(rule=rule, **settings),
        decorrelation=schema.DecorrelationSettings(rate=RATE),
        optimizer=OPTIMIZER,
        training=schema.TrainingSettings(batch=BATCH, epochs=2),
    ).resolved()
    data = load_data("digits")
    data = replace(data, x_train=data.x_train[: STEPS // 2 * BATCH], y_train=data.y_train[: STEPS // 2 * BATCH])
    trainer = build_trainer(experiment, data, seed=3)
    opening = {name: tensor.clone() for name, tensor in trainer.learner.state().items()}
    recorder = Recorder(trainer)
    trainer.run()
    own = getattr(getattr(recorder.learner, "rule", recorder.learner), "perturbation", None)
    arrays = {f"told/{name}": torch.stack(steps).numpy() for name, steps in recorder.told.items()}
    arrays |= {f"opening/{name}": tensor.numpy() for name, tensor in opening.items()}
    arrays["stream"] = np.frombuffer(own.stream.digest if own else b"", np.uint8)  # of its own perturbations
    np.savez(folder / f"{case}.npz", **arrays)
    return recorder.done


class Recorded:
    """A chip that reads from a record and keeps no noise; the four names of the contract."""

    capabilities, ledger = Capabilities(injection_port=True, noise_free=False), None

    def __init__(self, told):
        self.told, self.step, self.turn, self.updates = told, 0, 0, []

    def run(self, x, probe):
        parts = {name: t[self.step].clone() for name, t in self.told.items() if name.startswith(f"{self.turn}/")}
        self.turn += 1
        inputs, pre = (tuple(t for name, t in sorted(parts.items()) if kind in name) for kind in ("inputs", "pre"))
        assert bool(inputs) == probe.inputs  # told where they were asked for and nowhere else
        return Activities(inputs, pre, parts[f"{self.turn - 1}/outputs"])

    def update(self, update):
        self.updates.append(digest(update))
        self.step, self.turn = self.step + 1, 0


def build(case, stream):
    rule, _, settings = CASES[case]
    network = Network.dense(*SIZES)
    matrices = [torch.eye(layer.inputs) for layer in network.layers] if rule.startswith("d") else None
    weights = [torch.empty(layer.units, layer.inputs) for layer in network.layers] if rule.endswith("bp") else []
    own, noisy, samples = None, settings.get("baseline") == "noisy", settings.get("samples", 1)
    if stream:
        own = Perturbation(settings["perturbation"], network, Stream(stream), get_backend(), torch.device("cpu"))
    learner = {
        "bp": lambda: BackPropagation(network, weights, matrices),
        "np": lambda: NodePerturbation(network, own, noisy, samples, settings.get("difference", "second")),
        "anp": lambda: ActivityPerturbation(network, own, noisy, samples),
        "inp": lambda: IterativePerturbation(network, own, noisy, samples),
    }[rule.removeprefix("d")]()
    learner = learner if matrices is None else Decorrelated(learner, matrices, RATE)
    return learner, Optimizer(OPTIMIZER, network, shadow=weights)


def replay(path):
    """What the rule does when told the record; losses are computed anew from the outputs."""
    with np.load(path) as archive:
        saved = {name: archive[name] for name in archive}
    learner, optimizer = build(path.stem.partition("+")[0], saved.pop("stream").tobytes())
    told, opening = (
        {name.removeprefix(part): torch.from_numpy(a).clone() for name, a in saved.items() if name.startswith(part)}
        for part in ("told/", "opening/")
    )
    learner.load(opening)
    chip, done = Recorded(told), []
    for step in range(STEPS):
        activities, losses = [], []
        probes = learner.ask(step, BATCH)
        for index, probe in enumerate(probes):
            activity = chip.run(None, probe)
            activity.outputs.requires_grad_()
            activities.append(activity)
            losses.append(cross_entropy(activity.outputs, told["targets"][step]))
            assert torch.equal(losses[-1], told[f"{index}/loss"][step])
        with torch.no_grad():
            gradient = learner.tell(activities, losses)
        done.append([digest(probes), digest(gradient)])
        chip.update(optimizer.step(gradient))
    return [[*before, update] for before, update in zip(done, chip.updates)]


def set_threads(of_torch, of_numba):  # a small network gains nothing from threads
    torch.set_num_threads(of_torch)
    numba.set_num_threads(of_numba)


def main(folder):
    loaded = [name for name in sys.modules if name.startswith(BLOCKED)]
    sys.modules |= dict.fromkeys(BLOCKED)  # None: from here on importing it, or anything below it, fails
    set_threads(1, 1)
    with full_precision():
        done = {path.stem: replay(path) for path in sorted(folder.glob("*.npz"))}
    print(json.dumps({"without": done, "loaded": loaded}))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """What was done with the chip and what without, step by step; modules loaded without."""
    folder, threads = tmp_path_factory.mktemp("replay"), (torch.get_num_threads(), numba.get_num_threads())
    set_threads(1, 1)
    with_chip = {case: record(case, folder) for case in CASES}
    set_threads(*threads)
    with np.load(folder / "danp-noisy.npz") as archive:
        arrays = dict(archive)
    arrays["told/1/pre0"].view(np.int32)[100, 0, 0] ^= 1
    np.savez(folder / "danp-noisy+flip.npz", **arrays)
    result = subprocess.run([sys.executable, __file__, str(folder)], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return {"with chip": with_chip} | json.loads(result.stdout)


@pytest.mark.parametrize("case", CASES)
def test_updates_follow_from_what_was_told_alone(runs, case):
    with_chip, without = runs["with chip"][case], runs["without"][case]
    assert len(with_chip) == len(set(map(tuple, with_chip))) == STEPS
    assert without == with_chip
    assert runs["loaded"] == []  # of the chip's side, in the replay


def test_one_flipped_bit_would_show(runs):
    """The lowest bit of one pre-activation, at step 100."""
    with_chip, without = runs["with chip"]["danp-noisy"], runs["without"]["danp-noisy+flip"]
    assert without[:100] == with_chip[:100]
    assert without[100] != with_chip[100]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
