"""The one suite every backend passes: numpy, numba, torch and triton give the same noise bit for bit.

Triton runs in its interpreter here (conftest.py); what the compiler makes of it is in test_gpu.py.
Bits are compared as int32, so that -0 and 0, and one NaN and another, count as different.
"""

import sys
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analogsim.backends import NAMES, get_backend, has_triton, interpreted
from analogsim.backends import numba as kernels
from analogsim.errors import ArgumentError
from analogsim.network import ConvLayer
from analogsim.streams import Address, HeldStep, Stream

ALPHA = 1e-6
CPU = torch.device("cpu")
STREAM = Stream.from_seed(21).child("read noise", 0)
PASS = Address(3, 1)
BACKENDS = [pytest.param(get_backend(name), id=name) for name in NAMES]
if has_triton() and interpreted():
    BACKENDS.append(pytest.param(get_backend("triton"), id="triton"))
    sys.modules["analogsim.backends.triton"].SIZE = 4096  # the interpreter takes as long for many lanes as for few
else:
    reason = "runs on a GPU here" if has_triton() else "3.6 or later is not installed"
    BACKENDS.append(pytest.param(None, id="triton", marks=pytest.mark.skip(reason=f"Triton's interpreter: {reason}")))
every_backend = pytest.mark.parametrize("backend", BACKENDS)
*OTHERS, TRITON = BACKENDS  # the interpreter takes 10 to 20 ms a row; many rows are for `pytest -m slow`
SLOWLY = pytest.param(*TRITON.values, id=TRITON.id, marks=[*TRITON.marks, pytest.mark.slow])
every_backend_many_rows = pytest.mark.parametrize("backend", [*OTHERS, SLOWLY])


def assert_same_bits(left, right):
    left, right = torch.as_tensor(left), torch.as_tensor(right)
    assert left.dtype == right.dtype == torch.float32
    assert left.shape == right.shape
    assert torch.equal(left.contiguous().view(torch.int32), right.contiguous().view(torch.int32))


@contextmanager
def threads(count):
    """So many threads; the Numba kernels then share out even a few rows."""
    before = torch.get_num_threads(), kernels.LEAST
    torch.set_num_threads(count)
    kernels.LEAST = 1
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        kernels.LEAST = before[1]


@every_backend
def test_a_backend_knows_its_name(backend):
    assert get_backend(backend.name).name == backend.name


# Normals and uniforms

words_32 = st.one_of(st.integers(0, 2**32 - 1), st.integers(2**32 - 3, 2**32 - 1), st.integers(0, 2))
addresses = st.builds(Address, words_32, words_32, words_32)


@every_backend_many_rows
@pytest.mark.parametrize("count", [1, 2])
@settings(max_examples=50, deadline=None)
@given(address=addresses, rows=st.integers(0, 40), outputs=st.integers(1, 300), seed=st.integers(0))
def test_normals_are_those_of_the_stream(backend, count, address, rows, outputs, seed):
    stream = Stream.from_seed(seed)
    with threads(count):
        z = backend.normal(stream, address, rows, outputs, CPU)
    assert_same_bits(z, stream.normal(address, rows, outputs))


@every_backend_many_rows
@pytest.mark.parametrize("count", [1, 2, 3])
def test_normals_of_a_whole_layer_agree(backend, count):
    """2·10^5 draws at once, as the kernels vectorise and share them out over threads."""
    with threads(count):
        z = backend.normal(STREAM, Address(5, 1), 257, 784, CPU)
    assert_same_bits(z, STREAM.normal(Address(5, 1), 257, 784))


@every_backend
def test_normals_ignore_the_default_dtype(backend):
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        z = backend.normal(STREAM, Address(), 3, 70, CPU)
    finally:
        torch.set_default_dtype(before)
    assert_same_bits(z, STREAM.normal(Address(), 3, 70))


@every_backend
@pytest.mark.parametrize(("rows", "outputs"), [(1, 1), (3, 7), (0, 4), (10, 65), (5, 128)])
def test_uniforms_are_those_of_the_stream_bit_for_bit(backend, rows, outputs):
    stream, address = Stream.from_seed(3).child("u"), Address(1, 2, 5)
    u = backend.uniform(stream, address, rows, outputs, torch.device("cpu"))
    assert torch.equal(u, torch.from_numpy(stream.uniform(address, rows, outputs)))


# The output stage


