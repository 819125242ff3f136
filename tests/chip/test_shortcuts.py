"""Every shortcut of a step's passes against the plain way: each pass alone, R x then W x*, every layer read.

Folding W R, the shared first product, stacked passes, and layers below a perturbed one read once for all.
"""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analogsim import load_chip
from analogsim.chip import chip as chip_module
from analogsim.chip import crossbar as crossbar_module
from analogsim.chip import passes as passes_module
from analogsim.chip.chip import SimulatedChip
from analogsim.chip.crossbar import Crossbar
from analogsim.chip.passes import PassRunner
from analogsim.chip.tile import Current
from analogsim.config.chip import ChipDescription
from analogsim.contracts import LayerUpdate, Probe, WeightUpdate
from analogsim.learners.activity_perturbation import ActivityPerturbation
from analogsim.network import ConvLayer, DenseLayer, Network
from analogsim.streams import Stream

BATCH = 40  # more than any layer has units: folds pay
NETWORKS = {
    "dense": Network((DenseLayer(11, 7), DenseLayer(7, 6), DenseLayer(6, 5), DenseLayer(5, 3))),
    "conv": Network((ConvLayer(2, 6, 5, 4, 3, 1, 1), ConvLayer(4, 6, 5, 3, 3, 2), DenseLayer(12, 5))),
}


def described(**parts):
    return ChipDescription.model_validate({"name": "chip", "injection_port": True, **parts})


CONVERTERS = {"dac": {"bits": 8}, "adc": {"bits": 9, "bound": 10.0}}
POWER_OF_R = {"law": "power", "coefficient": 0.01, "exponent": 0.65, "max": 0.2}
DRIFT = {"law": "power", "t0_s": 20.0, "unit_uS": 25.0, "exponent": POWER_OF_R, "spread": POWER_OF_R}
STILL = {  # a read is a function of x alone: layers below a perturbed one are read once
    "ideal": load_chip("ideal"),
    "converters": described(cell={}, **CONVERTERS),
    "misprogrammed": described(cell={"programming": {"law": "constant", "sigma_uS": 0.3}}),
    "tiles": described(cell={}, tile={"rows": 4, "columns": 3}),
}
MOVING = {
    "node noise": load_chip("gaussian-node").replace(injection_port=True, **{"node_noise.sigma": 0.1}),
    "read noise": described(cell={"read_noise": {"law": "constant", "sigma_uS": 0.3}}),
    "DAC noise": described(dac={"bits": 8, "noise": 0.05}),
    "drift": described(cell={"drift": DRIFT}, clock={"t_read_s": 1.0}),
    "R on noisy crossbars": described(
        cell={"read_noise": {"law": "constant", "sigma_uS": 0.3}}, decorrelation="on_chip"
    ),
}
STILL["R on crossbars"] = described(cell={}, decorrelation="on_chip")
CHIPS = STILL | MOVING
every_network = pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
every_chip = pytest.mark.parametrize("name", CHIPS)


class PlainRunner(PassRunner):
    """Nothing folded, nothing shared between layers; run a pass at a time, nothing between passes either."""

    def _matrix(self, index, samples):
        return None

    def _repeatable(self, index):
        return False


def numbers(*shape, seed):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def build(network, description, plain=False):
    """R and biases everywhere."""
    weights = network.initial_weights(Stream.from_seed(9))
    chip = SimulatedChip(description, network, weights, Stream.from_seed(1), batch=BATCH)
    if plain:
        runner = chip._runner
        chip._runner = PlainRunner(
            network, runner.crossbars, runner.biases, runner.matrices, runner.backend, runner.mixers
        )
    chip.update(setting(network, 0))
    return chip


def setting(network, seed):
    return WeightUpdate(
        tuple(
            LayerUpdate(
                bias=numbers(layer.units, seed=seed + 3),
                decorrelation=torch.eye(layer.inputs) + numbers(layer.inputs, layer.inputs, seed=seed + 4) / 10,
            )
            for layer in network.layers
        )
    )


def layer_by_layer(network, twins=False):
    """A step of inp, two samples a layer: a clean pass first; or twins, all perturbed and the first one told."""
    layers, probes = len(network.layers), [] if twins else [Probe()]
    for number in range(2 * layers * (1 + twins)):
        at = number // (1 + twins) % layers
        epsilon = [None] * layers
        epsilon[at] = numbers(BATCH, *network.layers[at].output_shape, seed=50 + number) / 10
        probes.append(Probe(tuple(epsilon), inputs=not probes))
    return probes


def together(network, name, probes, monkeypatch, at_once=100):
    """(activities, the chip) of two steps by every shortcut that holds."""
    monkeypatch.setattr(chip_module, "passes_at_once", lambda *_: at_once)
    return two_steps(build(network, CHIPS[name]), lambda chip, x: list(chip.passes(x, probes)))


def one_by_one(network, name, probes):
    """The same by the plain way."""
    return two_steps(build(network, CHIPS[name], plain=True), lambda chip, x: [chip.run(x, probe) for probe in probes])


