"""The public `analogsim.Crossbar`: what a read gives back, which noise it gets, its converters and its ledger."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from analogsim import Crossbar, load_chip
from analogsim.backends import NAMES
from analogsim.config.chip import ChipDescription
from analogsim.errors import ArgumentError
from analogsim.streams import Address, Stream

GENERIC, IDEAL = load_chip("crossbar-generic"), load_chip("ideal")
NODE = IDEAL.replace(**{"node_noise.sigma": 0.5})
every_backend = pytest.mark.parametrize("backend", NAMES)
every_other_backend = pytest.mark.parametrize("backend", ["numba", "torch"])
sizes = st.sampled_from([1, 2, 3, 17, 31, 67, 127])


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def chip(**parts):
    return ChipDescription.model_validate(parts)


def counts(ledger):
    return {name: getattr(ledger, name) for name in ("reads", "conversions", "writes")}


def zeros_crossbar(out=7, inputs=5, **options):
    """Its reads are its noise, free of the product's rounding."""
    return Crossbar(np.zeros((out, inputs)), **({"chip": NODE} | options))


X, W = numbers(6, 5), numbers(7, 5, seed=1)


# What a read gives back


@every_backend
@pytest.mark.parametrize("shape", [(6, 5), (1, 5), (0, 5), (6, 4, 5), (6, 1, 5), (0, 4, 5), (6, 0, 5)])
@pytest.mark.parametrize("description", [IDEAL, NODE, GENERIC], ids=lambda c: c.name)
def test_a_read_keeps_batch_and_positions(backend, shape, description):
    y = Crossbar(W, chip=description, seed=0, backend=backend).read(numbers(*shape))
    assert y.shape == (*shape[:-1], 7)
    assert np.isfinite(y).all()


@every_backend
@settings(max_examples=40, deadline=None)
@given(batch=st.just(0) | sizes, out=sizes, inputs=sizes)
def test_any_size_reads_as_the_product_on_an_ideal_chip(backend, batch, out, inputs):
    x, w = numbers(batch, inputs), numbers(out, inputs, seed=1)
    y = Crossbar(w, chip=IDEAL, backend=backend).read(x)
    assert_allclose(y, x.astype(float) @ w.T.astype(float), atol=1e-5 * inputs**0.5)
    assert Crossbar(w, chip=GENERIC, backend=backend).read(x).shape == (batch, out)


@every_backend
def test_numpy_gives_numpy_and_torch_gives_torch(backend):
    crossbar = Crossbar(W, chip=GENERIC, backend=backend)
    ours, theirs = crossbar.read(X, step=3), crossbar.read(torch.from_numpy(X).requires_grad_(), step=3)
    assert (type(ours), ours.dtype) == (np.ndarray, np.float32)
    assert (type(theirs), theirs.dtype, theirs.requires_grad) == (torch.Tensor, torch.float32, False)
    assert_array_equal(ours, theirs.numpy())


INPUTS = {
    "float64": X.astype(np.float64),
    "columns first": np.asfortranarray(X),
    "backwards": X[::-1, ::-1].copy()[::-1, ::-1],
    "every other": np.repeat(X, 2, axis=1)[:, ::2],
    "torch, transposed": torch.from_numpy(X.T.copy()).T,
    "torch, float64": torch.from_numpy(X).double(),
}


@every_backend
@pytest.mark.parametrize("form", INPUTS)
def test_layout_and_dtype_of_arguments_change_nothing(backend, form):
    crossbar = Crossbar(W, chip=GENERIC, backend=backend)
    assert_array_equal(crossbar.read(INPUTS[form], step=0), crossbar.read(X, step=0))
    assert_array_equal(Crossbar(INPUTS[form], chip=GENERIC, backend=backend).weight, X)


@every_backend
def test_whole_numbers_and_positions_of_any_strides_are_read(backend):
    whole, positions = np.arange(-10, 20).reshape(6, 5), np.moveaxis(numbers(5, 6, 4), 0, -1)
    for x in (whole, whole.astype(np.int16), positions):
        assert_allclose(Crossbar(W, chip=IDEAL, backend=backend).read(x), x @ W.T, atol=1e-4)


@every_backend
def test_a_read_neither_changes_nor_keeps_its_arguments(backend):
    x, w = X.copy(), W.copy()
    crossbar = Crossbar(w, chip=NODE, backend=backend)
    first = crossbar.read(x, step=0)
    assert_array_equal(x, X)
    kept = first.copy()
    x[:], w[:], first[:] = 9, 9, 9
    assert_array_equal(crossbar.read(X, step=0), kept)


# Which noise a read gets


def test_the_same_address_gives_the_same_noise_and_any_other_another():
    addresses = [(2, 1, 0), (3, 1, 0), (2, 0, 0), (2, 1, 6)]  # step, pass, first sample
    for crossbar in (Crossbar(W, chip=GENERIC), zeros_crossbar()):
        first, again = [[crossbar.read(X, step=s, pass_index=p, first_sample=f) for s, p, f in addresses] for _ in "12"]
        assert_array_equal(first, again)
    assert len(np.unique(first)) == 4 * 6 * 7


def test_a_plain_read_moves_on_to_the_next_step():
    crossbar = zeros_crossbar()
    plain = [crossbar.read(X), crossbar.read(X), crossbar.read(X, step=0), crossbar.read(X)]
    for y, step in zip(plain, (0, 1, 0, 2)):
        assert_array_equal(y, zeros_crossbar().read(X, step=step))


def test_seeds_give_different_noise_and_a_stream_is_a_seed():
    noise = [zeros_crossbar(seed=seed).read(X, step=0) for seed in (0, 1, 2**70, Stream.from_seed(0))]
    assert len(np.unique(np.stack(noise))) == 4 * 6 * 7
    assert_array_equal(zeros_crossbar(seed=0).read(X, step=0), noise[0])
    assert_array_equal(noise[3], 0.5 * Stream.from_seed(0).normal(Address(), 6, 7))


