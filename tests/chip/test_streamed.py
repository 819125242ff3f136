"""Reads a part of the batch at a time, and of a convolution from its image: those of all patches at once.

The noise of a read depends on its address alone, so both ways draw the same: what they differ by is float32's
rounding of the products, and the code of a converter that this tips over.
"""

import pytest
import torch

from analogsim import load_chip
from analogsim.backends import NAMES
from analogsim.backends.numba import NumbaBackend
from analogsim.chip import crossbar as crossbar_module
from analogsim.chip import passes as passes_module
from analogsim.chip.chip import SimulatedChip
from analogsim.chip.crossbar import Crossbar
from analogsim.chip.drive import Driven
from analogsim.chip.tile import Tile
from analogsim.config.chip import ChipDescription
from analogsim.contracts import LayerUpdate, Probe, WeightUpdate
from analogsim.network import ConvLayer, DenseLayer, Network
from analogsim.streams import Address, Stream

BATCH = 7
NETWORK = Network((ConvLayer(3, 8, 7, 5, 3, 2, 1), ConvLayer(5, 4, 4, 4, 3, 1, 2), DenseLayer(144, 3)))
SQRT = {"read_noise": {"law": "sqrt", "k_sqrt_uS": 0.3}, "g_min_uS": 1.0}
CONSTANT = {"read_noise": {"law": "constant", "sigma_uS": 0.3}}
FIXED, ADC = {"bits": 8, "bound": 3.0}, {"bits": 9, "bound": 12.0}
IMAGED = {  # read from the image
    "sqrt": {"cell": SQRT},
    "constant": {"cell": CONSTANT},
    "fixed DAC, ADC": {"cell": SQRT, "dac": FIXED, "adc": ADC},
    "reference column": {"cell": SQRT | {"mapping": "reference"}, "dac": FIXED},
    "reference column, constant": {"cell": CONSTANT | {"mapping": "reference"}},
    "offset": {"cell": SQRT | {"mapping": "offset"}, "dac": FIXED, "adc": ADC},
    "bit-serial": {"cell": CONSTANT, "dac": FIXED | {"bit_serial": {"slice_bits": 2}}},
    "per slice": {"cell": SQRT, "dac": FIXED | {"bit_serial": {"slice_bits": 2, "adc": "per_slice"}}, "adc": ADC},
    "weight slices": {"cell": SQRT | {"slices": {"cells": 2, "bits": 4}}, "node_noise": {"sigma": 0.02}},
    "gain and offset": {"cell": SQRT, "adc": ADC | {"gain_sigma": 0.05, "offset_sigma_lsb": 0.5}},
    "columns of tiles": {"cell": SQRT, "tile": {"columns": 2}},
    "1/f": load_chip("pcm-nandakumar").cell.model_dump(exclude_unset=True),
}
STREAMED = {  # of patches, and a pass at a time where reads must come in their order or inputs are drawn
    "crossbar-generic": load_chip("crossbar-generic"),
    "pcm-nandakumar": load_chip("pcm-nandakumar"),
    "sram-cim": load_chip("sram-cim").replace(injection_port=False),
    "DAC noise": {"cell": SQRT, "dac": FIXED | {"noise": 0.05}},
    "DAC rounding": {"cell": SQRT, "dac": FIXED | {"stochastic_rounding": True}},
    "rows of tiles": {"cell": SQRT, "tile": {"rows": 8}},
    "telegraph node": load_chip("smtj-node").model_dump(exclude_unset=True) | {"cell": SQRT, "dac": FIXED},
}


def described(name):
    held = (IMAGED | STREAMED)[name]
    if isinstance(held, ChipDescription):
        return held
    if name == "1/f":
        held = {"cell": held, "clock": {"t_first_read_s": 20.0, "t_read_s": 1e-6}}
    return ChipDescription.model_validate({"name": name} | held)


def read(name, backend="numba", matrices=False, kept=True):
    """The pre-activations of three passes, with R on the second layer or none, x* told of the first pass or of none."""
    weights = NETWORK.initial_weights(Stream.from_seed(4))
    chip = SimulatedChip(described(name), NETWORK, weights, Stream.from_seed(1), backend, batch=BATCH, passes=3)
    if matrices:
        size = NETWORK.layers[1].inputs
        matrix = torch.eye(size) + torch.from_numpy(Stream.from_seed(2).normal(Address(), size, size)) / 20
        chip.update(WeightUpdate((LayerUpdate(), LayerUpdate(decorrelation=matrix), LayerUpdate())))
    x = torch.from_numpy(Stream.from_seed(3).normal(Address(), BATCH, NETWORK.layers[0].size))
    told = list(chip.passes(x, [Probe(inputs=kept and not number) for number in range(3)]))
    return [a for activities in told for a in activities.pre_activations] + list(told[0].inputs)


def limit(patch, budget):
    for module in (crossbar_module, passes_module):
        patch.setattr(module, "STREAMED_BYTES", budget)


def assert_alike(ours, theirs, converters):
    """To 2e-6 of the largest number; of layers behind converters nineteen numbers in twenty, for codes may tip over."""
    for one, other in zip(ours, theirs, strict=True):
        error = (one - other).abs().flatten().sort().values
        assert float(error[int((0.95 if converters else 1.0) * (len(error) - 1))]) <= 2e-6 * float(other.abs().max())


