"""The digital optimiser between learner and chip: gradients in, amounts to subtract out.

    W <- W - η · optimizer(ΔW)          (Adam or SGD, torch.optim)

torch.optim moves parameters that start at 0 every step, so what they become is the change
itself and no copy of the weights is needed; a rule that keeps one (BP) has it kept in step.
`on_chip` leaves the weights' factors as the rule made them, times η, for the chip to send as pulses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from analogsim.config.schema import OptimizerSettings
from analogsim.contracts import Factors, WeightUpdate
from analogsim.network import Network


class Optimizer:
    """shadow: weight copies to subtract the same changes from (BP's own model), if any.
    bound: the largest weight the chip's cells hold, where they clip; the copies are clipped alike.
    """

    def __init__(
        self,
        settings: OptimizerSettings,
        network: Network,
        device: str | torch.device = "cpu",
        shadow: Sequence[Tensor] = (),
        bound: float = math.inf,
    ):
        self._weights = [torch.zeros(layer.units, layer.inputs, device=device) for layer in network.layers]
        self._biases = [torch.zeros(layer.units, device=device) for layer in network.layers]
        self._shadow, self._bound = shadow, bound
        self._changes = [*self._weights, *self._biases]
        self._gradients = [torch.zeros_like(change) for change in self._changes]
        self._lr = settings.lr
        self._torch: torch.optim.Optimizer | None = None
        if settings.name == "on_chip":
            return
        # maximize: the change comes out as +η·(...), the amount to subtract.
        if settings.name == "adam":
            self._torch = torch.optim.Adam(
                self._changes, settings.lr, settings.betas, settings.eps, maximize=True, fused=True
            )
        else:
            self._torch = torch.optim.SGD(self._changes, settings.lr, settings.momentum, maximize=True)

    @property
    def factored(self) -> bool:
        """It hands on the factors of a gradient as they are."""
        return self._torch is None

    def step(self, gradient: WeightUpdate) -> WeightUpdate:
        """The amounts to subtract, None where the gradient is; their tensors are reused by the next step."""
        if self._torch is None:
            return self._on_chip(gradient)
        for change in self._changes:
            change.zero_()
        parts = [*(layer.weight for layer in gradient.layers), *(layer.bias for layer in gradient.layers)]
        for part, change, kept in zip(parts, self._changes, self._gradients, strict=True):
            change.grad = None if part is None else kept  # torch.optim passes over what has no gradient
            if isinstance(part, Factors):
                torch.mm(part.errors.flatten(0, -2).T, part.inputs.flatten(0, -2), out=kept)
            elif part is not None:
                kept.copy_(part)
        self._torch.step()
        self._keep_in_step(self._weights)
        return WeightUpdate(
            tuple(
                replace(
                    layer,
                    weight=None if layer.weight is None else weight,
                    bias=None if layer.bias is None else bias,
                )
                for layer, weight, bias in zip(gradient.layers, self._weights, self._biases)
            )
        )

    def _on_chip(self, gradient: WeightUpdate) -> WeightUpdate:
        """η times the gradient, in the form the rule gave it."""
        layers = []
        for layer in gradient.layers:
            weight = layer.weight
            if isinstance(weight, Factors):
                weight = Factors(weight.errors * self._lr, weight.inputs)
            elif weight is not None:
                weight = weight * self._lr
            layers.append(replace(layer, weight=weight, bias=None if layer.bias is None else layer.bias * self._lr))
        if self._shadow:
            weights = (layer.weight for layer in layers)
            self._keep_in_step([w.dense() if isinstance(w, Factors) else w for w in weights])
        return WeightUpdate(tuple(layers))

    def _keep_in_step(self, changes: Sequence[Tensor | None]) -> None:
        """Subtract the same from the copies of the weights, if there are any."""
        for copy, change in zip(self._shadow, changes):
            if change is not None:
                copy.sub_(change)
            if self._bound < math.inf:
                copy.clamp_(-self._bound, self._bound)

    def state(self) -> dict[str, Tensor]:
        """torch.optim's own tensors (Adam's moments and step, SGD's momentum), by reference."""
        if self._torch is None:
            return {}
        per_parameter = self._torch.state_dict()["state"]
        return {
            f"{index}/{name}": value
            for index, entries in per_parameter.items()
            for name, value in entries.items()
            if value is not None
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        if self._torch is None:
            return
        entries: dict[int, dict[str, Tensor]] = {}
        for key, value in state.items():
            index, _, name = key.partition("/")
            entries.setdefault(int(index), {})[name] = value.clone()  # torch.optim would adopt it
        self._torch.load_state_dict({"state": entries, "param_groups": self._torch.state_dict()["param_groups"]})
