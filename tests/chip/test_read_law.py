"""Reads of a chip with everything a chip file can say, against reads of every cell in float64.

One draw an output on the fast side, one a cell on the other; the same weights, vectors and columns' gains.
Statistical tests run at fixed seeds and level 1e-6: they never flake. `check` holds every comparison;
the planted bugs at the end show what it catches.
"""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from scipy import stats

import analogsim
from analogsim.backends.numba import NumbaBackend
from analogsim.chip import crossbar as crossbar_module
from analogsim.chip import leg
from analogsim.chip.cell_by_cell import CellByCell
from analogsim.chip.grid import Scale
from analogsim.chip.tile import Tile
from analogsim.config.chip import ChipDescription
from analogsim.physics.read_noise import cell_variance
from analogsim.streams import Address, Stream

ALPHA = 1e-6
READS, VECTORS, OUTPUTS, INPUTS = 5_000, 20, 10, 12  # 10^6 outputs

_numbers = np.random.default_rng(201)
WEIGHT = _numbers.normal(0, 0.5, (OUTPUTS, INPUTS)).astype(np.float32)
WEIGHT[5:] *= 0.2  # columns of two sizes, so that scales that differ between them show
X = _numbers.normal(0, 1, (VECTORS, INPUTS)).astype(np.float32)

SQRT, CONSTANT = {"law": "sqrt", "k_sqrt_uS": 0.3}, {"law": "constant", "sigma_uS": 0.5}
DAC, ADC = {"bits": 6}, {"bits": 8, "bound": 6.0}
SERIAL, PER_SLICE = {"bit_serial": {"slice_bits": 1}}, {"bit_serial": {"slice_bits": 2, "adc": "per_slice"}}
ALL_ROWS, BINARY = {"bits": 10, "bound": "max"}, {"bits": 1, "cells": 4}
TILES = {"rows": 5, "columns": 4}
FLICKER = {
    "strength": {"law": "power", "coefficient": 0.02, "exponent": 0.65, "max": 0.2},
    "unit_uS": 25.0,
    "t_r_s": 2.5e-7,
}


def chip(node=0.0, dac=None, adc=None, tile=None, wires=None, t_read_s=0.0, **cell):
    parts = {"node_noise": {"sigma": node}, "cell": {"g_min_uS": 2.0} | cell, "dac": dac, "adc": adc, "wires": wires}
    return ChipDescription.model_validate(parts | {"tile": tile or {}, "clock": {"t_read_s": t_read_s}})


ROUNDING = DAC | {"bits": 4, "stochastic_rounding": True}

