"""1/f noise: the published strengths by hand, ρ(τ), and the law of two reads of the same cells.

    (n1, n2) normal, Var n = V x², cov(n1, n2) = ρ(τ) Σ V x1 x2 ,   V = (G Q)² L(t)

The exact law is written out again in float64; ρ(τ) is held against the integral it is the limit of.
"""

import numpy as np
import pytest
import torch
from scipy import special

from analogsim.physics import flicker

T_R, T = 250e-9, 20.0
LAGS = {250e-9: 0.90, 10e-6: 0.69, 1e-3: 0.43, 1.0: 0.03}  # devices.md §4
PCM = {
    "strength": {"law": "power", "coefficient": 0.0088, "exponent": 0.65, "floor": 1e-3, "max": 0.2},
    "unit_uS": 25.0,
    "t_r_s": T_R,
}
HERMES = {
    "strength": {
        "law": "log",
        "slope": -0.0117,
        "intercept": -0.0069,
        "min": 0.015,
        "max": 0.04,
        "split": 0.16,
        "polynomial": (0.0123, 0.0211, -0.0280, 0.0069),
    },
    "unit_uS": 20.7,
    "t_r_s": 512e-9,
}
CMO = {"strength": {"law": "log10", "coefficient_uS": 0.0277316}, "t_r_s": 1e-6}
READS, CELLS = 1_000_000, 4
G, X1, X2 = torch.tensor([1.0, 6, 15, 25]), torch.tensor([1.0, -0.5, 0.8, 0.3]), torch.tensor([0.9, 0.5, 0.7, -0.6])


# The law of two reads


def exact(tau):
    """(standard deviations of n1 and n2, their correlation) in float64."""
    g, x1, x2 = (v.numpy().astype(float) for v in (G, X1, X2))
    power = np.log((T + T_R) / (2 * T_R))
    rho = 1 - (np.log(np.pi * tau / T_R) + 0.57721566) / power
    v = (g * np.minimum(0.2, 0.0088 / (g / 25) ** 0.65)) ** 2 * power
    sd1, sd2 = (v @ x1**2) ** 0.5, (v @ x2**2) ** 0.5
    return sd1, sd2, rho * (v @ (x1 * x2)) / sd1 / sd2


def two_reads(draw, tau, physics=flicker, slow=("slow", "slow")):
    """10^6 pairs of reads, τ apart, of as many rows of four cells."""
    sigma = physics.flicker_sigma(G, T, **PCM)
    rho = physics.correlation(tau, T, t_r_s=T_R)
    fast = physics.fast_variance(sigma, rho)
    return [
        (physics.slow_part(sigma, rho, draw.normal(slow[k], READS, CELLS)) * x).sum(1)
        + (fast @ x.square()).sqrt() * draw.normal(f"fast {k}", READS)
        for k, x in enumerate((X1, X2))
    ]


def check_two_reads(check, reads, tau):
    """Both reads normal; the second's part that the first does not foretell is normal, too, and apart from it."""
    sd1, sd2, r = exact(tau)
    z1, z2 = reads[0].numpy().astype(float) / sd1, reads[1].numpy().astype(float) / sd2
    for z in (z1, z2, (z2 - r * z1) / (1 - r * r) ** 0.5):
        check.normal(z)
    check.uncorrelated(z1, (z2 - r * z1) / (1 - r * r) ** 0.5)


@pytest.mark.parametrize("tau", LAGS)
def test_two_reads_correlate_by_rho(tau, draw, check):
    """10^6 pairs at α = 1e-6: besides what conftest.py says, a correlation of the reads off by 0.5 %."""
    check_two_reads(check, two_reads(draw, tau), tau)


def test_the_covariance_of_two_reads_is_what_it_says(draw):
    """ρ V (x1∘x2) of a matrix of cells, against the sum in float64."""
    v, x1, x2 = (draw.uniform(name, *shape) for name, shape in (("v", (5, 3)), ("x1", (7, 3)), ("x2", (7, 3))))
    found = flicker.two_read_covariance(v, 0.7, x1, x2)
    np.testing.assert_allclose(found, 0.7 * np.einsum("bj,bj,ij->bi", x1, x2, v), rtol=1e-5)


