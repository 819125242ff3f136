"""What a learner asks for: how many passes, of what form, with which perturbation."""

import itertools

import pytest
import torch

from analogsim.contracts import Probe
from analogsim.learners.activity_perturbation import ActivityPerturbation
from analogsim.learners.backpropagation import BackPropagation
from analogsim.learners.decorrelation import Decorrelated
from analogsim.learners.iterative_perturbation import IterativePerturbation
from analogsim.learners.node_perturbation import NodePerturbation
from analogsim.streams import Address

BATCH, STEP = 9, 4
RULES = (NodePerturbation, IterativePerturbation, ActivityPerturbation)


def build(bench, rule, noisy, samples, decorrelated):
    learner = rule(bench.network, bench.perturbation(), noisy, samples)
    return Decorrelated(learner, [m.clone() for m in bench.matrices], 0.01) if decorrelated else learner


def form(probe):
    """Which layers a pass perturbs."""
    return tuple(index for index, epsilon in enumerate(probe.perturbation or ()) if epsilon is not None)


@pytest.mark.parametrize("decorrelated", [False, True])
@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize(
    ("rule", "noisy", "first", "each_sample"),
    [
        (NodePerturbation, False, [()], [(0, 1, 2)]),
        (NodePerturbation, True, [(0, 1, 2)], [(0, 1, 2)]),
        (ActivityPerturbation, False, [()], [(0, 1, 2)]),
        (ActivityPerturbation, True, [(0, 1, 2)], [(0, 1, 2)]),
        (IterativePerturbation, False, [()], [(0,), (1,), (2,)]),
        (IterativePerturbation, True, [], [(0,), (0,), (1,), (1,), (2,), (2,)]),
    ],
)
def test_passes_asked_for(mini_batch, rule, noisy, first, each_sample, samples, decorrelated):
    """1 + K (NP, ANP), 1 + K·L (INP), 2·K·L (INP with a paired noisy baseline)."""
    probes = build(mini_batch, rule, noisy, samples, decorrelated).ask(STEP, BATCH)
    assert [form(probe) for probe in probes] == first + each_sample * samples
    assert [probe.inputs for probe in probes] == [True] + [False] * (len(probes) - 1)  # x* of the first pass alone
    for probe in probes:
        assert probe.first_sample == 0
        if probe.perturbation is not None:
            assert len(probe.perturbation) == 3
            for layer, epsilon in zip(mini_batch.network.layers, probe.perturbation):
                assert epsilon is None or (epsilon.shape == (BATCH, layer.units) and epsilon.dtype == torch.float32)


@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("samples", [1, 3])
def test_intrinsic_noise_needs_no_perturbation(mini_batch, samples, noisy):
    """ANP on the chip's own noise: 1 + K passes as the chip is."""
    learner = ActivityPerturbation(mini_batch.network, None, noisy, samples)
    assert learner.ask(STEP, BATCH) == (Probe(), *(Probe(inputs=False),) * samples)


def test_back_propagation_asks_for_one_pass(mini_batch):
    assert BackPropagation(mini_batch.network, mini_batch.weights).ask(STEP, BATCH) == (Probe(),)


@pytest.mark.parametrize("noisy", [False, True], ids=["clean", "noisy"])
@pytest.mark.parametrize("rule", RULES)
def test_every_number_is_drawn_once(mini_batch, rule, noisy):
    """No value comes twice over steps, passes, layers, samples and units, but by float32's chance.

    Two steps, K = 3: up to 1,800 values of 32-bit origin, of which less than one pair is expected
    to coincide; a shared pass, layer, step or row would repeat 9 values at least.
    """
    learner = build(mini_batch, rule, noisy, 3, decorrelated=False)
    probes = [probe for step in (STEP, STEP + 1) for probe in learner.ask(step, BATCH)]
    drawn = torch.cat([e.flatten() for p in probes if p.perturbation for e in p.perturbation if e is not None])
    assert len(drawn) - len(drawn.unique()) <= 2
    assert len(drawn) >= 2 * 3 * BATCH * mini_batch.nodes


@pytest.mark.parametrize("noisy", [False, True], ids=["clean", "noisy"])
@pytest.mark.parametrize("rule", RULES)
def test_perturbations_are_sigma_times_the_stream_at_its_address(mini_batch, rule, noisy):
    """Pass p of step s, layer l: σ · normal(stream / l, (s, p)), p counted over all passes of the step."""
    perturbation = mini_batch.perturbation()
    probes = rule(mini_batch.network, perturbation, noisy, 2).ask(STEP, BATCH)
    seen = 0
    for (index, probe), (number, layer) in itertools.product(enumerate(probes), enumerate(mini_batch.network.layers)):
        epsilon = None if probe.perturbation is None else probe.perturbation[number]
        if epsilon is not None:
            z = perturbation.stream.child(number).normal(Address(STEP, index), BATCH, layer.units)
            assert torch.equal(epsilon, torch.from_numpy(z) * mini_batch.sigma)
            seen += 1
    assert seen == sum(len(form(probe)) for probe in probes)


@pytest.mark.parametrize("rule", RULES)
def test_asking_again_gives_the_same(mini_batch, rule):
    """A step's perturbation hangs on nothing but its address: not on what was asked before, nor on the batch."""
    learner, other = (build(mini_batch, rule, True, 2, False) for _ in range(2))
    other.ask(STEP + 7, 3)
    few = other.ask(STEP, 5)
    for one, two in zip(learner.ask(STEP, BATCH), few):
        for a, b in zip(one.perturbation, two.perturbation):
            assert (a is None and b is None) or torch.equal(a[:5], b)


def test_another_stream_gives_another_perturbation(mini_batch):
    one, two = (mini_batch.perturbation(seed).probe(STEP, 1, BATCH).perturbation for seed in (6, 7))
    assert not any(bool((a == b).any()) for a, b in zip(one, two))