@every_backend
@settings(max_examples=30, deadline=None)
@given(cut=st.integers(0, 23), positions=st.sampled_from([1, 3]), out=st.sampled_from([1, 7, 65]))
def test_reads_in_chunks_equal_one_read(backend, cut, positions, out):
    crossbar = zeros_crossbar(out, backend=backend)
    x = numbers(23, positions, 5)
    whole = crossbar.read(x, step=1)
    parts = [crossbar.read(x[:cut], step=1), crossbar.read(x[cut:], step=1, first_sample=cut)]
    assert_array_equal(np.concatenate(parts), whole)


@every_other_backend
def test_backends_give_the_same_noise_bits(backend):
    x = numbers(100, 3, 5)
    ours, theirs = (zeros_crossbar(65, backend=name).read(x, step=1) for name in (backend, "numpy"))
    assert_array_equal(ours.view(np.int32), theirs.view(np.int32))


@every_other_backend
@pytest.mark.parametrize("law", [{"law": "constant", "sigma_uS": 1.0}, {"law": "proportional", "k": 0.1}])
def test_backends_agree_to_float_tolerance_without_an_adc(backend, law):
    description = chip(cell={"read_noise": law, "g_min_uS": 1.0}, dac={"bits": 8}, node_noise={"sigma": 0.1})
    x, w = numbers(200, 64), numbers(50, 64, seed=1)
    ours, theirs = (Crossbar(w, description, backend=name).read(x, step=1) for name in (backend, "numpy"))
    assert_allclose(ours, theirs, atol=2e-5)


@every_other_backend
def test_backends_agree_to_a_rare_code_with_an_adc(backend):
    """Rounding tips a value over the edge between two codes: 5 of 10^5 at most, and by one code."""
    x, w = numbers(500, 64), numbers(200, 64, seed=1)
    ours, theirs = (Crossbar(w, GENERIC, backend=name).read(x, step=1) for name in (backend, "numpy"))
    lsb = abs(x).max(1, keepdims=True) * abs(w).max() * 20 / 255
    apart = Counter(np.abs((ours - theirs) / lsb).round().astype(int).ravel().tolist())
    assert set(apart) <= {0, 1}
    assert apart[1] <= 5


# Ledger


COSTS = [  # conversions a vector, writes of all 7 × 5 weights
    (IDEAL, 0, 35),
    (chip(cell={}), 0, 70),
    (chip(dac={"bits": 4}), 5, 35),
    (chip(adc={"bits": 4, "bound": 1.0}), 7, 35),
    (GENERIC, 12, 70),
]


@pytest.mark.parametrize(("description", "conversions", "writes"), COSTS)
def test_the_ledger_counts_reads_conversions_and_writes(description, conversions, writes):
    crossbar = Crossbar(W, chip=description)
    assert counts(crossbar.ledger) == {"reads": 0, "conversions": 0, "writes": writes}
    crossbar.read(numbers(4, 3, 5))
    assert counts(crossbar.ledger) == {"reads": 12, "conversions": 12 * conversions, "writes": writes}
    crossbar.read(numbers(6, 5))
    crossbar.write(torch.zeros(7, 5))
    crossbar.load({"weight": torch.zeros(7, 5)})  # putting a saved state back costs nothing
    assert counts(crossbar.ledger) == {"reads": 18, "conversions": 18 * conversions, "writes": 2 * writes}


# Errors

NAN, INFINITE = numbers(6, 5), numbers(6, 4, 5)
NAN[2, 3], INFINITE[5, 3, 4] = np.nan, -np.inf


def refused(argument, value, call, allowed=""):
    """`call` raises an ArgumentError that says all three."""
    with pytest.raises(ArgumentError) as caught:
        call()
    assert (caught.value.argument, caught.value.value) == (argument, value)
    assert allowed in caught.value.allowed
    assert str(caught.value) == f"{argument}: {value!r} is not allowed; allowed: {caught.value.allowed}"


@pytest.mark.parametrize("x", [numbers(5), numbers(5, 6), numbers(2, 2, 2, 5), numbers(6, 0), NAN, INFINITE])
def test_a_read_refuses(x):
    crossbar = Crossbar(W, chip=GENERIC)
    finite = np.isfinite(x).all()
    value, allowed = (f"shape {x.shape}", "(batch, 5)") if finite else ("NaN or infinity", "finite")
    refused("x", value, lambda: crossbar.read(x), allowed)
    refused("x", value, lambda: crossbar.read(torch.from_numpy(x)), allowed)
    assert crossbar.ledger.reads == 0


@pytest.mark.parametrize("weight", [numbers(5), numbers(0, 5), numbers(7, 0), numbers(2, 2, 2), NAN, [[1e300]]])
def test_a_crossbar_refuses_weights(weight):
    value = "NaN or infinity" if np.shape(weight) in ((6, 5), (1, 1)) else f"shape {weight.shape}"
    refused("weight", value, lambda: Crossbar(weight, chip=IDEAL))


def test_a_crossbar_refuses_other_arguments():
    refused("backend", "jax", lambda: Crossbar(W, chip=IDEAL, backend="jax"), "numpy, numba, torch")
    refused("seed", -1, lambda: Crossbar(W, chip=IDEAL, seed=-1), "0 or more")
    refused("step", -1, lambda: Crossbar(W, chip=IDEAL).read(X, step=-1), "4294967295")
    refused("first_sample", 2.0, lambda: Crossbar(W, chip=IDEAL).read(X, first_sample=2.0))
