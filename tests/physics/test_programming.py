"""Programming error, 10^6 cells: normal in one try; cut off at the tolerance where the write is verified.

one try      (G - target)/σ ~ N(0, 1)
n tries      |G - target| ≤ T with probability 1 - q^n, then normal cut off at ±T; else normal outside ±T
tries        P(k) = q^(k-1) (1 - q), the rest at n;   q = 2 Φ(-T/σ)
"""

import numpy as np
import pytest
import torch
from scipy import special, stats

from analogsim.physics import programming
from analogsim.physics.read_noise import sigma

CELLS = 1_000_000
PCM = {"law": "polynomial", "coefficients_uS": (0.26348, 1.9650, -1.1731), "unit_uS": 25.0}
SIGMA, TOLERANCE = 0.8, 0.6  # q = 0.453


@pytest.fixture(scope="module")
def target(draw):
    return draw.uniform("target", CELLS) * 25


def exact_pcm(g):
    r = g.numpy().astype(float) / 25
    return 0.26348 + 1.9650 * r - 1.1731 * r**2


def error(g, target):
    return g.numpy().astype(float) - target.numpy()


def scores(g, target, max_tries):
    """Errors as standard normals, if they follow the law of max_tries tries (probability integral transform)."""
    e, limit = error(g, target) / SIGMA, TOLERANCE / SIGMA
    q = 2 * stats.norm.sf(limit)
    within, outside = (1 - q**max_tries) / (1 - q), q ** (max_tries - 1)  # densities over the normal's
    below = outside * special.ndtr(np.minimum(e, -limit))
    below += within * (special.ndtr(e.clip(-limit, limit)) - special.ndtr(-limit))
    below += outside * (special.ndtr(np.maximum(e, limit)) - special.ndtr(limit))
    return special.ndtri(below.clip(1e-16, 1 - 1e-16))


def check_verified(check, draw, target, verified, max_tries):
    g, tries = verified(target, SIGMA, lambda k: draw.normal(f"try {k}", CELLS), TOLERANCE, max_tries)
    check.normal(scores(g, target, max_tries))
    q = 2 * stats.norm.sf(TOLERANCE / SIGMA)
    for k in range(1, max_tries):
        check.binomial((tries == k).sum(), CELLS, q ** (k - 1) * (1 - q))
    check.binomial((tries == max_tries).sum(), CELLS, q ** (max_tries - 1))


def check_one_try(check, draw, target, programmed):
    """Normal, and independent between neighbours and between two writes."""
    s = sigma(target, **PCM)
    z, again = (
        error(programmed(target, s, draw.normal(f"write {k}", CELLS)), target) / exact_pcm(target) for k in (0, 1)
    )
    check.normal(z)
    check.uncorrelated(z[::2], z[1::2])
    check.uncorrelated(z, again)


def test_one_try_is_normal(draw, check, target):
    """10^6 cells over the whole range of a PCM chip, α = 1e-6."""
    check_one_try(check, draw, target, programming.programmed)


@pytest.mark.parametrize("max_tries", [1, 2, 5])
def test_a_verified_write_is_cut_off_at_its_tolerance(max_tries, draw, check, target):
    """10^6 cells; KS, mean, variance and tail of the error, and the count of every number of tries, at α = 1e-6."""
    check_verified(check, draw, target, programming.verified, max_tries)


# Planted bugs

_first = {}  # what a bug remembers of the first write


def clipped_in_place_of_redrawn(target, sigma, draw, tolerance, max_tries):
    g, tries = programming.verified(target, sigma, draw, tolerance, max_tries)
    return torch.clamp(g, target - tolerance, target + tolerance), tries


def last_of_all_tries(target, sigma, draw, tolerance, max_tries):
    """Writes accepted cells again with the others."""
    tries = programming.verified(target, sigma, draw, tolerance, max_tries)[1]
    return programming.programmed(target, sigma, draw(max_tries - 1)), tries


def reused(target, sigma, draw, tolerance, max_tries):
    return programming.verified(target, sigma, lambda k: draw(0), tolerance, max_tries)


def changed(tolerance=lambda t, s: t, tries=lambda n: n, counted=lambda n: n):
    def verified(target, sigma, draw, tolerance_uS, max_tries):
        g, n = programming.verified(target, sigma, draw, tolerance(tolerance_uS, sigma), tries(max_tries))
        return g, counted(n)

    return verified


ONE_TRY_BUGS = {
    "programming: σ + 1 %": lambda target, sigma, xi: target + 1.01 * sigma * xi,
    "programming: variance for σ": lambda target, sigma, xi: target + sigma**2 * xi,
    "programming: truncated tail": lambda target, sigma, xi: target + sigma * xi.clamp(-4, 4),
    "programming: a mean error": lambda target, sigma, xi: target + sigma * (xi + 0.01),
    "programming: σ of where it landed": lambda target, sigma_, xi: target + sigma(target + sigma_ * xi, **PCM) * xi,
    "programming: one draw for two neighbours": lambda target, sigma, xi: target + sigma * xi[::2].repeat_interleave(2),
    "programming: same errors at every write": lambda target, sigma, xi: target + sigma * _first.setdefault("xi", xi),
}
VERIFY_BUGS = {
    "verify: error clipped, not redrawn": clipped_in_place_of_redrawn,
    "verify: accepted cells written again": last_of_all_tries,
    "verify: counter reused by every try": reused,
    "verify: tolerance in units of σ": changed(tolerance=lambda t, s: t * s),
    "verify: one try too many": changed(tries=lambda n: n + 1),
    "verify: first try not counted": changed(counted=lambda n: n - 1),
    "verify: one tolerance for both sides together": changed(tolerance=lambda t, s: t / 2),
}


@pytest.mark.parametrize("bug", ONE_TRY_BUGS)
def test_the_one_try_test_catches(bug, draw, check, target):
    _first.clear()
    with pytest.raises(AssertionError):
        check_one_try(check, draw, target, ONE_TRY_BUGS[bug])


@pytest.mark.parametrize("bug", VERIFY_BUGS)
def test_the_verified_test_catches(bug, draw, check, target):
    with pytest.raises(AssertionError):
        check_verified(check, draw, target, VERIFY_BUGS[bug], 3)


# By hand


def test_tries_by_hand():
    """Three cells, errors of 0.5, 3 and -3 µS at first; 1 µS is accepted."""
    normals = [torch.tensor(z) for z in ([0.25, 1.5, -1.5], [9.0, -0.5, 1.0], [9.0, 9.0, 0.1], [9.0, 9.0, 9.0])]
    target = torch.tensor([10.0, 20.0, 5.0])
    for max_tries, expected, tries in (
        (1, [10.5, 23, 2], [1, 1, 1]),
        (2, [10.5, 19, 7], [1, 2, 2]),
        (4, [10.5, 19, 5.2], [1, 2, 3]),
    ):
        g, n = programming.verified(target, 2.0, normals.__getitem__, 1.0, max_tries)
        np.testing.assert_allclose(g, expected, rtol=1e-6)
        assert n.tolist() == tries
        assert n.dtype == torch.int32


def test_without_a_tolerance_the_first_try_is_kept():
    asked = []
    g, n = programming.verified(torch.ones(2), 1.0, lambda k: asked.append(k) or torch.full((2,), 50.0), None, 9)
    assert (g.tolist(), n.tolist(), asked) == ([51, 51], [1, 1], [0])


def test_no_draw_is_asked_for_once_all_cells_are_accepted():
    asked = []
    programming.verified(torch.ones(2), 1.0, lambda k: asked.append(k) or torch.zeros(2), 0.5, 9)
    assert asked == [0]
