"""The fast path's one draw per output against a draw for every cell, and both against the exact law.

    y ~ ADC(N(W x̂, σ_node² + Σ_j [σ²(G⁺_ij) + σ²(G⁻_ij)] x̂_j² / s²))

Statistical tests run at fixed seeds and level 1e-6: they never flake. One function, `check`, holds
every comparison; the planted bugs at the end show what it catches.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
from scipy import special, stats

import analogsim
from analogsim.backends.numba import NumbaBackend
from analogsim.backends.torch import TorchBackend
from analogsim.chip.cell_by_cell import cell_by_cell_read
from analogsim.config.schema import ChipDescription
from analogsim.physics.read_noise import LAWS, sqrt_variance
from analogsim.streams import Address

ALPHA = 1e-6
STEPS, PASSES, REPEATS, VECTORS, OUTPUTS, INPUTS = 5, 2, 500, 25, 8, 12
SHAPE = (STEPS, PASSES, REPEATS, VECTORS, OUTPUTS)  # 10^6 outputs
TAIL = 4.05  # 51 of 10^6 standard normals lie beyond

_numbers = np.random.default_rng(101)
WEIGHT = _numbers.normal(0, 0.5, (OUTPUTS, INPUTS)).astype(np.float32)
X = _numbers.normal(0, 1, (VECTORS, INPUTS)).astype(np.float32)


def chip(law=None, g_min=0.0, node=0.0, dac=None, adc=None, weight_max="auto"):
    noise = {"constant": {"sigma_uS": 0.3}, "proportional": {"k": 0.03}, "sqrt": {"k_sqrt_uS": 0.0875}}
    cell = {"g_min_uS": g_min, "g_max_uS": 25.0, "weight_max": weight_max}
    if law is not None:
        cell["read_noise"] = {"law": law, **noise[law]}
    return ChipDescription.model_validate({"node_noise": {"sigma": node}, "cell": cell, "dac": dac, "adc": adc})


COARSE = {"dac": {"bits": 7}, "adc": {"bits": 9, "bound": 20.0}}  # a step is 1 to 6 σ: a few codes each
FINE = {"dac": {"bits": 8, "bound": 2.0}, "adc": {"bits": 12, "bound": 0.5}}  # inputs and outputs clip, too
CHIPS = {
    "constant": chip("constant"),
    "constant, g_min": chip("constant", 5.0),
    "proportional": chip("proportional"),
    "proportional, g_min": chip("proportional", 5.0),
    "sqrt": chip("sqrt"),
    "sqrt, g_min": chip("sqrt", 5.0),
    "node noise alone": chip(node=0.05),
    "constant, node noise": chip("constant", 5.0, node=0.05),
    "sqrt, node noise": chip("sqrt", 5.0, node=0.05),
    "weights clipped at 0.6": chip("proportional", 1.0, weight_max=0.6),
    "coarse converters": chip("sqrt", 5.0, node=0.02, **COARSE),
    "fine converters": chip("proportional", 5.0, node=0.02, **FINE),
    "crossbar-generic": analogsim.load_chip("crossbar-generic"),
}


def fast(description, backend="numba", seed=1):
    """10^6 outputs of the fast crossbar, in SHAPE: 25 vectors, five samples of five positions, over and over."""
    crossbar = analogsim.Crossbar(WEIGHT, chip=description, seed=seed, backend=backend)
    x = np.tile(X, (REPEATS, 1)).reshape(-1, 5, INPUTS)
    reads = [crossbar.read(x, step=step, pass_index=p) for step in range(STEPS) for p in range(PASSES)]
    return np.stack(reads).reshape(SHAPE).astype(np.float64)


@cache
def reference(name):
    """As many, cell by cell."""
    x = np.tile(X, (STEPS * PASSES * REPEATS, 1))
    return cell_by_cell_read(WEIGHT, CHIPS[name], x, np.random.default_rng(102)).reshape(SHAPE)


@dataclass(frozen=True)
class Law:
    """N(mean, sd²) of every vector and output ahead of the ADC, whose step is lsb (None: no ADC)."""

    mean: np.ndarray
    sd: np.ndarray
    lsb: np.ndarray | None
    levels: int

    def scores(self, y, rng):
        """Independent standard normals if and only if y follows the law.

        Without an ADC (y - mean) / sd; a code becomes a uniform draw of the stretch of the
        normal distribution that rounds to it (randomised probability integral transform).
        """
        if self.lsb is None:
            return (y - self.mean) / self.sd
        code = y / self.lsb
        assert np.abs(code - code.round()).max() < 1e-3, "an output between two codes"
        code = code.round()
        assert np.abs(code).max() <= self.levels, "a code beyond the last"
        ends = (np.where(code > -self.levels, code - 0.5, -np.inf), np.where(code < self.levels, code + 0.5, np.inf))
        low, high = (special.ndtr((end * self.lsb - self.mean) / self.sd) for end in ends)
        return special.ndtri(np.clip(low + rng.random(y.shape) * (high - low), 1e-300, 1 - 1e-16))


def law_of(description):
    """The exact law in float64, one sum over the cells of a row at a time."""
    cell, dac, adc = description.cell, description.dac, description.adc
    x, weight, full = X.astype(float), WEIGHT.astype(float), np.ones((VECTORS, 1))
    if dac is not None:
        full = abs(x).max(1, keepdims=True) if dac.bound == "per_vector" else full * dac.bound
        step = full / (2 ** (dac.bits - 1) - 1)
        x = np.round(x.clip(-full, full) / step) * step
    w_max = abs(weight).max() if cell.weight_max == "auto" else cell.weight_max
    weight, s = weight.clip(-w_max, w_max), (cell.g_max_uS - cell.g_min_uS) / w_max
    used, idle = cell.g_min_uS + s * abs(weight), np.full_like(weight, cell.g_min_uS)
    sigma = {
        "constant": lambda g: np.full_like(g, cell.read_noise.sigma_uS),
        "proportional": lambda g: cell.read_noise.k * g,
        "sqrt": lambda g: cell.read_noise.k_sqrt_uS * g**0.5,
        None: np.zeros_like,
    }[cell.read_noise and cell.read_noise.law]
    per_cell = (sigma(used) ** 2 + sigma(idle) ** 2) / s**2
    mean = np.array([[(row * v).sum() for row in weight] for v in x])
    variance = np.array([[(row * v**2).sum() for row in per_cell] for v in x]) + description.node_noise.sigma**2
    levels = 0 if adc is None else 2 ** (adc.bits - 1) - 1
    return Law(mean, variance**0.5, None if adc is None else full * w_max * adc.bound / levels, levels)


def check(y, name):
    """y (SHAPE) against the exact law and the cell-by-cell reference; see `test_the_fast_path_…`."""
    law, rng = law_of(CHIPS[name]), np.random.default_rng(103)
    z, z_reference = law.scores(y, rng), law.scores(reference(name), rng)
    for scores in (z, z_reference):
        check_normal(scores.ravel())
    assert stats.ks_2samp(z.ravel(), z_reference.ravel(), method="asymp").pvalue > ALPHA
    for axis in (0, 1, 3, 4):  # steps, passes, samples and positions, outputs
        check_uncorrelated(np.moveaxis(z, axis, 0).reshape(SHAPE[axis], -1))
    if law.lsb is not None:
        check_codes(y / law.lsb, reference(name) / law.lsb)


def check_normal(z):
    limit = stats.norm.isf(ALPHA / 2)
    assert stats.kstest(z, "norm").pvalue > ALPHA
    assert abs(z.mean()) * z.size**0.5 < limit
    assert abs((z**2).mean() - 1) * (z.size / 2) ** 0.5 < limit
    assert stats.binomtest(int((abs(z) > TAIL).sum()), z.size, 2 * stats.norm.sf(TAIL)).pvalue > ALPHA


def check_uncorrelated(rows):
    """Every pair of rows, and of their squares, ALPHA over all pairs."""
    pairs = len(rows) * (len(rows) - 1) / 2
    limit = stats.norm.isf(ALPHA / pairs / 2) / rows.shape[1] ** 0.5
    for values in (rows, rows**2):
        assert abs(np.corrcoef(values) - np.eye(len(rows))).max() < limit


def check_codes(codes, others):
    """χ² of how often every vector and output gives every code, over codes seen ten times or more."""
    lowest = min(codes.min(), others.min())
    cells = VECTORS * OUTPUTS
    which = np.arange(cells).reshape(VECTORS, OUTPUTS)
    bins = [((c - lowest).round().astype(int) * cells + which).ravel() for c in (codes, others)]
    ours, theirs = (np.bincount(b, minlength=max(b.max() for b in bins) + 1) for b in bins)
    often = ours + theirs >= 10
    statistic = ((ours - theirs)[often] ** 2 / (ours + theirs)[often]).sum()
    assert stats.chi2.sf(statistic, often.sum() - cells) > ALPHA


@pytest.mark.parametrize("name", CHIPS)
def test_the_fast_path_follows_its_cell_by_cell_law(name):
    """10^6 outputs fast and 10^6 cell by cell, each test at α = 1e-6.

    Against the exact law, of either: KS refuses a distribution function off by 0.27 %, the mean test
    0.5 % of σ, the variance test a σ off by 0.35 %, the tail test a factor of 2 beyond 4.05 σ. Against
    each other: KS 0.38 %; with an ADC also χ² of all codes. Correlations of values or squares above
    0.7 % between passes, 1.2 % steps, 1.6 % outputs, 3 % samples and positions.
    """
    check(fast(CHIPS[name]), name)


# Planted bugs, each where it would be made: in a law, or in a backend


class UnfusedBackend(NumbaBackend):
    """torch's output stage with Numba's normals: what a subclass does to either takes effect."""

    output_stage = TorchBackend.output_stage


class TruncatedTail(UnfusedBackend):
    def normal(self, *where):
        return super().normal(*where).clamp(-4, 4)


class CounterReusedBetweenPasses(UnfusedBackend):
    def output_stage(self, y, stream, address, *rest):
        return super().output_stage(y, stream, Address(address.step), *rest)


class NoiseSharedOverTheBatch(UnfusedBackend):
    def normal(self, *where):
        z = super().normal(*where)
        return z[:1].expand_as(z)


class NodeNoiseAfterTheAdc(UnfusedBackend):
    def output_stage(self, y, stream, address, sigma, variance, lsb, levels):
        y = super().output_stage(y, stream, address, None, variance, lsb, levels)
        z = self.normal(stream.child("node"), address, len(y), y[0].numel(), y.device)
        return y + sigma[..., None] * z.view_as(y)


LAW_BUGS = {
    "σ + 1 %": lambda law: lambda k, g: 1.01**2 * law(k, g),
    "variance for σ": lambda law: lambda k, g: law(k, g) ** 2,
    "no noise from the idle leg": lambda law: lambda k, g: law(k, g) * (g > 5.0),
    "w_max not applied to σ": lambda law: lambda k, g: law(k, g) / float(abs(WEIGHT).max()) ** 2,
    "sqrt in place of proportional": lambda law: lambda k, g: sqrt_variance(k * 25**0.5, g),  # the same at g_max
}
BACKEND_BUGS = [TruncatedTail, CounterReusedBetweenPasses, NoiseSharedOverTheBatch, NodeNoiseAfterTheAdc]


@pytest.mark.parametrize("bug", LAW_BUGS)
def test_the_check_catches_in_a_law(bug, monkeypatch):
    """The same check of 10^6 outputs at α = 1e-6, of σ = k G with G_min at a fifth of G_max."""
    monkeypatch.setitem(LAWS, "proportional", LAW_BUGS[bug](LAWS["proportional"]))
    y = fast(CHIPS["proportional, g_min"])
    monkeypatch.undo()
    with pytest.raises(AssertionError):
        check(y, "proportional, g_min")


@pytest.mark.parametrize("bug", BACKEND_BUGS)
def test_the_check_catches_in_a_backend(bug):
    """The same check of 10^6 outputs at α = 1e-6; without the bug the backend passes it."""
    name = "coarse converters" if bug is NodeNoiseAfterTheAdc else "sqrt, g_min"
    check(fast(CHIPS[name], UnfusedBackend()), name)
    with pytest.raises(AssertionError):
        check(fast(CHIPS[name], bug()), name)
