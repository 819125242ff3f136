"""Layers as crossbars read at positions: a convolution against torch's own."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn.functional import conv2d

from analogsim.network import ConvLayer, DenseLayer, Network
from analogsim.streams import Stream

SIDE = st.sampled_from([1, 2, 3, 5, 7, 11])


@st.composite
def convolutions(draw):
    layer = ConvLayer(
        channels=draw(st.sampled_from([1, 2, 3, 5])),
        height=draw(SIDE),
        width=draw(SIDE),
        units=draw(st.sampled_from([1, 3, 7])),
        kernel=draw(st.integers(1, 5)),
        stride=draw(st.integers(1, 3)),
        padding=draw(st.integers(0, 2)),
    )
    assume(min(layer.output_size) >= 1)
    return layer


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def convolve(layer, x, weight):
    """torch's conv2d on channels-last images, as (batch, positions, units)."""
    kernel = weight.view(layer.units, layer.channels, layer.kernel, layer.kernel)
    y = conv2d(x.permute(0, 3, 1, 2), kernel, stride=layer.stride, padding=layer.padding)
    return y.permute(0, 2, 3, 1).flatten(1, 2)


@settings(max_examples=80, deadline=None)
@given(convolutions())
def test_reading_the_patches_is_torch_s_conv2d(layer):
    x = numbers(2, layer.height, layer.width, layer.channels)
    weight = numbers(layer.units, layer.inputs, seed=1)
    y = layer.vectors(x) @ weight.T
    assert y.shape == (2, *layer.output_shape)
    torch.testing.assert_close(y, convolve(layer, x, weight), rtol=1e-4, atol=1e-5)


@settings(max_examples=80, deadline=None)
@given(convolutions())
def test_the_adjoint_takes_errors_back_to_the_image(layer):
    """⟨A B vectors(x), g⟩ = ⟨x, adjoint(g, A, B)⟩ for all x and g."""
    x, g = (numbers(2, *shape, seed=2).double() for shape in ((layer.size,), layer.output_shape))
    a, b = numbers(layer.units, layer.inputs).double(), numbers(layer.inputs, layer.inputs, seed=1).double()
    one = (layer.vectors(x) @ (a @ b).T * g).sum()
    torch.testing.assert_close(one, (x.flatten() * layer.adjoint(g, a, b).flatten()).sum())
    torch.testing.assert_close(layer.adjoint(g, a @ b), layer.adjoint(g, a, b))


MAPS = [(15, 15), (7, 7), (5, 5), (30, 30), (14, 14), (12, 12), (13, 13), (8, 21), (3, 40)]


@pytest.mark.parametrize("size", MAPS, ids=str)
def test_spread_positions_cover_the_map(size):
    """Different ones, from the middle on; in every third of the rows and of the columns their share, within 1 + k/8
    of k (steps of a row's length, as of 16 positions of 15 × 15 by linspace, see two columns alone)."""
    height, width = size
    layer = ConvLayer(1, height, width, 1, kernel=1)
    assert layer.spread(1) == [height // 2 * width + width // 2]
    for count in (2, 4, 8, 9, 16, 31, height * width, 2 * height * width):
        kept = layer.spread(count)
        assert len(kept) == len(set(kept)) == min(count, layer.positions)
        assert kept[: min(count, 2)] == layer.spread(2)[: min(count, 2)]
        rows, columns = np.divmod(np.array(kept), width)
        for places, length in ((rows, height), (columns, width)):
            assert set(places) <= set(range(length))
            expected, _ = np.histogram(np.arange(length), bins=3, range=(0, length))
            seen, _ = np.histogram(places, bins=3, range=(0, length))
            assert abs(seen - expected / length * len(kept)).max() <= 1 + count / 8


def test_a_full_image_kernel_and_a_one_pixel_image_are_dense_layers():
    image = ConvLayer(channels=3, height=4, width=5, units=7, kernel=4)
    assert ConvLayer(3, 4, 4, 7, kernel=4).output_shape == (1, 7)
    assert image.output_size == (1, 2)
    x, weight = numbers(2, 4, 4, 3), numbers(7, 48, seed=1)
    conv = ConvLayer(3, 4, 4, 7, kernel=4).vectors(x) @ weight.T
    dense = DenseLayer(48, 7).vectors(x.permute(0, 3, 1, 2)) @ weight.T  # the kernel's order, channels first
    assert torch.equal(conv, dense)
    pixel = numbers(2, 1, 1, 48, seed=3)
    one_by_one = ConvLayer(48, 1, 1, 7, kernel=1).vectors(pixel) @ weight.T
    assert torch.equal(one_by_one, DenseLayer(48, 7).vectors(pixel) @ weight.T)


def test_the_paper_s_convnet_counts_every_unit_of_every_position():
    """Table 1 on 32 × 32: 15 × 15 × 16, 7 × 7 × 32, 5 × 5 × 64, 1024, 10."""
    layers = (
        ConvLayer(3, 32, 32, 16, 3, 2),
        ConvLayer(16, 15, 15, 32, 3, 2),
        ConvLayer(32, 7, 7, 64, 3, 1),
        DenseLayer(1600, 1024),
        DenseLayer(1024, 10),
    )
    assert [layer.output_shape for layer in layers[:3]] == [(225, 16), (49, 32), (25, 64)]
    network = Network(layers)
    assert network.nodes == 225 * 16 + 49 * 32 + 25 * 64 + 1024 + 10
    weights = network.initial_weights(Stream.from_seed(0))
    assert [tuple(w.shape) for w in weights] == [(16, 27), (32, 144), (64, 288), (1024, 1600), (10, 1024)]
    assert abs(float(weights[2].std()) / (2 / 288) ** 0.5 - 1) < 0.03
