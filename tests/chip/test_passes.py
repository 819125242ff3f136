"""Passes side by side, stacked, streamed and folded are those of single runs: values, noise, counts and memory."""

from collections import Counter
from dataclasses import replace
from itertools import combinations
from weakref import WeakSet

import numpy as np
import pytest
import torch

from analogsim import load_chip
from analogsim.backends import NAMES, get_backend
from analogsim.chip import chip as chip_module
from analogsim.chip import crossbar as crossbar_module
from analogsim.chip import passes as passes_module
from analogsim.chip.chip import SimulatedChip
from analogsim.config.chip import ChipDescription
from analogsim.contracts import Activities, LayerUpdate, Probe, WeightUpdate
from analogsim.network import ConvLayer, DenseLayer, Network
from analogsim.streams import Stream

BATCH = 6
NETWORKS = {
    "dense": Network((DenseLayer(11, 7), DenseLayer(7, 5), DenseLayer(5, 3))),
    "conv": Network((ConvLayer(2, 6, 5, 4, 3, 1, 1), ConvLayer(4, 6, 5, 3, 3, 2), DenseLayer(12, 5))),
}
NODE = load_chip("gaussian-node").replace(injection_port=True, **{"node_noise.sigma": 0.1})
CELLS = ChipDescription.model_validate(
    {"name": "cells", "injection_port": True, "cell": {"read_noise": {"law": "constant", "sigma_uS": 0.3}}}
)
CONVERTERS = ChipDescription.model_validate(  # noise-free
    {"name": "converters", "cell": {}, "dac": {"bits": 8}, "adc": {"bits": 9, "bound": 10.0}}
)
CHIPS = {chip.name: chip for chip in (load_chip("ideal"), NODE, load_chip("crossbar-generic"), CELLS, CONVERTERS)}
CHIPS = {name: chip.replace(injection_port=True) for name, chip in CHIPS.items()}
# STACKED_BYTES, STREAMED_BYTES: a pass and a row at a time; a few; everything at once.
BUDGETS = {"a byte": (1, 1), "several rows": (12_000, 5_000), "everything": (2**40, 2**40)}
every_network = pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
every_chip = pytest.mark.parametrize("description", CHIPS.values(), ids=CHIPS)
every_budget = pytest.mark.parametrize("budget", BUDGETS.values(), ids=BUDGETS)
every_backend = pytest.mark.parametrize("backend", NAMES)


