"""Chips of one description and network side by side, S of them with B samples each.

    y = W x* + ε + σ z ,   x* = R x          rows (S·B, ...): those of the first chip, then those of the second, ...

Where all that a chip does is this, only the products and z are made chip by chip, to its own W, R and stream and
as `PassRunner` makes them: with W R folded where it folds, so that every number is the one the chip reads alone.
Any other chip runs its passes by itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from analogsim.chip.chip import SimulatedChip
from analogsim.contracts import Activities, Probe
from analogsim.network import DenseLayer, own
from analogsim.streams import Address


class ChipsSideBySide:
    """chips: alike but for weights and streams, and at the same step."""

    def __init__(self, chips: Sequence[SimulatedChip]):
        self.chips = chips
        self._plain = _plain(chips[0])

    def passes(self, x: Tensor, probes: Sequence[Sequence[Probe]]) -> tuple[list[Activities], list[tuple[Tensor, ...]]]:
        """(activities of every pass on all rows, x* left out; x* of every chip's first pass). probes: each chip's."""
        parts = [own(part) for part in x.chunk(len(self.chips))]
        if self._plain and sum(not probe.inputs for probe in probes[0]) <= 1 and probes[0][0].inputs:
            return self._plainly(x, parts, probes)
        ran = [[*chip.passes(part, asked)] for chip, part, asked in zip(self.chips, parts, probes)]
        return [_joined(passes) for passes in zip(*ran)], [passes[0].inputs for passes in ran]

    def _plainly(
        self, x: Tensor, parts: Sequence[Tensor], probes: Sequence[Sequence[Probe]]
    ) -> tuple[list[Activities], list[tuple[Tensor, ...]]]:
        """A pass at a time, since at most one of them is not told its x* and could be read with others."""
        chips, network, rows = self.chips, self.chips[0].network, len(parts[0])
        asked = [[chip._asked(x, probe) for probe in mine] for chip, x, mine in zip(chips, parts, probes)]
        untold = sum(not one.keep for one in asked[0])
        inputs: list[list[Tensor]] = [[] for _ in chips]
        pre_activations: list[list[Tensor]] = [[] for _ in asked[0]]
        below = [x for _ in asked[0]]
        for index in range(len(network.layers)):
            products: Tensor | None = None
            for number, told in enumerate(asked[0]):
                if index > 0 or number == 0:
                    xs = parts if index == 0 else [own(part) for part in below[number].split(rows)]
                    products, read = self._products(index, xs, untold * rows if index else 0, told.keep)
                    if number == 0:
                        for mine, vectors in zip(inputs, read):
                            mine.append(vectors)
                assert products is not None
                a = products.clone() if index == 0 and number + 1 < len(asked[0]) else products
                self._add_noise(index, a, told.address, [one[number].injected(index) for one in asked])
                if network.bias:
                    a.view(len(chips), rows, -1).add_(torch.stack([chip.biases[index] for chip in chips])[:, None])
                pre_activations[number].append(a)
                below[number] = network.activation(a) if index < len(network.layers) - 1 else a.clone()
        activities = [Activities((), tuple(a), y) for a, y in zip(pre_activations, below)]
        return activities, [tuple(mine) for mine in inputs]

    def _products(self, index: int, xs: Sequence[Tensor], samples: int, keep: bool) -> tuple[Tensor, list[Tensor]]:
        """(W R x of all rows, x* of every chip where it is made)."""
        rows, read = len(xs[0]), []
        products = xs[0].new_empty(len(xs) * rows, self.chips[0].network.layers[index].units)
        for chip, x, out in zip(self.chips, xs, products.split(rows)):
            matrix, decorrelation = chip._runner._matrix(index, samples), chip._decorrelation[index]
            if matrix is None or keep:
                vectors = x if decorrelation is None else x @ decorrelation.T
                read.append(vectors)
                x = vectors if matrix is None else x
            torch.mm(x, (chip._crossbars[index].weight if matrix is None else matrix).T, out=out)
        return products, read

    def _add_noise(self, index: int, a: Tensor, address: Address, epsilons: Sequence[Tensor | None]) -> None:
        """ε and z, in place, as each chip's own read has them."""
        for chip, epsilon, mine in zip(self.chips, epsilons, a.chunk(len(self.chips))):
            (read,) = chip._crossbars[index].read_product(mine[:, None], [address], [epsilon])
            if read.data_ptr() != mine.data_ptr():
                mine.copy_(read[:, 0])


def _plain(chip: SimulatedChip) -> bool:
    """All it does is the law above. (NumPy's products are float64's.)"""
    if chip.description.adc is not None or chip._mixers or chip._runner.backend.name == "numpy":
        return False
    dense = all(isinstance(layer, DenseLayer) for layer in chip.network.layers)
    return dense and all(crossbar.linear and crossbar._source is None for crossbar in chip._crossbars)


def _joined(passes: Sequence[Activities]) -> Activities:
    """One pass of every chip as a pass on all rows, without x*."""
    layers = zip(*(one.pre_activations for one in passes))
    return Activities((), tuple(torch.cat(layer) for layer in layers), torch.cat([one.outputs for one in passes]))
