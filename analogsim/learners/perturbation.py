"""A learner's own, known perturbations: ε_l ~ N(0, σ² I) on every layer's pre-activations."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from analogsim.backends import Backend
from analogsim.contracts import Factors, LayerUpdate, Probe, WeightUpdate
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

    def probe(self, step: int, pass_index: int, batch: int, layers: Collection[int] | None = None) -> Probe:
        """A pass with fresh ε in the given layers, in all if None."""
        address = Address(step, pass_index)
        epsilon: list[Tensor | None] = []
        for index, layer in enumerate(self.network.layers):
            if layers is not None and index not in layers:
                epsilon.append(None)
                continue
            outputs = math.prod(layer.output_shape)
            z = self.backend.normal(self.stream.child(index), address, batch, outputs, self.device)
            epsilon.append(z.mul_(self.sigma).view(batch, *layer.output_shape))
        return Probe(tuple(epsilon))


def squared_norm(vectors: Sequence[Tensor]) -> Tensor:
    """‖v‖² per sample over all the layers given, (batch,)."""
    total = torch.zeros(len(vectors[0]), device=vectors[0].device)
    for v in vectors:
        flat = v.flatten(1)
        total += torch.linalg.vecdot(flat, flat)
    return total


def per_sample(factor: Tensor, v: Tensor) -> Tensor:
    """factor (batch,), as float32, times v (batch, ...)."""
    return v * factor.to(v.dtype).view(-1, *(1 for _ in v.shape[1:]))


def safe_ratio(numerator: Tensor, squared: Tensor) -> Tensor:
    """numerator / squared, 0 where nothing moved (a perturbation lost under an ADC step)."""
    return torch.where(squared > 0, numerator / squared, 0.0)


def gradient(errors: Sequence[Tensor], inputs: Sequence[Tensor]) -> WeightUpdate:
    """Mean over the batch of e_l x*_{l-1}ᵀ (weights) and e_l (biases), summed over positions."""
    layers = []
    for error, x in zip(errors, inputs):
        error = error / len(error)
        layers.append(LayerUpdate(Factors(error, x), error.flatten(0, -2).sum(0)))
    return WeightUpdate(tuple(layers))