class Planted:
    """The module with one function planted."""

    def __init__(self, **planted):
        self.__dict__.update(vars(flicker) | planted)


def sigma_times(factor):
    return lambda g, t, **c: flicker.flicker_sigma(g, t, **c) * factor


def correlation_of(lag):
    return lambda tau, t, t_r_s: flicker.correlation(lag(tau), t, t_r_s=t_r_s)


L = np.log((T + T_R) / (2 * T_R))
PAIR_BUGS = {
    "1/f: ρ for 1 - ρ": {"correlation": lambda *a, **k: 1 - flicker.correlation(*a, **k)},
    "1/f: ρ for √ρ in the slow part": {"slow_part": lambda s, rho, z: flicker.slow_part(s, rho**2, z)},
    "1/f: slow part drawn again at every read": None,
    "1/f: fast part keeps the whole variance": {"fast_variance": lambda s, rho: s.square()},
    "1/f: 1 - ρ² in the fast part": {"fast_variance": lambda s, rho: flicker.fast_variance(s, rho**2)},
    "1/f: √L forgotten": {"flicker_sigma": sigma_times(L**-0.5)},
    "1/f: L for √L": {"flicker_sigma": sigma_times(L**0.5)},
    "1/f: t_r for 2 t_r in L": {"flicker_sigma": sigma_times(((L + np.log(2)) / L) ** 0.5)},
    "1/f: r in µS": {"flicker_sigma": lambda g, t, **c: flicker.flicker_sigma(g, t, **c | {"unit_uS": 1.0})},
    "1/f: Euler's constant left out": {"correlation": correlation_of(lambda tau: tau * np.exp(-0.57721566))},
    "1/f: 2π for π in ρ": {"correlation": correlation_of(lambda tau: 2 * tau)},
    "1/f: one read's lag for a batch's": {"correlation": correlation_of(lambda tau: tau / 100)},
}


@pytest.mark.parametrize("bug", PAIR_BUGS)
def test_the_two_read_test_catches(bug, draw, check):
    planted = PAIR_BUGS[bug]
    if planted is None:
        reads = two_reads(draw, 1e-3, slow=("slow", "another slow"))
    else:
        reads = two_reads(draw, 1e-3, Planted(**planted))
    with pytest.raises(AssertionError):
        check_two_reads(check, reads, 1e-3)


# ρ(τ) and L(t)


@pytest.mark.parametrize(("tau", "published"), LAGS.items())
def test_rho_is_as_published(tau, published):
    assert round(float(flicker.correlation(tau, T, t_r_s=T_R)), 2) == published


@pytest.mark.parametrize("t", [1e-3, 20.0, 1e7])
def test_rho_is_the_integral_of_a_1_over_f_spectrum(t):
    """∫ cos(2πfτ)/f df over ∫ df/f, f from 1/(t + t_r) to 1/(2 t_r), as near as the module says."""
    low, high = 1 / (t + T_R), 1 / (2 * T_R)
    power = np.log(high / low)
    tau = np.geomspace(T_R, t / 30, 1000)
    upper, lower = special.sici(2 * np.pi * np.multiply.outer([high, low], tau))[1]
    off = abs(flicker.correlation(torch.from_numpy(tau), t, t_r_s=T_R).numpy() - (upper - lower) / power)
    assert off.max() <= 0.21 / power
    assert off[tau >= 10 * T_R].max() <= 0.043 / power


def test_rho_falls_with_the_lag_from_1_to_0():
    tau = torch.logspace(-9, 3, 500, dtype=torch.float64)
    rho = flicker.correlation(tau, T, t_r_s=T_R)
    assert rho[tau <= 0.178 * T_R].eq(1).all()
    assert rho[tau >= 0.09 * T].eq(0).all()
    assert (rho.diff() <= 0).all()
    assert flicker.correlation(0.0, T, t_r_s=T_R) == 1