def two_steps(chip, run):
    told = run(chip, numbers(BATCH, chip.network.layers[0].size, seed=0))
    chip.update(setting(chip.network, 20))
    return told + run(chip, numbers(BATCH, chip.network.layers[0].size, seed=1)), chip


def assert_same(ours, chip, theirs, plain):
    """To 2e-6 of a tensor's largest number; with converters one number in twenty may tip to the next code."""
    share = 1.0 if chip.description.dac is None else 0.95
    for one, other in zip(ours, theirs, strict=True):
        for a, b in zip(tensors(one), tensors(other), strict=True):
            assert a.shape == b.shape
            error = (a - b).abs().flatten().sort().values
            assert float(error[int(share * (len(error) - 1))]) <= 2e-6 * float(b.abs().max())
    assert vars(chip.ledger) == vars(plain.ledger)


def tensors(told):
    return [*told.inputs, *told.pre_activations, told.outputs]


@pytest.mark.parametrize("at_once", [1, 3, 100])
@pytest.mark.parametrize("twins", [False, True], ids=["clean", "twins"])
@every_chip
@every_network
def test_shortcuts_change_no_activity_and_no_count(network, name, twins, at_once, monkeypatch):
    probes = layer_by_layer(network, twins)
    ours, chip = together(network, name, probes, monkeypatch, at_once)
    theirs, plain = one_by_one(network, name, probes)
    assert_same(ours, chip, theirs, plain)
    assert chip.clock.now_s == plain.clock.now_s
    assert not chip._runner._held  # nothing outlives its step


@pytest.mark.parametrize("name", STILL)
@every_network
def test_layers_below_a_perturbed_one_are_those_of_the_clean_pass(network, name, monkeypatch):
    """To the last bit: δa is 0 there, and what differs above is the perturbation's doing alone."""
    told, _ = together(network, name, layer_by_layer(network), monkeypatch)
    layers = len(network.layers)
    for number, one in enumerate(told[1 : 1 + 2 * layers]):
        for index in range(layers):
            same = torch.equal(one.pre_activations[index], told[0].pre_activations[index])
            assert same == (index < number % layers)


def read_at_once(network, name, monkeypatch, at_once):
    """How many samples of x each layer's W (or W R) is multiplied by in a step."""
    chip, read = build(network, CHIPS[name]), Counter()
    plain = chip._runner.backend.product
    layers = {(layer.units, layer.inputs): index for index, layer in enumerate(network.layers)}
    folded = {(layer.units, layer.inputs) for layer in network.layers}

    def product(x, matrix):
        if tuple(x.shape) not in folded:  # W R itself
            read[layers.get(tuple(matrix.shape), -1)] += len(x)
        return plain(x, matrix)

    monkeypatch.setattr(chip._runner.backend, "product", product)
    monkeypatch.setattr(chip_module, "passes_at_once", lambda *_: at_once)
    list(chip.passes(numbers(BATCH, network.layers[0].size, seed=0), layer_by_layer(network)))
    return [read[index] / BATCH for index in range(len(network.layers))]


@pytest.mark.parametrize("at_once", [1, 3, 9])
def test_only_layers_above_the_perturbed_one_run_again(at_once, monkeypatch):
    """The clean pass, and two passes for every layer below. Node noise: every pass, of all but the first layer."""
    assert read_at_once(NETWORKS["dense"], "ideal", monkeypatch, at_once) == [1, 3, 5, 7]
    assert read_at_once(NETWORKS["dense"], "node noise", monkeypatch, at_once) == [1, 9, 9, 9]


def always(value):
    return property(lambda self: value)


def shuffled(self, index, matrix, apart, passes):
    """Stacked passes handed back in another order."""
    return READ_APART(self, index, matrix, apart, passes)[::-1]


def transposed(self, index, samples):
    """W Rᵀ for W R."""
    r = self.matrices[index]
    return MATRIX(self, index, samples) if r is None else self.crossbars[index].weight @ r.T


def stale(self, index, samples):
    """The W R of the first step for ever."""
    kept = self.__dict__.setdefault("stale", {})
    return kept.setdefault(index, MATRIX(self, index, samples))


def never_apart(self, index, a):
    """f of a neighbour's a: of zeros."""
    return self.network.activation(torch.zeros_like(a))


READ_APART, MATRIX, PART, COUNT = PassRunner._read_apart, PassRunner._matrix, Current.part, Crossbar._count
SHORTCUT_BUGS = {
    "noisy layers read once for all": ("node noise", Crossbar, "repeatable", always(True)),
    "noisy DACs driven once for all": ("DAC noise", Crossbar, "repeatable", always(True)),
    "drifting cells read once for all": ("drift", Crossbar, "repeatable", always(True)),
    "W R folded behind a DAC": ("converters", Crossbar, "linear", always(True)),
    "W R folded of another R": ("ideal", PassRunner, "_matrix", transposed),
    "W R of the step before": ("ideal", PassRunner, "_matrix", stale),
    "stacked passes out of order": ("node noise", PassRunner, "_read_apart", shuffled),
    "a shared product not copied": ("ideal", Current, "part", lambda self, rows, copy: PART(self, rows, False)),
    "what passes share above taken from another": ("ideal", PassRunner, "_above", never_apart),
    "a shared read not counted": ("ideal", Crossbar, "_count", lambda self, vectors: None),
}