def stage(backend, y, sigma=None, variance=None, lsb=None, levels=7, address=PASS):
    """The output stage on a copy of y, which it may overwrite."""
    return backend.output_stage(y.clone(), STREAM, address, sigma, variance, lsb, levels)


def example(batch=37, positions=3, units=61):
    """y, sigma, variance and lsb of a layer, from a fixed seed."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(batch, positions, units, generator=generator)
    sigma, lsb = torch.rand(2, batch, positions, generator=generator) + 0.1
    return y, sigma, torch.rand(batch, positions, units, generator=generator), lsb


SHAPES = [(1, 1, 1), (37, 3, 61), (64, 1, 500), (2, 49, 6), (0, 2, 3), (3, 2, 0)]


@every_backend
@pytest.mark.parametrize("shape", SHAPES)
def test_noise_is_sigma_z_at_position_times_units_plus_unit(backend, shape):
    y, sigma, _, _ = example(*shape)
    batch, positions, units = shape
    z = torch.from_numpy(STREAM.normal(PASS, batch, positions * units)).view(shape)
    assert_same_bits(stage(backend, torch.zeros(shape), sigma), 0 + sigma[..., None] * z)
    assert_same_bits(stage(backend, y, sigma), y + sigma[..., None] * z)


@every_backend
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("has_sigma", [True, False])
def test_sigma_and_variance_combine_as_a_root_of_squares(backend, shape, has_sigma):
    y, sigma, variance, _ = example(*shape)
    z = torch.from_numpy(STREAM.normal(PASS, shape[0], shape[1] * shape[2])).view(shape)
    std = (sigma[..., None].double() ** 2 * has_sigma + variance.double()).sqrt()
    out = stage(backend, y, sigma if has_sigma else None, variance)
    torch.testing.assert_close(out.double(), y.double() + std * z, rtol=0, atol=2e-6)
    reference = stage(get_backend("numpy"), y, sigma if has_sigma else None, variance)
    torch.testing.assert_close(out, reference, rtol=0, atol=1e-6)


@every_backend
@pytest.mark.parametrize("levels", [1, 7, 127])
def test_the_adc_quantises_and_clips(backend, levels):
    """Codes are whole, end at ±levels, and are the nearest to y; the same bits as plain torch, NaN and ±inf too."""
    y, _, _, lsb = example()
    y = 200 * y
    y[0, 0, :4] = torch.tensor([float("nan"), float("inf"), -float("inf"), -1e-9])
    out = stage(backend, y, lsb=lsb, levels=levels)
    codes = (out.double() / lsb[..., None]).nan_to_num()
    assert (codes - codes.round()).abs().max() < 1e-4
    assert codes.abs().max() <= levels + 1e-4
    assert ((codes - y / lsb[..., None]).abs() <= 0.5 + 1e-4)[codes.abs() < levels - 0.5][1:].all()
    assert_same_bits(out, (y / lsb[..., None]).round().clamp(-levels, levels) * lsb[..., None])


@every_backend
def test_the_adc_rounds_half_to_even(backend):
    y = torch.tensor([[[-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.49, 3.51]]]) / 4
    out = stage(backend, y, lsb=torch.full((1, 1), 0.25), levels=3)
    assert (4 * out).flatten().tolist() == [-2, -2, 0, 0, 2, 2, 3, 3]


@every_backend
def test_noise_comes_before_the_adc(backend):
    y, sigma, _, lsb = example()
    assert_same_bits(stage(backend, y, sigma, None, lsb), stage(backend, stage(backend, y, sigma), lsb=lsb))


@every_backend
def test_without_noise_and_adc_y_comes_back(backend):
    y = example()[0]
    assert_same_bits(stage(backend, y), y)
    zero = torch.zeros(37, 3)
    assert torch.equal(stage(backend, y, zero), y)
    assert torch.equal(stage(backend, y, None, torch.zeros_like(y)), y)


@every_backend_many_rows
@pytest.mark.parametrize("chunk", [1, 5, 36])
@pytest.mark.parametrize("count", [1, 2])
def test_chunks_and_threads_change_no_bit(backend, chunk, count):
    y, *rest = example()
    first = 2**32 - 20  # the count of samples wraps alike everywhere
    whole = stage(backend, y, *rest, address=Address(9, 0, first))
    parts = []
    with threads(count):
        for at in range(0, len(y), chunk):
            address = Address(9, 0, (first + at) % 2**32)
            parts.append(stage(backend, *(tensor[at : at + chunk] for tensor in (y, *rest)), address=address))
    assert_same_bits(torch.cat(parts), whole)


@every_backend
def test_strides_change_no_bit_and_arguments_stay(backend):
    """Transposed, sliced and expanded tensors; only y may be overwritten."""
    y, sigma, variance, lsb = example()
    strided = [torch.stack([tensor, tensor], -1).transpose(0, 1)[..., 0].transpose(0, 1) for tensor in example()]
    assert not any(tensor.is_contiguous() for tensor in strided)
    out = backend.output_stage(strided[0], STREAM, PASS, *strided[1:], 7)
    assert_same_bits(out, stage(backend, y, sigma, variance, lsb))
    for tensor, original in zip(strided[1:], (sigma, variance, lsb)):
        assert_same_bits(tensor, original)
    one = torch.full((1, 1), 0.5)
    assert_same_bits(stage(backend, y, one.expand(37, 3)), stage(backend, y, torch.full((37, 3), 0.5)))


def check_standard_deviation(residuals, sigma):
    """Variance of residuals / sigma: Gaussian limit at level ALPHA."""
    z = residuals.double() / sigma
    assert abs(z.square().mean() - 1) * (z.numel() / 2) ** 0.5 < stats.norm.isf(ALPHA / 2)


def residuals(backend, sigma, variance):
    """4·10^5 draws of the output stage's noise at one sigma and variance, y being 2."""
    y = torch.full((40, 100, 100), 2.0)
    with threads(1):  # torch's many small operations crawl where they wait for a busy core
        return stage(backend, y, torch.full((40, 100), sigma), torch.full_like(y, variance)) - 2


