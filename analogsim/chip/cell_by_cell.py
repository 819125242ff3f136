"""A crossbar read cell by cell: slow, float64, and the yardstick of the fast path.

For every input vector x on its own, with fresh ξ, ζ ~ N(0, 1) for every cell and output,

    x̂ = DAC(x) ,   G⁺ = G_min + s max(W, 0) ,   G⁻ = G_min + s max(-W, 0) ,   s = (G_max - G_min) / w_max
    I_i = Σ_j [(G⁺_ij + σ(G⁺_ij) ξ⁺_ij) - (G⁻_ij + σ(G⁻_ij) ξ⁻_ij)] x̂_j              [µS × units of x]
    y_i = ADC(I_i / s + σ_node ζ_i)

Nothing here is shared with physics/, backends/ or crossbar.py: it is written from the equations
(reference/devices.md §3 and §4) a second time, so that tests/chip/test_read_noise_law.py can hold
the fast path's one draw per output against a draw for every cell. A converter looks its level up
in a table; an input exactly half-way between two levels may fall to the other one here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analogsim.config.chip import Cell, ChipDescription

Array = NDArray[np.float64]
NORMALS_AT_ONCE = 2**18  # noise matrices drawn together hold about as many; their law does not depend on it
TINY = 1e-100  # in place of a range of 0: a crossbar or a vector of zeros reads as 0


def cell_by_cell_read(weight: ArrayLike, chip: ChipDescription, x: ArrayLike, rng: np.random.Generator) -> Array:
    """Read `weight` (out, in) with every row of x (batch, in), every cell noisy; (batch, out)."""
    w, x = np.asarray(weight, np.float64), np.asarray(x, np.float64)
    w, weight_max = _programmed(w, chip.cell)
    driven, full_scale = _dac(x, chip)
    y = driven @ w.T if chip.cell is None else _differential_currents(w, weight_max, chip.cell, driven, rng)
    y = y + chip.node_noise.sigma * rng.standard_normal(y.shape)
    if chip.adc is None:
        return y
    bound = full_scale * weight_max * chip.adc.bound
    return _nearest_level(y / bound, chip.adc.bits) * bound


def _programmed(w: Array, cell: Cell | None) -> tuple[Array, float]:
    """(the weights the cells can hold, w_max)."""
    if cell is None:
        return w, 1.0
    if cell.weight_max == "auto":
        return w, max(np.abs(w).max(), TINY)
    return np.minimum(np.maximum(w, -cell.weight_max), cell.weight_max), cell.weight_max


def _differential_currents(w: Array, weight_max: float, cell: Cell, x: Array, rng: np.random.Generator) -> Array:
    """I / s of every vector, each through a g_plus and a g_minus matrix of its own."""
    uS_per_weight = (cell.g_max_uS - cell.g_min_uS) / weight_max
    g_plus = cell.g_min_uS + uS_per_weight * np.where(w > 0, w, 0.0)
    g_minus = cell.g_min_uS + uS_per_weight * np.where(w < 0, -w, 0.0)
    sigma_plus, sigma_minus = _cell_sigma(g_plus, cell), _cell_sigma(g_minus, cell)
    current = np.empty((len(x), len(w)))
    together = max(1, NORMALS_AT_ONCE // w.size)
    for start in range(0, len(x), together):
        vectors = x[start : start + together]
        size = (len(vectors), *w.shape)
        as_read_plus = g_plus + sigma_plus * rng.standard_normal(size)
        as_read_minus = g_minus + sigma_minus * rng.standard_normal(size)
        current[start : start + together] = np.einsum("bij,bj->bi", as_read_plus - as_read_minus, vectors)
    return current / uS_per_weight


def _cell_sigma(g: Array, cell: Cell) -> Array:
    """σ(G) in µS of every cell."""
    noise = cell.read_noise
    if noise is None:
        return np.zeros_like(g)
    if noise.law == "constant":
        return np.full_like(g, noise.sigma_uS)
    if noise.law == "proportional":
        return noise.k * g
    return noise.k_sqrt_uS * np.sqrt(g)


def _dac(x: Array, chip: ChipDescription) -> tuple[Array, Array | float]:
    """(x̂, the input that fills the converter: one number, or one a vector)."""
    if chip.dac is None:
        return x, 1.0
    if chip.dac.bound == "per_vector":
        bound = np.maximum(np.abs(x).max(axis=1, keepdims=True), TINY)
    else:
        bound = np.full((len(x), 1), chip.dac.bound)
    return _nearest_level(x / bound, chip.dac.bits) * bound, bound


def _nearest_level(fraction: Array, bits: int) -> Array:
    """The nearest of 2^bits - 1 even levels from -1 to 1; what lies outside goes to the end."""
    levels = np.linspace(-1.0, 1.0, 2**bits - 1)
    return levels[np.searchsorted((levels[:-1] + levels[1:]) / 2, fraction)]
