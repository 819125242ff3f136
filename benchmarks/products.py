"""Products of a training step, counted from the shapes and not traced.

    counted   of every pass R x, W x* and, where every cell has a σ of its own, V x̂², but in the passes after the
              first for the first layer's, which they share; the weight gradients; R's update, the cheaper of two forms
    needed    R x and W x* once for all passes on one and the same x; of those that nobody is told x* of, and whose
              read is W times its input and no more, W R and one product where that is less than two; the updates

For rules that perturb, with R in digital and C over the whole batch. tests/test_benchmarks.py holds `needed` against
the products that small steps do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from analogsim.config.chip import ChipDescription
from analogsim.contracts import Probe
from analogsim.learners.decorrelation import Decorrelated
from analogsim.network import Layer
from analogsim.training.loop import Trainer

Shape = tuple[int, int, int]  # of a product (m, k) by (k, n)


def macs(shapes: Sequence[Shape]) -> int:
    """Multiply-adds of them all."""
    return sum(m * k * n for m, k, n in shapes)


def varied(chip: ChipDescription) -> bool:
    """Its cells are noisy, each with a σ of its own: V x̂² is a product of W's shape."""
    cell = chip.cell
    if cell is None:
        return False
    laws = (cell.read_noise, cell.telegraph)
    return cell.flicker is not None or any(law is not None and law.law != "constant" for law in laws)


@dataclass(frozen=True)
class Products:
    """further: passes after the first; others: of each layer, how many x they read that are not the first one's."""

    layers: Sequence[Layer]
    batch: int
    decorrelated: bool
    varied: bool
    folds: bool  # W (R x) may be read as (W R) x
    further: int
    others: Sequence[int]

    @classmethod
    def of(cls, trainer: Trainer) -> Products:
        chip, decorrelated = trainer.chip, isinstance(trainer.learner, Decorrelated)
        layers, crossbars = chip.network.layers, chip._crossbars
        probes = trainer.learner.ask(0, trainer.batch)
        repeatable = all(crossbar.repeatable for crossbar in crossbars)
        apart = [first_perturbed(probe, len(layers)) if repeatable else 0 for probe in probes]
        others = [sum(a < index for a in apart) + any(a >= index for a in apart) - 1 for index in range(len(layers))]
        folds = decorrelated and all(crossbar.linear for crossbar in crossbars)
        return cls(
            layers, trainer.batch, decorrelated, varied(chip.description), folds, further=len(probes) - 1, others=others
        )

    def counted(self) -> list[Shape]:
        """Of a step whose passes are made one by one."""
        return self.one_pass() + self.further * self.one_pass(first=False) + self.updates()

    def needed(self) -> list[Shape]:
        """Of a step at its cheapest."""
        return self.needed_passes() + self.updates()

    def one_pass(self, first: bool = True) -> list[Shape]:
        """first: the first layer's too."""
        return [shape for layer in self.layers[0 if first else 1 :] for shape in self._read(layer)]

    def needed_passes(self) -> list[Shape]:
        """Of all passes of a step; x* of the first one is told, and so is made."""
        shapes = self.one_pass()
        for layer, times in zip(self.layers, self.others):
            apart = times * self._read(layer)
            folded = [(layer.units, layer.inputs, layer.inputs)] + times * self._read(layer, decorrelated=False)
            shapes += min(apart, folded, key=macs) if self.folds else apart
        return shapes

    def updates(self) -> list[Shape]:
        """Weight gradients and the step of R."""
        shapes: list[Shape] = []
        for layer in self.layers:
            inputs, vectors = layer.inputs, self.batch * layer.positions
            shapes += [(layer.units, vectors, inputs)]
            if self.decorrelated and vectors < inputs:
                shapes += [(vectors, inputs, inputs), (inputs, vectors, inputs)]  # X*ᵀ (X* R)
            elif self.decorrelated:
                shapes += [(inputs, vectors, inputs), (inputs, inputs, inputs)]  # C R
        return shapes

    def _read(self, layer: Layer, decorrelated: bool = True) -> list[Shape]:
        """One read at all of a layer's positions."""
        vectors, inputs = self.batch * layer.positions, layer.inputs
        mixed = [(vectors, inputs, inputs)] * (self.decorrelated and decorrelated)
        return mixed + [(vectors, inputs, layer.units)] * (1 + self.varied)


def first_perturbed(probe: Probe, layers: int) -> int:
    """The first layer that the probe perturbs; `layers` where it perturbs none."""
    given = probe.perturbation or ()
    return next((index for index, epsilon in enumerate(given) if epsilon is not None), layers)


class Bare:
    """Products of those shapes by torch.mm on random numbers, memory for operands and results held."""

    def __init__(self, shapes: Sequence[Shape], device: str = "cpu"):
        pool: dict[tuple[int, int], torch.Tensor] = {}
        for m, k, n in shapes:
            for shape in ((m, k), (k, n)):
                pool.setdefault(shape, torch.randn(shape, device=device))
        results = {(m, n): torch.empty(m, n, device=device) for m, _, n in shapes}
        self._operands = [(pool[m, k], pool[k, n], results[m, n]) for m, k, n in shapes]

    def __call__(self) -> None:
        for a, b, out in self._operands:
            torch.mm(a, b, out=out)
