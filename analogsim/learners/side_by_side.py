"""Learners of one configuration side by side, S of them with B samples each.

    activities, losses (S·B, ...):  those of the first learner, then those of the second, ...

What a rule makes of a sample it makes of all samples in one call. Each learner's own are its ε and R, BP's copy
of the weights, and the means over its batch: so every update is, bit for bit, the one it makes alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from analogsim.contracts import Activities, Learner, Probe, WeightUpdate
from analogsim.learners.backpropagation import BackPropagation
from analogsim.learners.decorrelation import Decorrelated
from analogsim.learners.perturbation import Perturbation, gradient
from analogsim.network import own


@dataclass(frozen=True)
class Blocks:
    """S matrices, each for its own part of the rows: `x @ blocks`."""

    each: Sequence[Tensor]

    def __rmatmul__(self, x: Tensor) -> Tensor:
        return torch.cat([own(part) @ matrix for part, matrix in zip(x.chunk(len(self.each)), self.each)])


@dataclass(frozen=True)
class Perturbations:
    """S perturbations as one, each on its own part of the rows."""

    each: Sequence[Perturbation]

    @property
    def sigma(self) -> float:
        return self.each[0].sigma

    @property
    def begins_later(self) -> bool:
        return self.each[0].begins_later

    def probe(self, step: int, pass_index: int, batch: int, *arguments: Any, **options: Any) -> Probe:
        rows = batch // len(self.each)
        probes = [one.probe(step, pass_index, rows, *arguments, **options) for one in self.each]
        return replace(probes[0], perturbation=Joined([one.perturbation or () for one in probes]))


@dataclass(frozen=True)
class Joined(Sequence["Tensor | None"]):
    """ε per layer of all learners, drawn when looked at."""

    each: Sequence[Sequence[Tensor | None]]

    def __len__(self) -> int:
        return len(self.each[0])

    def __getitem__(self, index):  # pyright: ignore[reportIncompatibleMethodOverride]
        parts = [one[index] for one in self.each]
        return None if parts[0] is None else torch.cat(parts)


class SideBySide:
    """learners: of one configuration, each with a rule of this package."""

    def __init__(self, learners: Sequence[Learner]):
        self.learners = learners
        self._rule = _joined([one.rule if isinstance(one, Decorrelated) else one for one in learners])

    def ask(self, step: int, batch: int) -> list[tuple[Probe, ...]]:
        """The passes that every learner wants, of its own batch."""
        self._rule.ask(step, len(self.learners) * batch)
        return [one.ask(step, batch) for one in self.learners]

    def tell(
        self, activities: Iterable[Activities], losses: Iterable[Tensor], inputs: Sequence[Sequence[Tensor]]
    ) -> list[WeightUpdate]:
        """Every learner's update. inputs: x*_{l-1} of each learner's first pass, left out of `activities`."""
        errors, _ = self._rule.errors(activities, losses)
        parts = zip(*(error.chunk(len(self.learners)) for error in errors))
        updates = (gradient(mine, x) for mine, x in zip(parts, inputs, strict=True))
        return [
            one.decorrelated(update, x) if isinstance(one, Decorrelated) else update
            for one, update, x in zip(self.learners, updates, inputs)
        ]


def _joined(rules: Sequence[Any]) -> Any:
    """One rule for the rows of all."""
    first = rules[0]
    if isinstance(first, BackPropagation):
        matrices = None if first.matrices is None else _blocks([rule.matrices for rule in rules])
        return replace(first, weights=_blocks([rule.weights for rule in rules]), matrices=matrices)
    known = first.perturbation is not None
    return replace(first, perturbation=Perturbations([rule.perturbation for rule in rules]) if known else None)


def _blocks(matrices: Sequence[Sequence[Tensor]]) -> Any:
    """One entry a layer, of the matrices of every learner."""
    return [Blocks(layer) for layer in zip(*matrices)]
