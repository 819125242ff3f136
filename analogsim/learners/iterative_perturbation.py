"""Iterative node perturbation (INP), Dalm et al. 2023, arXiv 2310.00965, eq. 5.

    ΔW_l = N_l · δL_l · δa_l / ‖δa_l‖² · x*_{l-1}ᵀ ,   noise injected in layer l alone

one perturbed pass a layer; δa_l is measured, not the noise itself. Unbiased, at 1 + K·L passes.
With a noisy baseline each layer's pass has a perturbed twin of its own to be compared with
(2·K·L passes), since noise of other layers in a shared first pass would reach δa_l from below.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from analogsim.contracts import Activities, Probe, WeightUpdate
from analogsim.learners.perturbation import Errors, Perturbation, add_scaled, gradient, safe_ratio, squared_norm
from analogsim.network import Network


@dataclass(frozen=True)
class IterativePerturbation:
    network: Network
    perturbation: Perturbation
    noisy_baseline: bool = False
    samples: int = 1  # K

    def ask(self, step: int, batch: int) -> tuple[Probe, ...]:
        layers = [layer for _ in range(self.samples) for layer in range(len(self.network.layers))]
        draw = self.perturbation.probe
        if self.noisy_baseline:
            twins = [layer for layer in layers for _ in range(2)]
            if self.perturbation.begins_later:
                twins = [0, *twins]
            return tuple(draw(step, index, batch, [layer], inputs=index == 0) for index, layer in enumerate(twins))
        return (Probe(), *(draw(step, 1 + index, batch, [layer]) for index, layer in enumerate(layers)))

    def tell(self, activities: Iterable[Activities], losses: Iterable[Tensor]) -> WeightUpdate:
        return gradient(*self.errors(activities, losses))

    def errors(self, activities: Iterable[Activities], losses: Iterable[Tensor]) -> Errors:
        passes = zip(activities, losses)
        first = base, base_loss = next(passes)
        errors = [torch.zeros_like(a) for a in base.pre_activations]
        for index in range(self.samples * len(errors)):
            layer = index % len(errors)
            if self.noisy_baseline and (index > 0 or self.perturbation.begins_later):
                base, base_loss = next(passes)
            noisy, loss = next(passes)
            delta = noisy.pre_activations[layer] - base.pre_activations[layer]
            units = math.prod(self.network.layers[layer].output_shape)
            scaled = (loss - base_loss) * (units / self.samples)
            add_scaled(errors[layer], safe_ratio(scaled, squared_norm([delta])), delta)
        return errors, first[0].inputs

    def state(self) -> dict[str, Tensor]:
        return {}

    def load(self, state: Mapping[str, Tensor]) -> None:
        pass