def by_patches(patch):
    patch.setattr(Crossbar, "reads_images", property(lambda self: False))


@pytest.mark.parametrize("backend", NAMES)
@pytest.mark.parametrize("name", IMAGED)
def test_a_convolution_read_from_its_image_is_read_as_its_patches(name, backend, monkeypatch):
    ours = read(name, backend)
    by_patches(monkeypatch)
    assert_alike(ours, read(name, backend), described(name).adc or described(name).dac)


@pytest.mark.parametrize("budget", [1, 20_000])
@pytest.mark.parametrize("matrices", [False, True], ids=["no R", "R"])
@pytest.mark.parametrize("kept", [False, True], ids=["untold", "told"])
@pytest.mark.parametrize("name", [*STREAMED, "sqrt", "1/f", "per slice"])
def test_a_read_in_parts_is_the_whole_read(name, kept, matrices, budget, monkeypatch):
    """A sample at a time, and several: the noise of every sample, the order of a telegraph source's reads."""
    whole = read(name, matrices=matrices, kept=kept)
    limit(monkeypatch, budget)
    assert_alike(read(name, matrices=matrices, kept=kept), whole, described(name).adc or described(name).dac)


@pytest.mark.parametrize("name", ["sram-cim", "rows of tiles", "per slice", "weight slices"])
def test_sums_of_conversions_in_parts_are_the_whole_read(name, monkeypatch):
    """And a sample at a time: the most that a product is given."""
    whole, most = read(name), largest(name, monkeypatch).most
    monkeypatch.setattr(crossbar_module, "SUMMED_BYTES", 1)
    assert_alike(read(name), whole, described(name).adc or described(name).dac)
    assert largest(name, monkeypatch).most < most


# What is made of x


class Largest(NumbaBackend):
    """The largest operand that a product or a convolution was given, in numbers; and how many convolutions."""

    def __init__(self):
        self.most = self.convolved = 0

    def product(self, x, matrix):
        self.most = max(self.most, x.numel())
        return super().product(x, matrix)

    def convolve(self, x, *where):
        self.convolved += 1
        return super().convolve(x, *where)


def largest(name, monkeypatch):
    spy = Largest()
    monkeypatch.setattr("analogsim.chip.chip.get_backend", lambda *_: spy)
    read(name, kept=False)
    return spy


@pytest.mark.parametrize("name", ["sqrt", "fixed DAC, ADC"])
def test_no_patch_is_made_where_an_image_will_do(name, monkeypatch):
    """Of both convolutions W and V meet the image alone: what a product is given is the last layer's vectors."""
    spy = largest(name, monkeypatch)
    assert spy.most <= 3 * BATCH * NETWORK.layers[2].inputs
    assert spy.convolved >= 2 * 2
    by_patches(monkeypatch)
    assert largest(name, monkeypatch).most >= BATCH * NETWORK.layers[1].positions * NETWORK.layers[1].inputs


@pytest.mark.parametrize("name", ["crossbar-generic", "rows of tiles", "telegraph node"])
def test_parts_are_as_large_as_is_allowed(name, monkeypatch):
    a_sample = max(layer.positions * layer.inputs for layer in NETWORK.layers)
    for samples in (1, 3):
        limit(monkeypatch, 4 * a_sample * samples)
        assert largest(name, monkeypatch).most <= samples * a_sample
    limit(monkeypatch, 2**40)
    assert largest(name, monkeypatch).most >= BATCH * 144


# Planted bugs: (chip that shows it, what to break)


def x_for_its_square(self, cells, driven):
    return variance_of(self, cells, Driven(driven.x, driven.asked, squares=driven.x.abs(), window=driven.window))


def sums_of_pixels(self, driven, values):
    total = values.sum(-1, keepdim=True)
    return total if driven.window is None else total.flatten(1, 2).repeat(1, 9, 1)[:, : driven.window.positions]


def from_the_first_sample(self, x, address, window=None):
    return currents(self, x, Address(address.step, address.pass_index), window)


def codes_of_the_first(self, currents, address, epsilon):
    return converted(self, currents, Address(address.step, address.pass_index), epsilon)


variance_of, currents, converted = Tile._variance_of, Crossbar._currents, Crossbar._converted
BUGS = {
    "V convolved with |x|": ("sqrt", Tile, "_variance_of", x_for_its_square),
    "sums of pixels, not of patches": ("offset", Tile, "_sum", sums_of_pixels),
    "every part's DACs draw as the first": ("DAC noise", Crossbar, "_currents", from_the_first_sample),
    "every part's noise is the first's": ("crossbar-generic", Crossbar, "_converted", codes_of_the_first),
    "parts ahead of passes": ("telegraph node", Crossbar, "_together", lambda self, addresses, fits, stacked: True),
}


@pytest.mark.parametrize("bug", BUGS)
def test_the_comparison_catches(bug, monkeypatch):
    name, where, what, instead = BUGS[bug]
    whole = read(name, kept=False)
    limit(monkeypatch, 1)
    monkeypatch.setattr(where, what, instead)
    with pytest.raises(AssertionError):
        assert_alike(read(name, kept=False), whole, described(name).adc or described(name).dac)
