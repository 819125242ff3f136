"""Levels and clipping of a crossbar's DAC and ADC, and the range of weights its cells span."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from analogsim import Crossbar, load_chip
from analogsim.backends import NAMES
from analogsim.config.chip import ChipDescription

GENERIC = load_chip("crossbar-generic")
every_backend = pytest.mark.parametrize("backend", NAMES)
W, X = (
    np.random.default_rng(seed).normal(size=shape).astype(np.float32) for seed, shape in enumerate([(7, 5), (6, 5)])
)


def chip(**parts):
    return ChipDescription.model_validate(parts)


@every_backend
@pytest.mark.parametrize("bits", [2, 4, 9])
def test_the_dac_has_its_levels_and_clips(backend, bits):
    crossbar = Crossbar([[1.0]], chip(dac={"bits": bits, "bound": 2.0}), backend=backend)
    x = np.linspace(-3, 3, 20_001)[:, None]
    y, step = crossbar.read(x), 4 / (2**bits - 2)
    assert len(np.unique(y)) == 2**bits - 1
    assert_allclose(np.diff(np.unique(y)), step, rtol=1e-4)
    assert_allclose(y, x.clip(-2, 2), atol=step / 2 * 1.0001)
    assert (y[abs(x) > 2] == 2 * np.sign(x[abs(x) > 2])).all()


def test_a_dac_per_vector_fills_itself_with_the_largest_entry():
    crossbar = Crossbar(np.eye(2), chip(dac={"bits": 3}))
    x = np.float32([[1, 0.4], [-100, 40], [0, 0], [1e-9, -0.5e-9 - 1e-15]])
    assert_allclose(crossbar.read(x), [[1, 1 / 3], [-100, 100 / 3], [0, 0], [1e-9, -2e-9 / 3]], rtol=1e-6)


@every_backend
@pytest.mark.parametrize("full_scale", [1.0, 0.1])
def test_the_adc_has_its_levels_and_clips(backend, full_scale):
    """Its bound counts cells at g_max under a full-scale input: 3 · w_max · full scale."""
    dac = None if full_scale == 1.0 else {"bits": 16, "bound": full_scale}
    description = chip(cell={}, dac=dac, adc={"bits": 5, "bound": 3.0})
    crossbar = Crossbar(np.full((1, 8), 0.5), description, backend=backend)
    x = np.linspace(-1, 1, 9001)[:, None] * np.full(8, full_scale)
    y, bound = crossbar.read(x), 3 * 0.5 * full_scale
    assert len(np.unique(y)) == 31
    assert_allclose(np.diff(np.unique(y)), 2 * bound / 30, rtol=1e-4)
    assert_allclose(y[[0, -1], 0], [-bound, bound], rtol=1e-6)


def test_weights_beyond_a_fixed_range_are_clipped_and_auto_fits_them_all():
    fixed = Crossbar([[0.5, -3.0], [2.0, 1.0]], chip(cell={"weight_max": 1.0}))
    assert_array_equal(fixed.read(np.eye(2)), [[0.5, 1.0], [-1.0, 1.0]])
    fixed.write(torch.full((2, 2), 0.75))
    assert_array_equal(fixed.read(np.eye(2)), [[-0.25, 0.25], [-1.0, 0.25]])
    auto = Crossbar([[0.5, -3.0], [2.0, 1.0]], chip(cell={}))
    assert_array_equal(auto.read(np.eye(2)), [[0.5, 2.0], [-3.0, 1.0]])


def test_a_written_crossbar_reads_as_a_new_one_of_its_weights():
    """A write moves w_max, and with it the noise and the ADC's step."""
    written = Crossbar(W, GENERIC)
    written.write(torch.from_numpy(W - 10 * W))
    assert_allclose(written.weight, 10 * W, rtol=1e-6)
    assert_array_equal(written.read(X, step=0), Crossbar(written.weight, GENERIC).read(X, step=0))


@every_backend
@pytest.mark.parametrize("law", ["constant", "sqrt"])
def test_zeros_read_as_zeros(backend, law):
    """A matrix or a vector of zeros has no range of its own to scale by."""
    noise = {"constant": {"sigma_uS": 1.0}, "sqrt": {"k_sqrt_uS": 1.0}}[law]
    description = GENERIC.replace(**{"cell.read_noise": {"law": law, **noise}, "cell.g_min_uS": 1.0})
    for w, x in ((0 * W, X), (W, 0 * X), (1e-12 * W, 0 * X), (0 * W, 0 * X)):
        assert_allclose(Crossbar(w, description, backend=backend).read(x), 0, atol=1e-28)
