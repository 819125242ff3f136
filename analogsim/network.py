"""Networks as crossbar-shaped matrices read at one or many positions.

    x*_{l-1} = R_{l-1} x_{l-1} ,   a_l = W_l x*_{l-1} + b_l ,   x_l = f(a_l)

with f a leaky ReLU on every layer but the last. A layer says how its input is cut into the
vectors a crossbar is read with: one vector a sample for a dense layer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from analogsim.errors import ArgumentError
from analogsim.streams import Address, Stream


@dataclass(frozen=True)
class DenseLayer:
    """W (units, inputs), read once a sample."""

    inputs: int
    units: int
    positions: int = 1

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Of one sample's pre-activations, as `Activities` hold them."""
        return (self.units,)

    def vectors(self, x: Tensor) -> Tensor:
        """(batch, ...) activations -> (batch, positions, inputs) vectors to read with."""
        return x.reshape(len(x), 1, self.inputs)


@dataclass(frozen=True)
class Network:
    """Layers from first to last, and the slope of the leaky ReLU below 0."""

    layers: tuple[DenseLayer, ...]
    negative_slope: float = 0.2
    bias: bool = True

    @classmethod
    def dense(
        cls, inputs: int, hidden: tuple[int, ...], outputs: int, negative_slope: float = 0.2, bias: bool = True
    ) -> Network:
        """inputs -> hidden... -> outputs."""
        sizes = (inputs, *hidden, outputs)
        if min(sizes) < 1:
            raise ArgumentError("sizes", sizes, "whole numbers, 1 or more")
        layers = tuple(DenseLayer(i, u) for i, u in zip(sizes, sizes[1:]))
        return cls(layers, negative_slope, bias)

    @property
    def nodes(self) -> int:
        """N = Σ_{l=1..L} N_l: every unit at every position of every layer, the last included."""
        return sum(math.prod(layer.output_shape) for layer in self.layers)

    def activation(self, a: Tensor) -> Tensor:
        """f(a), a fresh tensor."""
        return torch.nn.functional.leaky_relu(a, self.negative_slope)

    def derivative(self, a: Tensor) -> Tensor:
        """f'(a)."""
        return torch.where(a > 0, 1.0, self.negative_slope)

    def initial_weights(self, stream: Stream) -> list[Tensor]:
        """He-normal: W ~ N(0, 2 / inputs). (Biases start at 0.)"""
        return [
            torch.from_numpy(
                stream.child(index).normal(Address(), layer.units, layer.inputs) * math.sqrt(2 / layer.inputs)
            ).float()
            for index, layer in enumerate(self.layers)
        ]
