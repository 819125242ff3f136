"""A convolution's crossbar, read at every output position: the law, fresh noise, and equal layers.

The image is read with both passes of a learner (one told its x*, one not), so that patches and the
folded W R are both held against the cell-by-cell reference.
"""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

import analogsim
from analogsim.backends.numba import NumbaBackend
from analogsim.chip import crossbar
from analogsim.chip.cell_by_cell import cell_by_cell_read
from analogsim.chip.chip import SimulatedChip
from analogsim.config.chip import ChipDescription
from analogsim.contracts import LayerUpdate, Probe, WeightUpdate
from analogsim.network import ConvLayer, DenseLayer, Network
from analogsim.streams import Stream

# Tests are imported one by one, not as a package: the checks of the dense law are fetched from its file.
_law = runpy.run_path(str(Path(__file__).with_name("test_read_noise_law.py")))
ALPHA, Law = _law["ALPHA"], _law["Law"]
check_normal, check_uncorrelated = _law["check_normal"], _law["check_uncorrelated"]

BACKENDS = ("numpy", "numba", "torch")
STEPS, PASSES, ROWS = 5, 2, 1250
LAYER = ConvLayer(channels=2, height=9, width=9, units=5, kernel=3, stride=2)  # 16 positions: 10^6 outputs
SHAPE = (STEPS, PASSES, ROWS, LAYER.positions, LAYER.units)
NETWORK = Network((LAYER,))
_numbers = np.random.default_rng(7)
WEIGHT = _numbers.normal(0, 0.4, (LAYER.units, LAYER.inputs)).astype(np.float32)
IMAGE = _numbers.normal(0, 1, (9, 9, 2)).astype(np.float32)
MATRIX = (np.eye(LAYER.inputs) + _numbers.normal(0, 0.1, (LAYER.inputs,) * 2)).astype(np.float32)
CHIPS = {
    "gaussian-node": analogsim.load_chip("gaussian-node").replace(**{"node_noise.sigma": 0.05}),
    "crossbar-generic": analogsim.load_chip("crossbar-generic"),
    "constant": ChipDescription.model_validate({"cell": {"read_noise": {"law": "constant", "sigma_uS": 0.3}}}),
    "proportional": ChipDescription.model_validate(
        {"cell": {"g_min_uS": 5.0, "read_noise": {"law": "proportional", "k": 0.03}}}
    ),
    "node, ADC": ChipDescription.model_validate({"node_noise": {"sigma": 0.05}, "adc": {"bits": 8, "bound": 8.0}}),
}


def chip_of(description, backend="numba", decorrelated=True):
    chip = SimulatedChip(description, NETWORK, [torch.from_numpy(WEIGHT)], Stream.from_seed(11), backend)
    if decorrelated:
        chip.update(WeightUpdate((LayerUpdate(decorrelation=torch.from_numpy(MATRIX.copy())),)))
    return chip


def patches():
    """R times every patch, from torch's unfold, float64; (positions, inputs)."""
    columns = torch.nn.functional.unfold(torch.from_numpy(IMAGE).permute(2, 0, 1)[None].double(), 3, stride=2)
    return (columns[0].T @ torch.from_numpy(MATRIX).double().T).numpy()


def read(chip):
    x = torch.from_numpy(np.tile(IMAGE.reshape(1, -1), (ROWS, 1)))
    steps = []
    for _ in range(STEPS):
        passes = chip.passes(x, [Probe(), Probe(inputs=False)])
        steps.append(np.stack([activities.pre_activations[0].numpy() for activities in passes]))
        chip.update(WeightUpdate((LayerUpdate(),)))
    return np.stack(steps).astype(np.float64)


def law_of(description):
    """Mean from the noise-free chip of the reference, sd from the law at its patches."""
    cell, x, full = description.cell, patches(), np.ones((LAYER.positions, 1))
    if description.dac is not None:
        levels = 2 ** (description.dac.bits - 1) - 1
        full = abs(x).max(1, keepdims=True)
        x = np.round(x / full * levels) / levels * full
    variance, w_max = np.full((LAYER.positions, LAYER.units), description.node_noise.sigma**2), 1.0
    if cell is not None:
        w_max = float(abs(WEIGHT).max())
        s = (cell.g_max_uS - cell.g_min_uS) / w_max
        noise = cell.read_noise
        sigma = {
            "constant": lambda g: np.full_like(g, getattr(noise, "sigma_uS", 0)),
            "proportional": lambda g: getattr(noise, "k", 0) * g,
            "sqrt": lambda g: getattr(noise, "k_sqrt_uS", 0) * g**0.5,
        }[noise.law]
        used, idle = cell.g_min_uS + s * abs(WEIGHT.astype(float)), np.full(WEIGHT.shape, cell.g_min_uS)
        variance = variance + x**2 @ ((sigma(used) ** 2 + sigma(idle) ** 2) / s**2).T
    adc = description.adc
    levels = 0 if adc is None else 2 ** (adc.bits - 1) - 1
    return Law(
        x @ WEIGHT.T.astype(float), variance**0.5, None if adc is None else full * w_max * adc.bound / levels, levels
    )


