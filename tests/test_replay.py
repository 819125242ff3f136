"""The replay: all that a learner does follows from the activities and losses it is told.

200 steps of every rule (20 on a convolutional network) run on a real chip while everything told to the
learner is recorded. Then a fresh interpreter, in which no file of analogsim/chip can be imported, asks
and tells the same rule from the record: every probe, gradient and amount to subtract must come out bit
for bit.
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
from analogsim.network import ConvLayer, DenseLayer, Network
from analogsim.streams import Stream
from analogsim.training.losses import cross_entropy
from analogsim.training.optimizer import Optimizer

BATCH, RATE = 8, 1e-2
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
# Steps, the network and what an experiment says of it.
NETWORKS = {
    "dense": (200, Network.dense(64, (10,), 10), {"hidden": (10,)}),
    "conv": (
        20,
        Network((ConvLayer(1, 8, 8, 3, 3, 2), ConvLayer(3, 3, 3, 4, 2), DenseLayer(16, 10))),
        {"layers": [{"conv": {"channels": 3, "kernel": 3, "stride": 2}}, {"conv": {"channels": 4, "kernel": 2}}]},
    ),
}
RUNS = {f"{kind} {case}": (kind, case) for kind in NETWORKS for case in CASES}


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


def record(run, folder):
    """All steps on the real chip; returns what was done, and leaves in `folder` what was told."""
    from analogsim.config.loader import load_chip
    from analogsim.training.build import build_trainer
    from analogsim.training.data import load_data

    kind, case = RUNS[run]
    rule, chip, settings = CASES[case]
    steps, _, network = NETWORKS[kind]
    experiment = schema.Experiment(
        data="digits",
        chip=load_chip(chip),
        network=schema.Network.model_validate(network),
        learner=schema.LearnerSettings(rule=rule, **settings),
        decorrelation=schema.DecorrelationSettings(rate=RATE),
        optimizer=OPTIMIZER,
        training=schema.TrainingSettings(batch=BATCH, epochs=2),
    ).resolved()
    data = load_data("digits")
    rows = steps // 2 * BATCH
    data = replace(data, x_train=data.x_train[:rows], y_train=data.y_train[:rows])
    trainer = build_trainer(experiment, data, seed=3)
    opening = {name: tensor.clone() for name, tensor in trainer.learner.state().items()}
    recorder = Recorder(trainer)
    trainer.run()
    own = getattr(getattr(recorder.learner, "rule", recorder.learner), "perturbation", None)
    arrays = {f"told/{name}": torch.stack(tensors).numpy() for name, tensors in recorder.told.items()}
    arrays |= {f"opening/{name}": tensor.numpy() for name, tensor in opening.items()}
    arrays["stream"] = np.frombuffer(own.stream.digest if own else b"", np.uint8)  # of its own perturbations
    np.savez(folder / f"{run}.npz", **arrays)
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


def build(network, case, stream):
    rule, _, settings = CASES[case]
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
    kind, case = RUNS[path.stem.partition("+")[0]]
    steps, network, _ = NETWORKS[kind]
    learner, optimizer = build(network, case, saved.pop("stream").tobytes())
    told, opening = (
        {name.removeprefix(part): torch.from_numpy(a).clone() for name, a in saved.items() if name.startswith(part)}
        for part in ("told/", "opening/")
    )
    learner.load(opening)
    chip, done = Recorded(told), []
    for step in range(steps):
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
    with_chip = {run: record(run, folder) for run in RUNS}
    set_threads(*threads)
    for kind, (steps, *_) in NETWORKS.items():
        with np.load(folder / f"{kind} danp-noisy.npz") as archive:
            arrays = dict(archive)
        arrays["told/1/pre0"].view(np.int32)[steps // 2].flat[0] ^= 1
        np.savez(folder / f"{kind} danp-noisy+flip.npz", **arrays)
    result = subprocess.run([sys.executable, __file__, str(folder)], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return {"with chip": with_chip} | json.loads(result.stdout)


@pytest.mark.parametrize("run", RUNS)
def test_updates_follow_from_what_was_told_alone(runs, run):
    with_chip, without = runs["with chip"][run], runs["without"][run]
    assert len(with_chip) == len(set(map(tuple, with_chip))) == NETWORKS[RUNS[run][0]][0]
    assert without == with_chip
    assert runs["loaded"] == []  # of the chip's side, in the replay


@pytest.mark.parametrize("kind", NETWORKS)
def test_one_flipped_bit_would_show(runs, kind):
    """The lowest bit of one pre-activation, half-way."""
    with_chip, without = runs["with chip"][f"{kind} danp-noisy"], runs["without"][f"{kind} danp-noisy+flip"]
    half = len(with_chip) // 2
    assert without[:half] == with_chip[:half]
    assert without[half] != with_chip[half]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