CHIPS = {
    "polynomial": chip(read_noise={"law": "polynomial", "coefficients_uS": [0.2, 0.5, -0.3], "unit_uS": 25.0}),
    "exponential, node noise": chip(0.1, read_noise={"law": "exponential", "amplitude_uS": 1.0, "scale_uS": 5.0}),
    "table": chip(read_noise={"law": "table", "g_uS": [2, 10, 25], "sigma_uS": [0.2, 0.9, 0.4]}),
    "reference column": chip(read_noise=SQRT, mapping="reference"),
    "reference column, constant": chip(read_noise=CONSTANT, mapping="reference", adc=ADC, tile={"columns": 4}),
    "digital offset": chip(read_noise=SQRT, mapping="offset", dac=DAC, adc=ADC | {"bits": 10}),
    "scale per column": chip(0.05, SERIAL | DAC, ADC, read_noise=SQRT, weight_scale="column"),
    "scale per tile": chip(0.05, DAC, ADC, TILES, read_noise=CONSTANT, weight_scale="tile"),
    "scale per column, rows of tiles": chip(0.05, None, ADC, TILES, read_noise=SQRT, weight_scale="column"),
    "rows of tiles, per vector": chip(0.05, DAC, ADC | {"bound": 4.0}, TILES, read_noise=SQRT),
    "rows of tiles, reference": chip(0.0, DAC, None, TILES, read_noise=SQRT, mapping="reference"),
    "DAC noise": chip(dac=DAC | {"noise": 0.05}, read_noise=SQRT),
    "DAC noise, tiles": chip(0.0, {"bits": 7, "bound": 2.0, "noise": 0.1}, ADC, TILES),
    "DAC rounding": chip(dac=ROUNDING, read_noise=SQRT),
    "DAC rounding, tiles, offset": chip(0.0, ROUNDING, ADC, TILES, mapping="offset"),
    "DAC rounding, per slice": chip(0.0, ROUNDING | PER_SLICE | {"noise": 0.02}, ADC, read_noise=SQRT),
    "DAC rounding, bit-serial": chip(0.0, ROUNDING | SERIAL | {"bound": 2.0}, read_noise=CONSTANT),
    "bit-serial": chip(dac=DAC | SERIAL, adc=ADC, read_noise=SQRT),
    "bit-serial, constant": chip(0.02, DAC | SERIAL, ADC, read_noise=CONSTANT),
    "bit-serial, DAC noise": chip(dac=DAC | SERIAL | {"noise": 0.05}, read_noise=CONSTANT),
    "per slice": chip(0.05, DAC | PER_SLICE, ADC | {"bits": 6}, read_noise=SQRT),
    "per slice, DAC noise": chip(0.0, DAC | PER_SLICE | {"noise": 0.02}, ADC, read_noise=SQRT, mapping="reference"),
    "ADC noise": chip(dac=DAC, adc=ADC | {"noise": 0.2}, read_noise=SQRT),
    "ADC noise, scale per column": chip(0.02, None, ADC | {"noise": 0.1}, weight_scale="column"),
    "stochastic rounding": chip(adc=ADC | {"bits": 5, "stochastic_rounding": True}),
    "stochastic rounding, noise": chip(0.05, DAC, ADC | {"bits": 5, "stochastic_rounding": True}, TILES),
    "gain and offset": chip(0.05, DAC, ADC | {"gain_sigma": 0.2, "offset_sigma_lsb": 3.0}, read_noise=SQRT),
    "gain, constant, reference": chip(0.0, DAC, ADC | {"gain_sigma": 0.2}, read_noise=CONSTANT, mapping="reference"),
    "gain, offset": chip(0.0, None, ALL_ROWS | {"gain_sigma": 0.1}, mapping="offset", read_noise=SQRT),
    "ADC bound of all rows": chip(0.1, DAC, ALL_ROWS, TILES),
    "calibrated": chip(0.1, DAC, {"bits": 6, "bound": "calibrated"}, TILES, read_noise=SQRT),
    "calibrated, scale per column": chip(0.1, DAC, {"bits": 6, "bound": "calibrated"}, weight_scale="column"),
    "weight slices": chip(0.05, DAC, ADC, read_noise=CONSTANT, slices={"bits": 2, "cells": 3}),
    "weight slices, tiles": chip(0.0, None, ADC, TILES, read_noise=SQRT, mapping="reference", slices=BINARY),
    "1/f": chip(flicker=FLICKER, t_read_s=1e-4),
    "1/f, white": chip(0.02, DAC, ADC, read_noise=SQRT, flicker=FLICKER, t_read_s=1e-5),
}  # fmt: skip
# Noise of cells with two states is Gaussian by the central limit alone: only its moments are compared.
MOMENTS = {
    "two-state cells": chip(telegraph={"law": "proportional", "k": 0.05}),
    "two-state cells, reference": chip(telegraph={"law": "sqrt", "k_sqrt_uS": 0.2}, mapping="reference", tile=TILES),
}
ALL = CHIPS | MOMENTS


def crossbar_of(name, backend="numba", seed=1):
    return analogsim.Crossbar(WEIGHT, chip=ALL[name], seed=seed, backend=backend)