def check(y, name):
    law, rng = law_of(CHIPS[name]), np.random.default_rng(8)
    vectors = np.tile(patches(), (STEPS * PASSES * ROWS, 1))
    reference = cell_by_cell_read(WEIGHT, CHIPS[name], vectors, np.random.default_rng(9)).reshape(SHAPE)
    z, z_reference = law.scores(y, rng), law.scores(reference, rng)
    check_normal(z.ravel())
    check_normal(z_reference.ravel())
    assert stats.ks_2samp(z.ravel(), z_reference.ravel(), method="asymp").pvalue > ALPHA
    for axis in (0, 1, 3, 4):  # steps, passes, positions, units
        check_uncorrelated(np.moveaxis(z, axis, 0).reshape(SHAPE[axis], -1))


@pytest.mark.parametrize("name", CHIPS)
def test_every_position_follows_the_cell_by_cell_law(name):
    """10^6 outputs through a chip and 10^6 cell by cell, KS, mean, variance, tails at α = 1e-6; correlations
    above 1.7 % between steps or passes, 2.2 % positions, 1.2 % units."""
    check(read(chip_of(CHIPS[name])), name)


class SharedOverPositions(NumbaBackend):
    """One draw a unit, the same at every position."""

    def output_stage(self, y, stream, address, sigma, variance, lsb, levels):
        z = self.normal(stream, address, len(y), y.shape[2], y.device)[:, None]
        std = 0 if sigma is None else sigma[..., None]
        y = y + (std * z if variance is None else (std**2 + variance).sqrt() * z)
        return super().output_stage(y, stream, address, None, None, lsb, levels)


class TransposedPatches(NumbaBackend):
    """Kernels with rows and columns swapped."""

    def convolve(self, x, matrix, kernel, stride, padding):
        turned = matrix.unflatten(1, (-1, kernel, kernel)).mT.flatten(1)
        return super().convolve(x, turned.contiguous(), kernel, stride, padding)


READ_BUGS = {"one draw of noise for all positions": SharedOverPositions, "patches transposed": TransposedPatches}


@pytest.mark.parametrize("bug", READ_BUGS)
@pytest.mark.parametrize("name", ["gaussian-node", "crossbar-generic"])
def test_the_check_catches(name, bug):
    chip = chip_of(CHIPS[name])
    chip._runner.backend = READ_BUGS[bug]()
    for tile in chip._crossbars[0]._tiles:
        tile._backend = READ_BUGS[bug]()
    with pytest.raises(AssertionError):
        check(read(chip), name)


@pytest.mark.parametrize("backend", BACKENDS)
def test_noise_is_the_same_bits_on_every_backend_and_in_parts(backend):
    """Node noise alone, weights 0: what is read is noise, and nothing else."""
    blank = SimulatedChip(CHIPS["gaussian-node"], NETWORK, [torch.zeros(WEIGHT.shape)], Stream.from_seed(3), backend)
    x = torch.from_numpy(np.tile(IMAGE.reshape(1, -1), (7, 1)))
    whole = blank.run(x, Probe()).pre_activations[0]
    blank.update(WeightUpdate((LayerUpdate(),)))
    reference = SimulatedChip(
        CHIPS["gaussian-node"], NETWORK, [torch.zeros(WEIGHT.shape)], Stream.from_seed(3), "numpy"
    )
    assert torch.equal(whole, reference.run(x, Probe()).pre_activations[0])
    reference.update(WeightUpdate((LayerUpdate(),)))
    parts = [blank.run(x[:3], Probe()), blank.run(x[3:], Probe(first_sample=3))]
    together = torch.cat([part.pre_activations[0] for part in parts])
    assert torch.equal(together, reference.run(x, Probe()).pre_activations[0])


