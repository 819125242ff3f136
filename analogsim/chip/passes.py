"""Passes of one step through a network's crossbars: side by side while they fit, a part at a time.

All passes read the same x, so the first layer's product W x̂*_0 is made once for all of them; above
it small passes are stacked into one product, and vectors that nobody keeps, such as the patches of a
convolution (kernel² times its image), are made, read and dropped a part of the batch at a time.
Noise depends on its address alone (streams.py), so none of this changes it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from analogsim.chip.crossbar import Crossbar
from analogsim.contracts import Activities
from analogsim.network import Layer, Network
from analogsim.streams import Address

STACKED_BYTES = 128 * 2**20  # activities of the passes that run side by side
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


def run_passes(
    network: Network,
    crossbars: Sequence[Crossbar],
    biases: Sequence[Tensor],
    decorrelate: Callable[[int, Tensor], Tensor],
    first: Tensor,
    passes: Sequence[Pass],
) -> list[Activities]:
    """The activities of every pass. first: x*_0, (batch, positions, in), of all; never handed out.

    decorrelate(l, vectors) -> R_l vectors.
    """
    batch = len(first)
    inputs: list[list[Tensor]] = [[] for _ in passes]
    pre_activations: list[list[Tensor]] = [[] for _ in passes]
    outputs: list[Tensor] = []
    for index, (layer, crossbar) in enumerate(zip(network.layers, crossbars)):
        if index == 0:
            told = [first.clone() if one.keep else None for one in passes]
            read = crossbar.read_passes(first, [p.address for p in passes], [p.injected(0) for p in passes])
        else:
            read, told = _read(crossbar, layer, lambda v: decorrelate(index, v), outputs, index, passes)  # noqa: B023
        outputs = []
        for number, a in enumerate(read):
            if network.bias:
                a += biases[index]
            a = a.view(batch, *layer.output_shape)
            vectors = told[number]
            if vectors is not None:
                inputs[number].append(vectors.view(batch, *layer.input_shape))
            pre_activations[number].append(a)
            outputs.append(network.activation(a) if index < len(network.layers) - 1 else a.clone())
    return [Activities(tuple(x), tuple(a), y) for x, a, y in zip(inputs, pre_activations, outputs)]


def _read(
    crossbar: Crossbar,
    layer: Layer,
    decorrelate: Callable[[Tensor], Tensor],
    below: Sequence[Tensor],
    index: int,
    passes: Sequence[Pass],
) -> tuple[list[Tensor], list[Tensor | None]]:
    """(a without its bias, x* where it is told) of every pass through a layer above the first."""
    batch = len(below[0])
    rows = max(STREAMED_BYTES // (4 * layer.positions * layer.inputs), 1)  # of vectors, at a time
    together = max(rows // max(batch, 1), 1)
    read: list[Tensor] = []
    told: list[Tensor | None] = []
    while len(read) < len(passes):
        at = len(read)
        one = passes[at]
        if one.keep or batch > rows:
            vectors, a = _read_one(crossbar, layer, decorrelate, below[at], one, index, batch if one.keep else rows)
            read.append(a)
            told.append(vectors if one.keep else None)
            continue
        end = at + 1
        while end < len(passes) and end - at < together and not passes[end].keep:
            end += 1
        stacked = below[at] if end == at + 1 else torch.cat(list(below[at:end]))
        addresses, epsilons = [p.address for p in passes[at:end]], [p.injected(index) for p in passes[at:end]]
        read += crossbar.read_passes(decorrelate(layer.vectors(stacked)), addresses, epsilons, stacked=True)
        told += [None] * (end - at)
    return read, told


def _read_one(
    crossbar: Crossbar,
    layer: Layer,
    decorrelate: Callable[[Tensor], Tensor],
    x: Tensor,
    one: Pass,
    index: int,
    rows: int,
) -> tuple[Tensor, Tensor]:
    """(the vectors of its last part, a) of one pass, `rows` rows at a time."""
    epsilon, start, parts, vectors = one.injected(index), 0, [], x
    while start < len(x) or not parts:
        vectors = decorrelate(layer.vectors(x[start : start + rows]))
        here = Address(one.address.step, one.address.pass_index, one.address.first_sample + start)
        injected = None if epsilon is None else epsilon[start : start + rows]
        parts.append(crossbar.read_vectors(vectors, here, injected))
        start += max(rows, 1)
    return vectors, parts[0] if len(parts) == 1 else torch.cat(parts)