@pytest.mark.parametrize("bug", SHORTCUT_BUGS)
@every_network
def test_the_comparison_catches_a_shortcut_that_does_not_hold(network, bug, monkeypatch):
    name, owner, method, wrong = SHORTCUT_BUGS[bug]
    probes = layer_by_layer(network)
    theirs, plain = one_by_one(network, name, probes)
    monkeypatch.setattr(owner, method, wrong)
    ours, chip = together(network, name, probes, monkeypatch)
    with pytest.raises(AssertionError):
        assert_same(ours, chip, theirs, plain)


def test_one_product_of_summed_errors_is_the_sum_of_the_products():
    """K = 5 of danp, told as they are run: the gradient is the mean of K outer products with the first pass's x*."""
    network, samples = NETWORKS["conv"], 5
    chip = build(network, CHIPS["node noise"])
    x, y = numbers(BATCH, network.layers[0].size, seed=0), torch.arange(BATCH) % 5
    told = list(chip.passes(x, ActivityPerturbation(network, samples=samples).ask(0, BATCH)))
    losses = [torch.nn.functional.cross_entropy(one.outputs.double(), y, reduction="none") for one in told]
    update = ActivityPerturbation(network, samples=samples).tell(iter(told), iter(losses))
    alone = [
        ActivityPerturbation(network).tell([told[0], told[k]], [losses[0], losses[k]]) for k in range(1, 1 + samples)
    ]
    for index, layer in enumerate(update.layers):
        outer = [one.layers[index].weight for one in alone]
        mean = sum(w.errors.double().flatten(0, -2).T @ w.inputs.double().flatten(0, -2) for w in outer) / samples
        torch.testing.assert_close(layer.weight.dense().double(), mean, rtol=0, atol=3e-6 * float(mean.abs().max()))


@pytest.mark.parametrize("unread", [1, 2, 3])
def test_one_matrix_after_another_is_folded_anew(unread):
    """R by R, of which every other is never read: the id of one let go comes again, at the same version."""
    network = Network((DenseLayer(11, 7),))
    weights = network.initial_weights(Stream.from_seed(9))
    chip = SimulatedChip(CHIPS["ideal"], network, weights, Stream.from_seed(1))
    x = numbers(6, 11, seed=0)
    matrices = [numbers(11, 11, seed=seed) for seed in range(40)]
    changes = [WeightUpdate((LayerUpdate(decorrelation=matrix),)) for matrix in matrices]
    for number, (matrix, change) in enumerate(zip(matrices, changes)):
        chip.update(change)
        if number % (1 + unread) == 0:
            told = next(chip.passes(x, [Probe(inputs=False)] * 3)).outputs
            exact = x.double() @ matrix.double().T @ weights[0].double().T
            torch.testing.assert_close(told.double(), exact, rtol=1e-4, atol=1e-4)


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_a_convolution_in_parts_is_the_whole(data):
    """Random sizes, strides, paddings, batches and budgets; patches through cells, with and without R and ε."""
    whole = st.integers
    channels, size, units, kernel = (data.draw(whole(1, top)) for top in (3, 7, 4, 3))
    first = ConvLayer(channels, size, size + 1, 2, 1)
    second = ConvLayer(2, size, size + 1, units, kernel, data.draw(whole(1, 3)), data.draw(whole(1, 2)))
    network, batch, count = Network((first, second)), data.draw(whole(0, 9)), data.draw(whole(1, 5))
    matrix = torch.eye(second.inputs) + numbers(second.inputs, second.inputs, seed=4) / 10
    change = WeightUpdate((LayerUpdate(), LayerUpdate(decorrelation=matrix if data.draw(st.booleans()) else None)))
    epsilon = [None, numbers(batch, *second.output_shape, seed=5) if data.draw(st.booleans()) else None]
    probes = [Probe(tuple(epsilon), inputs=data.draw(st.booleans())) for _ in range(count)]
    budget = 2 ** data.draw(whole(0, 24)), data.draw(whole(1, 20_000))
    told = []
    for limits in ((2**40, 2**40), budget):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(passes_module, "STACKED_BYTES", limits[0])
            for module in (crossbar_module, passes_module):
                patched.setattr(module, "STREAMED_BYTES", limits[1])
            weights = network.initial_weights(Stream.from_seed(9))
            chip = SimulatedChip(CHIPS["read noise"], network, weights, Stream.from_seed(1), "numba")
            chip.update(change)
            told.append((list(chip.passes(numbers(batch, first.size, seed=0), probes)), vars(chip.ledger)))
    (ours, counts), (theirs, other_counts) = told
    assert counts == other_counts
    for one, other in zip(ours, theirs, strict=True):
        for a, b in zip(tensors(one), tensors(other), strict=True):
            assert a.shape == b.shape
            torch.testing.assert_close(a, b, rtol=1e-5, atol=2e-6 * max(1.0, float(b.abs().max())) if b.numel() else 0)
