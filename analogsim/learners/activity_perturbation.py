"""Activity-based node perturbation (ANP), Dalm et al. 2023, arXiv 2310.00965, eq. 6.

    ΔW_l = N · δL · δa_l / ‖δa‖² · x*_{l-1}ᵀ ,   δa = ã - a ,   N = Σ_l N_l

Needs two passes and their activities, nothing of the noise between them: on a chip whose noise
is hidden, both passes are simply noisy and the first stands in for the clean one (section 3.4).
K noisy passes are averaged, all against the one first pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from analogsim.contracts import Activities, Probe, WeightUpdate
from analogsim.learners.perturbation import (
    Errors,
    Perturbation,
    add_scaled,
    gradient,
    probes_against_first,
    safe_ratio,
    squared_norm,
)
from analogsim.network import Network


@dataclass(frozen=True)
class ActivityPerturbation:
    network: Network
    perturbation: Perturbation | None = None  # None: the chip's own noise is the perturbation
    noisy_baseline: bool = False  # the first pass is perturbed like the others
    samples: int = 1  # K

    def ask(self, step: int, batch: int) -> tuple[Probe, ...]:
        if self.perturbation is None:
            return (Probe(), *(Probe(inputs=False),) * self.samples)
        return probes_against_first(self.perturbation, step, batch, self.samples, self.noisy_baseline)

    def tell(self, activities: Iterable[Activities], losses: Iterable[Tensor]) -> WeightUpdate:
        return gradient(*self.errors(activities, losses))

    def errors(self, activities: Iterable[Activities], losses: Iterable[Tensor]) -> Errors:
        passes, lost = iter(activities), iter(losses)  # not zipped: zip holds a pair until the next one is there
        first, first_loss = next(passes), next(lost)
        errors = [torch.zeros_like(a) for a in first.pre_activations]
        for loss in lost:
            self._add(errors, next(passes), first, loss - first_loss)  # let go of ahead of the next pass
        return errors, first.inputs

    def _add(self, errors: Sequence[Tensor], noisy: Activities, first: Activities, change: Tensor) -> None:
        """(N / K) δL δa / ‖δa‖² to the errors; δa is made a layer at a time, twice, so that it is never held whole."""
        squared = torch.zeros(len(change), device=change.device)
        for n, a in zip(noisy.pre_activations, first.pre_activations):
            squared += squared_norm([n - a])
        factor = safe_ratio(change * (self.network.nodes / self.samples), squared)
        for error, n, a in zip(errors, noisy.pre_activations, first.pre_activations):
            add_scaled(error, factor, n - a)

    def state(self) -> dict[str, Tensor]:
        return {}

    def load(self, state: Mapping[str, Tensor]) -> None:
        pass
