"""The digital optimiser between learner and chip: gradients in, amounts to subtract out.

    W <- W - η · optimizer(ΔW)          (Adam or SGD, the functions of torch.optim)

They move parameters that start at 0 every step, so what these become is the change itself and no
copy of the weights is needed; a rule that keeps one (BP) has it kept in step. The functions rather
than the classes, since to make one of these imports all of torch's compiler, a second of a start.
`on_chip` leaves the weights' factors as the rule made them, times η, for the chip to send as pulses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from analogsim.backends.torch import tf32_products
from analogsim.config.schema import OptimizerSettings
from analogsim.contracts import Factors, WeightUpdate
from analogsim.network import Network


class Optimizer:
    """shadow: weight copies to subtract the same changes from (BP's own model), if any.
    bound: the largest weight the chip's cells hold, where they clip; the copies are clipped alike.
    tf32: a GPU's products of a gradient's factors may be in TF32.
    """

    def __init__(
        self,
        settings: OptimizerSettings,
        network: Network,
        device: str | torch.device = "cpu",
        shadow: Sequence[Tensor] = (),
        bound: float = math.inf,
        tf32: bool = False,
    ):
        self.tf32 = tf32
        self._weights = [torch.zeros(layer.units, layer.inputs, device=device) for layer in network.layers]
        self._biases = [torch.zeros(layer.units, device=device) for layer in network.layers]
        self._shadow, self._bound = shadow, bound
        self._changes = [*self._weights, *self._biases]
        self._gradients = [torch.zeros_like(change) for change in self._changes]
        self._settings = settings
        self._forget()

    def _forget(self) -> None:
        """What Adam and SGD remember, as of the first step; None: nothing yet."""
        name, changes = self._settings.name, self._changes
        self._state: dict[str, list[Tensor | None]] = {}
        if name == "adam":
            self._state["step"] = [torch.zeros((), dtype=torch.float32, device=change.device) for change in changes]
            self._state["exp_avg"] = [torch.zeros_like(change) for change in changes]
            self._state["exp_avg_sq"] = [torch.zeros_like(change) for change in changes]
        elif name == "sgd":
            self._state["momentum_buffer"] = [None] * len(changes)

    @property
    def factored(self) -> bool:
        """It hands on the factors of a gradient as they are."""
        return self._settings.name == "on_chip"

    def step(self, gradient: WeightUpdate) -> WeightUpdate:
        """The amounts to subtract, None where the gradient is; their tensors are reused by the next step."""
        return step_together([self], [gradient])[0]

    def _take(self, gradient: WeightUpdate) -> list[int]:
        """Set changes to 0 and note the gradient; which of them have one."""
        parts = [*(layer.weight for layer in gradient.layers), *(layer.bias for layer in gradient.layers)]
        for part, change, kept in zip(parts, self._changes, self._gradients, strict=True):
            change.zero_()
            if isinstance(part, Factors):
                with tf32_products(self.tf32):
                    torch.mm(part.errors.flatten(0, -2).T, part.inputs.flatten(0, -2), out=kept)
            elif part is not None:
                kept.copy_(part)
        return [index for index, part in enumerate(parts) if part is not None]

    def _changed(self, gradient: WeightUpdate) -> WeightUpdate:
        """What the zeros have become."""
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
                weight = Factors(weight.errors * self._settings.lr, weight.inputs)
            elif weight is not None:
                weight = weight * self._settings.lr
            layers.append(
                replace(layer, weight=weight, bias=None if layer.bias is None else layer.bias * self._settings.lr)
            )
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
        """Adam's moments and step, SGD's momentum, by reference; named as torch.optim does."""
        named = (
            (f"{index}/{name}", held[index])
            for index in range(len(self._changes))
            for name, held in self._state.items()
        )
        return {key: tensor for key, tensor in named if tensor is not None}

    def load(self, state: Mapping[str, Tensor]) -> None:
        self._forget()
        for key, value in state.items():
            index, _, name = key.partition("/")
            if int(index) >= len(self._changes):
                raise KeyError(key)
            self._state[name][int(index)] = value.to(self._changes[int(index)].device, copy=True)


def step_together(optimizers: Sequence[Optimizer], gradients: Sequence[WeightUpdate]) -> list[WeightUpdate]:
    """`Optimizer.step` of each, all of one setting, in one call of Adam or SGD."""
    if optimizers[0].factored:
        return [one._on_chip(gradient) for one, gradient in zip(optimizers, gradients)]
    moved = [(one, index) for one, gradient in zip(optimizers, gradients) for index in one._take(gradient)]
    _move(moved)
    return [one._changed(gradient) for one, gradient in zip(optimizers, gradients)]


def _move(moved: Sequence[tuple[Optimizer, int]]) -> None:
    """Turn zeros into changes, and remember; what has no gradient is passed over."""
    if not moved:
        return
    settings = moved[0][0]._settings
    changes, gradients = [one._changes[i] for one, i in moved], [one._gradients[i] for one, i in moved]
    state: dict[str, list[Any]] = {name: [one._state[name][i] for one, i in moved] for name in moved[0][0]._state}
    # maximize: the change comes out as +η·(...), the amount to subtract.
    if settings.name == "adam":
        adam(
            changes,
            gradients,
            state["exp_avg"],
            state["exp_avg_sq"],
            [],
            state["step"],
            fused=True,
            amsgrad=False,
            beta1=settings.betas[0],
            beta2=settings.betas[1],
            lr=settings.lr,
            weight_decay=0.0,
            eps=settings.eps,
            maximize=True,
        )
        return
    sgd(
        changes,
        gradients,
        state["momentum_buffer"],
        weight_decay=0.0,
        momentum=settings.momentum,
        lr=settings.lr,
        dampening=0.0,
        nesterov=False,
        maximize=True,
    )
    for (one, index), buffer in zip(moved, state["momentum_buffer"]):
        one._state["momentum_buffer"][index] = buffer
