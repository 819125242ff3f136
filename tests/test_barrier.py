"""Ways for a learner to reach the chip's hidden noise that lead nowhere, and must not begin to.

What does work, since in-process Python is not a security boundary, is in test_barrier_limits.py.
"""

import gc
import itertools
import os
import random
import time
from collections import Counter
from dataclasses import replace
from types import ModuleType
from typing import ClassVar
from unittest.mock import Mock, PropertyMock

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch.autograd import forward_ad

from analogsim.chip.chip import SimulatedChip
from analogsim.config import schema
from analogsim.config.loader import load_chip
from analogsim.contracts import Factors, LayerUpdate, Probe, WeightUpdate
from analogsim.errors import ArgumentError
from analogsim.network import Network
from analogsim.streams import Address, Stream
from analogsim.training.build import build_trainer
from analogsim.training.data import Dataset

SEED, ROWS, BATCH, INPUTS, UNITS = 1009, 96, 32, 12, 16
CHIP_SIDE = ("analogsim.chip", "analogsim.config", "analogsim.training", "pydantic", "pathlib", "io", "numpy.random")
X = torch.from_numpy(Stream.from_seed(7).normal(Address(), ROWS, INPUTS))
BARE = torch.zeros(BATCH, UNITS)  # a perturbation of the first layer
every_backend = pytest.mark.parametrize("backend", ["numpy", "numba", "torch"])


def build(rule, **learner):
    chip = load_chip("ideal" if rule.removeprefix("d") in ("np", "inp") else "gaussian-node")
    settings, training = schema.LearnerSettings(rule=rule, **learner), schema.TrainingSettings(batch=BATCH, epochs=2)
    parts = {"chip": chip, "network": schema.Network(hidden=(UNITS,)), "learner": settings, "training": training}
    data = Dataset("numbers", X, torch.arange(ROWS) % 4, X, torch.arange(ROWS) % 4, 1.0, 4)
    return build_trainer(schema.Experiment(data="npz:none", **parts).resolved(), data, SEED)


def lone_chip(backend="numba", name="gaussian-node"):
    network, root = Network.dense(INPUTS, (UNITS,), 4), Stream.from_seed(SEED)
    weights = network.initial_weights(root.child("initial weights"))
    return SimulatedChip(load_chip(name).replace(injection_port=True), network, weights, root.child("chip"), backend)


def parts(told):
    return [*told.inputs, *told.pre_activations, told.outputs]


class Spy:
    """A learner that does as it should, and calls `act` with what it is told."""

    def __init__(self, learner, act):
        self.learner, self.act = learner, act

    def ask(self, step, batch):
        probes = self.learner.ask(step, batch)
        drawn = [p.perturbation and tuple(p.perturbation) for p in probes]  # once, and so what the chip is given
        self.asked = tuple(replace(p, perturbation=epsilon) for p, epsilon in zip(probes, drawn))
        return self.asked

    def tell(self, activities, losses):
        activities, losses = list(activities), list(losses)
        self.act(activities, losses, self.asked)
        return self.learner.tell(activities, losses)


def trained(rule, act=lambda *told: None, **learner):
    trainer = build(rule, **learner)
    trainer.learner = Spy(trainer.learner, act)
    trainer.run()
    return trainer


def reach(root):
    """All that items, attributes, slots, closures and bound methods lead to; no types, no modules."""
    seen, todo = {}, [root]
    while todo:
        thing = todo.pop()
        modular = isinstance(thing, type | ModuleType) or (isinstance(thing, dict) and "__builtins__" in thing)
        if id(thing) not in seen and not modular:
            seen[id(thing)] = thing
            todo += gc.get_referents(thing)
            todo += [thing._base, thing.grad_fn] if isinstance(thing, torch.Tensor) else []
    return list(seen.values())


