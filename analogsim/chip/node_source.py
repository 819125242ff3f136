"""A two-state source at every node of a layer (a stochastic magnetic tunnel junction): s a, s = ±1.

    P(s flips) = p from one read of a node to the next; a layer's positions are read one after the other

whole_batch: the chain runs along the samples of a pass and on through the passes that follow (exact).
interleaved: the passes of a sample follow each other, so pass k goes on from pass k - 1 of the same sample
by one read, and the first pass runs along the samples by two, 2 p (1 - p), as with two passes a step
(exact for these: any two reads of one pass, and the two of one sample).
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from analogsim.backends import Backend
from analogsim.config.chip import NodeTelegraph
from analogsim.physics.telegraph import fair_states, node_noise, node_states
from analogsim.streams import Address, Stream


class NodeSource:
    """units: nodes of the layer. stream: of the source alone."""

    def __init__(
        self,
        settings: NodeTelegraph,
        interleaved: bool,
        units: int,
        stream: Stream,
        backend: Backend,
        device: torch.device,
    ):
        self._settings, self._interleaved = settings, interleaved
        self._stream, self._backend, self._device = stream, backend, device
        self.states = fair_states(backend.uniform(stream.child("first"), Address(), 1, units, device)[0])
        self._before: Tensor | None = None  # the pass before this one, where passes are interleaved
        self._this: list[Tensor] = []

    def read(self, address: Address, batch: int, positions: int, quiet: bool) -> Tensor:
        """(batch, positions, units): what the source adds. quiet: the constant part alone, and nothing moves on."""
        settings, units = self._settings, len(self.states)
        if quiet and settings.flip_probability:
            return self.states.new_full((batch, positions, units), settings.mean)
        if self._interleaved and address.first_sample == 0:
            self._before = torch.cat(self._this) if address.pass_index and self._this else None
            self._this = []
        u = self._backend.uniform(self._stream, address, batch, positions * units, self._device)
        states = self._next(u.view(batch * positions, units))
        if len(states):
            self.states = states[-1].clone()
        if self._interleaved:
            self._this.append(states)
        noise = node_noise(states, amplitude=settings.amplitude, mean=settings.mean)
        return noise.view(batch, positions, units)

    def _next(self, u: Tensor) -> Tensor:
        """States of the reads that these uniforms are for, (reads, units)."""
        p = self._settings.flip_probability
        if self._before is None:
            return node_states(self.states, u, 2 * p * (1 - p) if self._interleaved else p)
        done = sum(len(part) for part in self._this)
        return torch.where(u < p, -1.0, 1.0).to(u.dtype) * self._before[done : done + len(u)]

    def copy(self, stream: Stream) -> NodeSource:
        """The same source as it stands, going on by numbers of another stream."""
        other = copy.copy(self)
        other._stream, other._this = stream, list(self._this)
        return other
