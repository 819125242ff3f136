"""Back-propagation (BP) through a digital copy of the model, the baseline.

    g_L = ∂L/∂a_L ,   g_l = (R_lᵀ W_{l+1}ᵀ g_{l+1}) ∘ f'(a_l) ,   ΔW_l = g_l x*_{l-1}ᵀ

(for a convolution, what comes back at its patches is added up where they overlap).

The one rule that must know the model: it reads the chip's activities of one pass and sends the
error back through its own copy of W (kept in step by the optimiser, never read from the chip)
and the decorrelation matrices. On a noisy chip the activities are noisy and the copy is not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from analogsim.contracts import Activities, Probe, WeightUpdate
from analogsim.learners.perturbation import Errors, gradient
from analogsim.network import Network


@dataclass(frozen=True)
class BackPropagation:
    network: Network
    weights: Sequence[Tensor]  # its own copy
    matrices: Sequence[Tensor] | None = None  # R_{l-1}; None: no decorrelation

    def ask(self, step: int, batch: int) -> tuple[Probe, ...]:
        return (Probe(),)

    def tell(self, activities: Iterable[Activities], losses: Iterable[Tensor]) -> WeightUpdate:
        return gradient(*self.errors(activities, losses))

    def errors(self, activities: Iterable[Activities], losses: Iterable[Tensor]) -> Errors:
        """The loss must hang on the pass's outputs: its gradient starts the way back."""
        ((first, loss),) = zip(activities, losses)
        (error,) = torch.autograd.grad(loss, first.outputs, torch.ones_like(loss))
        errors = [error]
        for layer in range(len(self.weights) - 1, 0, -1):
            through = [self.weights[layer]] if self.matrices is None else [self.weights[layer], self.matrices[layer]]
            below = first.pre_activations[layer - 1]
            back = self.network.layers[layer].adjoint(error, *through)
            error = back.view_as(below) * self.network.derivative(below)
            errors.insert(0, error)
        return errors, first.inputs

    def state(self) -> dict[str, Tensor]:
        return {f"weight{index}": weight for index, weight in enumerate(self.weights)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        for index, weight in enumerate(self.weights):
            weight.copy_(state[f"weight{index}"])
