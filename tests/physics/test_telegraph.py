"""Telegraph noise: the two-state chain of a node against its exact law, the cells' two moments.

chain    flips independent, P = p; runs geometric; s_i s_{i+k} = ±1 with mean (1 - 2p)^k
cells    mean 0, variance Σ a² x², excess kurtosis -2 Σ (a x)⁴ / (Σ (a x)²)²
"""

import numpy as np
import pytest
import torch
from scipy import stats

from analogsim.physics import telegraph
from analogsim.physics.read_noise import cell_variance, sigma

P, SAMPLES, BATCH = 0.0809, 1_000_000, 1000  # the junction of arXiv 2412.12783
SMTJ = {"amplitude": 5.9316e-3, "mean": 0.042092}


def chain(draw, node_states=telegraph.node_states, p=P):
    """10^6 samples of one node, drawn a batch at a time, as a chip does."""
    u = draw.uniform("chain", SAMPLES, 1)
    state, batches = torch.ones(1), []
    for start in range(0, SAMPLES, BATCH):
        batches.append(node_states(state, u[start : start + BATCH], p))
        state = batches[-1][-1]
    return torch.cat(batches)[:, 0].numpy()


def check_chain(check, s, p):
    """Flips, those at a batch's first sample, runs of every length, products at four lags; α = 1e-6 each."""
    assert set(np.unique(s)) <= {-1, 1}
    flips = s[1:] != s[:-1]
    check.binomial(flips.sum(), len(flips), p)
    starts = flips[BATCH - 1 :: BATCH]  # from one batch to the next
    check.binomial(starts.sum(), len(starts), p)
    runs = np.diff(np.flatnonzero(flips))
    longest = int(stats.geom.isf(20 / len(runs), p))  # beyond it fewer than 20 are left: one bin
    seen = np.bincount(runs.clip(max=longest + 1), minlength=longest + 2)[1:]
    expected = np.append(stats.geom.pmf(np.arange(1, longest + 1), p), stats.geom.sf(longest, p)) * len(runs)
    assert stats.chisquare(seen, expected).pvalue > check.alpha, "dwell times"
    for lag in (1, 2, 5, 10):  # products over stretches that do not overlap are independent
        same = s[::lag][1:] == s[::lag][:-1]
        check.binomial(same.sum(), len(same), (1 + (1 - 2 * p) ** lag) / 2)


@pytest.mark.parametrize("p", [P, 0.5, 0.93])
def test_a_node_is_the_two_state_chain(p, draw, check):
    """10^6 samples: refuses a flip probability off by 1.7 %, and a dwell time that is not geometric."""
    check_chain(check, chain(draw, p=p), p)


def test_the_lag_1_correlation_is_the_published_one(draw):
    s = chain(draw)
    assert round(1 - 2 * P, 3) == 0.838
    assert abs((s[1:] * s[:-1]).mean() - 0.838) < 0.004


CHAIN_BUGS = {
    "telegraph: flip probability doubled": lambda before, u, p: telegraph.node_states(before, u, 2 * p),
    "telegraph: p is the probability to stay": lambda before, u, p: telegraph.node_states(before, u, 1 - p),
    "telegraph: a fresh state every sample": lambda before, u, p: torch.where(u < p, -1.0, 1.0),
    "telegraph: every batch starts anew": lambda before, u, p: telegraph.node_states(torch.ones(1), u, p),
    "telegraph: first sample never flips": lambda before, u, p: torch.cat(
        [before[None], telegraph.node_states(before, u, p)[:-1]]
    ),
    "telegraph: uniform reused by two samples": lambda before, u, p: telegraph.node_states(
        before, u[::2].repeat_interleave(2, 0), p
    ),
    "telegraph: one state for a whole batch": lambda before, u, p: telegraph.node_states(before, u[:1], p).expand_as(u),
    "telegraph: only the first flip of a batch": lambda before, u, p: (
        before * torch.where((u < p).cummax(0)[0], -1.0, 1.0)
    ),
}


@pytest.mark.parametrize("bug", CHAIN_BUGS)
def test_the_chain_test_catches(bug, draw, check):
    s = chain(draw, CHAIN_BUGS[bug])
    with pytest.raises(AssertionError):
        check_chain(check, s, P)


def test_a_chain_by_hand():
    """p = 0.3: flips where u < 0.3."""
    u = torch.tensor([[0.1, 0.5], [0.29, 0.3], [0.9, 0.0], [0.2, 0.2]])
    states = telegraph.node_states(torch.tensor([1.0, -1.0]), u, 0.3)
    assert states.tolist() == [[-1, -1], [1, -1], [1, 1], [-1, -1]]
    noise = telegraph.node_noise(states, **SMTJ)
    np.testing.assert_allclose(noise[0, 0], 0.042092 - 0.0059316, rtol=1e-6)
    np.testing.assert_allclose(noise[2, 1], 0.042092 + 0.0059316, rtol=1e-6)


@pytest.mark.parametrize(("p", "first", "last"), [(0.0, 1, 1), (1.0, -1, 1)])
def test_never_and_always(p, first, last, draw):
    states = telegraph.node_states(torch.ones(3), draw.uniform("edges", 1000, 3), p)
    assert states[0].eq(first).all()
    assert states[-1].eq(last).all()
    assert (states[1:] * states[:-1]).eq(1 - 2 * p).all()


def test_nodes_are_independent_and_start_fair(draw, check):
    u = draw.uniform("start", 1000, 1000)
    s = telegraph.fair_states(u).numpy()
    check.binomial((s > 0).sum(), s.size, 0.5)
    later = telegraph.node_states(torch.from_numpy(s[0]), u, P).numpy()
    check.binomial((later[:, ::2] == later[:, 1::2]).sum(axis=1)[-1], 500, 0.5)


# Cells


def check_cells(check, draw, cell_variance):
    """Mean and variance of 10^6 outputs of 16 cells, within what their kurtosis allows at α = 1e-6."""
    g, x = torch.linspace(1, 25, 16), torch.linspace(-1, 1.2, 16)
    law = {"law": "sqrt", "k_sqrt_uS": 0.3}
    a = sigma(g, **law)
    y = telegraph.fair_states(draw.uniform("cells", SAMPLES, 16)) @ (a * x)
    y, parts = y.numpy().astype(float), (a * x).numpy().astype(float)
    v = float(cell_variance(g, **law) @ x.square())
    kurtosis = -2 * (parts**4).sum() / (parts**2).sum() ** 2
    limit = stats.norm.isf(check.alpha / 2) / SAMPLES**0.5
    assert abs(y.mean()) < limit * v**0.5
    assert abs((y**2).mean() / v - 1) < limit * (2 + kurtosis) ** 0.5
    assert abs((y**4).mean() / v**2 - 3 - kurtosis) < limit * 96**0.5


AMPLITUDE_BUGS = {
    "telegraph: a for a²": lambda g, **law: sigma(g, **law),
    "telegraph: from -a/2 to a/2": lambda g, **law: cell_variance(g, **law) / 4,
    "telegraph: between 0 and a": lambda g, **law: cell_variance(g, **law) / 2,
}


def test_the_moments_of_two_state_cells_are_a_squared(draw, check):
    check_cells(check, draw, cell_variance)


@pytest.mark.parametrize("bug", AMPLITUDE_BUGS)
def test_the_cell_test_catches(bug, draw, check):
    with pytest.raises(AssertionError):
        check_cells(check, draw, AMPLITUDE_BUGS[bug])
