"""A crossbar written and read cell by cell: slow, float64, and the yardstick of the fast path.

Every cell has a conductance of its own, and every read of every cell a draw of its own, ξ, ζ ~ N(0, 1):

    G = G_target + σ_prog ξ → drift(t) ,   a read meets  G ± a + σ_white ξ + σ_f (√ρ s + √(1-ρ) ξ')
    I = Σ_j (G⁺ - G⁻)_j x'_j ,   y = ADC((1 + γ) I / s + o Δ + ε + σ_node ζ + σ_adc ζ')    for every tile and slice

Nothing here is shared with physics/, backends/ or the rest of chip/: it is written from the equations
(docs/laws.md and the chip file's own words) a second time, so that tests/chip/ can hold the fast
path's one draw per output against a draw for every cell. A converter looks its level up in a table; an
input exactly half-way between two levels may fall to the other one here.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analogsim.config.chip import Cell, ChipDescription

Array = NDArray[np.float64]
NORMALS_AT_ONCE = 2**18  # noise matrices drawn together hold about as many; their law does not depend on it
TINY = 1e-100  # in place of a range of 0: a crossbar or a vector of zeros reads as 0


def cell_by_cell_read(weight: ArrayLike, chip: ChipDescription, x: ArrayLike, rng: np.random.Generator) -> Array:
    """Write `weight` (out, in) once and read it with every row of x (batch, in); (batch, out)."""
    return CellByCell(weight, chip, rng).read(x)


@dataclass
class _Tile:
    """legs: (sign, conductances as written and drifted), each (planes, columns, rows); reference: (planes, rows)."""

    rows: slice
    columns: slice
    legs: list[tuple[float, Array]]
    reference: Array | None
    weight_max: Array  # (columns, 1)
    gain: Array
    offset: Array
    slow: list[Array]


class CellByCell:
    """Cells of one weight matrix (out, in), programmed once and read t_s seconds later.

    t_s: since programming; None: at the first read. lag_s: τ of two reads, for 1/f noise.
    """

    def __init__(
        self,
        weight: ArrayLike,
        chip: ChipDescription,
        rng: np.random.Generator,
        t_s: float | None = None,
        lag_s: float = 0.0,
    ):
        self.chip, self.rng = chip, rng
        self.t_s = chip.clock.t_first_read_s if t_s is None else t_s
        self.lag_s = lag_s
        w = np.asarray(weight, np.float64)
        self.shape = w.shape
        cell, size = chip.cell, chip.tile
        self.planes = cell.slices.cells if cell and cell.slices else 1
        rows = size.rows or w.shape[1]
        columns = max(1, size.columns // self.planes) if size.columns else w.shape[0]
        cuts = product(range(0, w.shape[1], rows), range(0, w.shape[0], columns))
        self.tiles = [
            self._make(w, slice(r, min(r + rows, w.shape[1])), slice(c, min(c + columns, w.shape[0]))) for r, c in cuts
        ]

    # --- write ----------------------------------------------------------------------------------

    def _make(self, w: Array, rows: slice, columns: slice) -> _Tile:
        cell, adc = self.chip.cell, self.chip.adc
        part = w[columns, rows]
        many = self.planes * len(part)
        gain = 1 + (adc.gain_sigma if adc else 0.0) * self.rng.standard_normal(many)
        offset = (adc.offset_sigma_lsb if adc else 0.0) * self.rng.standard_normal(many)
        if cell is None:
            return _Tile(rows, columns, [(1.0, part[None])], None, np.ones((len(part), 1)), gain, offset, [])
        most = self._weight_max(cell, w, part)
        part = np.minimum(np.maximum(part, -most), most)
        low, high = cell.g_min_uS, cell.g_max_uS
        if cell.mapping == "differential":
            legs = [(s, low + (high - low) / most * np.where(s * part > 0, s * part, 0.0)) for s in (1.0, -1.0)]
        else:
            legs = [(1.0, (low + high) / 2 + (high - low) / (2 * most) * part)]
        held = [(sign, self._write(g, cell)) for sign, g in legs]
        reference = None
        if cell.mapping == "reference":
            reference = self._write(np.full((1, part.shape[1]), (low + high) / 2), cell)[:, 0]
        slow = [self.rng.standard_normal(g.shape) for _, g in held]
        return _Tile(rows, columns, held, reference, most, gain, offset, slow)

    def _weight_max(self, cell: Cell, w: Array, part: Array) -> Array:
        if cell.weight_max != "auto":
            return np.full((len(part), 1), cell.weight_max)
        own = {"layer": np.abs(w).max(), "tile": np.abs(part).max(), "column": np.abs(part).max(1)}[cell.weight_scale]
        return np.maximum(np.broadcast_to(own, len(part))[:, None] * cell.weight_headroom, TINY)

    def _write(self, target: Array, cell: Cell) -> Array:
        """(planes, *target.shape): conductances as they are t_s after a write."""
        target = self._spelt(target, cell)
        low = np.maximum(cell.g_min_uS + cell.g_min_d2d_uS * self.rng.standard_normal(target.shape), 0)
        high = cell.g_max_uS * (1 + cell.g_max_d2d * self.rng.standard_normal(target.shape))
        high = np.maximum(high, low + 0.01 * (cell.g_max_uS - cell.g_min_uS))
        target = np.minimum(np.maximum(target, low), high) if cell.g_max_d2d or cell.g_min_d2d_uS else target
        write, error, xi, sigma = self.chip.write, *(np.zeros_like(target) for _ in range(3))
        if write.mode == "verify" and cell.programming is not None:
            sigma = cell_sigma(cell.programming, target)
            xi = self.rng.standard_normal(target.shape)
            for _ in range(write.max_tries - 1):
                again = np.abs(sigma * xi) > (np.inf if write.tolerance_uS is None else write.tolerance_uS)
                xi = np.where(again, self.rng.standard_normal(target.shape), xi)
            error = sigma * xi
        written = np.maximum(target + error, 0)
        if cell.programming_clip == "range" and write.mode == "verify":
            written = np.minimum(np.maximum(written, low), high)
            xi = np.divide(written - target, sigma, out=np.zeros_like(xi), where=sigma > 0)
        g = np.maximum(self._drifted(cell, target, written, xi), 0)
        u, where, faults = self.rng.random(g.shape), self.rng.random(g.shape), cell.faults
        ends = np.cumsum([faults.stuck_low, faults.stuck_high, faults.stuck_random])
        return np.select([u < ends[0], u < ends[1], u < ends[2]], [low, high, low + where * (high - low)], g)

    def _spelt(self, g: Array, cell: Cell) -> Array:
        if cell.slices is None:
            return g[None]
        bits, span = cell.slices.bits, cell.g_max_uS - cell.g_min_uS
        code = np.rint((g - cell.g_min_uS) / span * (2 ** (bits * self.planes) - 1)).astype(int)
        digits = [code // 2 ** (bits * k) % 2**bits for k in range(self.planes)]
        return np.stack([cell.g_min_uS + span * digit / (2**bits - 1) for digit in digits])

    def _drifted(self, cell: Cell, target: Array, g: Array, xi: Array) -> Array:
        law, t = cell.drift, self.t_s
        if law is None:
            return g
        if law.law == "retention":
            at = [cell_sigma(error, target) for error in law.errors]
            logs = np.log(law.times_s)
            later = int(np.searchsorted(logs, np.log(t)))
            if later == 0:
                return target + at[0] * xi
            share = (np.log(t) - logs[later - 1]) / (logs[later] - logs[later - 1])
            return target + ((1 - share) * at[later - 1] + share * at[later]) * xi
        fresh = self.rng.standard_normal(g.shape)
        if law.law == "log":
            return (
                g if t < 1 else g + law.mean_uS * np.log(t) + (law.spread_uS * np.log(t) + law.spread_at_1s_uS) * fresh
            )
        r = (g if law.valid_uS is None else np.clip(g, *law.valid_uS)) / law.unit_uS
        nu = np.abs(_of_r(law.exponent, r) + _of_r(law.spread, r) * fresh)
        return g if t < law.t0_s else g * (t / law.t0_s) ** -nu

    # --- read -----------------------------------------------------------------------------------

    def read(self, x: ArrayLike) -> Array:
        """(batch, out): all noise drawn afresh for every vector and cell, but for the slow part of 1/f noise."""
        x = np.asarray(x, np.float64)
        y = np.zeros((len(x), self.shape[0]))
        for tile in self.tiles:
            y[:, tile.columns] += self._read_tile(tile, x[:, tile.rows])
        return y if self._one_conversion else y + self._node(y.shape)

    @property
    def _one_conversion(self) -> bool:
        dac = self.chip.dac
        per_slice = dac is not None and dac.bit_serial is not None and dac.bit_serial.adc == "per_slice"
        return self.planes == 1 and not per_slice and all(tile.rows == self.tiles[0].rows for tile in self.tiles)

    def _node(self, shape: tuple[int, ...]) -> Array:
        return self.chip.node_noise.sigma * self.rng.standard_normal(shape)

    def _read_tile(self, tile: _Tile, x: Array) -> Array:
        """Σ over input slices and weight slices of what the ADCs give."""
        slices, asked = self._driven(x)
        cell, dac = self.chip.cell, self.chip.dac
        together = dac is None or dac.bit_serial is None or dac.bit_serial.adc == "accumulated"
        groups = [slices] if together else [[one] for one in slices]
        y = np.zeros((len(x), len(tile.weight_max)))
        for group, codes in zip(groups, [asked] if together else [one[2] for one in slices]):
            current = sum(self._current(tile, driven) * (weight if together else 1) for driven, weight, _, _ in group)
            full = self._full_scale(x) if together else group[0][3]
            for plane in range(self.planes):
                share = 1.0
                if cell is not None and cell.slices is not None:
                    bits = cell.slices.bits
                    share = 2 ** (bits * plane) * (2**bits - 1) / (2 ** (bits * self.planes) - 1)
                out = self._convert(tile, np.asarray(current)[:, plane], full, codes, plane)
                y += share * out * (1 if together else group[0][1])
        return y

    def _driven(self, x: Array) -> tuple[list[tuple[Array, float, Array, Any]], Array]:
        """([(as driven, its weight, as asked, its full scale)], x̂)."""
        dac = self.chip.dac
        if dac is None:
            return [(x, 1.0, x, 1.0)], x
        bound = self._full_scale(x)
        rounded = _either_level(x / bound, dac.bits, self.rng) if dac.stochastic_rounding else None
        asked = (_nearest_level(x / bound, dac.bits) if rounded is None else rounded) * bound
        if dac.bit_serial is None:
            return [(asked + dac.noise * bound * self.rng.standard_normal(x.shape), 1.0, asked, bound)], asked
        bits, step = dac.bit_serial.slice_bits, bound / (2 ** (dac.bits - 1) - 1)
        magnitude, found = np.rint(np.abs(asked) / step).astype(int), []
        for k in range(-(-(dac.bits - 1) // bits)):
            part = np.sign(asked) * (magnitude >> (bits * k) & (2**bits - 1)) * step
            full = step * (2**bits - 1)
            noise = dac.noise * full * self.rng.standard_normal(x.shape)
            found.append((part + noise, float(2 ** (bits * k)), part, full))
        return found, asked

    def _full_scale(self, x: Array) -> Any:
        dac = self.chip.dac
        if dac is None:
            return 1.0
        if dac.bound == "per_vector":
            return np.maximum(np.abs(x).max(axis=1, keepdims=True), TINY)
        return np.full((len(x), 1), dac.bound)

    def _current(self, tile: _Tile, x: Array) -> Array:
        """(batch, planes, columns) in µS times the units of x, through matrices drawn for every vector."""
        planes, columns, rows = tile.legs[0][1].shape
        out = np.empty((len(x), planes, columns))
        together = max(1, NORMALS_AT_ONCE // (planes * columns * rows))
        for start in range(0, len(x), together):
            vectors = x[start : start + together]
            met = np.zeros((len(vectors), planes, columns, rows))
            for number, (sign, g) in enumerate(tile.legs):
                met += sign * self._as_read(g, len(vectors), tile.slow[number] if tile.slow else None)
            if tile.reference is not None:
                met -= self._as_read(tile.reference, len(vectors), None)[:, :, None]
            out[start : start + together] = np.einsum("bkij,bj->bki", met, vectors)
        return out

    def _as_read(self, g: Array, reads: int, slow: Array | None) -> Array:
        """The conductances that so many reads meet."""
        cell, size = self.chip.cell, (reads, *g.shape)
        met = np.broadcast_to(g, size)
        if cell is None:
            return met
        if cell.read_noise is not None:
            met = met + cell_sigma(cell.read_noise, g) * self.rng.standard_normal(size)
        if cell.telegraph is not None:
            met = met + cell_sigma(cell.telegraph, g) * np.where(self.rng.random(size) < 0.5, 1, -1)
        if cell.flicker is not None:
            law = cell.flicker
            power = max(np.log((self.t_s + law.t_r_s) / (2 * law.t_r_s)), TINY)
            rho = min(max(1 - (np.log(max(np.pi * self.lag_s / law.t_r_s, TINY)) + 0.57721566) / power, 0), 1)
            kept = self.rng.standard_normal(g.shape) if slow is None else slow
            strength = g * _of_r(law.strength, g if law.strength.law == "log10" else g / law.unit_uS) * power**0.5
            met = met + strength * (rho**0.5 * kept + (1 - rho) ** 0.5 * self.rng.standard_normal(size))
        return met

    def _convert(self, tile: _Tile, current: Array, full: Any, asked: Array, plane: int) -> Array:
        """The code of every column in units of the weights."""
        cell, adc, span, half = self.chip.cell, self.chip.adc, 1.0, 1.0
        most, one_cell, columns = tile.weight_max[:, 0], tile.weight_max[:, 0], len(tile.weight_max)
        at, middle = slice(plane * columns, (plane + 1) * columns), 0.0
        if cell is not None:
            span = cell.g_max_uS - cell.g_min_uS
            half = 1.0 if cell.mapping == "differential" else 2.0
            if cell.mapping == "offset":
                middle, one_cell = (cell.g_max_uS + cell.g_min_uS) / 2, most * 2 * cell.g_max_uS / span
            current = current * (half * most / span)
        y = current * tile.gain[at]
        if adc is None:
            y = y + (self._node(y.shape) if self._one_conversion else 0.0)
            return y - middle * 2 * most / span * asked.sum(1, keepdims=True)
        bound = self._bound(tile, plane, one_cell, half * most / span)
        bound = bound * full
        y = y + tile.offset[at] * bound / (2 ** (adc.bits - 1) - 1)
        y = y + (self._node(y.shape) if self._one_conversion else 0.0)
        y = y + adc.noise * one_cell * full * self.rng.standard_normal(y.shape)
        if adc.stochastic_rounding:
            y = _either_level(y / bound, adc.bits, self.rng) * bound
        else:
            y = _nearest_level(y / bound, adc.bits) * bound
        return y - middle * 2 * most / span * asked.sum(1, keepdims=True)

    def _bound(self, tile: _Tile, plane: int, one_cell: Array, weight_per_uS: Array) -> Array:
        """The ADC's bound of every column under full-scale input 1, in units of the weights."""
        adc = self.chip.adc
        assert adc is not None
        if adc.bound == "max":
            return one_cell * (tile.rows.stop - tile.rows.start)
        if adc.bound != "calibrated":
            return one_cell * adc.bound
        g = sum(sign * leg[plane] for sign, leg in tile.legs)
        g = np.asarray(g if tile.reference is None else g - tile.reference[plane])
        norms = np.linalg.norm(g * weight_per_uS[:, None], axis=1)
        per_column = self.chip.cell is not None and self.chip.cell.weight_scale == "column"
        most = tile.weight_max[:, 0] if per_column else np.ones(len(norms))
        return 3 * most * (norms / most).max()


