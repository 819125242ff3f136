"""One crossbar with its converters.

    x̂ = DAC(x) ,   y = ADC(W x̂ + ε + n) ,   n ~ N(0, σ_node² + V x̂²)

ε is a known perturbation, if one is injected; n is hidden, drawn per output from its exact law
(physics/read_noise.py) at an address (step, pass, sample, output) of the crossbar's own stream.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from analogsim.backends import Backend, get_backend
from analogsim.chip.ledger import CountingLedger
from analogsim.config.schema import ChipDescription
from analogsim.errors import ArgumentError
from analogsim.physics.conductance import conductance_per_weight, differential_pair
from analogsim.physics.converters import largest_code, quantise
from analogsim.physics.read_noise import LAWS, read_variance
from analogsim.streams import Address, Stream

Array = TypeVar("Array", Tensor, np.ndarray)
TINY = torch.finfo(torch.float32).tiny
ZERO_WEIGHTS_RANGE = 1e-30  # the range of an all-zero matrix; any smaller, and G_max / w_max overflows float32


class Crossbar:
    """A weight matrix on the cells of a chip.

    weight: (out, in), torch or NumPy; kept as float32. chip: `analogsim.load_chip(NAME)`.
    seed: of the hidden noise. backend: auto, numpy, numba or torch; all give the same noise.

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
    ):
        weight = _as_tensor(weight).to(torch.float32, copy=True)
        if weight.ndim != 2 or 0 in weight.shape:
            raise ArgumentError("weight", f"shape {tuple(weight.shape)}", "a matrix (out, in), neither 0")
        if not bool(torch.isfinite(weight).all()):
            raise ArgumentError("weight", "NaN or infinity", "finite numbers")
        self.description = chip
        self.weight = weight.contiguous()
        self.backend = get_backend(backend, weight.device) if isinstance(backend, str) else backend
        self.ledger = ledger if ledger is not None else CountingLedger()
        self._stream = seed if isinstance(seed, Stream) else Stream.from_seed(seed).child("crossbar")
        self._noisy = not chip.noise_free
        self._next_step = 0
        self._written()

    # --- write ----------------------------------------------------------------------------------

    def write(self, change: Tensor) -> None:
        """W <- W - change, (out, in); an ideal write of every cell."""
        self.weight.sub_(change)
        self._written()

    def load(self, weight: Tensor) -> None:
        """Put back a saved weight matrix, uncounted."""
        self.weight.copy_(weight)
        self._written(count=0)

    def _written(self, count: int = 1) -> None:
        cell = self.description.cell
        self._weight_max = 1.0
        if cell is not None:
            if cell.weight_max == "auto":
                self._weight_max = max(float(self.weight.abs().max()), ZERO_WEIGHTS_RANGE)
            else:
                self._weight_max = cell.weight_max
                self.weight.clamp_(-cell.weight_max, cell.weight_max)
        self._cell_variance = self._variance_of_cells() if self._noisy else None
        self.ledger.writes += count * self.weight.numel() * (2 if cell else 1)

    def _variance_of_cells(self) -> Tensor | float | None:
        """V⁺ + V⁻ in weight units squared; None where no cell is noisy."""
        cell = self.description.cell
        if cell is None or cell.read_noise is None:
            return None
        settings = cell.read_noise.model_dump()
        law = LAWS[settings.pop("law")]
        (strength,) = settings.values()
        window = (self._weight_max, cell.g_min_uS, cell.g_max_uS)
        g_plus, g_minus = differential_pair(self.weight, *window)
        return (law(strength, g_plus) + law(strength, g_minus)) / conductance_per_weight(*window) ** 2

    # --- read -----------------------------------------------------------------------------------

    def read(self, x: Array, *, step: int | None = None, pass_index: int = 0, first_sample: int = 0) -> Array:
        """Read with x (batch, in) or (batch, positions, in) -> (batch, out) or (…, positions, out).

        The same step, pass_index and first_sample give the same noise; row i is sample
        first_sample + i. Without `step`, each call moves on to the next step by itself.
        Torch in, torch out; NumPy in, NumPy out (float32). Raises ArgumentError for a wrong
        shape, NaN or infinity.
        """
        vectors = _as_tensor(x).to(self.weight.device, torch.float32)
        if vectors.ndim not in (2, 3) or vectors.shape[-1] != self.weight.shape[1]:
            raise ArgumentError("x", f"shape {tuple(vectors.shape)}", f"(batch, {self.weight.shape[1]})")
        if not bool(torch.isfinite(vectors.sum(dtype=torch.float64))):
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
    ) -> list[Tensor]:
        """A read an address. x: (batch, positions, in), the same for all; or, stacked, one batch after another."""
        driven, full_scale = self._convert(x)
        noise = self._noise(driven) if self._noisy else (None, None)
        self._count(x.shape[:2], len(addresses), stacked)
        product = self.backend.product(driven, self.weight)
        return self._outputs(product, *noise, self._lsb(full_scale, driven), addresses, perturbations, stacked)

    @property
    def linear(self) -> bool:
        """A read is W x and noise that does not depend on x: nothing of x is needed but that product."""
        return self.description.dac is None and self._cell_variance is None

    def read_product(
        self,
        product: Tensor,
        addresses: Sequence[Address],
        perturbations: Sequence[Tensor | None],
        stacked: bool = False,
    ) -> list[Tensor]:
        """As `read_passes`, of a linear crossbar, from W x (batch, positions, out); may overwrite it."""
        sigma = product.new_full(product.shape[:2], self.description.node_noise.sigma) if self._noisy else None
        self._count(product.shape[:2], len(addresses), stacked)
        return self._outputs(product, sigma, None, self._lsb(1.0, product), addresses, perturbations, stacked)

    def _outputs(
        self,
        product: Tensor,
        sigma: Tensor | None,
        variance: Tensor | None,
        lsb: Tensor | None,
        addresses: Sequence[Address],
        perturbations: Sequence[Tensor | None],
        stacked: bool,
    ) -> list[Tensor]:
        """ADC(product + ε + n) of every address."""
        levels = 0 if self.description.adc is None else largest_code(self.description.adc.bits)
        rows, read = len(product) // len(addresses), []
        for number, (address, epsilon) in enumerate(zip(addresses, perturbations)):
            part = slice(number * rows, (number + 1) * rows) if stacked else slice(None)
            last = number == len(addresses) - 1  # the others leave the product as it is, for those that follow
            y = product[part] if stacked or last else product.clone()
            if epsilon is not None:
                y += epsilon.view_as(y)
            node, cells, step = (None if tensor is None else tensor[part] for tensor in (sigma, variance, lsb))
            read.append(self.backend.output_stage(y, self._stream, address, node, cells, step, levels))
        return read

    def noise_and_step(self, x: Tensor) -> tuple[float, float]:
        """Root mean square of σ_n, and mean ADC step (0: no ADC), for these vectors; for warnings."""
        x, full_scale = self._convert(x)
        sigma, variance = self._noise(x)
        total = sum(
            float(part.mean()) for part in (None if sigma is None else sigma.square(), variance) if part is not None
        )
        lsb = self._lsb(full_scale, x)
        return math.sqrt(total), 0.0 if lsb is None else float(lsb.mean())

    def _convert(self, x: Tensor) -> tuple[Tensor, Tensor | float]:
        """(x̂, what the DAC's full scale stands for)."""
        if self.description.dac is None:
            return x, 1.0
        full_scale = self._input_bound(x)
        return quantise(x, self.description.dac.bits, full_scale), full_scale

    def _lsb(self, full_scale: Tensor | float, x: Tensor) -> Tensor | None:
        """ADC step of every vector, (batch, positions), in units of the outputs."""
        if self.description.adc is None:
            return None
        step = full_scale * (self._weight_max * self.description.adc.bound / largest_code(self.description.adc.bits))
        step = torch.as_tensor(step, dtype=torch.float32, device=x.device).clamp(min=TINY)
        return step.expand(*x.shape[:-1], 1)[..., 0]

    def _input_bound(self, x: Tensor) -> Tensor | float:
        assert self.description.dac is not None
        bound = self.description.dac.bound
        if bound != "per_vector":
            return bound
        return x.abs().amax(-1, keepdim=True).clamp_(min=TINY)

    def _noise(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """(σ per vector, variance per output) of n; either may be absent."""
        node, cells = self.description.node_noise.sigma, self._cell_variance
        if isinstance(cells, Tensor):
            sigma = x.new_full(x.shape[:-1], node) if node else None
            return sigma, self.backend.product(x.square(), cells)
        if cells is None:
            return x.new_full(x.shape[:-1], node), None
        return (read_variance(cells, x)[..., 0] + node * node).sqrt_(), None

    def _count(self, vectors: Sequence[int], passes: int, stacked: bool) -> None:
        reads = math.prod(vectors) * (1 if stacked else passes)
        out, inputs = self.weight.shape
        self.ledger.reads += reads
        self.ledger.conversions += reads * (
            (inputs if self.description.dac else 0) + (out if self.description.adc else 0)
        )

    def view(self, stream: Stream, ledger: CountingLedger, noisy: bool) -> Crossbar:
        """The same cells read with another stream, or with the noise off; for the oracle."""
        other = copy.copy(self)
        other._stream, other.ledger, other._noisy = stream, ledger, noisy and self._noisy
        return other


def _as_tensor(array: Tensor | np.ndarray) -> Tensor:
    """The same numbers outside any graph; NumPy strides may be negative, torch's may not."""
    return torch.as_tensor(np.ascontiguousarray(array) if isinstance(array, np.ndarray) else array).detach()
