"""Random numbers by name, and the checks that tests of physics share.

Every check runs at level 1e-6 and every draw at a fixed seed: nothing here flakes. What a check of
10^6 draws refuses: a distribution function off by 0.27 %, a mean off by 0.5 % of σ, a σ off by 0.35 %,
a correlation of 0.5 %, a factor of two beyond 4.05 σ. The planted bugs (tests/planted.md) prove it.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

from analogsim.backends import get_backend
from analogsim.streams import Address, Stream

ALPHA = 1e-6
TAIL = 4.05  # 51 of 10^6 standard normals lie beyond
WIDTH = 1000


def normal(name, *shape):
    """Standard normals of that name, float32; the Numba kernel, since it is the fast one of equal ones."""
    rows = -(-int(np.prod(shape)) // WIDTH)
    z = get_backend("numba").normal(Stream.from_seed(31).child(name), Address(), rows, WIDTH, torch.device("cpu"))
    return z.reshape(-1)[: int(np.prod(shape))].reshape(shape)


def uniform(name, *shape):
    """Uniforms in [0, 1) of that name, float32."""
    rows = -(-int(np.prod(shape)) // WIDTH)
    u = Stream.from_seed(32).child(name).uniform(Address(), rows, WIDTH)
    return torch.from_numpy(u.reshape(-1)[: int(np.prod(shape))].reshape(shape))


def check_normal(z):
    """z ~ N(0, 1), independent: Kolmogorov-Smirnov, mean, variance, and how many lie beyond 4.05 σ."""
    z = np.asarray(z, np.float64).ravel()
    limit = stats.norm.isf(ALPHA / 2)
    assert abs(z.mean()) * z.size**0.5 < limit, f"mean {z.mean():.5f}"
    assert abs((z**2).mean() - 1) * (z.size / 2) ** 0.5 < limit, f"variance {(z**2).mean():.5f}"
    assert stats.kstest(z, "norm").pvalue > ALPHA, "distribution"
    check_binomial((abs(z) > TAIL).sum(), z.size, 2 * stats.norm.sf(TAIL))


def check_uncorrelated(first, second):
    """Two arrays of standard normals, correlation 0: n^-1/2 Σ z z' is normal."""
    first, second = (np.asarray(z, np.float64).ravel() for z in (first, second))
    assert abs((first * second).mean()) * first.size**0.5 < stats.norm.isf(ALPHA / 2), "correlated"


def check_binomial(count, n, p):
    """count of n independent trials of probability p each; exactly 0 or n where p is 0 or 1."""
    low, high = stats.binom.ppf(ALPHA / 2, n, p), stats.binom.isf(ALPHA / 2, n, p)
    assert low <= int(count) <= high, f"{int(count)} of {n}, expected {n * p:.1f}"


@pytest.fixture(scope="session")
def draw():
    return SimpleNamespace(normal=normal, uniform=uniform)


@pytest.fixture(scope="session")
def check():
    return SimpleNamespace(normal=check_normal, uncorrelated=check_uncorrelated, binomial=check_binomial, alpha=ALPHA)