@every_backend
@pytest.mark.parametrize("name", ["gaussian-node", "crossbar-generic", "ideal"])
def test_looking_behind_a_tensor(backend, name):
    """Storage, base, .data, attributes and graph hold what was told and nothing else."""
    chip = lone_chip(backend, name)
    told = parts(chip.run(X, Probe()))
    storages = [tensor.untyped_storage() for tensor in (*told, X, *chip.weights, *chip._biases)]
    assert len({storage.data_ptr() for storage in storages}) == len(storages)
    for tensor, storage in zip(told, storages):
        assert storage.nbytes() == 4 * tensor.numel()
        assert tensor.grad_fn is None
        assert not vars(tensor)
        bases = (tensor._base, tensor.data, torch.from_numpy(tensor.numpy()))
        assert all(base is None or torch.equal(base.flatten(), tensor.flatten()) for base in bases)
    assert not {id(t) for t in told} & {id(thing) for thing in reach(chip)}


@pytest.mark.parametrize("rule", schema.RULES)
def test_following_references(rule):
    """No chip, description, ledger, path, seed, stream or weight; BP holds a copy of the weights.

    Between the steps, that is: what `tell` is given may lead to the chip (test_barrier_limits.py),
    and no rule keeps it.
    """
    trainer = build(rule)
    trainer.run(stop=lambda: trainer.progress.step == 3)
    things, chip_side = reach(trainer.learner), reach(trainer.chip)
    assert not [thing for thing in things if type(thing).__module__.lstrip("_").startswith(CHIP_SIDE)]
    secrets = {s.digest for s in chip_side if isinstance(s, Stream)} | {Stream.from_seed(SEED).digest, SEED}
    secrets |= {word for s in chip_side if isinstance(s, Stream) for word in s.key}
    assert not [thing for thing in things if isinstance(thing, int | bytes) and thing in secrets]
    assert not [thing for thing in things if isinstance(thing, str) and trainer.chip.description.name in thing]
    tensors = [thing for thing in things if isinstance(thing, torch.Tensor)]
    for weight in trainer.chip.weights:
        assert weight.data_ptr() not in [t.data_ptr() for t in tensors]
        copies = [t for t in tensors if t.shape == weight.shape and torch.allclose(t, weight, atol=1e-3)]
        assert len(copies) == rule.endswith("bp")


@pytest.mark.parametrize("hide", [lambda c: lambda: c, lambda c: {1: [c]}, lambda c: c.run, lambda c: (n for n in [c])])
def test_the_walk_would_find_a_chip(hide):
    chip = lone_chip()
    assert chip in reach(hide(chip))


@every_backend
@pytest.mark.parametrize("name", ["gaussian-node", "ideal"])
def test_differentiation(backend, name):
    """A graph would keep the weights, a dual number give their exact product."""
    chip = lone_chip(backend, name)
    tracked = LayerUpdate(decorrelation=torch.eye(INPUTS).requires_grad_())
    chip.update(WeightUpdate((tracked, LayerUpdate(bias=torch.zeros(4).requires_grad_()))))
    with forward_ad.dual_level():
        for epsilon in (BARE.clone().requires_grad_(), forward_ad.make_dual(BARE.clone(), BARE + 1)):
            for tensor in parts(chip.run(X[:BATCH], Probe((epsilon, None)))):
                assert not tensor.requires_grad
                assert forward_ad.unpack_dual(tensor).tangent is None


def test_the_graph_of_a_loss():
    def look(activities, losses, asked):
        nodes, found = [losses[0].grad_fn], []
        for node in nodes:
            found += [getattr(node, name) for name in dir(node) if name.startswith("_saved")]
            nodes += [above for above, _ in node.next_functions if above]
        shapes.update(tuple(thing.shape) for thing in found if isinstance(thing, torch.Tensor))

    shapes = set()
    trained("anp", look)
    assert shapes == {(BATCH, 4), (BATCH,), ()}  # outputs, targets, and a mean of nothing


class Listener(torch.Tensor):
    """Shown all it meets inside the chip; before it was refused, that was W x̂ without the noise."""

    heard: ClassVar[list] = []

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        cls.heard += [thing for thing in args if type(thing) is torch.Tensor]
        return super().__torch_function__(func, types, args, kwargs)


def test_a_tensor_that_listens():
    chip, bug = lone_chip(), Listener(BARE)
    with pytest.raises(ArgumentError):
        chip.run(X[:BATCH], Probe((bug, None)))
    for change in ({"weight": bug}, {"weight": Factors(bug, bug)}, {"bias": bug}, {"decorrelation": bug}):
        with pytest.raises(ArgumentError):
            chip.update(WeightUpdate((LayerUpdate(**change), LayerUpdate())))
    assert Listener.heard == []


