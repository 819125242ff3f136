"""Passes of one step through a network's crossbars: side by side while they fit, a part at a time.

    a_l = W_l R_l v ,   v the vectors of x_{l-1}: one a sample, or a patch an output position

Nothing here changes a result beyond rounding, and no noise at all: noise depends on its address
alone (streams.py). All passes read the same x, so the first layer's product is made once for all of
them. Where a read is a function of x alone (no noise, cells that stand still), the passes go on
together up to the first layer that each is perturbed in, and only the layers above are read for it
alone. The ledger counts the reads that a chip would make, shared or not. Passes are stacked into one
product. Where a crossbar reads nothing but W times its input and R x is not to be told, W R is folded
once a step in place of two products a vector, and of a convolution no patch is ever made. Nor are they made without R
where W v and V v² are convolutions of what the DACs make of the image; elsewhere patches that nobody keeps
(kernel² times the image) are made, read and dropped a part of the batch at a time.
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
from analogsim.chip.crossbar import STREAMED_BYTES, Crossbar
from analogsim.contracts import Activities
from analogsim.network import ConvLayer, Network
from analogsim.streams import Address

STACKED_BYTES = 64 * 2**20  # activities of the passes that run side by side


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
class Held:
    """Of one layer, from one group of passes of a step to the next: what the x that they share comes to.

    value: W R x, or x* where a crossbar needs it; above: x of the next layer. R is held so that no other
    matrix comes by its id.
    """

    x: Tensor
    key: tuple[object, ...]
    matrix: Tensor | None
    value: Tensor
    above: Tensor | None = None


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
    _held: dict[int, Held] = field(default_factory=dict)

    def run(self, x: Tensor, passes: Sequence[Pass], untold: int, more: bool = False) -> list[Activities]:
        """The activities of every pass on x (batch, ...). untold: passes of this step whose x* is not told;
        more: others of this step follow on the same x."""
        batch, layers = len(x), self.network.layers
        inputs: list[list[Tensor]] = [[] for _ in passes]
        pre_activations: list[list[Tensor]] = [[] for _ in passes]
        outputs: dict[int, Tensor] = {}
        # x_{l-1}: `common` to the passes of `alike`, which nothing has set apart so far; `apart` has the others' own.
        alike, common, apart = list(range(len(passes))), x, dict[int, Tensor]()
        untold_here = sum(not one.keep for one in passes)
        for index, layer in enumerate(layers):
            together = [passes[n] for n in alike]
            epsilons = [one.injected(index) for one in together]
            saved = self._saved(index, together, [passes[n] for n in apart], untold, untold_here) * batch
            read = self._read_alike(index, common, together, epsilons, saved, more) if alike else []
            read += self._read_apart(index, self._matrix(index, saved) if apart else None, apart, passes)
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
                    common = self._above(index, a)
        if not more:
            self._held.clear()
        return [Activities(tuple(inputs[n]), tuple(a), outputs[n]) for n, a in enumerate(pre_activations)]

    def _saved(self, index: int, alike: Sequence[Pass], apart: Sequence[Pass], untold: int, untold_here: int) -> int:
        """x of the step, as far as this group tells, that nobody is told R x of: each saves its product by a fold."""
        kept = any(one.keep for one in alike)
        if index == 0:  # x*_0 at hand is as good, but of a convolution: the image is read faster than its patches
            return untold if isinstance(self.network.layers[0], ConvLayer) else int(not kept)
        own = sum(not one.keep for one in apart)
        return int(bool(alike) and not kept) + (round(own * untold / untold_here) if untold_here else untold)

    def _repeatable(self, index: int) -> bool:
        mixer = self.mixers.get(index)
        return self.crossbars[index].repeatable and (mixer is None or mixer.repeatable)

    def _window(self, index: int) -> ConvLayer | None:
        """The layer, where it is a convolution that its crossbar reads from the image."""
        layer, crossbar = self.network.layers[index], self.crossbars[index]
        plain = isinstance(layer, ConvLayer) and self.matrices[index] is None and index not in self.mixers
        return layer if plain and crossbar.reads_images and not crossbar.linear else None  # type: ignore[return-value]

    def _matrix(self, index: int, samples: int) -> Tensor | None:
        """What reads the layer's undecorrelated vectors in one product: W, or W R where folding it
        costs less than the R x it saves on `samples` samples; None where it takes two."""
        crossbar, decorrelation, layer = self.crossbars[index], self.matrices[index], self.network.layers[index]
        if not crossbar.linear or decorrelation is None:
            return crossbar.weight if crossbar.linear else None
        if index in self.mixers or samples * layer.positions <= layer.units:
            return None
        key, folded = _key(crossbar.weight, decorrelation), self._folded.get(index)
        if key is not None and folded is not None and folded[0] == key:
            return folded[2]
        product = self.backend.product(crossbar.weight, decorrelation.T)
        if key is not None:
            self._folded[index] = (key, decorrelation, product)
        return product

    def _above(self, index: int, a: Tensor) -> Tensor:
        """f(a) of the passes that share it, in this group and those that follow."""
        held = self._held.get(index)
        if held is None:
            return self.network.activation(a)
        if held.above is None:
            held.above = self.network.activation(a)
        return held.above

    def _read_alike(
        self,
        index: int,
        x: Tensor,
        passes: Sequence[Pass],
        epsilons: Sequence[Tensor | None],
        saved: int,
        more: bool,
    ) -> list[Read]:
        """Of passes on one and the same x; its product with a linear crossbar, or x*_0, is made once a step."""
        crossbar, matrix = self.crossbars[index], self.matrices[index]
        if index in self.mixers or self._window(index) or (index > 0 and not crossbar.linear):
            return self._read(index, self._matrix(index, saved), x, passes, epsilons, stacked=False)
        key, held = _key(x, crossbar.weight, self.biases[index], matrix), self._held.pop(index, None)
        if held is not None and (held.x is not x or held.key != key):
            held = None
        addresses, vectors = [one.address for one in passes], None
        if crossbar.linear:
            vectors = self._vectors(index, x, addresses[:1]) if any(one.keep for one in passes) else None
            value = self._common_product(index, x, vectors, saved) if held is None else held.value
        else:
            value = vectors = self._vectors(index, x, addresses[:1]) if held is None else held.value
        if held is None and more and key is not None:
            held = Held(x, key, matrix, value)
        if held is not None:
            self._held[index] = held
        if crossbar.linear:
            read = crossbar.read_product(value if held is None else value.clone(), addresses, epsilons)
        else:
            read = crossbar.read_passes(value, addresses, epsilons)
        # Without R, vectors are a view of x.
        fresh = matrix is not None and (held is None or vectors is not held.value)
        return _handed(read, vectors, passes, fresh)

    def _common_product(self, index: int, x: Tensor, vectors: Tensor | None, saved: int) -> Tensor:
        """W x*. vectors: x*, if it is at hand."""
        matrix = self._matrix(index, saved)
        if matrix is not None:
            return self._product(index, x, matrix)
        vectors = self._vectors(index, x, []) if vectors is None else vectors
        return self.backend.product(vectors, self.crossbars[index].weight)

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
        kept, rows, window = any(one.keep for one in passes), self._rows(index), self._window(index)
        made = matrix is None and window is None
        if made and not kept and len(x) > rows and (len(passes) == 1 or self._repeatable(index)):
            return self._read_in_parts(index, x, passes, epsilons, rows)
        vectors = self._vectors(index, x, addresses) if kept or made else None
        if matrix is not None:
            read = crossbar.read_product(self._product(index, x, matrix), addresses, epsilons, stacked)
        elif window is not None:
            read = crossbar.read_passes(window.image(x), addresses, epsilons, stacked, window)
        else:
            assert vectors is not None
            read = crossbar.read_passes(vectors, addresses, epsilons, stacked)
        own = vectors is None or stacked or not _share_memory(vectors, x)
        return _handed(read, vectors, passes, fresh=own)  # others have the same x, and vectors may be a view of it

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


def _key(*of: Tensor | None) -> tuple[object, ...] | None:
    """The versions of these tensors and which one the last is: of what is made of them, other once one changes.

    None where torch counts no versions (inference mode): nothing is then kept.
    """
    there = [tensor for tensor in of if tensor is not None]
    if any(tensor.is_inference() for tensor in there):
        return None
    return *(tensor._version for tensor in there), id(of[-1])


def _share_memory(one: Tensor, other: Tensor) -> bool:
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


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
