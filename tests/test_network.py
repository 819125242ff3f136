"""Layers as crossbars read at positions: a convolution against torch's own."""

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
def test_scatter_is_the_adjoint_of_vectors(layer):
    """⟨vectors(x), v⟩ = ⟨x, scatter(v)⟩ for all x and v."""
    x = numbers(2, layer.height, layer.width, layer.channels).double()
    v = numbers(2, layer.positions, layer.inputs, seed=2).double()
    one, other = (layer.vectors(x) * v).sum(), (x.flatten() * layer.scatter(v).flatten()).sum()
    torch.testing.assert_close(one, other)


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