@every_backend
def test_noise_has_the_asked_standard_deviation(backend):
    """4·10^5 draws, variance at α = 1e-6: detects a σ off by 0.6 %."""
    check_standard_deviation(residuals(backend, 0.3, 0.16), 0.5)
    check_standard_deviation(residuals(backend, 0.3, 0.0), 0.3)


@every_backend
@pytest.mark.parametrize(
    ("sigma", "variance"),
    [(0.3 * 1.01, 0.16 * 1.01**2), (0.3**2, 0.16), (0.3, 0.4), (0.3, 0.16**2), (0.7, 0), (0.3, 0)],
)
def test_the_deviation_test_catches(backend, sigma, variance):
    """σ + 1 %, σ² for σ, the root for the variance and the reverse, σ added to the root, a variance left out."""
    with pytest.raises(AssertionError):
        check_standard_deviation(residuals(backend, sigma, variance), 0.5)


# Products


def factors(*shape):
    """x (..., in) and matrix (out, in), scaled so that products are of order 1."""
    generator = torch.Generator().manual_seed(1)
    *batch, out, width = shape
    return torch.randn(*batch, width, generator=generator) / width**0.5, torch.randn(out, width, generator=generator)


@every_backend
@pytest.mark.parametrize("shape", [(1, 1, 1), (64, 10, 784), (5, 9, 32, 27), (0, 3, 4)])
def test_a_product_is_x_matrix_transposed(backend, shape):
    x, matrix = factors(*shape)
    product = backend.product(x, matrix)
    assert product.dtype == torch.float32
    torch.testing.assert_close(product.double(), x.double() @ matrix.double().T, rtol=0, atol=1e-5)
    strided = torch.stack([x, x], -1)[..., 0]
    torch.testing.assert_close(backend.product(strided, matrix.T.contiguous().T), product, rtol=0, atol=1e-5)


@every_backend
@given(
    st.integers(1, 3), st.integers(1, 13), st.integers(1, 13), st.integers(1, 5), st.integers(1, 5),
    st.integers(1, 4), st.integers(0, 3), st.integers(0, 4),
)  # fmt: skip
@settings(deadline=None, max_examples=60)
def test_convolve_is_the_product_with_every_patch(backend, channels, height, width, units, kernel, stride, padding, n):
    """And torch's own conv2d in float64, over random strides, paddings and prime sizes."""
    layer = ConvLayer(channels, height, width, units, kernel, stride, padding)
    if min(layer.output_size) < 1:
        return
    rng = torch.Generator().manual_seed(5)
    x = torch.randn(n, height, width, channels, generator=rng)
    matrix = torch.randn(units, layer.inputs, generator=rng)
    y = backend.convolve(x, matrix, kernel, stride, padding)
    assert y.shape == (n, layer.positions, units)
    assert y.is_contiguous()
    torch.testing.assert_close(y, backend.product(layer.vectors(x), matrix), rtol=1e-5, atol=1e-4)
    own = matrix.view(units, channels, kernel, kernel).double()
    exact = torch.nn.functional.conv2d(x.permute(0, 3, 1, 2).double(), own, stride=stride, padding=padding)
    torch.testing.assert_close(y.double(), exact.flatten(2).mT, rtol=1e-5, atol=1e-4)


