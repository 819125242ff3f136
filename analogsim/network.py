"""Networks as crossbar-shaped matrices read at one or many positions.

    x*_{l-1} = R_{l-1} x_{l-1} ,   a_l = W_l x*_{l-1} + b_l ,   x_l = f(a_l)

with f a leaky ReLU on every layer but the last. A layer says how its input is cut into the
vectors a crossbar is read with: one vector a sample for a dense layer, one an output position for
a convolution. Images go channels last, (batch, height, width, channels), from layer to layer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise

import torch
from torch import Tensor

from analogsim.convolution import output_size
from analogsim.errors import ArgumentError
from analogsim.streams import Address, Stream

PLASTIC = 1.32471795724474602596  # the real root of g³ = g + 1
ALIGNED = 64  # bytes, as torch's own memory begins: a product may depend on it in its last bit


@dataclass(frozen=True)
class DenseLayer:
    """W (units, inputs), read once a sample."""

    inputs: int
    units: int
    positions: int = 1

    @property
    def size(self) -> int:
        """Activations below it, of one sample."""
        return self.inputs

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one sample's x*, as `Activities` hold it."""
        return (self.inputs,)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Of one sample's pre-activations, as `Activities` hold them."""
        return (self.units,)

    def vectors(self, x: Tensor) -> Tensor:
        """(batch, ...) activations -> (batch, positions, inputs) vectors to read with."""
        return x.reshape(len(x), 1, self.inputs)

    def adjoint(self, errors: Tensor, *matrices: Tensor) -> Tensor:
        """(batch, ..., units) errors g of y = A B … v, v the `vectors` of x: what they are at x, … Bᵀ Aᵀ g."""
        for matrix in matrices:
            errors = errors @ matrix
        return errors.reshape(len(errors), self.inputs)


@dataclass(frozen=True)
class ConvLayer:
    """W (units, channels · kernel²), read once an output position; a row as in torch's conv2d,
    (channels, kernel, kernel) flattened, so W.view(units, channels, kernel, kernel) is its kernel."""

    channels: int
    height: int
    width: int
    units: int
    kernel: int
    stride: int = 1
    padding: int = 0

    @property
    def size(self) -> int:
        return self.height * self.width * self.channels

    @property
    def inputs(self) -> int:
        return self.channels * self.kernel**2

    @property
    def output_size(self) -> tuple[int, int]:
        """(height, width) of the map of output positions; below 1 where the kernel does not fit."""
        return output_size(self.height, self.width, self.kernel, self.stride, self.padding)

    @property
    def positions(self) -> int:
        return math.prod(self.output_size)

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (self.positions, self.inputs)

    @property
    def output_shape(self) -> tuple[int, ...]:
        return (self.positions, self.units)

    def image(self, x: Tensor) -> Tensor:
        """(batch, ...) activations as (batch, height, width, channels)."""
        return x.reshape(len(x), self.height, self.width, self.channels)

    def vectors(self, x: Tensor) -> Tensor:
        """The patches under the kernel, one an output position, rows of positions first."""
        x = torch.nn.functional.pad(self.image(x), (0, 0, *(self.padding,) * 4))
        patches = x.unfold(1, self.kernel, self.stride).unfold(2, self.kernel, self.stride)
        return patches.reshape(len(x), self.positions, self.inputs)  # (…, channels, kernel, kernel) copied once

    def spread(self, count: int) -> list[int]:
        """Numbers of `count` different output positions (all, if there are fewer), evenly spread over the map.

        From its middle on, (1/2 + i/g, 1/2 + i/g²) mod 1 for i = 0, 1, …, g³ = g + 1: the additive recurrence R2 of
        M. Roberts, "The unreasonable effectiveness of quasirandom sequences" (2018). No grid: steps of a row's length
        would see one column alone.
        """
        (height, width), found, i = self.output_size, dict[int, None](), 0
        while len(found) < min(count, self.positions):
            row, column = (int(size * ((0.5 + i / PLASTIC**k) % 1)) for k, size in ((1, height), (2, width)))
            found[row * width + column] = None
            i += 1
        return list(found)

    def adjoint(self, errors: Tensor, *matrices: Tensor) -> Tensor:
        """As of a dense layer, summed where patches overlap: a transposed convolution, which makes no patches."""
        image = errors.reshape(len(errors), *self.output_size, -1).permute(0, 3, 1, 2)
        kernels = reduce(torch.matmul, matrices).view(-1, self.channels, self.kernel, self.kernel)
        beyond = [(size + 2 * self.padding - self.kernel) % self.stride for size in (self.height, self.width)]
        x = torch.nn.functional.conv_transpose2d(image, kernels, None, self.stride, self.padding, beyond)
        return x.permute(0, 2, 3, 1).reshape(len(errors), self.height * self.width, self.channels)


Layer = DenseLayer | ConvLayer


@dataclass(frozen=True)
class Network:
    """Layers from first to last, and the slope of the leaky ReLU below 0."""

    layers: tuple[Layer, ...]
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
        layers = tuple(DenseLayer(i, u) for i, u in pairwise(sizes))
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


def own(part: Tensor) -> Tensor:
    """The same numbers, beginning in memory as a tensor of its own would."""
    return part if part.data_ptr() % ALIGNED == 0 else part.clone()
