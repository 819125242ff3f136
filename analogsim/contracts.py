"""The four contracts between chip, learner and the loop that joins them.

A learner never holds a chip. It asks for passes (`Probe`) and is told `Activities` and losses;
nothing of the chip's noise, cells, seed or file reaches it. *Noise* is the chip's and hidden; a
*perturbation* is the learner's own and known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Probe:
    """One pass asked of a chip: x_l = f(a_l), a_l = W_l x*_{l-1} + b_l (+ ε_l).

    perturbation: None (run as you are), or ε per layer, each (batch, units) or
        (batch, positions, units) or None for a layer left alone. Needs an injection port.
    inputs: False if the learner will not look at this pass's x*; a chip may then leave them out.
    first_sample: 0 opens a new pass. A pass too large for one call goes on in further calls whose
        first_sample is the number of rows already run; any other value is refused, so no caller
        can have the same noise drawn twice.
    """

    perturbation: Sequence[Tensor | None] | None = None
    first_sample: int = 0
    inputs: bool = True


@dataclass(frozen=True)
class Activities:
    """What one pass shows, as digitised. All tensors are fresh; the chip keeps no reference.

    inputs: per layer x*_{l-1}, (batch, units) or (batch, positions, units); empty if not asked for.
    pre_activations: per layer a_l, same form.
    outputs: the network's output, the last layer's a_L without an activation function.
    """

    inputs: tuple[Tensor, ...]
    pre_activations: tuple[Tensor, ...]
    outputs: Tensor


@dataclass(frozen=True)
class Factors:
    """A gradient as the two factors a crossbar is written by: G = Σ_b e_b x*_bᵀ.

    errors: (batch, units) or (batch, positions, units), the 1/batch already inside.
    inputs: (batch, in) or (batch, positions, in).
    """

    errors: Tensor
    inputs: Tensor

    def dense(self) -> Tensor:
        """The (units, in) matrix."""
        return self.errors.flatten(0, -2).T @ self.inputs.flatten(0, -2)


@dataclass(frozen=True)
class LayerUpdate:
    """What changes in one layer. None leaves that part alone.

    weight, bias: what is subtracted, W <- W - weight. A learner hands gradients; the optimiser
        turns them into the amounts a chip is told to subtract.
    decorrelation: the new matrix R_{l-1} itself. It is digital and the learner's own; the chip's
        digital side reads it where it lies and never writes it.
    """

    weight: Tensor | Factors | None = None
    bias: Tensor | None = None
    decorrelation: Tensor | None = None


@dataclass(frozen=True)
class WeightUpdate:
    """One `LayerUpdate` a layer, first layer first."""

    layers: tuple[LayerUpdate, ...]


@dataclass(frozen=True)
class Capabilities:
    """injection_port: known perturbations can be added to pre-activations.
    noise_free: passes carry no hidden noise, so that a clean pass exists."""

    injection_port: bool
    noise_free: bool


class Share(Protocol):
    """This process's part of a step that several processes train on: rows of its own, in order, or passes of its own.

    first: the batch's row that is this process's first. whole: rows of the batch. size: processes.
    skipped: passes of the step between its first, which every process runs, and the next that this one runs.
    sum: a tensor added up over all of them, in place and given back; all must ask, in the same order.
    """

    first: int
    whole: int
    size: int
    skipped: int

    def sum(self, tensor: Tensor) -> Tensor: ...


class Ledger(Protocol):
    """What the training cost the chip so far."""

    reads: int  # vectors read through a crossbar
    conversions: int  # DAC and ADC conversions
    writes: int  # cells written


class Chip(Protocol):
    """The four names a chip answers to; a lab's own driver implements the same four."""

    @property
    def capabilities(self) -> Capabilities: ...
    @property
    def ledger(self) -> Ledger: ...
    def run(self, x: Tensor, probe: Probe) -> Activities: ...
    def update(self, update: WeightUpdate) -> None: ...


class Learner(Protocol):
    """A learning rule in ask/tell form.

    ask: the passes wanted for this step and batch size.
    tell: their activities and per-sample losses, in the order asked, give the gradient. Go through
        them once, side by side: passes too many to be held in memory come as iterators that run
        the chip as they are consumed, and what is not kept is let go.
    state, load: the learner's state as named tensors, out and in.
    """

    def ask(self, step: int, batch: int) -> tuple[Probe, ...]: ...
    def tell(self, activities: Iterable[Activities], losses: Iterable[Tensor]) -> WeightUpdate: ...
    def state(self) -> Mapping[str, Tensor]: ...
    def load(self, state: Mapping[str, Tensor]) -> None: ...