def fast(name, backend="numba"):
    """(READS, VECTORS, OUTPUTS) outputs of the fast crossbar."""
    crossbar = crossbar_of(name, backend)
    x = np.tile(X, (READS // 5, 1)).reshape(-1, 5, INPUTS)
    reads = [crossbar.read(x, step=step) for step in range(5)]
    return np.stack(reads).reshape(READS, VECTORS, OUTPUTS).astype(np.float64)


@cache
def reference(name):
    """As many, cell by cell, with the fast crossbar's columns."""
    crossbar, chip = crossbar_of(name), ALL[name]
    cells = CellByCell(WEIGHT, chip, np.random.default_rng(202), lag_s=crossbar.lag_s)
    crossbar.read(X)
    order = sorted(crossbar._tiles, key=lambda tile: (tile.rows.start, tile.columns.start))
    for slow, fast_tile in zip(cells.tiles, order, strict=True):
        assert (slow.rows, slow.columns) == (fast_tile.rows, fast_tile.columns)
        if fast_tile._gain is not None:
            slow.gain = fast_tile._gain.double().numpy()
        if fast_tile._offset is not None:
            slow.offset = fast_tile._offset.double().numpy()
        if chip.cell.flicker:
            slow.slow = [leg._slow.double().numpy()[None] for leg in crossbar.cells.legs.values()]
    return cells.read(np.tile(X, (READS, 1))).reshape(READS, VECTORS, OUTPUTS)


def check(ours, name):
    check_alike(ours, reference(name), shapes=name in CHIPS)


def check_alike(ours, theirs, shapes=True):
    """Every vector and output, in units of its spread: means, spreads, shapes, and how outputs go together.

    Two samples (reads, vectors, outputs). shapes: compare the distributions too, not moments alone.
    """
    reads, vectors, outputs = theirs.shape
    centre, spread = theirs.mean(0), theirs.std(0) + 1e-9
    a, b = ((sample - centre) / spread for sample in (ours, theirs))
    both = (2 / reads) ** 0.5
    assert abs((a.mean(0) - b.mean(0)) / both).max() < stats.norm.isf(ALPHA / a[0].size)
    squares = [(s**2).mean(0) for s in (a, b)]
    fourth = np.sqrt(sum(((s**2).var(0) / reads) for s in (a, b))) + 1e-3
    assert abs((squares[0] - squares[1]) / fourth).max() < stats.norm.isf(ALPHA / a[0].size)
    overall = [(z**2).mean((1, 2)) for z in (a, b)]
    error = np.sqrt(sum(parts.var() / reads for parts in overall)) + 1e-6
    assert abs(overall[0].mean() - overall[1].mean()) / error < stats.norm.isf(ALPHA / 2)
    together = [np.einsum("nvi,nvj->nij", z, z) / vectors for z in (a, b)]
    error = np.sqrt(sum(products.var(0) / reads for products in together)) + 1e-4
    assert abs((together[0].mean(0) - together[1].mean(0)) / error).max() < stats.norm.isf(ALPHA / outputs**2)
    if shapes:
        dither = np.random.default_rng(203).uniform(-1e-3, 1e-3, (2, *a.shape))  # codes that are equal but for rounding
        assert stats.ks_2samp((a + dither[0]).ravel(), (b + dither[1]).ravel(), method="asymp").pvalue > ALPHA


@pytest.mark.parametrize("name", ALL)
def test_reads_follow_the_law_of_reads_of_every_cell(name):
    """10^6 outputs fast and 10^6 cell by cell, each test at α = 1e-6.

    Refused: over all, a KS distance of 0.4 %, a σ off by 0.5 %; of one vector and output a mean off by 11 % of σ, a
    variance off by 15 %; of two outputs a correlation off by 4 %.
    """
    check(fast(name), name)


def test_a_dac_without_noise_rounds_to_the_nearest():
    """As the oracle reads it; and the chip is not free of noise."""
    plain, rounding = (analogsim.Crossbar(WEIGHT, chip(dac=dac)) for dac in (DAC | {"bits": 4}, ROUNDING))
    quiet = rounding.view(Stream.from_seed(0), rounding.ledger, noisy=False)
    assert np.array_equal(quiet.read(X), plain.read(X))
    assert not np.array_equal(rounding.read(X), plain.read(X))
    assert (plain.description.noise_free, rounding.description.noise_free) == (True, False)


@pytest.mark.parametrize("lag_s", [2.5e-7, 1e-5, 1e-3, 1.0])
def test_two_reads_of_a_sample_covary_as_1_f_noise_does(lag_s):
    """10^6 pairs over 2000 crossbars of 10 outputs, passes τ apart: cor = ρ(τ), mean product within 5 standard errors.

    t = 1 s, so ρ = 1 - [ln(π τ / t_r) + 0.577] / L: 0.88, 0.63, 0.31 and 0 at these lags.
    """
    description = chip(flicker=FLICKER, t_read_s=lag_s)
    products, squares = [], []
    for seed in range(500):
        crossbar = analogsim.Crossbar(WEIGHT, chip=description, seed=seed)
        quiet = X @ crossbar.effective_weight.numpy().T
        first, second = (crossbar.read(X, step=0, pass_index=p) - quiet for p in (0, 1))
        products.append((first * second).mean(0))
        squares.append((first**2 + second**2).mean(0) / 2)
    rho = np.sum(products) / np.sum(squares)
    power = np.log((1 + 2.5e-7) / 5e-7)
    expected = min(max(1 - (np.log(np.pi * lag_s / 2.5e-7) + 0.5772157) / power, 0), 1)
    error = 5 * (np.std(products, axis=0) / 500**0.5).sum() / np.mean(squares, axis=0).sum()
    assert error < 0.15
    assert abs(rho - expected) < error


# Planted bugs, each where it would be made: (chip that shows it, object, name, what stands there instead)


class SharedOverTiles(NumbaBackend):
    """The noise of every tile is that of the first."""

    def output_stage(self, y, stream, *rest):
        return super().output_stage(y, Stream.from_seed(0), *rest)


class AddressReused(NumbaBackend):
    """Counters of a step are those of the one before."""

    def output_stage(self, y, stream, address, *rest):
        return super().output_stage(y, stream, Address(address.step // 2, 0, address.first_sample), *rest)


def driven(**parts):
    """The inputs as driven, but for some parts."""
    return lambda *a: [replace(one, **{name: made(one) for name, made in parts.items()}) for one in drive(*a)]


def one_draw_for_all_slices(self, *where):
    return lambda number: dac_noise(self, *where)(0)


def one_uniform_for_all_inputs(self, *where):
    return lambda: dac_uniforms(self, *where)()[..., :1].expand(-1, -1, self.rows.stop - self.rows.start)


def uniforms_of_the_first_tile(self, address, batch, positions):
    inputs = self.rows.stop - self.rows.start
    stream = Stream.from_seed(0)
    return lambda: uniform(self._backend, stream, address, batch, positions * inputs, "cpu").view(
        batch, positions, inputs
    )


def gain_on_weights_alone(self, *a):
    load(self, *a)
    if self._gain is not None and self._variance is not None:
        self._variance = self._variance / self._gain[:, None].square()


def largest_of_columns(self, weight):
    return self._grid.largest(weight)


def rounding_of_another_column(self, stream, address, rows, outputs, device):
    u = uniform(self, stream, address, rows, outputs, device)
    return u[:, :1].expand_as(u)


drive, dac_noise, load, uniform = crossbar_module.drive, Tile.dac_noise, Tile.load, NumbaBackend.uniform
dac_uniforms = Tile.dac_uniforms
BUGS = {
    "idle leg's noise forgotten": (
        "polynomial",
        leg,
        "cell_variance",
        lambda g, **k: cell_variance(g, **k) * (g > 2.0),
    ),
    "σ + 1 %": ("polynomial", leg, "cell_variance", lambda g, **k: 1.01**2 * cell_variance(g, **k)),
    "reference column's noise forgotten": (
        "reference column",
        Tile,
        "_reference_sigma",
        lambda self, driven: driven.x.new_zeros(*driven.x.shape[:-1], self._planes),
    ),
    "scale per column for per tile": ("scale per tile", Scale, "_largest", largest_of_columns),
    "scale per layer for per column": ("scale per column", Scale, "_largest", lambda self, w: float(w.abs().max())),
    "noise shared over tiles": ("rows of tiles, reference", SharedOverTiles),
    "counter reused in the next step": ("polynomial", AddressReused),
    "bit-serial slices as one read": ("bit-serial", crossbar_module, "drive", driven(squares=lambda one: None)),
    "DAC noise not driven": ("DAC noise", crossbar_module, "drive", driven(x=lambda one: one.asked)),
    "DAC rounds to the nearest": ("DAC rounding", crossbar_module, "drive", lambda *a: drive(*a[:3], None)),
    "DAC rounding shared by inputs": ("DAC rounding", Tile, "dac_uniforms", one_uniform_for_all_inputs),
    "DAC rounding shared by rows of tiles": (
        "DAC rounding, tiles, offset",
        Tile,
        "dac_uniforms",
        uniforms_of_the_first_tile,
    ),
    "DAC noise shared by slices": ("bit-serial, DAC noise", Tile, "dac_noise", one_draw_for_all_slices),
    "slices' full scale that of the input": (
        "per slice",
        crossbar_module,
        "drive",
        driven(full_scale=lambda one: one.full_scale * 31 / 3),
    ),
    "gain not on the noise of cells": ("gain and offset", Tile, "load", gain_on_weights_alone),
    "dither shared by columns": ("stochastic rounding", NumbaBackend, "uniform", rounding_of_another_column),
    "1/f without its slow part": ("1/f", leg.flicker, "slow_part", lambda sigma, rho, slow: 0 * sigma),
    "1/f with all of it fresh besides": ("1/f", leg.flicker, "fast_variance", lambda sigma, rho: sigma.square()),
    "amplitude for variance": ("two-state cells", leg, "cell_variance", lambda g, **k: cell_variance(g, **k).sqrt()),
}


def read_with(monkeypatch, read, name, *planted):
    """What read(name) gives with a bug planted: by a backend with it, or where an attribute is replaced."""
    if len(planted) == 1:
        return read(name, planted[0]())
    with monkeypatch.context() as patch:
        patch.setattr(*planted)
        return read(name)


@pytest.mark.parametrize("bug", BUGS)
def test_the_check_catches(bug, monkeypatch):
    """The same check of 10^6 outputs at α = 1e-6."""
    name, *planted = BUGS[bug]
    ours = read_with(monkeypatch, fast, name, *planted)
    if name == "polynomial" and bug.startswith("counter"):  # the same outputs twice: no distribution shows it
        assert np.array_equal(ours[: READS // 5], ours[READS // 5 : 2 * READS // 5])
        assert not np.array_equal(fast(name)[: READS // 5], fast(name)[READS // 5 : 2 * READS // 5])
        return
    with pytest.raises(AssertionError):
        check(ours, name)


def test_a_slow_part_redrawn_every_pass_is_caught(monkeypatch):
    """At a lag of 0.25 µs two reads then covary by nothing, in place of 0.88."""
    draws = iter(range(1, 10**6))

    def redrawn(sigma, rho, slow):
        noise = Stream.from_seed(next(draws)).normal(Address(), *slow.shape)
        return slow_part(sigma, rho, torch.from_numpy(noise))

    slow_part = leg.flicker.slow_part
    monkeypatch.setattr(leg.flicker, "slow_part", redrawn)
    monkeypatch.setattr(analogsim.Crossbar, "_moment", lambda self, address: float(next(draws)))
    with pytest.raises(AssertionError):
        test_two_reads_of_a_sample_covary_as_1_f_noise_does(2.5e-7)