# torch ≥ 2.9 has a setting a device; older ones do not.
PER_DEVICE = ["mkldnn bf16", "cuda tf32"] if hasattr(torch.backends.mkldnn, "matmul") else []


def device_settings():
    return [getattr(torch.backends, setting.split()[0]).matmul for setting in PER_DEVICE]


def precision():
    """Every process setting of float32 products; torch will not tell one once two disagree."""
    try:
        process = torch.get_float32_matmul_precision()
    except RuntimeError:
        process = "mixed"
    return process, torch.is_autocast_enabled("cpu"), [setting.fp32_precision for setting in device_settings()]


@contextmanager
def lowered(setting):
    """Float32 products lowered in one of the ways torch has for it; all as before afterwards."""
    process, _, devices = precision()
    kind, value = setting.split()
    with torch.autocast("cpu", torch.bfloat16, enabled=kind == "autocast"):
        if kind == "process":
            torch.set_float32_matmul_precision(value)
        elif setting in PER_DEVICE:
            getattr(torch.backends, kind).matmul.fp32_precision = value
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(process)
            for device, before in zip(device_settings(), devices):
                device.fp32_precision = before


@every_backend
@pytest.mark.parametrize("setting", ["process highest", "process high", "process medium", "autocast on", *PER_DEVICE])
def test_a_product_neither_heeds_nor_changes_the_process_settings(backend, setting):
    x, matrix = factors(64, 10, 784)
    convolution = x.view(64, 28, 28, 1), matrix[:, :9].contiguous(), 3, 2, 1
    product, convolved = backend.product(x, matrix), backend.convolve(*convolution)
    with lowered(setting):
        before = precision()
        assert_same_bits(backend.product(x, matrix), product)
        assert_same_bits(backend.convolve(*convolution), convolved)
        assert precision() == before
        with pytest.raises((RuntimeError, ValueError)):
            backend.product(x, matrix.T)
        assert precision() == before


def test_the_product_test_would_see_bf16():
    x, matrix = factors(64, 10, 784)
    with lowered("autocast on"):
        assert ((x @ matrix.T).double() - x.double() @ matrix.double().T).abs().max() > 1e-3


# A step number held in memory


ON_DEVICES = [one for one in BACKENDS if one.id in ("torch", "triton")]


def drawn(backend, address, outputs=100):
    """Normals, uniforms and an output stage at that address, in one row."""
    y, sigma, _, lsb = example(2, 1, outputs)
    kinds = (backend.normal, backend.uniform)
    noise = [kind(STREAM, address, 2, outputs, CPU) for kind in kinds]
    return torch.cat([part.flatten() for part in (*noise, stage(backend, y, sigma, None, lsb, 7, address))])


@every_backend
@pytest.mark.parametrize("step", [0, 1, 5, 2**31 - 1, 2**31, 2**32 - 1])
def test_a_held_step_gives_the_same_bits(backend, step):
    held = torch.tensor([step])
    assert_same_bits(drawn(backend, Address(HeldStep(step, held), 1, 7)), drawn(backend, Address(step, 1, 7)))
    assert held == step


@pytest.mark.parametrize("backend", ON_DEVICES)
def test_a_held_step_is_read_from_memory(backend):
    """The number of the Address stays behind when the memory goes on, as when a recorded step is played again."""
    held = torch.tensor([3])
    address = Address(HeldStep(3, held), 1, 7)
    for step in (4, 2**32 - 1):
        held.fill_(step)
        assert_same_bits(drawn(backend, address), drawn(backend, Address(step, 1, 7)))


def test_a_held_step_is_a_number():
    step = HeldStep(3, torch.tensor([3]))
    assert Address(step, 1) == Address(3, 1)
    assert type(step + 1) is int
    with pytest.raises(ArgumentError, match="step"):
        Address(HeldStep(2**32, torch.tensor([2**32])))
