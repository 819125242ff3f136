"""Node perturbation (NP), Dalm et al. 2023, arXiv 2310.00965, eq. 3.

    ΔW_l = δL · ε_l / σ² · x*_{l-1}ᵀ

Needs to know ε and σ, so a chip must let it inject them. With a noisy baseline both passes are
perturbed, and either is unbiased:
    difference="second":  δL · ε_l(2) / σ²                  second moment (2N + 2) ‖G‖²
    difference="both":    δL · (ε_l(2) - ε_l(1)) / (2σ²)    second moment (N + 2) ‖G‖²
K perturbed passes are averaged, all against the one first pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from analogsim.contracts import Activities, Probe, WeightUpdate
from analogsim.learners.perturbation import Errors, Perturbation, add_scaled, gradient, probes_against_first
from analogsim.network import Network


@dataclass
class NodePerturbation:
    network: Network
    perturbation: Perturbation
    noisy_baseline: bool = False
    samples: int = 1  # K
    difference: Literal["second", "both"] = "second"  # with a noisy baseline alone
    _asked: tuple[Probe, ...] = field(default=(), init=False, repr=False)

    def ask(self, step: int, batch: int) -> tuple[Probe, ...]:
        self._asked = probes_against_first(self.perturbation, step, batch, self.samples, self.noisy_baseline)
        return self._asked

    def tell(self, activities: Iterable[Activities], losses: Iterable[Tensor]) -> WeightUpdate:
        return gradient(*self.errors(activities, losses))

    def errors(self, activities: Iterable[Activities], losses: Iterable[Tensor]) -> Errors:
        passes = zip(activities, losses)
        first, first_loss = next(passes)
        both = self.noisy_baseline and self.difference == "both"
        variance = self.perturbation.sigma**2 * (2 if both else 1)
        errors = [torch.zeros_like(a) for a in first.pre_activations]
        for probe, (_, loss) in zip(self._asked[1:], passes, strict=True):
            factor = (loss - first_loss) / (variance * self.samples)
            for layer, error in enumerate(errors):
                epsilon = _epsilon(probe, layer)
                if both:
                    epsilon = epsilon - _epsilon(self._asked[0], layer)
                add_scaled(error, factor, epsilon)
        return errors, first.inputs

    def state(self) -> dict[str, Tensor]:
        return {}

    def load(self, state: Mapping[str, Tensor]) -> None:
        pass


def _epsilon(probe: Probe, layer: int) -> Tensor:
    assert probe.perturbation is not None
    epsilon = probe.perturbation[layer]
    assert epsilon is not None
    return epsilon
