"""The two-state source of every node: an exact chain along reads, passes and steps, the same for any cut of them.

Statistical tests at fixed seeds and level 1e-6, 10^6 reads.
"""

import numpy as np
import pytest
import torch
from scipy import stats

from analogsim.backends import get_backend
from analogsim.chip.chip import SimulatedChip
from analogsim.chip.node_source import NodeSource
from analogsim.config.chip import ChipDescription, NodeTelegraph
from analogsim.contracts import LayerUpdate, Probe, WeightUpdate
from analogsim.network import Network
from analogsim.streams import Address, Stream

ALPHA = 1e-6
P, AMPLITUDE, MEAN = 0.0809, 5.9316e-3, 0.042092  # the stochastic magnetic tunnel junction of arXiv 2412.12783
BATCH, STEPS, UNITS = 500, 250, 8
SETTINGS = NodeTelegraph(amplitude=AMPLITUDE, flip_probability=P, mean=MEAN)
NOTHING = WeightUpdate((LayerUpdate(),))


def states(schedule, passes=2):
    """±1 of (step, pass, sample, node), read off a chip of zero weights."""
    node = {"telegraph": SETTINGS.model_dump()}
    description = ChipDescription.model_validate({"node_noise": node, "pass_schedule": schedule})
    chip = SimulatedChip(
        description, Network.dense(1, (), UNITS), [torch.zeros(UNITS, 1)], Stream.from_seed(3), passes=passes
    )
    found, x = [], torch.zeros(BATCH, 1)
    for _ in range(STEPS * 2 // passes):
        found.append(np.stack([chip.run(x, Probe()).outputs.numpy() for _ in range(passes)]))
        chip.update(NOTHING)
    values = (np.stack(found) - MEAN) / AMPLITUDE
    np.testing.assert_allclose(abs(values), 1, atol=1e-4)
    return np.sign(values)


def flips(first, second, p):
    """How often two states differ is binomial with p."""
    changed = int((first != second).sum())
    assert stats.binomtest(changed, first.size, p).pvalue > ALPHA


def lag(p, k):
    return (1 - (1 - 2 * p) ** k) / 2


def test_a_chain_runs_along_samples_passes_and_steps():
    s = states("whole_batch")
    chain = s.reshape(-1, UNITS)
    flips(chain[1:], chain[:-1], P)
    flips(s[:, 1, 0], s[:, 0, -1], P)  # from pass to pass
    flips(s[1:, 0, 0], s[:-1, 1, -1], P)  # from step to step
    for k in (2, 5):
        changed = (chain[k:] != chain[:-k]).mean()
        spread = 3 * (lag(P, k) / (2 * P * (1 - P)) / chain.size) ** 0.5  # of correlated pairs, from above
        assert abs(changed - lag(P, k)) < 5 * spread
    boundaries = np.flatnonzero(chain[1:, 0] != chain[:-1, 0])
    dwell = np.diff(boundaries)
    counts = np.array([(dwell == n).sum() for n in range(1, 60)])
    expected = len(dwell) * P * (1 - P) ** np.arange(59)
    statistic = ((counts - expected) ** 2 / expected).sum()
    assert stats.chi2.sf(statistic, 58) > ALPHA  # dwell times are geometric
    assert abs(chain.mean()) < 5 * ((1 - P) / P / chain.size) ** 0.5


@pytest.mark.parametrize("passes", [2, 3])
def test_interleaved_passes_are_one_chain_in_the_order_of_the_reads(passes):
    """p = 0.0809, two passes: correlations 0.838 of neighbours, across samples and steps too, 0.703 pass to pass."""
    s = states("interleaved", passes)
    chain = s.transpose(0, 2, 1, 3).reshape(-1, UNITS)  # step, sample, pass
    flips(chain[1:], chain[:-1], P)
    for number in range(1, passes):
        flips(s[:, number], s[:, number - 1], P)  # the passes of a sample
        flips(s[:, number, 1:], s[:, number, :-1], lag(P, passes))  # a pass from sample to sample
    flips(s[:, 0, 1:], s[:, 0, :-1], lag(P, passes))
    flips(s[:, 0, 1:], s[:, -1, :-1], P)  # from sample to sample
    flips(s[1:, 0, 0], s[:-1, -1, -1], P)  # from step to step


def test_the_difference_of_interleaved_passes_alternates():
    """δ_n = s_n,2 - s_n,1: cov(δ_n, δ_n+1) = (2 r² - r - r³) a², r = 1 - 2p: -0.022 a²."""
    s = states("interleaved")
    delta, r = s[:, 1] - s[:, 0], 1 - 2 * P
    products = delta[:, 1:] * delta[:, :-1]
    expected = 2 * r**2 - r - r**3
    assert abs(products.mean() - expected) < 5 * products.std() * (3 / products.size) ** 0.5  # neighbours correlate


@pytest.mark.parametrize("schedule", ["whole_batch", "interleaved"])
def test_passes_one_after_the_other_have_the_states_of_passes_together(schedule):
    def chip():
        parts = {"node_noise": {"telegraph": SETTINGS.model_dump()}, "pass_schedule": schedule}
        description, network = ChipDescription.model_validate(parts), Network.dense(1, (), UNITS)
        return SimulatedChip(description, network, [torch.zeros(UNITS, 1)], Stream.from_seed(3), passes=3)

    ours, theirs, x = chip(), chip(), torch.zeros(50, 1)
    for _ in range(3):
        together = [one.outputs for one in ours.passes(x, [Probe()] * 3)]
        assert all(torch.equal(a, theirs.run(x, Probe()).outputs) for a in together)
        for one in (ours, theirs):
            one.update(NOTHING)


@pytest.mark.parametrize("passes", [0, 3])
@pytest.mark.parametrize("cuts", [[0, 7], [0, 1, 2, 7], [0, 4, 4, 7]])
def test_a_pass_in_parts_has_the_states_of_one_in_one_piece(passes, cuts):
    backend, cpu = get_backend("numpy"), torch.device("cpu")
    ours, theirs = (NodeSource(SETTINGS, passes, 3, Stream.from_seed(1), backend, cpu) for _ in range(2))
    for step in range(2):
        for number in range(3):
            whole = theirs.read(Address(step, number), 7, 2, False)
            parts = [ours.read(Address(step, number, a), b - a, 2, False) for a, b in zip(cuts, cuts[1:])]  # noqa: RUF007
            assert torch.equal(torch.cat(parts), whole)


def test_a_source_that_never_flips_is_no_noise():
    steady = NodeTelegraph(amplitude=1.0, flip_probability=0.0)
    backend, cpu = get_backend("numpy"), torch.device("cpu")
    source = NodeSource(steady, 0, 50, Stream.from_seed(1), backend, cpu)
    values = source.read(Address(), 20, 1, quiet=True)
    assert torch.equal(values, values[:1].expand_as(values))
    assert set(values.flatten().tolist()) == {-1.0, 1.0}


def _begun_anew(source):
    source.states = torch.ones_like(source.states)


def _ahead_unseen(source):
    source._passes = min(source._passes, 1)


CHAIN_BUGS = {
    "chain begun anew every pass": (_begun_anew, test_a_chain_runs_along_samples_passes_and_steps, ()),
    "reads of the other passes forgotten": (
        _ahead_unseen, test_interleaved_passes_are_one_chain_in_the_order_of_the_reads, (2,)
    ),
    "δ of passes one sample apart": (_ahead_unseen, test_the_difference_of_interleaved_passes_alternates, ()),
}  # fmt: skip


@pytest.mark.parametrize("bug", CHAIN_BUGS)
def test_the_tests_of_the_chain_catch(bug, monkeypatch):
    plant, test, arguments = CHAIN_BUGS[bug]
    read = NodeSource.read

    def planted(self, address, *rest, **named):
        plant(self)
        return read(self, address, *rest, **named)

    monkeypatch.setattr(NodeSource, "read", planted)
    with pytest.raises(AssertionError):
        test(*arguments)