def test_noise_power_by_hand_and_before_the_first_read():
    power = flicker.noise_power(torch.tensor([0.0, T_R, 3 * T_R, T]), t_r_s=T_R)
    np.testing.assert_allclose(power, [0, 0, np.log(2), 17.504390], rtol=1e-5)
    assert flicker.flicker_sigma(G, 0.0, **PCM).eq(0).all()
    assert 0 <= flicker.correlation(T_R, 0.0, t_r_s=T_R) <= 1


# Strengths: values of the published fits (docs/laws.md, devices/*.yaml)


@pytest.mark.parametrize(
    ("flicker_law", "t", "g", "expected"),
    [
        # 25 · 0.0088 · √17.5044;  6.25 · 0.0088/0.25^0.65 · √…;  0.02 µS: 0.02 · 0.2 · √…, Q held at its maximum
        (PCM, T, [25, 6.25, 0.02, 0], [0.9204415, 0.5665982, 0.01673530, 0]),
        # L = ln(20 / 1.024e-6) = 16.7876; r = 1 from the polynomial, 0.1 from the logarithm, 1e-3 at its maximum
        (HERMES, T, [20.7, 2.07, 0.0207], [20.7 * 0.0123 * 4.0972, 2.07 * 0.0200402 * 4.0972, 0.0207 * 0.04 * 4.0972]),
        (CMO, 1.0, [10, 88.2, 1, 0.5, 0], [0.0277316 * 3.62253, 0.0277316 * 1.945469 * 3.62253, 0, 0, 0]),
    ],
)
def test_published_strengths_by_hand(flicker_law, t, g, expected):
    found = flicker.flicker_sigma(torch.tensor(g, dtype=torch.float32), t, **flicker_law)
    np.testing.assert_allclose(found, expected, rtol=2e-4)


def test_a_time_for_every_cell():
    t = torch.tensor([1.0, 20, 3600, 86400], dtype=torch.float64)
    together = flicker.flicker_sigma(G, t, **PCM)
    apart = [flicker.flicker_sigma(G[k : k + 1], float(t[k]), **PCM) for k in range(4)]
    np.testing.assert_allclose(together, torch.cat(apart), rtol=1e-6)
    assert together.dtype == torch.float32


# From step to step


def check_steps(check, draw, next_slow):
    """AR(1): N(0, 1) at every step, correlation ρ^k at lag k."""
    steps = [draw.normal("slow", READS)]
    for k in range(4):
        steps.append(next_slow(steps[-1], draw.normal(f"step {k}", READS), 0.8))
    steps = [s.numpy().astype(float) for s in steps]
    for lag in (1, 2, 4):
        check.normal(steps[lag])
        rest = (steps[lag] - 0.8**lag * steps[0]) / (1 - 0.8 ** (2 * lag)) ** 0.5
        check.normal(rest)
        check.uncorrelated(steps[0], rest)


STEP_BUGS = {
    "AR(1): 1 - ρ for √(1 - ρ²)": lambda s, xi, rho: rho * s + (1 - rho) * xi,
    "AR(1): √ρ for ρ": lambda s, xi, rho: flicker.next_slow(s, xi, rho**0.5),
    "AR(1): never redrawn": lambda s, xi, rho: s,
    "AR(1): forgets what was": lambda s, xi, rho: xi,
}


def test_the_slow_part_moves_on_by_rho(draw, check):
    """10^6 cells over four steps, α = 1e-6."""
    check_steps(check, draw, flicker.next_slow)


@pytest.mark.parametrize("bug", STEP_BUGS)
def test_the_step_test_catches(bug, draw, check):
    with pytest.raises(AssertionError):
        check_steps(check, draw, STEP_BUGS[bug])


def test_reads_a_step_apart_correlate_by_their_own_rho():
    """ρ(τ) within a step times what next_slow is given is ρ(T) between steps."""
    within, between = (flicker.correlation(lag, T, t_r_s=T_R) for lag in (1e-6, 1e-2))
    assert float(within * flicker.step_correlation(within, between)) == pytest.approx(float(between))
    assert flicker.step_correlation(0.0, 0.0) == 0
    assert flicker.step_correlation(0.5, 0.6) == 1