# --- laws and converters --------------------------------------------------------------------------


def cell_sigma(law: Any, g: Array) -> Array:
    """σ(G) in µS of every cell, by a law of the chip file."""
    if law.law == "constant":
        return np.full_like(g, law.sigma_uS)
    if law.law == "proportional":
        return law.k * g
    if law.law == "sqrt":
        return law.k_sqrt_uS * np.sqrt(g)
    if law.law == "polynomial":
        return np.maximum(np.polyval(law.coefficients_uS[::-1], g / law.unit_uS), 0)
    if law.law == "exponential":
        return law.amplitude_uS * (1 - np.exp(-g / law.scale_uS))
    return np.interp(g, law.g_uS, law.sigma_uS)


def _of_r(law: Any, r: Array) -> Array:
    if law.law == "log10":
        return law.coefficient_uS * np.log10(np.maximum(r, 1)) / np.maximum(r, 1)
    if law.law == "power":
        return np.minimum(law.max, law.coefficient / np.maximum(r**law.exponent, law.floor))
    value = np.clip(law.slope * np.log(np.maximum(r, TINY)) + law.intercept, law.min, law.max)
    return value if law.split is None else np.where(r < law.split, value, np.polyval(law.polynomial[::-1], r))


def _nearest_level(fraction: Array, bits: int) -> Array:
    """The nearest of 2^bits - 1 even levels from -1 to 1; what lies outside goes to the end."""
    levels = np.linspace(-1.0, 1.0, 2**bits - 1)
    return levels[np.searchsorted((levels[:-1] + levels[1:]) / 2, fraction)]


def _either_level(fraction: Array, bits: int, rng: np.random.Generator) -> Array:
    """One of the two levels next to it, the nearer one more often."""
    levels = np.linspace(-1.0, 1.0, 2**bits - 1)
    inside = np.clip(fraction, -1.0, 1.0)
    upper = np.clip(np.searchsorted(levels, inside), 1, len(levels) - 1)
    share = (inside - levels[upper - 1]) / (levels[upper] - levels[upper - 1])
    return np.where(rng.random(fraction.shape) < share, levels[upper], levels[upper - 1])
