"""Every σ(G) law: by hand, and as the noise of 10^6 reads, cell by cell and one draw an output.

    Σ_j (G_ij + σ(G_ij) ξ_ij) x_j   and   (G x)_i + √(V x²)_i ξ_i   are both N(G x, diag(V x²))

The exact law is written out again in float64.
"""

import numpy as np
import pytest
import torch

from analogsim.errors import ArgumentError
from analogsim.physics.read_noise import SIGMA_LAWS, cell_variance, read_variance, sigma

OUTPUTS, INPUTS, VECTORS, REPEATS = 8, 6, 25, 5000  # 10^6 outputs
_numbers = np.random.default_rng(41)
G = _numbers.uniform(0.5, 25, (OUTPUTS, INPUTS)).astype(np.float32)
X = _numbers.normal(0, 1, (VECTORS, INPUTS)).astype(np.float32)

PCM = {"coefficients_uS": (0.26348, 1.9650, -1.1731), "unit_uS": 25.0}
JOSHI = {"coefficients_uS": (0.28638599, 0.07585724, -0.00178767)}
SONOS = {"amplitude_uS": 0.1258037, "scale_uS": 2.1536557}
TABLE = {"g_uS": (0.0, 5.0, 12.0, 25.0), "sigma_uS": (0.2, 0.5, 0.4, 1.1)}
CASES = {  # coefficients, the law again
    "constant": ({"sigma_uS": 0.3}, lambda g: 0.3 + 0 * g),
    "proportional": ({"k": 0.03}, lambda g: 0.03 * g),
    "sqrt": ({"k_sqrt_uS": 0.0875}, lambda g: 0.0875 * g**0.5),
    "polynomial": (PCM, lambda g: 0.26348 + 1.9650 * (g / 25) - 1.1731 * (g / 25) ** 2),
    "exponential": (SONOS, lambda g: 0.1258037 * (1 - np.exp(-g / 2.1536557))),
    "table": (TABLE, lambda g: np.interp(g, TABLE["g_uS"], TABLE["sigma_uS"])),
}


def standardised(y, law):
    """Outputs (REPEATS, VECTORS, OUTPUTS) as standard normals, if they follow the exact law."""
    g, x = G.astype(float), X.astype(float)
    sd = (x**2 @ (CASES[law][1](g) ** 2).T) ** 0.5
    return (y.numpy().astype(float) - x @ g.T) / sd


def cell_by_cell(draw, law, sigma=sigma):
    g, x = torch.from_numpy(G), torch.from_numpy(X)
    xi = draw.normal("cells", REPEATS, VECTORS, OUTPUTS, INPUTS)
    return ((g + sigma(g, law=law, **CASES[law][0]) * xi) * x[:, None]).sum(-1)


def output_referred(draw, law, cell_variance=cell_variance, read_variance=read_variance):
    g, x = torch.from_numpy(G), torch.from_numpy(X)
    v = cell_variance(g, law=law, **CASES[law][0])
    variance = v_of_vectors(v, x, read_variance)
    return x @ g.T + variance.sqrt() * draw.normal("outputs", REPEATS, VECTORS, OUTPUTS)


def v_of_vectors(v, x, read_variance):
    return read_variance(v, x) if isinstance(v, float) else x.square() @ v.T


def test_every_law_is_tested():
    assert set(CASES) == set(SIGMA_LAWS)


@pytest.mark.parametrize("law", CASES)
def test_cell_by_cell_reads_follow_the_law(law, draw, check):
    """10^6 outputs of 6 cells each, KS, mean, variance and tail at α = 1e-6 (conftest.py says what that detects)."""
    check.normal(standardised(cell_by_cell(draw, law), law))


@pytest.mark.parametrize("law", CASES)
def test_one_draw_an_output_follows_the_same_law(law, draw, check):
    """10^6 outputs, the same checks at α = 1e-6."""
    check.normal(standardised(output_referred(draw, law), law))


def test_a_constant_sigma_needs_no_product():
    v = cell_variance(torch.from_numpy(G), law="constant", sigma_uS=0.5)
    assert v == 0.25
    assert isinstance(v, float)


# Planted bugs, by the law they are planted in

