"""Passes of one step through a network's crossbars: side by side while they fit, a part at a time.

    a_l = W_l R_l v ,   v the vectors of x_{l-1}: one a sample, or a patch an output position

Nothing here changes a result beyond rounding, and no noise at all: noise depends on its address
alone (streams.py). All passes read the same x, so the first layer's product is made once for all of
them. Where a read is a function of x alone (no noise, cells that stand still), the passes go on
together up to the first layer that each is perturbed in, and only the layers above are read for it
alone. The ledger counts the reads that a chip would make, shared or not. Passes are stacked into one
product. Where a crossbar reads nothing but W times its input and R x is not to be told, W R is folded
once a step in place of two products a vector, and of a convolution no patch is ever made; elsewhere
patches that nobody keeps (kernel² times the image) are made, read and dropped a part of the batch at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import itemgetter

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


Read = tuple[Tensor, Tensor | None]  # a without its bias; x* where it is told


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
    # W R while neither changes. R is held too, so that no other matrix comes by its id.
    _folded: dict[int, tuple[tuple[object, ...], Tensor, Tensor]] = field(default_factory=dict)
    # From one group of passes of a step to the next: x, a key, R, and W x*_0, or x*_0 where that is not enough.
    _first: tuple[Tensor, tuple[object, ...], Tensor | None, Tensor] | None = None

    def run(self, x: Tensor, passes: Sequence[Pass], untold: int, more: bool = False) -> list[Activities]:
        """The activities of every pass on x (batch, ...). untold: passes of this step whose x* is not told;
        more: others of this step follow on the same x."""
        batch, layers = len(x), self.network.layers
        inputs: list[list[Tensor]] = [[] for _ in passes]
        pre_activations: list[list[Tensor]] = [[] for _ in passes]
        outputs: dict[int, Tensor] = {}
        # x_{l-1}: `common` to the passes of `alike`, which nothing has set apart so far; `apart` has the others' own.
        alike, common, apart = list(range(len(passes))), x, dict[int, Tensor]()
        groups = untold / max(sum(not one.keep for one in passes), 1)  # of this size, in the step
        for index, layer in enumerate(layers):
            together = [passes[n] for n in alike]
            epsilons = [one.injected(index) for one in together]
            if index == 0:
                read = self._read_first(x, passes, epsilons, untold, more)
            else:
                unasked = sum(not passes[n].keep for n in apart) + (
                    not any(one.keep for one in together) and bool(alike)
                )
                matrix = self._matrix(index, round(unasked * groups * batch))
                read = self._read(index, matrix, common, together, epsilons, stacked=False) if alike else []
                read += self._read_apart(index, matrix, apart, passes)
            order = [*alike, *apart]
            alike = [n for n, epsilon in zip(alike, epsilons) if epsilon is None and self._repeatable(index)]
            apart = {}
            for n, (a, vectors) in sorted(zip(order, read), key=itemgetter(0)):
                if self.network.bias:
                    a += self.biases[index]
                a = a.view(batch, *layer.output_shape)
                if vectors is not None:
                    inputs[n].append(vectors.view(batch, *layer.input_shape))
                pre_activations[n].append(a)
                if index == len(layers) - 1:
                    outputs[n] = a.clone()
                elif n not in alike:
                    apart[n] = self.network.activation(a)
                elif n == alike[0]:
                    common = self.network.activation(a)
        return [Activities(tuple(inputs[n]), tuple(a), outputs[n]) for n, a in enumerate(pre_activations)]

    def _repeatable(self, index: int) -> bool:
        mixer = self.mixers.get(index)
        return self.crossbars[index].repeatable and (mixer is None or mixer.repeatable)

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
        self, x: Tensor, passes: Sequence[Pass], epsilons: Sequence[Tensor | None], untold: int, more: bool
    ) -> list[Read]:
        """Of every pass; the product with x once a step. more: of passes to come."""
        if 0 in self.mixers:
            return self._read(0, None, x, passes, epsilons, stacked=False)
        crossbar, matrix, addresses = self.crossbars[0], self.matrices[0], [one.address for one in passes]
        key = (x._version, crossbar.weight._version, id(matrix), None if matrix is None else matrix._version)
        found = self._first
        held = found[3] if found is not None and found[0] is x and found[1] == key else None
        vectors = None
        if any(one.keep for one in passes) or not crossbar.linear:
            vectors = self._vectors(0, x, addresses[:1]) if held is None or crossbar.linear else held
        if crossbar.linear:
            held = self._first_product(x, vectors, untold) if held is None else held
            read = crossbar.read_product(held.clone() if more else held, addresses, epsilons)
        else:
            held = vectors
            assert vectors is not None
            read = crossbar.read_passes(vectors, addresses, epsilons)
        self._first = (x, key, matrix, held) if more and held is not None else None
        # Without R, vectors are a view of x; else they are the caller's unless they are held.
        return _handed(read, vectors, passes, fresh=matrix is not None and not (more and vectors is held))

    def _first_product(self, x: Tensor, vectors: Tensor | None, untold: int) -> Tensor:
        """W x*_0. vectors: x*_0, if it is at hand: then it saves the fold; but of a convolution
        the image is read faster than its patches."""
        dense = not isinstance(self.network.layers[0], ConvLayer)
        matrix = self._matrix(0, len(x) * (untold if not dense else vectors is None))
        if matrix is not None:
            return self._product(0, x, matrix)
        return self.backend.product(self._vectors(0, x, []) if vectors is None else vectors, self.crossbars[0].weight)

    def _read(
        self,
        index: int,
        matrix: Tensor | None,
        x: Tensor,
        passes: Sequence[Pass],
        epsilons: Sequence[Tensor | None],
        stacked: bool,
    ) -> list[Read]:
        """Of passes on one and the same x; or stacked, each on its own, one after another."""
        crossbar, layer, addresses = self.crossbars[index], self.network.layers[index], [one.address for one in passes]
        if index in self.mixers and len(passes) > 1:
            mixer = self.mixers[index]
            mixed = mixer.read_passes(layer.vectors(x), addresses, [None] * len(passes), stacked)
            same = not stacked and mixer.repeatable
            read = crossbar.read_passes(mixed[0] if same else torch.cat(mixed), addresses, epsilons, stacked=not same)
            return [(a, v if one.keep else None) for a, v, one in zip(read, mixed, passes)]
        kept, rows = any(one.keep for one in passes), self._rows(index)
        if matrix is None and not kept and len(x) > rows and (len(passes) == 1 or self._repeatable(index)):
            return self._read_in_parts(index, x, passes, epsilons, rows)
        vectors = self._vectors(index, x, addresses) if kept or matrix is None else None
        if matrix is not None:
            read = crossbar.read_product(self._product(index, x, matrix), addresses, epsilons, stacked)
        else:
            assert vectors is not None
            read = crossbar.read_passes(vectors, addresses, epsilons, stacked)
        return _handed(read, vectors, passes, fresh=True)

    def _read_in_parts(
        self, index: int, x: Tensor, passes: Sequence[Pass], epsilons: Sequence[Tensor | None], rows: int
    ) -> list[Read]:
        """Of some rows of x at a time."""
        parts = []
        for start in range(0, len(x), rows):
            at = slice(start, start + rows)
            here = [replace(p, address=replace(p.address, first_sample=p.address.first_sample + start)) for p in passes]
            injected = [None if epsilon is None else epsilon[at] for epsilon in epsilons]
            parts.append(self._read(index, None, x[at], here, injected, stacked=False))
        return [(torch.cat([a for a, _ in of_one]), None) for of_one in zip(*parts)]

    def _read_apart(
        self, index: int, matrix: Tensor | None, apart: Mapping[int, Tensor], passes: Sequence[Pass]
    ) -> list[Read]:
        """Of passes that each have an x of their own, in their order; a told one alone, others as many as fit."""
        read: list[Read] = []
        for told, run in groupby(apart, key=lambda n: passes[n].keep):
            numbers = list(run)
            together = 1 if told else max(self._rows(index) // max(len(apart[numbers[0]]), 1), 1)
            for start in range(0, len(numbers), together):
                some = numbers[start : start + together]
                x = apart[some[0]] if len(some) == 1 else torch.cat([apart[n] for n in some])
                epsilons = [passes[n].injected(index) for n in some]
                read += self._read(index, matrix, x, [passes[n] for n in some], epsilons, stacked=True)
        return read

    def _rows(self, index: int) -> int:
        """Samples whose input vectors are made at a time where nobody keeps them."""
        layer = self.network.layers[index]
        return max(STREAMED_BYTES // (4 * layer.positions * layer.inputs), 1)

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


def _handed(read: Sequence[Tensor], vectors: Tensor | None, passes: Sequence[Pass], fresh: bool) -> list[Read]:
    """With x* for those who are told it, each their own. fresh: one of them may have `vectors` itself."""
    handed: list[Read] = []
    for a, one in zip(read, passes):
        mine = vectors if one.keep else None
        if mine is not None and not fresh:
            mine = mine.clone()
        fresh = fresh and mine is None
        handed.append((a, mine))
    return handed
