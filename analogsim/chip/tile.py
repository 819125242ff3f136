"""One tile: some rows and columns of a layer's cells, with DACs and ADCs of its own.

    y_c = ADC((1 + γ_c) (Σ_j W_cj x'_j + n_c + r) + o_c Δ + ε_c + n_node + n_adc)

    n_c ~ N(0, Σ_j V_cj x'_j²) ,   r ~ N(0, Σ_j V_ref,j x'_j²) shared by the tile's columns ,   W = ±G / s

All of n is Gaussian and independent over outputs but for r, so one draw an output holds it; r is one more
a read. V x'² is exact; with wires, V and V_ref hold the local voltages to first order. `mapping: offset` reads
W + G_mid / s and takes G_mid Σ x̂ / s off after the ADC. What belongs to a node (ε, its noise) enters here
only where one conversion makes an output; else crossbar.py adds it to the digital sum.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from analogsim.at_hand import at_least, number
from analogsim.backends import Backend
from analogsim.chip.cells import Cells
from analogsim.chip.current import Current
from analogsim.chip.drive import Draw, Driven, Uniforms
from analogsim.chip.leg import Found
from analogsim.config.chip import ChipDescription
from analogsim.physics import wires
from analogsim.physics.conductance import conductance_per_weight
from analogsim.physics.converters import column_errors, largest_code
from analogsim.physics.read_noise import read_variance
from analogsim.streams import Address, Stream

TINY = torch.finfo(torch.float32).tiny
LEAST = 1e-150  # µS per weight, of a diverged network whose w_max is infinite
CALIBRATED = 3.0  # times the largest norm of a column's weights
Variance = Tensor | float | None


class Tile:
    """rows: its inputs; columns: its outputs, each `planes` columns of cells; where: (row, column) in the grid.

    whole: a conversion makes an output, and nothing is summed outside.
    W, V and r are in units of the weights, or where every column has a w_max of its own, in units of that.
    """

    def __init__(
        self,
        chip: ChipDescription,
        where: tuple[int, int],
        cells: Cells,
        stream: Stream,
        backend: Backend,
        whole: bool,
        noisy: bool,
    ):
        self.rows, self.columns = cells.grid.rows[where[0]], cells.grid.columns[where[1]]
        self._chip, self._cell, self._where = chip, chip.cell, where
        self._stream, self._backend, self._noisy = stream, backend, noisy
        self._planes = len(cells.planes)
        self._node = chip.node_noise.sigma if whole and noisy else 0.0
        self._gain = self._offset = None
        if chip.adc is not None and (chip.adc.gain_sigma or chip.adc.offset_sigma_lsb):
            self._gain, self._offset = self._column_errors(cells)

    def _column_errors(self, cells: Cells) -> tuple[Tensor | None, Tensor | None]:
        """(1 + γ, o) of every column, drawn once."""
        adc, columns = self._chip.adc, self._planes * (self.columns.stop - self.columns.start)
        assert adc is not None
        made = cells.stream.child("adc", *self._where)
        gain, offset = (
            self._backend.normal(made.child(name), Address(), 1, columns, cells.weight.device)[0]
            for name in ("gain", "offset")
        )
        gain, offset = column_errors(gain, offset, gain_sigma=adc.gain_sigma, offset_sigma_lsb=adc.offset_sigma_lsb)
        return gain if adc.gain_sigma else None, offset if adc.offset_sigma_lsb else None

    # --- what the cells are ---------------------------------------------------------------------

    def load(self, cells: Cells, found: dict[str, Found]) -> None:
        """Take over what the cells hold. found: of the whole layer; empty where `weight` says it all."""
        self.unit: Tensor | None = None  # w_max of every column, where there are several
        weight_max = 1.0 if cells.scale is None else cells.scale.of_tile(self._where[0], self.columns)
        if isinstance(weight_max, Tensor) and weight_max.ndim:
            self.unit, weight_max = weight_max.repeat(self._planes), 1.0
        self._weight_max = weight_max
        self.weight, self._variance, self._reference = self._differences(cells, found)
        self._middle, self._one_cell, cell = None, self._weight_max, self._cell
        if cell is not None and cell.mapping == "offset":
            self._middle = (cell.g_min_uS + cell.g_max_uS) / 2 / self._per_weight()
            self._one_cell = cell.g_max_uS / self._per_weight()
        self._bound = self._adc_bound()
        if self._gain is not None:
            gain = self._gain[:, None]
            self.weight = self.weight * gain
            if self._variance is not None:
                self._variance = self._variance * gain.square().expand_as(self.weight)

    def _per_weight(self) -> float | Tensor:
        cell = self._cell
        assert cell is not None
        single = cell.mapping != "differential"
        return at_least(conductance_per_weight(self._weight_max, cell.g_min_uS, cell.g_max_uS, single), LEAST)

    def _differences(self, cells: Cells, found: dict[str, Found]) -> tuple[Tensor, Variance, Variance]:
        """(W, V, V_ref) of the tile; V one number (at_hand.py) where all cells are alike, None where none is noisy.

        V (columns, rows), V_ref (planes, rows), in squared weights.
        """
        exact, variance = cells.exact and self._chip.wires is None, None
        weight = cells.weight[self.columns, self.rows] if exact else None
        if weight is not None and self.unit is not None:
            weight = weight / self.unit[:, None]
        per_weight = self._per_weight() if self._cell is not None else 1.0
        reference = self._reference_cells(cells, found["reference"]) if "reference" in found else None
        of_reference = None if reference is None else reference.variance
        for name, sign in (("plus", 1 / per_weight), ("minus", -1 / per_weight), ("single", 1 / per_weight)):
            if name in found:
                block = _planes_of(found[name], self._planes, cells.weight.shape[0], self.columns, self.rows)
                g, v = None, block.variance
                if not exact:
                    g, v, of_reference = self._sensed(block, reference)
                if g is not None:
                    weight = g * sign if weight is None else _add(weight, g, sign)
                if v is not None:
                    variance = v if variance is None else variance + v
        assert weight is not None
        variance, of_reference = (None if v is None else v / per_weight**2 for v in (variance, of_reference))
        return weight, variance, of_reference

    def _sensed(self, block: Found, reference: Found | None) -> tuple[Tensor, Variance, Variance]:
        """(G, V, V_ref) in µS as the wires leave them; G of single cells counted from G_mid."""
        wire, cell, columns = self._chip.wires, self._cell, len(block.g)
        assert cell is not None
        g, variances = block.g, [block.variance]
        if reference is not None:  # the last columns of the tile
            g, variances = torch.cat([g, reference.g]), [block.variance, reference.variance]
        if wire is not None and wire.segment_ohm:
            shares = wires.noise_share(g, wire.segment_ohm).square().tensor_split([columns])
            variances = [None if v is None else share * v for share, v in zip(shares, variances)]
            g = _ir_drop(g, wire.segment_ohm, wire.model == "exact")
        if reference is not None:
            own = g[:columns].view(self._planes, -1, g.shape[1])
            return (own - g[columns:, None]).flatten(0, 1), variances[0], variances[1]
        return g - (cell.g_min_uS + cell.g_max_uS) / 2 if cell.mapping == "offset" else g, variances[0], None

    def _reference_cells(self, cells: Cells, leg: Found) -> Found:
        """The tile's reference columns, (planes, rows)."""
        at = slice(self._where[1], self._where[1] + 1)
        return _planes_of(leg, self._planes, len(cells.grid.columns), at, self.rows)

    def _adc_bound(self) -> float | Tensor:
        """The ADC's bound under full-scale input 1, in weights."""
        adc = self._chip.adc
        if adc is None:
            return 0.0
        if adc.bound == "calibrated":
            seen = self.weight if self._middle is None else self.weight + self._middle
            return at_least(number(torch.linalg.vector_norm(seen, dim=1).max()) * CALIBRATED, TINY)
        return self._one_cell * (self.rows.stop - self.rows.start if adc.bound == "max" else adc.bound)

    # --- read -----------------------------------------------------------------------------------

    def dac_noise(self, address: Address, batch: int, positions: int) -> Draw:
        """Draws of the DACs' noise, by slice of the inputs."""
        inputs, device = self.rows.stop - self.rows.start, self.weight.device

        def draw(number: int) -> Tensor:
            stream = self._stream.child("dac", number)
            return self._backend.normal(stream, address, batch, positions * inputs, device).view(
                batch, positions, inputs
            )

        return draw

    def dac_uniforms(self, address: Address, batch: int, positions: int) -> Uniforms:
        """Draws of the DACs' stochastic rounding, one an input."""
        inputs, device = self.rows.stop - self.rows.start, self.weight.device

        def draw() -> Tensor:
            stream = self._stream.child("dac rounding")
            return self._backend.uniform(stream, address, batch, positions * inputs, device).view(
                batch, positions, inputs
            )

        return draw

    def current(self, driven: Driven, product: Tensor | None = None) -> Current:
        """W x' and the spread of what will be drawn; nothing here is random. product: W x', if it is there."""
        y = self._product(driven, driven.x, self.weight) if product is None else product
        now = Current(y, driven.share)
        adc = self._chip.adc
        if adc is not None:
            step = driven.full_scale * (self._bound / largest_code(adc.bits))
            step = step.float() if isinstance(step, Tensor) else y.new_full((1,), step)
            now.lsb = step.clamp(min=TINY).expand(*y.shape[:-1], 1)[..., 0]
        if self._middle is not None:
            now.taken_off = self._sum(driven, driven.asked) * self._middle
            seen = self._sum(driven, driven.x) * self._middle
            y += seen if self._gain is None else seen * self._gain
        if self._offset is not None and now.lsb is not None:
            y += self._offset * now.lsb[..., None]
        if self._noisy:
            self._spread(now, driven)
        return now

    def _spread(self, now: Current, driven: Driven) -> None:
        """σ of every vector and variance of every output; either may be absent."""
        cells, adc, together = self._variance, self._chip.adc, self.unit is None  # all columns in one unit
        node = self._node * self._node if together else 0.0
        alike: Tensor | float = 0.0  # variance that all outputs of a vector share, the node's apart
        if cells is not None and _one(cells):
            alike = self._variance_of(cells, driven)[..., 0]
        if adc is not None and adc.noise:
            full = driven.full_scale
            alike = alike + ((full[..., 0] if isinstance(full, Tensor) else full) * (self._one_cell * adc.noise)) ** 2
        if isinstance(alike, Tensor):
            now.sigma = (alike + node).sqrt_().float().expand(now.y.shape[:-1]).contiguous()
        elif alike or node:
            now.sigma = now.y.new_full(now.y.shape[:-1], math.sqrt(alike + node) if alike else self._node)
        if isinstance(cells, Tensor) and not _one(cells):
            now.variance = self._variance_of(cells, driven)
        if self.unit is not None and self._node:
            own = (self._node / self.unit).square()
            now.variance = own.expand(now.y.shape).contiguous() if now.variance is None else now.variance + own
        if self._reference is not None:
            now.common = self._reference_sigma(driven)

    def _reference_sigma(self, driven: Driven) -> Tensor:
        """σ of r, (batch, positions, planes)."""
        assert self._reference is not None
        sigma = self._variance_of(self._reference, driven).sqrt_()
        return sigma.expand(*sigma.shape[:-1], self._planes)

    def _product(self, driven: Driven, values: Tensor, matrix: Tensor) -> Tensor:
        """matrix v of every vector v of `values`, (batch, positions, rows of the matrix)."""
        window = driven.window
        if window is None:
            return self._backend.product(values, matrix)
        return self._backend.convolve(values, matrix, window.kernel, window.stride, window.padding)

    def _sum(self, driven: Driven, values: Tensor) -> Tensor:
        """Σ_j v_j of every vector v of `values`, (batch, positions, 1)."""
        total = values.sum(-1, keepdim=True)
        if driven.window is None:
            return total
        return self._product(driven, total, total.new_ones(1, driven.window.kernel**2))

    def _variance_of(self, cells: Tensor | float, driven: Driven) -> Tensor:
        """V q of every vector, (batch, positions, rows of V); where all cells are alike, (batch, positions, 1)."""
        if not _one(cells):
            total = self._product(driven, driven.q, cells)  # type: ignore[arg-type]
        elif driven.squares is None and driven.window is None:
            return read_variance(cells, driven.x)
        else:
            total = cells * self._sum(driven, driven.q)
        return total if driven.window is None else total.clamp_(min=0)  # convolutions of a GPU may round below 0

    def squares(self, now: Current) -> Tensor:
        """(σ², lsb²) of every column, (2, columns): means over the vectors, in squared weights; for warnings."""
        squares = now.y.new_zeros(2, len(self.weight), dtype=torch.float64)
        if now.sigma is not None:
            squares[0] += now.sigma.double().square().mean()
        if now.common is not None:
            squares[0] += now.common.double().square().mean((0, 1)).repeat_interleave(len(self.weight) // self._planes)
        if now.variance is not None:
            squares[0] += now.variance.double().mean((0, 1))
        if now.lsb is not None:
            squares[1] += now.lsb.double().square().mean()
        return squares if self.unit is None else squares * self.unit.square()

    def convert(self, now: Current, address: Address, conversion: int | None, node: Tensor | None) -> Tensor:
        """The ADC's codes in units of the weights; `now` may be overwritten. node: ε and what else the node adds.

        conversion: which of several of the same columns; each has noise of its own.
        """
        stream = self._stream if conversion is None else self._stream.child("slice", conversion)
        y, adc = now.y, self._chip.adc
        batch, positions, columns = y.shape
        if node is not None:
            y += node if self.unit is None else node / self.unit
        if now.common is not None:
            r = self._backend.normal(stream.child("reference"), address, batch, positions * self._planes, y.device)
            r = (now.common * r.view(now.common.shape)).repeat_interleave(columns // self._planes, dim=-1)
            y += r if self._gain is None else r * self._gain
        if adc is not None and adc.stochastic_rounding and now.lsb is not None and self._noisy:
            u = self._backend.uniform(stream.child("rounding"), address, batch, positions * columns, y.device)
            y += (u.view(y.shape) - 0.5) * now.lsb[..., None]
        levels = 0 if adc is None else largest_code(adc.bits)
        y = self._backend.output_stage(y, stream, address, now.sigma, now.variance, now.lsb, levels)
        if now.taken_off is not None:
            y = y - now.taken_off
        return y if self.unit is None else y * self.unit


def _one(variance: Tensor | float) -> bool:
    """One number for all cells."""
    return not isinstance(variance, Tensor) or not variance.ndim


def _add(weight: Tensor, g: Tensor, per_uS: float | Tensor) -> Tensor:
    """weight + per_uS g, in place."""
    if isinstance(per_uS, Tensor):
        return weight.addcmul_(g, per_uS.float())
    return weight.add_(g, alpha=per_uS)


def _planes_of(leg: Found, planes: int, outputs: int, columns: slice, rows: slice) -> Found:
    if planes == 1:
        return leg.part(columns, rows)

    def cut(matrix: Tensor) -> Tensor:
        return matrix.view(planes, outputs, -1)[:, columns, rows].flatten(0, 1)

    v = leg.variance
    return Found(cut(leg.g), cut(v) if isinstance(v, Tensor) else v)


def _ir_drop(g: Tensor, segment_ohm: float, exactly: bool) -> Tensor:
    """G as sensed."""
    if not exactly:
        return wires.first_order(g, segment_ohm)
    return torch.from_numpy(wires.exact(g.cpu().numpy(), segment_ohm)).to(g.device, g.dtype)
