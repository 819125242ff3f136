"""A simulated chip: what its passes compute, which noise they get, what an update does, and what it refuses."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analogsim import load_chip
from analogsim.backends import NAMES
from analogsim.chip.chip import SimulatedChip
from analogsim.contracts import Factors, LayerUpdate, Probe, WeightUpdate
from analogsim.errors import ArgumentError
from analogsim.network import ConvLayer, DenseLayer, Network
from analogsim.streams import Stream

IDEAL, GENERIC = load_chip("ideal"), load_chip("crossbar-generic")
NODE = load_chip("gaussian-node").replace(**{"node_noise.sigma": 0.1})
UNITS, INPUTS, BATCH = (7, 5, 3), (11, 7, 5), 13
every_backend = pytest.mark.parametrize("backend", NAMES)
every_chip = pytest.mark.parametrize("description", [IDEAL, NODE, GENERIC], ids=lambda c: c.name)


def numbers(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def counts(ledger):
    return {name: getattr(ledger, name) for name in ("reads", "conversions", "writes")}


def build(description, seed=1, backend="auto", weights=None, **options):
    network = Network.dense(11, (7, 5), 3, **options)
    weights = weights or network.initial_weights(Stream.from_seed(9))
    return SimulatedChip(description, network, weights, Stream.from_seed(seed), backend)


def every_layer(**parts):
    """An update of these parts of every layer, each a function of its units and inputs."""
    sizes = zip(UNITS, INPUTS)
    return WeightUpdate(tuple(LayerUpdate(**{name: part(*size) for name, part in parts.items()}) for size in sizes))


def near_identity(units, inputs):
    return torch.eye(inputs) + numbers(inputs, inputs, seed=4) / 10


NOTHING, DECORRELATION = every_layer(), every_layer(decorrelation=near_identity)
CHANGE = every_layer(
    weight=lambda u, i: numbers(u, i, seed=2) / 10, bias=lambda u, i: numbers(u, seed=3), decorrelation=near_identity
)


def tensors(activities):
    return [*activities.inputs, *activities.pre_activations, activities.outputs]


def same(first, second):
    """Bit for bit."""
    return all(map(torch.equal, tensors(first), tensors(second)))


def passes(chip, count=3):
    return [chip.run(X, Probe()) for _ in range(count)]


X = numbers(BATCH, 11)


# What a pass computes


@every_backend
@pytest.mark.parametrize("bias", [True, False])
def test_an_ideal_chip_computes_w_r_x_plus_b(backend, bias):
    """Against float64, after an update of weights, biases and decorrelation matrices."""
    chip = build(IDEAL, backend=backend, bias=bias)
    before = [w.numpy().astype(float) for w in chip.weights]
    chip.update(CHANGE)
    activities = chip.run(X, Probe())
    x = X.numpy().astype(float)
    for index, (layer, w) in enumerate(zip(CHANGE.layers, before)):
        x = x @ layer.decorrelation.numpy().astype(float).T
        np.testing.assert_allclose(activities.inputs[index], x, atol=1e-4)
        a = x @ (w - layer.weight.numpy()).T - bias * layer.bias.numpy()
        np.testing.assert_allclose(activities.pre_activations[index], a, atol=1e-4)
        x = np.where(a > 0, a, 0.2 * a)
    np.testing.assert_allclose(activities.outputs, a, atol=1e-4)
    assert [i.shape for i in activities.inputs] == [(BATCH, i) for i in INPUTS]


def test_a_pass_of_no_samples_is_empty():
    assert not any(len(tensor) for tensor in tensors(build(GENERIC).run(X[:0], Probe())))


# Activities are the caller's own


@every_backend
@every_chip
@pytest.mark.parametrize("change", [NOTHING, CHANGE], ids=["nothing", "decorrelated"])
def test_activities_share_no_memory_and_may_be_overwritten(backend, description, change):
    """Neither with the chip, the inputs, one another nor another pass, x*_0 of one step included."""
    ours, theirs, x = build(description, backend=backend), build(description, backend=backend), X.clone()
    ours.update(change)
    theirs.update(change)
    shown = [tensor for _ in range(2) for tensor in tensors(ours.run(x, Probe()))]
    given = [x, *ours.state().values(), *(c.decorrelation for c in change.layers if c.decorrelation is not None)]
    memory = [tensor.untyped_storage().data_ptr() for tensor in shown + given]
    assert len(set(memory)) == len(memory)
    for tensor in shown:
        tensor.fill_(float("nan"))
    assert torch.equal(x, X)
    passes(theirs, 2)
    assert same(ours.run(x, Probe()), theirs.run(X, Probe()))
    for chip in (ours, theirs):
        chip.update(change)
    assert same(ours.run(x, Probe()), theirs.run(X, Probe()))


def test_inputs_and_matrices_that_changed_are_read_anew():
    """x*_0 is computed once a step, but not for an x or an R that has changed since."""
    chip, x, matrices = build(IDEAL), X.clone(), every_layer(decorrelation=near_identity)
    chip.update(matrices)
    before = chip.run(x, Probe())
    matrices.layers[0].decorrelation.mul_(2)  # as a learner does, in place
    chip.update(matrices)
    assert torch.equal(chip.run(x, Probe()).inputs[0], 2 * before.inputs[0])
    assert same(chip.run(x.add_(1), Probe()), chip.run(X + 1, Probe()))


# Which noise a pass gets


@every_backend
def test_passes_and_steps_have_noise_of_their_own_and_a_rebuilt_chip_the_same(backend):
    def two_steps(seed):
        chip = build(NODE, seed, backend, weights=[torch.zeros(u, i) for u, i in zip(UNITS, INPUTS)])
        first = passes(chip)
        chip.update(NOTHING)
        return first + passes(chip) + passes(chip.view("evaluation"))

    runs = two_steps(1)
    assert all(same(ours, theirs) for ours, theirs in zip(runs, two_steps(1)))
    noise = torch.cat([a.flatten() for run in runs + two_steps(2) for a in run.pre_activations])
    assert len(noise.unique()) == len(noise)  # of 18 passes and 3 layers, no number twice


@every_backend
@every_chip
@settings(max_examples=8, deadline=None)
@given(cuts=st.lists(st.integers(1, BATCH - 1), unique=True).map(sorted))
def test_a_pass_in_chunks_has_the_noise_of_one_in_one_piece(backend, description, cuts):
    eyes = [torch.eye(u, i) for u, i in zip(UNITS, INPUTS)]  # sums of one term, whose rounding no chunk can change
    ours, theirs = (build(description, backend=backend, weights=eyes) for _ in range(2))
    for _ in range(2):
        whole = theirs.run(X, Probe())
        ends = [0, *cuts, BATCH]
        parts = [ours.run(X[a:b], Probe(first_sample=a)) for a, b in pairwise(ends)]
        for index, tensor in enumerate(tensors(whole)):
            assert torch.equal(torch.cat([tensors(part)[index] for part in parts]), tensor)


# Updates


@every_chip
@pytest.mark.parametrize("positions", [(), (4,)])
def test_factors_write_as_their_outer_product(description, positions):
    errors = [numbers(BATCH, *positions, u, seed=1) for u in UNITS]
    inputs = [numbers(BATCH, *positions, i, seed=2) for i in INPUTS]
    dense = [torch.einsum("...u,...i->ui", e.double(), x.double()).float() for e, x in zip(errors, inputs)]
    ours, theirs = build(description), build(description)
    ours.update(WeightUpdate(tuple(LayerUpdate(Factors(e, x)) for e, x in zip(errors, inputs))))
    theirs.update(WeightUpdate(tuple(LayerUpdate(d) for d in dense)))
    for w, expected in zip(ours.weights, theirs.weights):
        torch.testing.assert_close(w, expected, rtol=1e-5, atol=1e-5)
    assert ours.ledger == theirs.ledger


@every_backend
@every_chip
def test_a_saved_and_loaded_chip_goes_on_bit_for_bit(backend, description):
    first = build(description, backend=backend)
    for _ in range(2):
        first.run(X, Probe())
        first.update(CHANGE)
    state = {name: tensor.clone() for name, tensor in first.state().items()}
    second = build(description, backend=backend, weights=[torch.ones(u, i) for u, i in zip(UNITS, INPUTS)])
    passes(second)
    second.update(DECORRELATION)  # the learner's own, and so not in the chip's state
    second.load(state)
    for _ in range(2):
        assert all(same(a, b) for a, b in zip(passes(first), passes(second)))
        assert first.ledger == second.ledger
        first.update(CHANGE)
        second.update(CHANGE)


def test_the_ledger_counts_every_layer():
    """By hand: 11·7 + 7·5 + 5·3 = 127 weights in pairs; 23 inputs and 15 outputs a sample."""
    chip = build(GENERIC)
    assert counts(chip.ledger) == {"reads": 0, "conversions": 0, "writes": 254}
    chip.run(X, Probe())
    chip.update(CHANGE)
    assert counts(chip.ledger) == {"reads": 3 * BATCH, "conversions": 38 * BATCH, "writes": 508}


COUNTED = {  # read from patches, from the image, and by a product that may be folded with R
    "DAC per vector": (GENERIC, 207),
    "DAC of a fixed bound": (GENERIC.replace(**{"dac.bound": 3.0}), 207),
    "no converters": (NODE, 0),
}


@every_backend
@pytest.mark.parametrize("name", COUNTED)
@pytest.mark.parametrize("decorrelated", [False, True])
def test_the_ledger_counts_every_position(backend, name, decorrelated):
    """By hand: 12, 2 and 1 vectors a sample, of 8, 27 and 8 inputs and 3, 4 and 5 outputs.

    12 + 2 + 1 = 15 reads and 12 (8 + 3) + 2 (27 + 4) + (8 + 5) = 207 conversions a sample and pass; a count of
    samples alone comes to 3 and 55.
    """
    network = Network((ConvLayer(2, 5, 4, 3, 2), ConvLayer(3, 4, 3, 4, 3), DenseLayer(8, 5)))
    weights, (description, conversions) = network.initial_weights(Stream.from_seed(9)), COUNTED[name]
    chip = SimulatedChip(description, network, weights, Stream.from_seed(1), backend)
    if decorrelated:
        chip.update(WeightUpdate(tuple(LayerUpdate(decorrelation=near_identity(0, i)) for i in (8, 27, 8))))
    list(chip.passes(numbers(BATCH, 5, 4, 2), [Probe(), Probe(inputs=False)]))
    assert (chip.ledger.reads, chip.ledger.conversions) == (2 * 15 * BATCH, 2 * conversions * BATCH)


# Looking from outside


@every_backend
def test_an_evaluation_changes_nothing_of_the_chip(backend):
    ours, theirs = build(GENERIC, backend=backend), build(GENERIC, backend=backend)
    passes(ours, 1), passes(theirs, 1)
    before, view = counts(ours.ledger), ours.view("evaluation")
    seen = passes(view)
    assert counts(ours.ledger) == before
    assert counts(view.ledger) == {"reads": 9 * BATCH, "conversions": 114 * BATCH, "writes": 0}
    assert same(ours.run(X, Probe()), theirs.run(X, Probe()))
    assert not same(seen[0], seen[1])
    assert same(ours.view("evaluation").run(X, Probe()), seen[0])  # however often one looks


@every_backend
def test_a_view_without_noise_is_the_ideal_chip(backend):
    node = build(NODE, backend=backend)
    assert (node.capabilities.noise_free, build(IDEAL).capabilities.noise_free) == (False, True)
    clean = node.view("oracle", noisy=False)
    assert same(clean.run(X, Probe()), build(IDEAL, backend=backend).run(X, Probe()))
    assert same(clean.run(X, Probe()), clean.run(X, Probe()))
    assert not same(node.run(X, Probe()), clean.run(X, Probe()))


# What a chip refuses


@pytest.mark.parametrize(("rows", "first_sample"), [(0, 1), (5, 4), (5, 6), (5, 10)])
def test_a_pass_goes_on_with_its_next_row_only(rows, first_sample):
    """So no caller can have the same noise drawn twice."""
    chip, untouched = build(NODE), build(NODE)
    for begun in (chip, untouched) if rows else ():
        begun.run(X[:rows], Probe())
    with pytest.raises(ArgumentError, match=f"^first_sample: {first_sample} .*0 .* or {rows} ") as caught:
        chip.run(X, Probe(first_sample=first_sample))
    assert (caught.value.argument, caught.value.value) == ("first_sample", first_sample)
    where = Probe(first_sample=rows)
    assert same(chip.run(X[rows:], where), untouched.run(X[rows:], where))
    chip.update(NOTHING)  # which ends the pass
    with pytest.raises(ArgumentError, match=r"^first_sample: 13 "):
        chip.run(X, Probe(first_sample=BATCH))