# --- equal layers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CHIPS)
@pytest.mark.parametrize("kind", ["1×1 kernel", "full image"])
def test_a_convolution_that_is_a_dense_layer_reads_as_one(kind, name, backend):
    """The same weights, x, stream and R give the same noise and activities, through chip and decorrelation."""
    if kind == "1×1 kernel":  # an image of one pixel
        convolution, order = ConvLayer(6, 1, 1, 4, 1), torch.arange(6)
    else:  # patches hold channels first, images last
        convolution, order = ConvLayer(2, 3, 3, 4, 3), torch.arange(18).view(3, 3, 2).permute(2, 0, 1).flatten()
    size = convolution.inputs
    rng = torch.Generator().manual_seed(2)
    weight, x = torch.randn(4, size, generator=rng), torch.randn(9, size, generator=rng)
    matrix = torch.eye(size) + 0.1 * torch.randn(size, size, generator=rng)
    read = []
    for layer, images in ((convolution, x), (DenseLayer(size, 4), x[:, order])):
        chip = SimulatedChip(CHIPS[name], Network((layer,)), [weight], Stream.from_seed(1), backend)
        chip.update(WeightUpdate((LayerUpdate(decorrelation=matrix.clone()),)))
        read.append([a.pre_activations[0].view(9, 4) for a in chip.passes(images, [Probe(), Probe(inputs=False)])])
    for one, other in zip(*read):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


CONVERTERS = {"cell": {}, "dac": {"bits": 6}, "adc": {"bits": 8, "bound": 4.0}}
NOISE_FREE = {
    "ideal": ChipDescription(),
    "converters": ChipDescription.model_validate(CONVERTERS),
    "DAC of a fixed bound": ChipDescription.model_validate(CONVERTERS | {"dac": {"bits": 6, "bound": 2.0}}),
}


def check_pixels(name, decorrelated=False, backend="numba", planted=None):
    """A 1×1 convolution of 5 × 7 pixels is the dense layer applied to each.

    No input or output of a converter is nearer than 7e-4 of its step to where it rounds the other way.
    """
    convolution, dense, rng = ConvLayer(3, 5, 7, 4, 1), DenseLayer(3, 4), torch.Generator().manual_seed(2)
    weight, x = torch.randn(4, 3, generator=rng), torch.randn(2, 5, 7, 3, generator=rng)
    matrix = torch.eye(3) + 0.1 * torch.randn(3, 3, generator=rng)
    read = []
    for layer, images in ((convolution, x), (dense, x.view(70, 3))):
        chip = SimulatedChip(NOISE_FREE[name], Network((layer,)), [weight], Stream.from_seed(1), backend)
        if planted is not None:
            chip._runner.backend = planted
        chip.update(WeightUpdate((LayerUpdate(decorrelation=matrix.clone() if decorrelated else None),)))
        read.append([a.pre_activations[0] for a in chip.passes(images, [Probe(), Probe(inputs=False)])])
    for of_images, of_pixels in zip(*read):
        assert of_images.shape == (2, 35, 4)
        torch.testing.assert_close(of_images.view(70, 4), of_pixels, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("decorrelated", [False, True])
@pytest.mark.parametrize("name", NOISE_FREE)
def test_a_1x1_convolution_of_a_map_is_a_dense_layer_of_every_pixel(name, decorrelated, backend):
    check_pixels(name, decorrelated, backend)


class TransposedMap(NumbaBackend):
    """Columns of positions first."""

    def convolve(self, x, matrix, kernel, stride, padding):
        return super().convolve(x.transpose(1, 2).contiguous(), matrix, kernel, stride, padding)


def one_full_scale(x, dac, *draws):
    at_positions = {"bound": float(x.abs().max())} if x.shape[1] > 1 else {}
    return drive(x, dac.model_copy(update=at_positions), *draws)


drive = crossbar.drive
PIXEL_BUGS = {
    "map of positions transposed": lambda patch: check_pixels("ideal", planted=TransposedMap()),
    "one full scale for all pixels": lambda patch: (
        patch.setattr(crossbar, "drive", one_full_scale),
        check_pixels("converters"),
    ),
}


@pytest.mark.parametrize("bug", PIXEL_BUGS)
def test_the_check_of_pixels_catches(bug, monkeypatch):
    with pytest.raises(AssertionError, match="not close"):
        PIXEL_BUGS[bug](monkeypatch)
