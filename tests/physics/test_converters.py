"""Converters that are not ideal, and inputs that go in bit by bit.

Stochastic rounding is held against the binomial law, column errors and input noise against theirs,
bit slices against whole numbers: every code of every converter is cut up and put together again.
"""

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from analogsim.physics import converters

DRAWS = 1_000_000
# In steps of a 4-bit converter, m = 7: halves, ends, beyond the ends, near a whole number, 0.
VALUES = np.array([0.0, 0.25, -0.25, 0.5, -2.5, 3.9, -6.99, 7.0, 7.4, -9.0, 1 / 3, 5.0])


# Stochastic rounding


def check_rounding(check, draw, convert):
    """10^6 draws of 12 values: only the two codes next to each, the upper as often as the fraction says."""
    step, shape = 0.3, (DRAWS // len(VALUES), len(VALUES))
    v = torch.from_numpy(VALUES * step).float().expand(shape)
    found = convert(v, 4, 7 * step, u=draw.uniform("round", *shape))
    codes = found.numpy().astype(float) / step
    assert abs(codes - codes.round()).max() < 1e-5
    exact = (v[0] / np.float32(step)).numpy().astype(float)
    for k, value in enumerate(exact):
        below = np.floor(value)
        upper = (codes[:, k].round() == min(below + 1, 7)).sum() if below < 7 else 0
        lower = (codes[:, k].round() == np.clip(below, -7, 7)).sum()
        if -7 <= value < 7:
            check.binomial(upper, shape[0], value - below)
        assert upper + lower == shape[0] or abs(value) > 7


@pytest.mark.parametrize("convert", [converters.convert, converters.quantise], ids=["ADC", "DAC"])
def test_stochastic_rounding_is_binomial(draw, check, convert):
    """83,333 draws of every value at α = 1e-6: refuses a mean off by 0.85 % of a step."""
    check_rounding(check, draw, convert)


def test_stochastic_rounding_keeps_whole_numbers_and_clips(draw):
    u = draw.uniform("round", 1000)
    for value in (-2.0, 0.0, 3.0, 16384.0, -16384.0):
        assert converters.stochastic_round(torch.full((1000,), value), u).eq(value).all()
    assert converters.convert(torch.full((1000,), 9.0), 4, 7.0, u=u).eq(7).all()
    assert converters.convert(torch.full((1000,), -9.0), 4, 7.0, u=u).eq(-7).all()


def by_codes(rounded):
    return lambda v, bits, bound, u: rounded(v / (bound / 7), u).clamp(-7, 7) * (bound / 7)


ROUNDING_BUGS = {
    "rounding: to the nearest": by_codes(lambda v, u: v.round()),
    "rounding: up as often as it should go down": by_codes(lambda v, u: v.floor() + (u > v - v.floor())),
    "rounding: towards 0": by_codes(lambda v, u: v.trunc() + v.sign() * (u / 2 < v.abs().frac())),
    "rounding: up as often as down": by_codes(lambda v, u: v.floor() + (u < 0.5) * (v != v.floor())),
    "rounding: one uniform a vector": by_codes(lambda v, u: converters.stochastic_round(v, u[:1].expand_as(u))),
    "rounding: nearest after a dither of a whole step": by_codes(lambda v, u: (v + 2 * u - 1).round()),
}


@pytest.mark.parametrize("bug", ROUNDING_BUGS)
def test_the_rounding_test_catches(bug, draw, check):
    with pytest.raises(AssertionError):
        check_rounding(check, draw, ROUNDING_BUGS[bug])


# Gain and offset of every column, noise of every input


def check_columns(check, draw, column_errors, convert):
    """10^6 columns of a 16-bit converter: what offset and gain do to 0 and to half the range."""
    gain, offset = column_errors(
        draw.normal("gain", DRAWS), draw.normal("offset", DRAWS), gain_sigma=0.02, offset_sigma_lsb=200.0
    )
    m, bound = 2**15 - 1, 5.0
    at_zero, at_half = (
        convert(torch.full((DRAWS,), v), 16, bound, gain=gain, offset_lsb=offset).numpy().astype(float) * m / bound
        for v in (0.0, bound / 2)
    )
    # rounding to a code, U(-½, ½) steps, is taken for no more than it is: a variance of 1/12
    check.normal(at_zero / (200**2 + 1 / 12) ** 0.5)
    check.normal((at_half - at_zero - m / 2) / ((0.02 * m / 2) ** 2 + 1 / 6) ** 0.5)
    check.uncorrelated(at_zero / 200, (at_half - at_zero - m / 2) / (0.02 * m / 2))


def test_every_column_has_a_gain_and_an_offset(draw, check):
    """10^6 columns, KS, mean, variance and tail at α = 1e-6."""
    check_columns(check, draw, converters.column_errors, converters.convert)


def errors_bug(wrong):
    return lambda a, b, **c: wrong(*converters.column_errors(a, b, **c)), converters.convert


COLUMN_BUGS = {
    "column: σ + 1 % of the gain": errors_bug(lambda gain, offset: (1 + 1.01 * (gain - 1), offset)),
    "column: gain is all spread": errors_bug(lambda gain, offset: (gain - 1, offset)),
    "column: one normal for gain and offset": errors_bug(lambda gain, offset: (gain, (gain - 1) * 1e4)),
    "column: offset in output units": (
        converters.column_errors,
        lambda v, bits, bound, gain, offset_lsb: converters.convert(
            v, bits, bound, gain=gain, offset_lsb=offset_lsb * 5.0
        ),
    ),
    "column: gain taken off again digitally": (
        converters.column_errors,
        lambda v, bits, bound, gain, offset_lsb: (
            converters.convert(v, bits, bound, gain=gain, offset_lsb=offset_lsb) / gain
        ),
    ),
}


@pytest.mark.parametrize("bug", COLUMN_BUGS)
def test_the_column_test_catches(bug, draw, check):
    with pytest.raises(AssertionError):
        check_columns(check, draw, *COLUMN_BUGS[bug])


def test_columns_by_hand():
    """4 bits, bound 7: codes are values. Gain acts before the offset, both before rounding and clipping."""
    v = torch.tensor([[1.0, 1.0, -6.9], [2.2, 6.0, 0.0]])
    gain, offset = torch.tensor([1.5, 1.2, 1.1]), torch.tensor([0.2, -0.4, 0.6])
    assert_array_equal(converters.convert(v, 4, 7.0, gain=gain, offset_lsb=offset), [[2, 1, -7], [4, 7, 1]])


@pytest.mark.parametrize("bits", [2, 5, 16])
def test_an_ideal_convert_is_quantise_to_the_bit(bits, draw):
    v = draw.normal("v", 100, 30)
    for bound in (1.7, v.abs().amax(-1, keepdim=True)):
        assert torch.equal(converters.convert(v, bits, bound), converters.quantise(v, bits, bound))


def check_driven(check, draw, driven):
    """10^6 inputs at three full scales: N(x, (noise · bound)²), independent."""
    x = draw.uniform("x", DRAWS // 3, 3) - 0.5
    bound = torch.tensor([0.5, 2.0, 30.0])
    z = (driven(x, bound, draw.normal("xi", *x.shape), 0.05) - x).numpy() / (0.05 * bound.numpy())
    check.normal(z)
    check.uncorrelated(z[:, 0], z[:, 1])


INPUT_BUGS = {
    "dac noise: not scaled by the bound": lambda x, bound, xi, noise: x + xi * noise,
    "dac noise: scaled by the input": lambda x, bound, xi, noise: x + xi * x.abs() * noise,
    "dac noise: one draw for all inputs": lambda x, bound, xi, noise: x + xi[:, :1] * bound * noise,
    "dac noise: σ + 1 %": lambda x, bound, xi, noise: converters.driven(x, bound, xi, noise * 1.01),
}


def test_a_noisy_dac_adds_noise_in_units_of_its_bound(draw, check):
    check_driven(check, draw, converters.driven)


@pytest.mark.parametrize("bug", INPUT_BUGS)
def test_the_input_test_catches(bug, draw, check):
    with pytest.raises(AssertionError):
        check_driven(check, draw, INPUT_BUGS[bug])


# Bit-serial inputs

SIZES = [(bits, slice_bits) for bits in (2, 3, 6, 8, 11, 16) for slice_bits in (1, 2, 3, 8)]


def every_code(bits):
    m = converters.largest_code(bits)
    return torch.arange(-m, m + 1, dtype=torch.float32)


def check_slices(bits, slice_bits, bit_slices, slice_weights):
    """Every code: whole slices below 2^β with the code's sign, their weighted sum the code; as few as can be."""
    code = every_code(bits)
    parts, weights = bit_slices(code, bits, slice_bits), slice_weights(bits, slice_bits)
    assert len(parts) == len(weights) == -(-(bits - 1) // slice_bits)
    assert list(weights) == [2 ** (slice_bits * s) for s in range(len(parts))]
    assert parts.dtype == torch.float32
    for part in parts:
        assert_array_equal(part, part.round())
        assert part.abs().max() < 2**slice_bits
        assert (part * code >= 0).all()
    assert_array_equal(sum(w * p.double() for w, p in zip(weights, parts)), code)


@pytest.mark.parametrize(("bits", "slice_bits"), SIZES)
def test_every_code_is_its_slices(bits, slice_bits):
    check_slices(bits, slice_bits, converters.bit_slices, converters.slice_weights)
    parts = converters.bit_slices(every_code(bits), bits, slice_bits)
    assert_array_equal(converters.recombine(parts, bits, slice_bits), every_code(bits))


@pytest.mark.parametrize("slice_bits", [1, 3])
def test_a_product_slice_by_slice_is_the_product(slice_bits, draw):
    """Whole-number weights and codes, so that float32 is exact: Σ 2^(βs) W k_s = W k."""
    weight = (draw.normal("weight", 7, 13) * 10).round()
    code = converters.codes(draw.normal("x", 11, 13), 8, 2.0)
    y = converters.bit_slices(code, 8, slice_bits) @ weight.T
    assert_array_equal(converters.recombine(y, 8, slice_bits), code @ weight.T)


def test_codes_are_what_quantise_scales(draw):
    v = draw.normal("v", 100, 3)
    assert_array_equal(converters.codes(v, 5, 1.5) * (1.5 / 15), converters.quantise(v, 5, 1.5))


def test_slices_by_hand():
    """-11 = -(1 + 2·1 + 4·0 + 8·1) bit by bit, and -(3 + 4·2) two by two."""
    code = torch.tensor([-11.0, 6.0])
    assert_array_equal(converters.bit_slices(code, 5, 1), [[-1, 0], [-1, 1], [0, 1], [-1, 0]])
    assert_array_equal(converters.bit_slices(code, 5, 2), [[-3, 2], [-2, 1]])


def slices_bug(wrong):
    return lambda code, bits, slice_bits: wrong(
        converters.bit_slices(code, bits, slice_bits), code
    ), converters.slice_weights


SLICE_BUGS = {
    "slices: most first": slices_bug(lambda parts, code: parts.flip(0)),
    "slices: sign on the last alone": slices_bug(lambda parts, code: torch.cat([parts[:-1].abs(), parts[-1:]])),
    "slices: two's complement": (
        lambda code, bits, n: torch.stack(
            [code.int() >> (n * s) & (2**n - 1) for s in range(-(-(bits - 1) // n))]
        ).float(),
        converters.slice_weights,
    ),
    "slices: the top one dropped": slices_bug(lambda parts, code: parts[:-1]),
    "slices: weights of single bits": (
        converters.bit_slices,
        lambda bits, n: tuple(2**s for s in range(-(-(bits - 1) // n))),
    ),
    "slices: sign counted as a magnitude bit": (
        lambda code, bits, n: converters.bit_slices(code, bits + 1, n),
        lambda bits, n: converters.slice_weights(bits + 1, n),
    ),
}


@pytest.mark.parametrize("bug", SLICE_BUGS)
def test_the_slice_test_catches(bug):
    with pytest.raises(AssertionError):
        check_slices(9, 2, *SLICE_BUGS[bug])
