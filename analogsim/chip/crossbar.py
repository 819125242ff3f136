"""One layer's cells with their converters: a grid of tiles.

    y = Σ_tiles ADC(W x̂ + ε + n) ,   x̂ = DAC(x) ,   n ~ N(0, σ_node² + V x̂²)

ε is a known perturbation, if one is injected; n is hidden, drawn per output from its exact law at an
address (step, pass, sample, output) of the crossbar's own stream. Cells: cells.py; one tile: tile.py.
Where an output is the digital sum of several conversions (rows of tiles, weight slices, input slices with
an ADC each), each has noise of its own, and ε and what the node adds come to the sum.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from analogsim.backends import Backend, get_backend
from analogsim.chip.cells import Cells, Written
from analogsim.chip.clock import Clock
from analogsim.chip.current import Current
from analogsim.chip.drive import Driven, conversions, drive
from analogsim.chip.grid import Grid
from analogsim.chip.ledger import Count, CountingLedger
from analogsim.chip.node_source import NodeSource
from analogsim.chip.pulsed_cells import PulsedCells
from analogsim.chip.tile import Tile
from analogsim.config.chip import ChipDescription
from analogsim.contracts import Factors
from analogsim.errors import ArgumentError
from analogsim.network import ConvLayer
from analogsim.streams import Address, Stream

Array = TypeVar("Array", Tensor, np.ndarray)
STREAMED_BYTES = 8 * 2**20  # vectors that are driven, or made, at a time
SUMMED_BYTES = 256 * 2**20  # conversions held until they are summed: fewer at a time cost more than they save


class Crossbar:
    """A weight matrix on the cells of a chip.

    weight: (out, in), torch or NumPy; kept as float32. chip: `analogsim.load_chip(NAME)`.
    seed: of the hidden noise. backend: auto, numpy, numba, torch or triton; all give the same noise.
    passes: of a step, where the chip's `pass_schedule` is interleaved.

    >>> crossbar = Crossbar(weight, chip=load_chip("crossbar-generic"), seed=0)
    >>> y = crossbar.read(x)        # (batch, in) -> (batch, out), new noise at every call
    """

    def __init__(
        self,
        weight: Tensor | np.ndarray,
        chip: ChipDescription,
        seed: int | Stream = 0,
        backend: str | Backend = "auto",
        ledger: CountingLedger | None = None,
        clock: Clock | None = None,
        passes: int = 1,
    ):
        weight = _as_tensor(weight).to(torch.float32, copy=True)
        if weight.ndim != 2 or 0 in weight.shape:
            raise ArgumentError("weight", f"shape {tuple(weight.shape)}", "a matrix (out, in), neither 0")
        if not _finite(weight):
            raise ArgumentError("weight", "NaN or infinity", "finite numbers")
        self.description = chip
        self.backend = get_backend(backend, weight.device) if isinstance(backend, str) else backend
        self.ledger = ledger if ledger is not None else CountingLedger(costs=chip.costs)
        interleaved = chip.pass_schedule == "interleaved"
        self.clock = clock if clock is not None else Clock(chip.clock, interleaved=interleaved)
        self.lag_s = self.clock.lag_s(1)
        self._stream = seed if isinstance(seed, Stream) else Stream.from_seed(seed).child("crossbar")
        self._noisy = not chip.noise_free
        self._next_step = 0
        planes = chip.cell.slices.cells if chip.cell and chip.cell.slices else 1
        grid = Grid.of(weight.shape[0], weight.shape[1], chip.tile, planes)
        kind = PulsedCells if chip.write.mode == "pulsed" else Cells
        self.cells = kind(weight.contiguous(), chip, grid, self._stream.child("cells"), self.backend)
        per_slice = chip.dac is not None and chip.dac.bit_serial is not None and chip.dac.bit_serial.adc == "per_slice"
        self._slices = conversions(chip.dac) if per_slice else 1  # ADC conversions a column and read
        self._shares = weight.new_tensor(self.cells.planes)
        self._whole = len(grid.rows) == planes == self._slices == 1
        self._conversions = len(weight) * len(grid.rows) * planes * self._slices  # of a read
        telegraph = chip.node_noise.telegraph
        self._source = None
        if telegraph is not None:
            together, stream = passes if interleaved else 0, self._stream.child("telegraph")
            self._source = NodeSource(telegraph, together, len(weight), stream, self.backend, weight.device)
        self._count_written(self.cells.program(self.clock.now_s))
        self._make_tiles()

    def _make_tiles(self) -> None:
        grid, alone = self.cells.grid, self.cells.grid.tiles == 1
        self._tiles = [
            Tile(
                self.description,
                (row, column),
                self.cells,
                self._stream if alone else self._stream.child("tile", row, column),
                self.backend,
                self._whole,
                self._noisy,
            )
            for row in range(len(grid.rows))
            for column in range(len(grid.columns))
        ]
        self._loaded: tuple[int, float] | None = None

    @property
    def weight(self) -> Tensor:
        """The weights asked of the cells; of cells that move by pulses, what they hold."""
        return self.cells.weight

    @property
    def effective_weight(self) -> Tensor:
        """The matrix a read without noise would multiply by, now."""
        if self.cells.exact and self.description.wires is None and not self._gained:
            return self.cells.weight
        quiet = self if not self._noisy else self.view(self._stream, self.ledger, noisy=False)
        total = torch.zeros_like(self.cells.weight)
        for tile in quiet._loaded_tiles(quiet.clock.now_s):
            weight = tile.weight if tile.unit is None else tile.weight * tile.unit[:, None]
            planes = weight.view(len(self.cells.planes), -1, weight.shape[1])
            total[tile.columns, tile.rows] = sum(share * plane for share, plane in zip(self.cells.planes, planes))
        return total

    @property
    def _gained(self) -> bool:
        return self.description.adc is not None and self.description.adc.gain_sigma > 0

    # --- write ----------------------------------------------------------------------------------

    def write(self, change: Tensor | Factors) -> None:
        """W <- W - change, (out, in) or the factors of such a matrix, by the chip's own way of writing."""
        self._count_written(self.cells.write(change, self.clock.now_s))

    def end_step(self, step: int) -> None:
        """The reads of a step are over; called ahead of its write."""
        if self.cells.timed:
            clock = self.clock
            passed = clock.now_s + clock.settings.t_update_s - clock.opened_s
            self.cells.end_step(step, clock.now_s, self.lag_s, passed)

    def age(self, seconds: float) -> None:
        """Let time pass over the cells."""
        self.clock.move_to(self.clock.now_s + seconds)

    def state(self) -> dict[str, Tensor]:
        """Everything a resumed run needs, by reference."""
        source = {} if self._source is None else {"source": self._source.states}
        return self.cells.state() | source

    def load(self, saved: Mapping[str, Tensor]) -> None:
        """Put a saved state back, from whatever device, uncounted."""
        saved = {name: tensor.to(self.weight.device) for name, tensor in saved.items()}
        self.cells.load(saved, self.clock.now_s)
        if self._source is not None:
            self._source.states = saved["source"].clone()

    def _count_written(self, written: Written) -> None:
        Count.add(self.ledger, writes=written.cells, pulses=written.pulses)
        Count.add(self.ledger.slots, pulses=written.in_turn)

    # --- read -----------------------------------------------------------------------------------

    def read(self, x: Array, *, step: int | None = None, pass_index: int = 0, first_sample: int = 0) -> Array:
        """Read with x (batch, in) or (batch, positions, in) -> (batch, out) or (…, positions, out).

        The same step, pass_index and first_sample give the same noise (but for a telegraph source,
        whose state goes on from read to read); row i is sample first_sample + i. Without `step`, each
        call moves on to the next step by itself. Time stands still but for `age`.
        Torch in, torch out; NumPy in, NumPy out (float32). Raises ArgumentError for a wrong
        shape, NaN or infinity.
        """
        vectors = _as_tensor(x).to(self.weight.device, torch.float32)
        if vectors.ndim not in (2, 3) or vectors.shape[-1] != self.weight.shape[1]:
            raise ArgumentError("x", f"shape {tuple(vectors.shape)}", f"(batch, {self.weight.shape[1]})")
        if not _finite(vectors):
            raise ArgumentError("x", "NaN or infinity", "finite numbers")
        if step is None:
            step, self._next_step = self._next_step, self._next_step + 1
        address = Address(step, pass_index, first_sample)
        y = self.read_vectors(vectors[:, None] if vectors.ndim == 2 else vectors, address)
        y = y.view(*vectors.shape[:-1], y.shape[-1])
        return y.numpy() if isinstance(x, np.ndarray) else y  # type: ignore[return-value]

    def read_vectors(self, x: Tensor, address: Address, perturbation: Tensor | None = None) -> Tensor:
        """(batch, positions, in) float32 -> (batch, positions, out), unchecked; fresh memory."""
        return self.read_passes(x, [address], [perturbation])[0]

    def read_passes(
        self,
        x: Tensor,
        addresses: Sequence[Address],
        perturbations: Sequence[Tensor | None],
        stacked: bool = False,
        window: ConvLayer | None = None,
    ) -> list[Tensor]:
        """A read an address. x: (batch, positions, in), the same for all; or, stacked, one batch after another.

        window: x are images (batch, height, width, channels), and the vectors what this layer sees of them; for a
        crossbar that `reads_images`. What the DACs make of x (codes, squares) takes STREAMED_BYTES at a time, and what
        is converted, where outputs are sums of conversions, SUMMED_BYTES.
        """
        summed = self._conversions * (window.positions if window else x.shape[1])
        at_once = max(min(STREAMED_BYTES // max(4 * math.prod(x.shape[1:]), 1), SUMMED_BYTES // max(4 * summed, 1)), 1)
        if len(addresses) > 1 and not self._together(addresses, len(x) <= at_once, stacked):
            rows = len(x) // len(addresses) if stacked else len(x)
            own = x.split(rows) if stacked else [x] * len(addresses)
            reads = zip(own, addresses, perturbations)
            return [self.read_passes(x, [address], [epsilon], window=window)[0] for x, address, epsilon in reads]
        if len(x) <= at_once:
            return self._read_all(self._currents(x, addresses[0], window), addresses, perturbations, stacked)
        parts = []
        for first, part in zip(range(0, len(x), at_once), x.split(at_once)):
            here = [replace(address, first_sample=address.first_sample + first) for address in addresses]
            epsilons = [None if epsilon is None else epsilon[first : first + len(part)] for epsilon in perturbations]
            parts.append(self._read_all(self._currents(part, here[0], window), here, epsilons, stacked=False))
        return [torch.cat(of_one) for of_one in zip(*parts)]

    def _together(self, addresses: Sequence[Address], fits: bool, stacked: bool) -> bool:
        """One set of currents serves all passes: they meet the same cells, and reads come in their order."""
        dac = self.description.dac
        drawn = dac is not None and dac.draws and self._noisy
        alike = not drawn and len({self._moment(address) for address in addresses}) == 1
        return alike and (fits or not (stacked or self._source))

    def _read_all(
        self,
        currents: list[list[Current]],
        addresses: Sequence[Address],
        perturbations: Sequence[Tensor | None],
        stacked: bool,
    ) -> list[Tensor]:
        """The outputs of every pass, of currents that serve them all."""
        vectors, positions = currents[0][0].y.shape[:2]
        rows, read = vectors // len(addresses) if stacked else vectors, []
        for number, (address, epsilon) in enumerate(zip(addresses, perturbations)):
            part = slice(number * rows, (number + 1) * rows) if stacked else slice(None)
            copied = not stacked and number < len(addresses) - 1  # the others leave the products as they are
            mine = [[one.part(part, copied) for one in ones] for ones in currents]
            self._count(rows * positions)
            read.append(self._converted(mine, address, epsilon))
        return read

    @property
    def linear(self) -> bool:
        """A read is `weight` x and noise that does not depend on x: nothing of x is needed but that product."""
        chip, cell = self.description, self.description.cell
        plain = self.cells.exact and chip.dac is None and chip.wires is None and not self._gained
        lone = self._whole and len(self._tiles) == 1 and (cell is None or cell.weight_scale != "column")
        offset = cell is not None and cell.mapping == "offset"
        return plain and lone and not offset and not self._cells_are_noisy

    @property
    def reads_images(self) -> bool:
        """What drives the cells is made of each input alone, so that a convolution of it reads all its patches."""
        dac = self.description.dac
        alone = dac is None or (dac.bound != "per_vector" and not (dac.draws and self._noisy))
        return alone and len(self.cells.grid.rows) == 1

    @property
    def repeatable(self) -> bool:
        """A read is a function of x alone: in every pass of a step the same x gives the same y."""
        return not self._noisy and not self.cells.timed and self._source is None

    def read_product(
        self,
        product: Tensor,
        addresses: Sequence[Address],
        perturbations: Sequence[Tensor | None],
        stacked: bool = False,
    ) -> list[Tensor]:
        """As `read_passes`, of a linear crossbar, from W x (batch, positions, out); may overwrite it."""
        (tile,) = self._loaded_tiles(0.0)
        current = tile.current(Driven(product, product), product)
        return self._read_all([[current]], addresses, perturbations, stacked)

    def _moment(self, address: Address) -> float:
        """When the cells are read, where that matters."""
        return self.clock.at(address.pass_index) if self.cells.timed else 0.0

    @property
    def _cells_are_noisy(self) -> bool:
        cell = self.description.cell
        return self._noisy and cell is not None and bool(cell.read_noise or cell.telegraph or cell.flicker)

    def _loaded_tiles(self, now_s: float) -> list[Tile]:
        """The tiles with what their cells hold at that time."""
        cells, chip = self.cells, self.description
        if self._loaded != (cells.version, now_s):
            plain = cells.exact and chip.wires is None and not self._cells_are_noisy
            found = {} if plain else cells.found(now_s, self.lag_s, self._noisy)
            for tile in self._tiles:
                tile.load(cells, found)
            self._loaded = (cells.version, now_s)
        return self._tiles

    def _currents(self, x: Tensor, address: Address, window: ConvLayer | None = None) -> list[list[Current]]:
        """What reaches the ADCs of every tile, but for what is drawn there."""
        dac, batch, positions, driven = self.description.dac, x.shape[0], x.shape[1], []
        found, at = [], None
        for tile in self._loaded_tiles(self._moment(address)):
            if at != tile.rows or (dac and dac.draws):  # tiles of one row share what ideal DACs drive
                whole = window is not None or tile.rows == slice(0, x.shape[2])
                at, where = tile.rows, (address, batch, positions)
                noise, uniforms = tile.dac_noise(*where), tile.dac_uniforms(*where)
                drawn = (noise, uniforms) if self._noisy else (None, None)
                driven = [replace(one, window=window) for one in drive(x if whole else x[..., tile.rows], dac, *drawn)]
            found.append([tile.current(one) for one in driven])
        return found

    def _converted(self, currents: list[list[Current]], address: Address, epsilon: Tensor | None) -> Tensor:
        """The outputs of one pass, (batch, positions, out)."""
        batch, positions, _ = currents[0][0].y.shape
        outputs = self.weight.shape[0]
        node = self._node(address, (batch, positions, outputs), epsilon)
        if self._whole and len(self._tiles) == 1:
            return self._tiles[0].convert(currents[0][0], address, None, node)
        total = currents[0][0].y.new_zeros(batch, positions, outputs)
        for tile, ones in zip(self._tiles, currents):
            here = node[..., tile.columns] if self._whole and node is not None else None
            for number, one in enumerate(ones):
                codes = tile.convert(one, address, number if len(ones) > 1 else None, here)
                total[..., tile.columns] += self._joined(codes) * one.share
        return total if self._whole or node is None else total.add_(node)

    def _joined(self, codes: Tensor) -> Tensor:
        """Weight slices of an output as one number."""
        shares = self.cells.planes
        if len(shares) == 1:
            return codes
        planes = codes.view(*codes.shape[:-1], len(shares), codes.shape[-1] // len(shares))
        return torch.einsum("...kc,k->...c", planes, self._shares)

    def _node(self, address: Address, shape: tuple[int, int, int], epsilon: Tensor | None) -> Tensor | None:
        """What comes to the nodes from outside the cells: ε, a telegraph source, and noise where no tile draws it."""
        total = None if epsilon is None else epsilon.view(shape)
        sigma = self.description.node_noise.sigma
        if self._source is not None:
            source = self._source.read(address, shape[0], shape[1], quiet=not self._noisy)
            total = source if total is None else source + total
        if sigma and self._noisy and not self._whole:
            stream, device = self._stream.child("node"), self.weight.device
            noise = self.backend.normal(stream, address, shape[0], shape[1] * shape[2], device).view(shape) * sigma
            total = noise if total is None else noise + total
        return total

    def _count(self, vectors: int) -> None:
        chip, grid = self.description, self.cells.grid
        slices = conversions(chip.dac)
        driven = self.weight.shape[1] * len(grid.columns) * slices
        converted = self._conversions if chip.adc else 0
        self.ledger.reads += vectors
        self.ledger.conversions += vectors * (driven + converted)
        self.ledger.slots.reads += vectors
        self.ledger.slots.tile_reads += vectors * grid.tiles
        self.ledger.slots.conversions += vectors * (slices + (self._slices if chip.adc else 0))

    def view(self, stream: Stream, ledger: CountingLedger, noisy: bool, clock: Clock | None = None) -> Crossbar:
        """The same cells read with another stream, or with the noise off; for the oracle."""
        other = copy.copy(self)
        other._stream, other.ledger, other._noisy = stream, ledger, noisy and self._noisy
        other.clock = clock if clock is not None else self.clock.copy()
        if self._source is not None:
            other._source = self._source.copy(stream.child("telegraph"))
        other._make_tiles()
        return other


def _as_tensor(array: Tensor | np.ndarray) -> Tensor:
    """The same numbers outside any graph; NumPy strides may be negative, torch's may not."""
    return torch.as_tensor(np.ascontiguousarray(array) if isinstance(array, np.ndarray) else array).detach()


def _finite(values: Tensor) -> bool:
    """Whether no entry is NaN or infinite; only where large entries overflow the sum need they be gone through."""
    return bool(torch.isfinite(values.sum())) or bool(torch.isfinite(values).all())