class Liar(int):
    """A row number that says of itself what is wanted."""

    __hash__, __eq__, __ne__ = int.__hash__, lambda self, other: False, lambda self, other: False


def test_winding_a_pass_back():
    chip = lone_chip()
    chip.run(X[:BATCH], Probe())
    for row in (1, BATCH - 1, BATCH + 1, -BATCH, True, float(BATCH), Liar(0), Liar(1)):
        with pytest.raises(ArgumentError):
            chip.run(X[:BATCH], Probe(first_sample=row))
    shifty = Mock(perturbation=None)  # another answer each time it is asked
    type(shifty).first_sample = PropertyMock(side_effect=[7, BATCH, 0])
    with pytest.raises(ArgumentError):
        chip.run(X[:BATCH], shifty)
    chip.update(WeightUpdate((LayerUpdate(),) * len(chip.weights)))
    with pytest.raises(ArgumentError):
        chip.run(X[:BATCH], Probe(first_sample=BATCH))


def test_asking_for_the_same_noise_twice():
    """No address is drawn twice in a whole training, evaluation included."""
    trainer, drawn = build("danp", samples=2), Counter()
    kernels = trainer.chip._crossbars[0].backend
    stage = kernels.output_stage

    def overheard(y, stream, address, sigma, variance, *converter):
        if sigma is not None or variance is not None:
            first = address.first_sample
            drawn.update((stream.digest, address.step, address.pass_index, first + row) for row in range(len(y)))
        return stage(y, stream, address, sigma, variance, *converter)

    kernels.output_stage = overheard
    trainer.run()
    assert set(drawn.values()) == {1}
    assert len(drawn) == 2 * (2 * ROWS * 3 + ROWS + 3 * ROWS)  # layers x (epochs x passes + evaluations)


def test_a_stream_of_ones_own():
    """No child of the learner's stream is one of the chip's: names go down, SHA-256, and never up."""
    trainer = build("np")
    own = trainer.learner.perturbation.stream
    hidden = {stream.key for stream in reach(trainer.chip) if isinstance(stream, Stream)}
    names = ["chip", "noise", "evaluation", "learner", "..", "", 0, 1, SEED]
    tried = [own] + [own.child(*path) for length in (1, 2, 3) for path in itertools.product(names, repeat=length)]
    assert len({stream.key for stream in tried}) == len(tried)
    assert not hidden & {stream.key for stream in tried}


def test_global_generators():
    """Nothing draws from them, so neither their state nor a seed of one's own says anything."""

    def states():
        return random.getstate(), str(np.random.get_state()), bytes(torch.get_rng_state())  # noqa: NPY002

    def reseed(*told):
        torch.manual_seed(0), np.random.seed(0), random.seed(0)  # noqa: NPY002

    before, environment = states(), dict(os.environ)
    honest = trained("danp").chip.weights
    assert states() == before
    assert dict(os.environ) == environment
    assert all(map(torch.equal, trained("danp", reseed).chip.weights, honest))


@pytest.mark.parametrize(("rule", "learner"), [("anp", {}), ("danp", {}), ("np", {"perturbation": 1e-3})])
def test_writing_over_what_was_told_or_asked(rule, learner):
    """Of the step before, all through the training: nothing changes, the chip keeps none of it."""
    kept = []

    def vandal(activities, losses, asked):
        for tensor in kept:
            tensor.fill_(9.0)
        perturbations = [tensor for probe in asked for tensor in probe.perturbation or ()]
        kept[:] = [*perturbations, *(tensor for told in activities for tensor in parts(told))]

    assert all(map(torch.equal, trained(rule, vandal, **learner).chip.weights, trained(rule, **learner).chip.weights))


def test_timing():
    """Rank correlation of how long a pass takes and how strong its noise is, over 400: |r| < 5 / √400."""
    chip, seconds, strength = lone_chip(), [], []
    for turn in range(400):
        start = time.perf_counter()
        chip.run(X[:BATCH], Probe())
        seconds.append(time.perf_counter() - start)
        strength.append(np.square(chip._crossbars[0]._stream.normal(Address(0, turn), BATCH, UNITS)).sum())
    assert abs(spearmanr(seconds, strength).statistic) < 0.25
