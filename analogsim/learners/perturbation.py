"""A learner's own, known perturbations: ε_l ~ N(0, σ² I) on every layer's pre-activations."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from analogsim.backends import Backend
from analogsim.contracts import Factors, LayerUpdate, Probe, Share, WeightUpdate
from analogsim.network import Network
from analogsim.streams import Address, Stream


@dataclass(frozen=True)
class Perturbation:
    """Draws ε for a step and pass from the learner's own stream; every sample has its own."""

    sigma: float
    network: Network
    stream: Stream
    backend: Backend
    device: torch.device
    share: Share | None = None  # None: a batch is all here

    def probe(
        self, step: int, pass_index: int, batch: int, layers: Collection[int] | None = None, inputs: bool = False
    ) -> Probe:
        """A pass with fresh ε in the given layers, in all if None. pass_index, batch: of this process's own."""
        chosen = range(len(self.network.layers)) if layers is None else layers
        number = pass_index + self._skipped if pass_index else 0
        address = Address(step, number, 0 if self.share is None else self.share.first)
        return Probe(Drawn(self, address, batch, tuple(chosen)), inputs=inputs)

    @property
    def begins_later(self) -> bool:
        """The first pass is run by every process, and what is compared with it by another one."""
        return self._skipped > 0

    @property
    def _skipped(self) -> int:
        return 0 if self.share is None else self.share.skipped


@dataclass(frozen=True)
class Drawn(Sequence["Tensor | None"]):
    """ε per layer, drawn when looked at: the same at every look, and none kept in memory."""

    source: Perturbation
    address: Address
    batch: int
    layers: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.source.network.layers)

    def __getitem__(self, index):  # pyright: ignore[reportIncompatibleMethodOverride]
        if not 0 <= index < len(self):
            raise IndexError(index)
        if index not in self.layers:
            return None
        shape = self.source.network.layers[index].output_shape
        stream = self.source.stream.child(index)
        z = self.source.backend.normal(stream, self.address, self.batch, math.prod(shape), self.source.device)
        return z.mul_(self.source.sigma).view(self.batch, *shape)


def probes_against_first(
    perturbation: Perturbation, step: int, batch: int, samples: int, noisy_baseline: bool
) -> tuple[Probe, ...]:
    """A first pass, clean or perturbed, and `samples` perturbed ones to compare with it."""
    first = perturbation.probe(step, 0, batch, inputs=True) if noisy_baseline else Probe()
    return (first, *(perturbation.probe(step, k, batch) for k in range(1, 1 + samples)))


def squared_norm(vectors: Sequence[Tensor]) -> Tensor:
    """‖v‖² per sample over all the layers given, (batch,)."""
    total = torch.zeros(len(vectors[0]), device=vectors[0].device)
    for v in vectors:
        flat = v.flatten(1)
        total += torch.linalg.vecdot(flat, flat)
    return total


def per_sample(factor: Tensor, v: Tensor) -> Tensor:
    """factor (batch,), as float32, times v (batch, ...)."""
    return v * _column(factor, v)


def add_scaled(error: Tensor, factor: Tensor, v: Tensor) -> None:
    """error += factor v, in place. factor: (batch,), taken as float32; v: (batch, ...)."""
    error.addcmul_(v, _column(factor, v))


def _column(factor: Tensor, v: Tensor) -> Tensor:
    return factor.to(v.dtype).view(-1, *(1 for _ in v.shape[1:]))


def safe_ratio(numerator: Tensor, squared: Tensor) -> Tensor:
    """numerator / squared, 0 where nothing moved (a perturbation lost under an ADC step)."""
    return torch.where(squared > 0, numerator / squared, 0.0)


Errors = tuple[Sequence[Tensor], Sequence[Tensor]]  # e_l of every sample, and x*_{l-1} of the first pass


def gradient(errors: Sequence[Tensor], inputs: Sequence[Tensor]) -> WeightUpdate:
    """Mean over the batch of e_l x*_{l-1}ᵀ (weights) and e_l (biases), summed over positions."""
    layers = []
    for error, x in zip(errors, inputs):
        error = error / len(error)
        layers.append(LayerUpdate(Factors(error, x), error.flatten(0, -2).sum(0)))
    return WeightUpdate(tuple(layers))
