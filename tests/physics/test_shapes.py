"""Every cell by itself: any shape, dtype and memory layout gives what each cell alone would, inputs untouched."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analogsim.physics import converters, drift, faults, flicker, programming, read_noise, telegraph

POWER = {"law": "power", "coefficient": 0.0088, "exponent": 0.65, "max": 0.2}
LOG = {
    "law": "log",
    "slope": -0.01,
    "intercept": 0.02,
    "min": 0.01,
    "max": 0.1,
    "split": 0.3,
    "polynomial": (0.05, 0.1),
}
LAWS = {
    "constant": {"sigma_uS": 0.3},
    "proportional": {"k": 0.1},
    "sqrt": {"k_sqrt_uS": 0.1},
    "polynomial": {"coefficients_uS": (0.3, 0.1, -0.01), "unit_uS": 2.0},
    "exponential": {"amplitude_uS": 0.2, "scale_uS": 3.0},
    "table": {"g_uS": (0, 5, 25), "sigma_uS": (0.1, 0.3, 0.2)},
}
ERRORS = {"times_s": (1.0, 1e4), "errors": ({"law": "sqrt", "k_sqrt_uS": 0.1}, {"law": "proportional", "k": 0.1})}


def sigma_of(law):
    return lambda g, xi, u: read_noise.sigma(g, law=law, **LAWS[law])


FUNCTIONS = {  # of g in 0 to 25, normals xi and uniforms u, all of one shape
    **{f"σ {law}": sigma_of(law) for law in LAWS},
    "V sqrt": lambda g, xi, u: read_noise.cell_variance(g, law="sqrt", **LAWS["sqrt"]),
    "V table": lambda g, xi, u: read_noise.cell_variance(g, law="table", **LAWS["table"]),
    "programmed": lambda g, xi, u: programming.programmed(g, u, xi),
    "verified": lambda g, xi, u: programming.verified(g, u, lambda k: xi * 0.5**k, 0.5, 3)[0],
    "1/f power": lambda g, xi, u: flicker.flicker_sigma(g, 5.0, strength=POWER, unit_uS=25.0, t_r_s=1e-6),
    "1/f log": lambda g, xi, u: flicker.flicker_sigma(g, 5.0, strength=LOG, unit_uS=25.0, t_r_s=1e-6),
    "1/f log10": lambda g, xi, u: flicker.flicker_sigma(
        g, u.double(), strength={"law": "log10", "coefficient_uS": 0.03}, t_r_s=1e-6
    ),
    "slow": lambda g, xi, u: flicker.slow_part(g, 0.3, xi),
    "fast": lambda g, xi, u: flicker.fast_variance(g, u.double()),
    "AR(1)": lambda g, xi, u: flicker.next_slow(g, xi, u.double()),
    "power drift": lambda g, xi, u: drift.power_drift(g, xi, 9e4, t0_s=2.0, unit_uS=25.0, exponent=LOG, spread=POWER),
    "log drift": lambda g, xi, u: drift.log_drift(
        g, xi, 9 * u.double(), mean_uS=-0.1, spread_uS=0.1, spread_at_1s_uS=0.3
    ),
    "retention": lambda g, xi, u: drift.retention(g, xi, 300 * u.double(), **ERRORS),
    "stuck": lambda g, xi, u: faults.stuck_cells(u, xi, g, 30.0, stuck_low=0.2, stuck_high=0.2, stuck_random=0.3)[1],
    "ranges": lambda g, xi, u: faults.cell_ranges(xi, g, g_min_uS=1.0, g_max_uS=20.0, g_min_d2d_uS=1.0, g_max_d2d=0.1)[
        1
    ],
    "fair": lambda g, xi, u: telegraph.fair_states(u),
    "node noise": lambda g, xi, u: telegraph.node_noise(xi, amplitude=0.3, mean=0.1),
    "quantise": lambda g, xi, u: converters.quantise(xi, 4, 2.0),
    "convert": lambda g, xi, u: converters.convert(xi, 4, 2.0, gain=g, offset_lsb=u),
    "stochastic": lambda g, xi, u: converters.convert(xi, 4, 2.0, u=u),
    "driven": lambda g, xi, u: converters.driven(g, 2.0, xi, 0.1),
    "slices": lambda g, xi, u: converters.recombine(converters.bit_slices(converters.codes(xi, 6, 2.0), 6, 2), 6, 2),
}
LAYOUTS = {
    "contiguous": lambda t: t.contiguous(),
    "transposed": lambda t: t.mT.contiguous().mT,
    "every other": lambda t: t.repeat_interleave(2, -1)[..., ::2],
    "a window": lambda t: torch.nn.functional.pad(t, (3, 1, 2, 0))[..., 2:, 3 : 3 + t.shape[-1]],
}
sizes = st.sampled_from([0, 1, 2, 3, 7, 13, 31])


@pytest.mark.parametrize("name", FUNCTIONS)
@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    shape=st.tuples(sizes, sizes) | st.tuples(sizes, sizes, sizes),
    layout=st.sampled_from(list(LAYOUTS)),
    wide=st.booleans(),
)
def test_any_shape_dtype_and_layout(name, draw, shape, layout, wide):
    dtype = torch.float64 if wide else torch.float32
    cells = [draw.uniform("g", *shape) * 25, draw.normal("xi", *shape), draw.uniform("u", *shape)]
    inputs = [LAYOUTS[layout](t.to(dtype)) for t in cells]
    found = FUNCTIONS[name](*inputs)
    assert found.shape == shape
    assert found.dtype == dtype
    assert all(torch.equal(before.to(dtype), after) for before, after in zip(cells, inputs)), "an input was written to"
    flat = FUNCTIONS[name](*(t.to(dtype).reshape(1, -1) for t in cells))
    torch.testing.assert_close(found, flat.reshape(shape), rtol=2e-6, atol=2e-6)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(samples=st.integers(0, 40), cut=st.integers(0, 40), nodes=sizes, p=st.floats(0, 1))
def test_a_chain_cut_anywhere_is_the_same_chain(draw, samples, cut, nodes, p):
    u, before = draw.uniform("u", samples, nodes), telegraph.fair_states(draw.uniform("before", nodes))
    whole = telegraph.node_states(before, u, p)
    first = telegraph.node_states(before, u[:cut], p)
    rest = telegraph.node_states(first[-1] if len(first) else before, u[cut:], p)
    assert torch.equal(torch.cat([first, rest]), whole)
    assert whole.shape == (samples, nodes)
    assert whole.abs().eq(1).all()
