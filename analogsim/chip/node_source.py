"""A two-state source at every node of a layer (a stochastic magnetic tunnel junction): s a, s = ±1.

    P(s flips) = p from one read of a node to the next; a layer's positions are read one after the other

One chain, exact, in the order of the reads, with u of read (step, pass, sample) its own in either order:

    whole_batch   s1 p1, s2 p1, … sB p1, s1 p2, …          along a pass, and on through those that follow
    interleaved   s1 p1, s1 p2, … s1 pP, s2 p1, …          all passes of a sample, then the next sample's

and on into the next step. To know where the next sample begins, the first pass looks at the flips of all P,
which are drawn again when those passes are read: the states are the same whether passes are run one after
the other or together. A pass beyond P goes on from the one before it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from analogsim.backends import Backend
from analogsim.config.chip import NodeTelegraph
from analogsim.physics.telegraph import fair_states, node_noise, node_states
from analogsim.streams import Address, Stream


class NodeSource:
    """passes: P, of a step, where they are interleaved; 0: whole batches. units: nodes of the layer. stream: of the
    source alone."""

    def __init__(
        self,
        settings: NodeTelegraph,
        passes: int,
        units: int,
        stream: Stream,
        backend: Backend,
        device: torch.device,
    ):
        self._settings, self._passes = settings, passes
        self._stream, self._backend, self._device = stream, backend, device
        self.states = fair_states(backend.uniform(stream.child("first"), Address(), 1, units, device)[0])
        self._before: Tensor | None = None  # the pass before this one, where passes are interleaved
        self._this: list[Tensor] = []

    def read(self, address: Address, batch: int, positions: int, quiet: bool) -> Tensor:
        """(batch, positions, units): what the source adds. quiet: the constant part alone, and nothing moves on."""
        settings, units = self._settings, len(self.states)
        if quiet and settings.flip_probability:
            return self.states.new_full((batch, positions, units), settings.mean)
        if address.first_sample == 0:
            self._before = torch.cat(self._this) if address.pass_index and self._this else None
            self._this = []
        states = self._next(address, lambda at: self._uniforms(at, batch, positions))
        if self._passes:
            self._this.append(states)
        noise = node_noise(states, amplitude=settings.amplitude, mean=settings.mean)
        return noise.view(batch, positions, units)

    def _next(self, address: Address, uniforms: Callable[[Address], Tensor]) -> Tensor:
        """States of the reads at that address, (reads, units). uniforms: of those of a pass."""
        p, u = self._settings.flip_probability, uniforms(address)
        done = sum(len(part) for part in self._this)
        if self._before is not None and done + len(u) <= len(self._before):
            return _kept(u, p) * self._before[done : done + len(u)]
        states, last = node_states(self.states, u, p), 1.0
        unread = range(address.pass_index + 1, self._passes)
        if unread:
            later = torch.ones_like(u)
            for number in unread:
                later *= _kept(uniforms(replace(address, pass_index=number)), p)
            states *= later.cumprod(0).mul_(later)  # of the samples before: a sign is its own inverse
            last = later[-1:].sum(0)
        if len(u):
            self.states = states[-1] * last
        return states

    def _uniforms(self, address: Address, batch: int, positions: int) -> Tensor:
        units = len(self.states)
        u = self._backend.uniform(self._stream, address, batch, positions * units, self._device)
        return u.view(batch * positions, units)

    def copy(self, stream: Stream) -> NodeSource:
        """The same source as it stands, going on by numbers of another stream."""
        other = copy.copy(self)
        other._stream, other._this = stream, list(self._this)
        return other


def _kept(u: Tensor, p: float) -> Tensor:
    """What a read does to a state: 1, or -1 with probability p."""
    return torch.where(u < p, -1.0, 1.0).to(u.dtype)
