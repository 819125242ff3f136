"""Passes of one step through a network's crossbars: side by side while they fit, a part at a time.

    a_l = W_l R_l v ,   v the vectors of x_{l-1}: one a sample, or a patch an output position

Nothing here changes a result beyond rounding, and no noise at all: noise depends on its address
alone (streams.py). All passes read the same x, so the first layer's product is made once for all of
them. Small passes are stacked into one product. Where a crossbar reads nothing but W times its
input and R x is not to be told, W R is folded once a step in place of two products a vector, and
of a convolution no patch is ever made; elsewhere patches that nobody keeps (kernel² times the
image) are made, read and dropped a part of the batch at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from analogsim.backends import Backend
from analogsim.chip.crossbar import Crossbar
from analogsim.contracts import Activities
from analogsim.network import ConvLayer, Network
from analogsim.streams import Address

STACKED_BYTES = 256 * 2**20  # activities of the passes that run side by side
STREAMED_BYTES = 32 * 2**20  # input vectors made at a time where nobody keeps them


@dataclass(frozen=True)
class Pass:
    """One pass, or its next rows. injected: its ε of a layer, or None; keep: x* is to be told."""

    address: Address
    injected: Callable[[int], Tensor | None]
    keep: bool


def passes_at_once(network: Network, batch: int) -> int:
    """How many passes run side by side: their activities take at most STACKED_BYTES, or one does."""
    held = 8 * batch * sum(math.prod(layer.output_shape) for layer in network.layers)  # a_l and x_l
    return max(1, STACKED_BYTES // max(held, 1))


@dataclass
class PassRunner:
    """Runs passes. matrices: R_{l-1} per layer, None where there is none; all lists are the chip's.

    mixers: crossbars that hold matrices; R x is then a read like any other, anew in every pass.
    """

    network: Network
    crossbars: Sequence[Crossbar]
    biases: Sequence[Tensor]
    matrices: Sequence[Tensor | None]
    backend: Backend
    mixers: Mapping[int, Crossbar] = field(default_factory=dict)
    # What holds until its key changes. R is held too, so that no other matrix comes by its id.
    _folded: dict[int, tuple[tuple[object, ...], Tensor, Tensor]] = field(default_factory=dict)
    _first: tuple[Tensor, tuple[object, ...], Tensor, Tensor] | None = None

    def run(self, x: Tensor, passes: Sequence[Pass], untold: int) -> list[Activities]:
        """The activities of every pass on x (batch, ...). untold: passes of this step whose x* is not told."""
        batch, layers = len(x), self.network.layers
        inputs: list[list[Tensor]] = [[] for _ in passes]
        pre_activations: list[list[Tensor]] = [[] for _ in passes]
        outputs: list[Tensor] = []
        for index, layer in enumerate(layers):
            matrix = self._matrix(index, untold * batch)
            if index == 0:
                read, told = self._read_first(matrix, x, passes)
            else:
                read, told = self._read(index, matrix, outputs, passes)
            outputs = []
            for number, (a, vectors) in enumerate(zip(read, told)):
                if self.network.bias:
                    a += self.biases[index]
                a = a.view(batch, *layer.output_shape)
                if vectors is not None:
                    inputs[number].append(vectors.view(batch, *layer.input_shape))
                pre_activations[number].append(a)
                outputs.append(self.network.activation(a) if index < len(layers) - 1 else a.clone())
        return [Activities(tuple(x), tuple(a), y) for x, a, y in zip(inputs, pre_activations, outputs)]

    def _matrix(self, index: int, samples: int) -> Tensor | None:
        """What reads the layer's undecorrelated vectors in one product: W, or W R where folding it
        costs less than the R x it saves on `samples` samples; None where it takes two."""
        crossbar, decorrelation, layer = self.crossbars[index], self.matrices[index], self.network.layers[index]
        if not crossbar.linear or decorrelation is None:
            return crossbar.weight if crossbar.linear else None
        if index in self.mixers or samples * layer.positions <= layer.units:
            return None
        key = (crossbar.weight._version, id(decorrelation), decorrelation._version)
        folded = self._folded.get(index)
        if folded is None or folded[0] != key:
            product = self.backend.product(crossbar.weight, decorrelation.T)
            folded = self._folded[index] = (key, decorrelation, product)
        return folded[2]

    def _read_first(
        self, matrix: Tensor | None, x: Tensor, passes: Sequence[Pass]
    ) -> tuple[list[Tensor], list[Tensor | None]]:
        """(a without its bias, x* where it is told) of every pass, from one product."""
        addresses, epsilons = [one.address for one in passes], [one.injected(0) for one in passes]
        if 0 in self.mixers:
            mixed = self.mixers[0].read_passes(self.network.layers[0].vectors(x), addresses, [None] * len(passes))
            read = self.crossbars[0].read_passes(torch.cat(mixed), addresses, epsilons, stacked=True)
            return read, [vectors if one.keep else None for one, vectors in zip(passes, mixed)]
        kept = any(one.keep for one in passes)
        vectors = self._first_vectors(x) if kept or matrix is None else None
        if matrix is None:
            assert vectors is not None
            read = self.crossbars[0].read_passes(vectors, addresses, epsilons)
        else:
            read = self.crossbars[0].read_product(self._product(0, x, matrix), addresses, epsilons)
        return read, [vectors.clone() if vectors is not None and one.keep else None for one in passes]

    def _first_vectors(self, x: Tensor) -> Tensor:
        """x*_0, computed once for all passes of a step on the same x; never handed out itself."""
        matrix = self.matrices[0]
        if matrix is None:
            return self.network.layers[0].vectors(x)
        key = (x._version, id(matrix), matrix._version)
        if self._first is None or self._first[0] is not x or self._first[1] != key:
            self._first = (x, key, matrix, self._product(0, x, matrix))
        return self._first[3]

    def _read(
        self, index: int, matrix: Tensor | None, below: Sequence[Tensor], passes: Sequence[Pass]
    ) -> tuple[list[Tensor], list[Tensor | None]]:
        """The same for a layer above the first, whose x differs from pass to pass."""
        layer, batch = self.network.layers[index], len(below[0])
        rows = max(STREAMED_BYTES // (4 * layer.positions * layer.inputs), 1)  # of vectors, at a time
        together = max(rows // max(batch, 1), 1)
        read: list[Tensor] = []
        told: list[Tensor | None] = []
        while len(read) < len(passes):
            at = len(read)
            end = at + 1
            while end < len(passes) and end - at < together and not (passes[at].keep or passes[end].keep):
                end += 1
            x = below[at] if end == at + 1 else torch.cat(list(below[at:end]))
            addresses, epsilons = [p.address for p in passes[at:end]], [p.injected(index) for p in passes[at:end]]
            vectors = self._vectors(index, x, addresses) if passes[at].keep else None
            if matrix is not None:
                product = self._product(index, x, matrix)
                read += self.crossbars[index].read_product(product, addresses, epsilons, stacked=True)
            elif vectors is None and len(x) > rows:  # one pass, since as many as `together` fit
                read.append(self._read_in_parts(index, x, addresses[0], epsilons[0], rows))
            else:
                whole = self._vectors(index, x, addresses) if vectors is None else vectors
                read += self.crossbars[index].read_passes(whole, addresses, epsilons, stacked=True)
            told += [vectors] + [None] * (end - at - 1)
        return read, told

    def _read_in_parts(self, index: int, x: Tensor, at: Address, epsilon: Tensor | None, rows: int) -> Tensor:
        parts = []
        for start in range(0, len(x), rows):
            here = Address(at.step, at.pass_index, at.first_sample + start)
            vectors = self._vectors(index, x[start : start + rows], [here])
            injected = None if epsilon is None else epsilon[start : start + rows]
            parts.append(self.crossbars[index].read_vectors(vectors, here, injected))
        return torch.cat(parts)

    def _vectors(self, index: int, x: Tensor, addresses: Sequence[Address]) -> Tensor:
        """x*_{l-1} = R v of every vector v of x, a batch an address."""
        matrix = self.matrices[index]
        if index in self.mixers:
            vectors = self.network.layers[index].vectors(x)
            return torch.cat(self.mixers[index].read_passes(vectors, addresses, [None] * len(addresses), stacked=True))
        return self.network.layers[index].vectors(x) if matrix is None else self._product(index, x, matrix)

    def _product(self, index: int, x: Tensor, matrix: Tensor) -> Tensor:
        """matrix v of every vector v of x, (batch, positions, rows of the matrix)."""
        layer = self.network.layers[index]
        if isinstance(layer, ConvLayer):
            return self.backend.convolve(layer.image(x), matrix, layer.kernel, layer.stride, layer.padding)
        return self.backend.product(layer.vectors(x), matrix)