def numbers(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def build(network, description, backend="numba", weights=None):
    """Biases everywhere; R on the first layer and the last."""
    weights = weights or network.initial_weights(Stream.from_seed(9))
    chip = SimulatedChip(description, network, weights, Stream.from_seed(1), backend)
    chip.update(setting(network))
    return chip


def setting(network):
    layers = network.layers
    matrices = [torch.eye(layer.inputs) + numbers(layer.inputs, layer.inputs, seed=4) / 10 for layer in layers]
    return WeightUpdate(
        tuple(
            LayerUpdate(bias=numbers(layer.units, seed=3), decorrelation=None if index == 1 else matrices[index])
            for index, layer in enumerate(layers)
        )
    )


def images(network, seed=0):
    return numbers(BATCH, network.layers[0].size, seed=seed)


def probes_of(network, count):
    """Told x* or not, by threes; ε on no layer, on some, on all."""
    asked = []
    for k in range(count):
        shapes = [layer.output_shape for layer in network.layers]
        epsilon = [
            numbers(BATCH, *shape, seed=100 * k + layer) / 10 if (k + layer) % 4 else None
            for layer, shape in enumerate(shapes)
        ]
        asked.append(Probe(tuple(epsilon) if k % 5 else None, inputs=k % 3 == 0))
    return asked


def tensors(activities):
    return [*activities.inputs, *activities.pre_activations, activities.outputs]


def limit(monkeypatch, budget):
    monkeypatch.setattr(passes_module, "STACKED_BYTES", budget[0])
    for module in (crossbar_module, passes_module):
        monkeypatch.setattr(module, "STREAMED_BYTES", budget[1])


def assert_alike(ours, theirs, share=1.0):
    """To 1e-6 of the largest number of each tensor. share: of all numbers, where converters may tip."""
    ours, theirs = list(ours), list(theirs)
    assert len(ours) == len(theirs)
    for part in zip(*([*zip(tensors(a), tensors(b), strict=True)] for a, b in zip(ours, theirs) if not a.inputs)):
        close(part, share)
    for part in zip(*([*zip(tensors(a), tensors(b), strict=True)] for a, b in zip(ours, theirs) if a.inputs)):
        close(part, share)


def close(pairs, share):
    ours, theirs = (torch.stack([pair[side].detach() for pair in pairs]) for side in (0, 1))
    error = (ours - theirs).abs().flatten().sort().values
    assert bool(torch.isfinite(error).all())
    assert float(error[int(share * (len(error) - 1))]) <= 1e-6 * float(theirs.abs().max())


@every_budget
@pytest.mark.parametrize("count", [1, 3, 12])
@every_backend
@every_chip
@every_network
def test_passes_are_those_of_single_runs(network, description, backend, count, budget, monkeypatch):
    """One number in twenty may tip over to the next code of a converter."""
    x, probes = images(network), probes_of(network, count)
    ours, theirs = (build(network, description, backend) for _ in range(2))
    alone = [theirs.run(x, probe) for probe in probes]
    limit(monkeypatch, budget)
    share = 0.95 if description.dac else 1.0
    together = list(ours.passes(x, probes))
    assert [bool(told.inputs) for told in together] == [probe.inputs for probe in probes]
    assert_alike(together, alone, share)
    assert vars(ours.ledger) == vars(theirs.ledger)
    assert_alike([ours.run(x, Probe())], [theirs.run(x, Probe())], share)  # the pass after them, and the step
    for chip in (ours, theirs):
        chip.update(setting(network))
    assert_alike(ours.passes(x, probes), [theirs.run(x, probe) for probe in probes], share)


@every_budget
@every_backend
@every_network
def test_the_noise_is_the_same_bit_for_bit(network, backend, budget, monkeypatch):
    """Weights 0: what is read is b + ε + n, with nothing to round differently."""
    x, probes = images(network), probes_of(network, 12)
    blank = [torch.zeros(layer.units, layer.inputs) for layer in network.layers]
    ours, theirs = (build(network, NODE, backend, blank) for _ in range(2))
    alone = [theirs.run(x, probe) for probe in probes]
    limit(monkeypatch, budget)
    for one, other in zip(ours.passes(x, probes), alone, strict=True):
        assert all(map(torch.equal, one.pre_activations, other.pre_activations))
        assert torch.equal(one.outputs, other.outputs)
    first, second = (told.pre_activations[0] for told in alone[5:11:5])  # both without ε
    assert not bool((first == second).any())


def overheard(network, description, run, monkeypatch, change=lambda address: address):
    """(every number drawn, as stream, step, pass and row; what `run` gave) of a fresh chip."""
    kernels, drawn = get_backend("numba"), Counter()
    stage = kernels.output_stage

    def listening(y, stream, address, *rest):
        drawn.update(
            (stream.digest, address.step, address.pass_index, address.first_sample + row) for row in range(len(y))
        )
        return stage(y, stream, change(address), *rest)

    kernels.output_stage = listening
    with monkeypatch.context() as patched:
        patched.setattr(chip_module, "get_backend", lambda *_: kernels)
        chip = build(network, description)
    return drawn, run(chip)


@every_budget
@pytest.mark.parametrize("description", [NODE, CHIPS["crossbar-generic"]], ids=["node", "crossbar-generic"])
@every_network
def test_every_row_of_a_pass_is_drawn_once_at_its_own_address(network, description, budget, monkeypatch):
    x, probes = images(network), probes_of(network, 12)
    expected, _ = overheard(network, description, lambda chip: [chip.run(x, p) for p in probes], monkeypatch)
    limit(monkeypatch, budget)
    drawn, _ = overheard(network, description, lambda chip: list(chip.passes(x, probes)), monkeypatch)
    assert drawn == expected
    assert set(drawn.values()) == {1}
    assert len(drawn) == 12 * BATCH * len(network.layers)


@every_network
def test_noise_at_another_address_would_show(network, monkeypatch):
    """Planted: every part of a pass draws as if it were its first rows; every pass as if it were the first."""
    x, probes = images(network), probes_of(network, 12)
    chip = build(network, NODE)
    alone = [chip.run(x, probe) for probe in probes]
    limit(monkeypatch, BUDGETS["a byte"])
    for change in (lambda a: replace(a, pass_index=0), lambda a: replace(a, first_sample=a.first_sample + 1)):
        _, told = overheard(network, NODE, lambda chip: list(chip.passes(x, probes)), monkeypatch, change)
        with pytest.raises(AssertionError):
            assert_alike(told, alone)


# How often, how much at a time


class Spy:
    """A backend that counts the products with a matrix of the first layer: (rows of it, of what it reads)."""

    def __init__(self, backend):
        self.backend, self.seen = get_backend(backend), []

    def __getattr__(self, name):
        return getattr(self.backend, name)

    def product(self, x, matrix):
        self.seen.append((tuple(x.shape), tuple(matrix.shape)))
        return self.backend.product(x, matrix)

    def convolve(self, x, matrix, *rest):
        self.seen.append((tuple(x.shape), tuple(matrix.shape)))
        return self.backend.convolve(x, matrix, *rest)


@pytest.mark.parametrize(("at_once", "groups"), [(1, 12), (5, 3), (12, 1), (100, 1)])
@pytest.mark.parametrize("description", [CHIPS["ideal"], NODE, CHIPS["crossbar-generic"]], ids=lambda c: c.name)
@every_network
def test_the_first_layer_s_product_is_made_once_a_step(network, description, at_once, groups, monkeypatch):
    """Or once a group where it takes more; R x once a step, or not at all where it is folded and not told."""
    spy, layer, linear = Spy("numba"), network.layers[0], not description.cell
    monkeypatch.setattr(chip_module, "get_backend", lambda *_: spy)
    chip, x = build(network, description), images(network)
    monkeypatch.setattr(chip_module, "passes_at_once", lambda *_: at_once)
    folded = linear and isinstance(layer, ConvLayer)  # of the dense layer's 7 units, 6 vectors save too little
    for told in (True, False):
        spy.seen.clear()
        list(chip.passes(x, [Probe(inputs=told), *[Probe(inputs=False)] * 11]))
        read = [rows for rows, matrix in spy.seen if matrix == (layer.units, layer.inputs) and rows[0] == BATCH]
        assert len(read) == (1 if linear else 2 * groups)  # crossbar-generic's second product is V x̂², of the noise
        decorrelated = [rows for rows, matrix in spy.seen if matrix == (layer.inputs, layer.inputs)]
        folds = [rows for rows in decorrelated if rows == (layer.units, layer.inputs)]
        assert len(folds) == (folded and told)  # and kept for the second step, in which nothing changed
        assert len(decorrelated) - len(folds) == (told or not folded)
        chip.update(WeightUpdate((LayerUpdate(),) * 3))


class Counted:
    """Stands in for `Activities` where passes are made: which are alive, and how many were at most."""

    def __init__(self):
        self.alive, self.most, self.made = WeakSet(), 0, 0

    def __call__(self, *parts):
        counted = self

        class Held(Activities):
            __hash__, __eq__ = object.__hash__, object.__eq__

        held = Held(*parts)
        counted.alive.add(held)
        self.made, self.most = self.made + 1, max(self.most, len(self.alive))
        return held


def a_pass(network):
    """Bytes of a_l and x_l of all layers."""
    return 8 * BATCH * network.nodes


@pytest.mark.parametrize("at_once", [1, 4, 7, 40])
@every_network
def test_forty_passes_are_alive_no_more_than_their_budget_at_once(network, at_once, monkeypatch):
    """A group, besides the one the caller holds; and the next is made only when it is come to."""
    counted = Counted()
    monkeypatch.setattr(passes_module, "Activities", counted)
    limit(monkeypatch, (at_once * a_pass(network) + a_pass(network) - 1, 2**20))
    told = build(network, NODE).passes(images(network), [Probe(inputs=False)] * 40)
    assert counted.made == 0
    for number in range(40):
        one = next(told)
        assert counted.made == min(-(-(number + 1) // at_once) * at_once, 40)
        assert len(counted.alive) <= at_once + 1
        assert len(one.pre_activations) == 3
    assert counted.most <= at_once + 1
    assert counted.made == 40
    with pytest.raises(StopIteration):
        next(told)


def test_a_caller_that_keeps_all_would_show(monkeypatch):
    counted, network = Counted(), NETWORKS["dense"]
    monkeypatch.setattr(passes_module, "Activities", counted)
    limit(monkeypatch, (4 * a_pass(network), 2**20))
    kept = list(build(network, NODE).passes(images(network), [Probe()] * 40))
    assert len(kept) == counted.most == 40


@pytest.mark.parametrize("description", [NODE, CHIPS["crossbar-generic"]], ids=["node", "crossbar-generic"])
def test_patches_nobody_keeps_are_made_a_part_at_a_time(description, monkeypatch):
    """The largest input of a product of the second layer: STREAMED_BYTES of patches; without, all of them."""
    network, spy = NETWORKS["conv"], Spy("numba")
    layer, x = network.layers[1], images(NETWORKS["conv"])
    monkeypatch.setattr(chip_module, "get_backend", lambda *_: spy)
    patch = 4 * layer.positions * layer.inputs

    def rows(budget, told=False):
        limit(monkeypatch, (2**40, budget))
        chip = build(network, description)
        spy.seen.clear()
        list(chip.passes(x, [Probe(inputs=told)] * 4))
        shape = (layer.units, layer.inputs)
        return max(read[0] for read, matrix in spy.seen if matrix == shape and read[1:] == (layer.positions, shape[1]))

    if description.cell:
        assert [rows(n * patch + patch - 1) for n in (1, 2, 5)] == [1, 2, 5]
        assert rows(2 * patch, told=True) == 2  # kept, and so made in any case, but not driven all at once
        assert rows(2**40) == 4 * BATCH
        assert rows(3 * BATCH * patch) == 3 * BATCH
    else:
        with pytest.raises(ValueError, match="empty"):  # no patch is ever made
            rows(patch)


# Whose memory


@every_budget
@every_backend
@every_chip
@every_network
def test_what_is_handed_out_is_the_caller_s_own(network, description, backend, budget, monkeypatch):
    limit(monkeypatch, budget)
    check_own(network, description, backend)


def check_own(network, description, backend="numba"):
    """Overwriting each pass as it comes changes neither the chip, x, nor the passes after it; no two overlap."""
    x, probes = images(network), probes_of(network, 7)
    ours, theirs = (build(network, description, backend) for _ in range(2))
    kept = []
    for one, other in zip(ours.passes(x, probes), theirs.passes(x, probes), strict=True):
        assert all(map(torch.equal, tensors(one), tensors(other)))
        kept += tensors(one)
        for tensor in tensors(one):
            tensor.fill_(float("nan"))
    assert torch.equal(x, images(network))
    given = [x, *ours.state().values(), *(r for r in ours._decorrelation if r is not None)]
    for one, other in combinations(kept, 2):
        assert apart(one, other)
    assert all(apart(told, other) for told in kept for other in given)
    for chip in (ours, theirs):
        chip.update(setting(network))
    for one, other in zip(ours.passes(x, probes), theirs.passes(x, probes), strict=True):
        assert all(map(torch.equal, tensors(one), tensors(other)))


def apart(one, other):
    (start, end), (begin, stop) = ((t.data_ptr(), t.data_ptr() + t.numel() * t.element_size()) for t in (one, other))
    return end <= begin or stop <= start


MEMORY_BUGS = {"an x* that is x itself taken for a copy": "_share_memory"}


@pytest.mark.parametrize("bug", MEMORY_BUGS)
def test_the_check_of_memory_catches(bug, monkeypatch):
    """A layer without R, which all passes have the same x of; patches would be copies in any case."""
    limit(monkeypatch, BUDGETS["a byte"])
    monkeypatch.setattr(passes_module, MEMORY_BUGS[bug], lambda one, other: False)
    with pytest.raises(AssertionError):
        check_own(NETWORKS["dense"], CHIPS["converters"])


# What is kept from pass to pass is kept no longer than it holds


@every_backend
@pytest.mark.parametrize("description", [CHIPS["ideal"], CHIPS["crossbar-generic"]], ids=lambda c: c.name)
@every_network
def test_a_fold_and_x_0_follow_every_change(network, description, backend):
    """Of W, of R in place, of R for another, of x in place; against a chip that has seen nothing before."""
    chip, x = build(network, description, backend), images(network)
    change = setting(network)
    steps = [
        lambda: chip.update(WeightUpdate(tuple(LayerUpdate(weight=w.clone() / 3) for w in chip.weights))),
        lambda: [r.mul_(1.5) for r in chip._decorrelation if r is not None],
        lambda: chip.update(change),
        lambda: x.mul_(0.5),
        lambda: [layer.decorrelation.neg_() for layer in change.layers if layer.decorrelation is not None],
    ]
    for step in steps:
        list(chip.passes(x, [Probe()] * 3))
        step()
        fresh = chip.view("fresh", noisy=False)
        fresh._runner._folded, fresh._runner._held = {}, {}
        own = chip.view("own", noisy=False)
        own._runner = chip._runner
        told, expected = (next(iter(c._runner.run(x, asked(c), 3))) for c in (own, fresh))
        if description.noise_free:
            assert_alike([told], [expected])
        assert torch.equal(told.inputs[0], expected.inputs[0])


def asked(chip):
    return [chip._asked(images(chip.network), Probe())]