SIGMA_BUGS = {
    "σ + 1 %": ("proportional", lambda g, **c: 1.01 * sigma(g, **c)),
    "variance for σ": ("polynomial", lambda g, **c: sigma(g, **c).square()),
    "r in µS": ("polynomial", lambda g, **c: sigma(g, **c | {"unit_uS": 1.0})),
    "coefficients highest first": (
        "polynomial",
        lambda g, **c: sigma(g, **c | {"coefficients_uS": c["coefficients_uS"][::-1]}),
    ),
    "B taken as a rate": ("exponential", lambda g, **c: sigma(g, **c | {"scale_uS": 1 / c["scale_uS"]})),
    "the point before, no line": (
        "table",
        lambda g, **c: torch.tensor(c["sigma_uS"])[torch.bucketize(g, torch.tensor(c["g_uS"])) - 1],
    ),
    "σ at g_max for every cell": ("sqrt", lambda g, **c: sigma(torch.full_like(g, 25.0), **c)),
}
VARIANCE_BUGS = {
    "σ for its variance": ("sqrt", lambda g, **c: sigma(g, **c), read_variance),
    "one mean variance for all cells": (
        "proportional",
        lambda g, **c: float(cell_variance(g, **c).mean()),
        read_variance,
    ),
    "σ², not σ² times the norm": ("constant", cell_variance, lambda v, x: torch.full_like(x[:, :1], v)),
    "norm, not its square": ("constant", cell_variance, lambda v, x: v * x.norm(dim=1, keepdim=True)),
}


@pytest.mark.parametrize("bug", SIGMA_BUGS)
def test_the_cell_by_cell_test_catches(bug, draw, check):
    law, wrong = SIGMA_BUGS[bug]
    z = standardised(cell_by_cell(draw, law, wrong), law)
    with pytest.raises(AssertionError):
        check.normal(z)


@pytest.mark.parametrize("bug", VARIANCE_BUGS)
def test_the_output_test_catches(bug, draw, check):
    law, variance, of_vectors = VARIANCE_BUGS[bug]
    z = standardised(output_referred(draw, law, variance, of_vectors), law)
    with pytest.raises(AssertionError):
        check.normal(z)


# By hand: values of the published fits (docs/laws.md, devices/*.yaml)


@pytest.mark.parametrize(
    ("law", "coefficients", "g", "expected"),
    [
        ("polynomial", PCM, [0, 12.5, 25], [0.26348, 0.952705, 1.05538]),
        ("polynomial", JOSHI, [0, 10, 25], [0.28638599, 0.86619139, 1.06552324]),
        ("polynomial", {"coefficients_uS": (1.0, -0.5)}, [1, 2, 3], [0.5, 0, 0]),  # never below 0
        ("polynomial", {"coefficients_uS": (0.7,)}, [0, 9], [0.7, 0.7]),
        ("exponential", SONOS, [0, 2.1536557, 1e9], [0, 0.1258037 * 0.63212056, 0.1258037]),
        ("table", TABLE, [0, 2.5, 5, 8.5, 25], [0.2, 0.35, 0.5, 0.45, 1.1]),
        ("sqrt", {"k_sqrt_uS": 0.5}, [0, 4, 9], [0, 1, 1.5]),
        ("proportional", {"k": 0.5}, [0, 4, 9], [0, 2, 4.5]),
        ("constant", {"sigma_uS": 0.5}, [0, 4], [0.5, 0.5]),
    ],
)
def test_values_by_hand(law, coefficients, g, expected):
    s = sigma(torch.tensor(g, dtype=torch.float32), law=law, **coefficients)
    np.testing.assert_allclose(s, expected, rtol=1e-6, atol=1e-7)
    v = cell_variance(torch.tensor(g, dtype=torch.float32), law=law, **coefficients)
    np.testing.assert_allclose(np.broadcast_to(v, s.shape), np.square(expected), rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("law", CASES)
def test_no_conductance_below_zero_makes_a_law_fail(law):
    """A rounding below 0 counts as 0: no NaN, no σ or variance below 0."""
    below, zero = torch.tensor([-1e-7]), torch.tensor([0.0])
    coefficients = CASES[law][0]
    assert sigma(below, law=law, **coefficients) == sigma(zero, law=law, **coefficients)
    assert torch.as_tensor(cell_variance(below, law=law, **coefficients)) >= 0


@pytest.mark.parametrize("g", [[-0.1], [25.1, 3.0], [float("nan"), 1.0], [3.0, float("inf")]])
def test_a_table_never_extrapolates(g):
    with pytest.raises(ArgumentError, match=r"^g: .* µS.* allowed: conductances within the table, 0\.0 to 25\.0 µS$"):
        sigma(torch.tensor(g), law="table", **TABLE)


def test_a_table_takes_its_ends_as_float32_rounds_them():
    ends = torch.tensor([25.000002, -1e-6])
    np.testing.assert_allclose(sigma(ends, law="table", **TABLE), [1.1, 0.2], rtol=1e-6)
    assert sigma(torch.empty(0, 3), law="table", **TABLE).shape == (0, 3)
