"""Decorrelated learning, Dalm et al. 2023, arXiv 2310.00965, section 2.3: DBP, DNP, DINP, DANP.

    x*_{l-1} = R_{l-1} x_{l-1} ,   R <- R - α (C - diag C) R ,   C = ⟨x* x*ᵀ⟩

with x* of the first pass, the R that made it, R = I at first, and the mean over batch and
positions. Wraps any rule; every layer's input is decorrelated, the first layer's included.
With `every` = n, R moves in one step of n, the first among them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, repeat

import torch
from torch import Tensor

from analogsim.backends.torch import tf32_products
from analogsim.contracts import Activities, LayerUpdate, Learner, Probe, Share, WeightUpdate


@dataclass
class Decorrelated:
    rule: Learner
    matrices: Sequence[Tensor]  # R_{l-1} per layer, changed in place
    rate: float  # α; stable while α λ_max(C) < 2
    samples: int | None = None  # of the batch that C is averaged over; None: all, as in the paper
    positions: Sequence[Tensor | None] | None = None  # by layer, those of each image; None: all
    share: Share | None = None  # None: a batch is all here
    tf32: bool = False  # a GPU's products for R may be in TF32
    every: int = 1
    _due: bool = field(default=True, init=False)  # whether R moves at the end of this step

    def ask(self, step: int, batch: int) -> tuple[Probe, ...]:
        self._due = step % self.every == 0
        return self.rule.ask(step, batch)

    def tell(self, activities: Iterable[Activities], losses: Iterable[Tensor]) -> WeightUpdate:
        passes = iter(activities)
        first = next(passes)
        update = self.rule.tell(chain([first], passes), losses)  # first: BP still needs the R of this pass
        return self.decorrelated(update, first.inputs)

    def decorrelated(self, update: WeightUpdate, inputs: Sequence[Tensor]) -> WeightUpdate:
        """The rule's update with that of R, which is changed in place. inputs: x*_{l-1} of the first pass."""
        if not self._due:
            return update
        with tf32_products(self.tf32):
            for matrix, x, kept in zip(self.matrices, inputs, self.positions or repeat(None)):
                x = self._subset(x, kept)
                if self.share is None:
                    decorrelate(matrix, x, self.rate)
                else:
                    decorrelate_together(matrix, x, self.rate, self.share, self.samples)
        layers = zip(update.layers, self.matrices)
        return WeightUpdate(tuple(replace(layer, decorrelation=matrix) for layer, matrix in layers))

    def _subset(self, x: Tensor, positions: Tensor | None) -> Tensor:
        if self.samples is not None:
            x = x[: self.samples if self.share is None else max(self.samples - self.share.first, 0)]
        return x if positions is None else x[:, positions]

    def opening(self) -> WeightUpdate:
        """The update that hands the chip its matrices before the first pass."""
        return WeightUpdate(tuple(LayerUpdate(decorrelation=matrix) for matrix in self.matrices))

    def state(self) -> dict[str, Tensor]:
        matrices = {f"matrix{index}": matrix for index, matrix in enumerate(self.matrices)}
        return matrices | {f"rule/{name}": tensor for name, tensor in self.rule.state().items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        for index, matrix in enumerate(self.matrices):
            matrix.copy_(state[f"matrix{index}"])
        self.rule.load({name[5:]: tensor for name, tensor in state.items() if name.startswith("rule/")})


def decorrelate(matrix: Tensor, x: Tensor, rate: float) -> None:
    """One step of R, in place. x: (batch, in) or (batch, positions, in), decorrelated by this R.

    With fewer vectors n than inputs D, (C - diag C) R = X*ᵀ (X* R) / n - diag(C) R takes 2 n D²
    multiply-adds in place of n D² + D³.
    """
    x = x.flatten(0, -2)
    n, d = x.shape
    if n < d:
        projected = x @ matrix
        diagonal = torch.linalg.vecdot(x, x, dim=0) / n
        matrix.mul_((1 + rate * diagonal)[:, None]).addmm_(x.T, projected, alpha=-rate / n)
    else:
        covariance = (x.T @ x).div_(n).fill_diagonal_(0)
        matrix.sub_(covariance @ matrix, alpha=rate)


def decorrelate_together(matrix: Tensor, x: Tensor, rate: float, share: Share, samples: int | None) -> None:
    """The same with x spread over processes, C being that of all of x: what is added up is X*ᵀ X* R, or X*ᵀ X*.

    x: this process's rows of those that C is taken of, perhaps none; samples: those of the whole batch, None for all.
    """
    rows = share.whole if samples is None else min(samples, share.whole)
    n, d = rows * math.prod(x.shape[1:-1]), x.shape[-1]
    x = x.flatten(0, -2)
    if n < d * share.size:
        projected = share.sum(x.T @ (x @ matrix))
        diagonal = share.sum((x * x).sum(0)) / n
        matrix.mul_((1 + rate * diagonal)[:, None]).sub_(projected, alpha=rate / n)
    else:
        covariance = share.sum(x.T @ x).div_(n).fill_diagonal_(0)
        matrix.sub_(covariance @ matrix, alpha=rate)
