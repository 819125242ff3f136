"""The gradient of a mini-batch is the true one (NP, INP) or of the known bias (ANP); planted bugs are not.

One check, `Bench.assert_gradient`: four inputs with different labels make a mini-batch, 3·10^5 rows
give 75,000 mini-batches with noises of their own, and each of the 79 entries of the mean gradient
(weights and biases, W, b and R random) is z-tested, α = 1e-6 over all. Detects 3 % of a layer's norm.
"""

from dataclasses import replace

import pytest
import torch

from analogsim.contracts import Factors, LayerUpdate, Probe, WeightUpdate
from analogsim.learners.activity_perturbation import ActivityPerturbation
from analogsim.learners.iterative_perturbation import IterativePerturbation
from analogsim.learners.node_perturbation import NodePerturbation
from analogsim.learners.perturbation import Perturbation
from analogsim.network import Network


def expected(bench, rule):
    return bench.anp_means if issubclass(rule, ActivityPerturbation) else bench.gradients


@pytest.mark.parametrize("samples", [1, 4])
@pytest.mark.parametrize("noisy_baseline", [False, True], ids=["clean", "noisy"])
@pytest.mark.parametrize("rule", [NodePerturbation, IterativePerturbation, ActivityPerturbation])
def test_mean_gradient(mini_batch, rule, noisy_baseline, samples):
    learner = rule(mini_batch.network, mini_batch.perturbation(), noisy_baseline, samples)
    mini_batch.assert_gradient(learner, expected(mini_batch, rule), steps=3 if samples == 1 else 1)


# --- planted bugs ---------------------------------------------------------------------------------


class HiddenOnly(Network):
    """N counts hidden units only."""

    @property
    def nodes(self):
        return sum(layer.units for layer in self.layers[:-1])


class FromTheInput(Network):
    """N counts the inputs too."""

    @property
    def nodes(self):
        return self.layers[0].inputs + super().nodes


class RootOfSigma(Perturbation):
    """σ for σ²: `sigma` holds √σ, ε is drawn with σ, and so NP divides by σ."""

    def probe(self, step, pass_index, batch, layers=None, inputs=False):
        perturbation = super().probe(step, pass_index, batch, layers, inputs).perturbation
        return Probe(tuple(e * self.sigma for e in perturbation), inputs=inputs)


def scaled(update, factor):
    return WeightUpdate(
        tuple(
            LayerUpdate(Factors(layer.weight.errors * factor, layer.weight.inputs), layer.bias * factor)
            for layer in update.layers
        )
    )


def summed_over_the_batch(rule):
    class Summed(rule):
        def tell(self, activities, losses):
            return scaled(super().tell(activities, losses), len(losses[0]))

    return Summed


def forgetting_one_over_k(rule):
    class Forgetful(rule):
        def tell(self, activities, losses):
            return scaled(super().tell(activities, losses), self.samples)

    return Forgetful


def wrong_way_round(rule):
    """δL = L(clean) - L(perturbed) with δa = perturbed - clean."""

    class Reversed(rule):
        def tell(self, activities, losses):
            return super().tell(activities, [-loss for loss in losses])

    return Reversed


class BatchTrap(NodePerturbation):
    """Noise shared across each mini-batch of four, and one scalar loss difference for all of it."""

    def ask(self, step, batch):
        probes = super().ask(step, batch // 4)
        shared = [p.perturbation and tuple(e.repeat_interleave(4, 0) for e in p.perturbation) for p in probes]
        self._asked = tuple(Probe(epsilon, inputs=probe.inputs) for epsilon, probe in zip(shared, probes))
        return self._asked

    def tell(self, activities, losses):
        scalar = [loss.view(-1, 4).mean(1).repeat_interleave(4) for loss in losses]
        return super().tell(activities, scalar)


def counting(network, rule):
    return lambda bench, own: rule(network(bench.network.layers, bench.network.negative_slope), own, samples=2)


def changed(bug, rule):
    return lambda bench, own: bug(rule)(bench.network, own, samples=2)


RULES = (NodePerturbation, IterativePerturbation, ActivityPerturbation)
PLANTED = {
    "N of hidden units only": (ActivityPerturbation, counting(HiddenOnly, ActivityPerturbation)),
    "N with the inputs": (ActivityPerturbation, counting(FromTheInput, ActivityPerturbation)),
    "sigma for sigma²": (
        NodePerturbation,
        lambda bench, own: NodePerturbation(
            bench.network, RootOfSigma(own.sigma**0.5, own.network, own.stream, own.backend, own.device)
        ),
    ),
    "noise shared across the batch": (NodePerturbation, lambda bench, own: BatchTrap(bench.network, own)),
    "ANP taken as unbiased": (NodePerturbation, lambda bench, own: ActivityPerturbation(bench.network, own)),
}
for bug in (summed_over_the_batch, forgetting_one_over_k, wrong_way_round):
    PLANTED |= {f"{bug.__name__}, {rule.__name__}": (rule, changed(bug, rule)) for rule in RULES}


@pytest.mark.parametrize("bug", PLANTED)
def test_the_gradient_test_catches(mini_batch, bug):
    """10^5 rows are enough for every one of them."""
    rule, learner = PLANTED[bug]
    with pytest.raises(AssertionError, match="component"):
        mini_batch.assert_gradient(learner(mini_batch, mini_batch.perturbation()), expected(mini_batch, rule), steps=1)


def test_what_the_batch_trap_estimates(mini_batch, check_mean):
    """mean(g) mean(x*)ᵀ in place of mean(g x*ᵀ), and so the bias gradient is right and hides it."""
    drawn, inputs = mini_batch.draws(BatchTrap(mini_batch.network, mini_batch.perturbation()), 100_000, 3)
    check_mean(drawn.mean(1), mini_batch.gradients.mean(0))
    for span, x, exact in zip(mini_batch.spans, inputs, mini_batch.inputs):
        gradients = torch.einsum("msu,msi->mui", drawn[..., span], x.double()) / 4
        wrong = torch.outer(mini_batch.gradients[:, span].mean(0), exact.mean(0))
        right = mini_batch.gradients[:, span].T @ exact / 4
        check_mean(gradients, wrong)
        assert float((wrong - right).norm() / right.norm()) > 0.3


# --- x* of the first pass -------------------------------------------------------------------------


def assert_first_pass_inputs(step):
    """x* is bit for bit that of the first pass. (No mean tells: the second pass's x* errs by O(σ²).)"""
    for layer, first in zip(step.update.layers, step.activities[0].inputs, strict=True):
        assert torch.equal(layer.weight.inputs, first)


def second_pass_inputs(rule):
    class Second(rule):
        def ask(self, step, batch):
            return tuple(replace(probe, inputs=True) for probe in super().ask(step, batch))

        def tell(self, activities, losses):
            errors = super().tell(activities, losses).layers
            return WeightUpdate(
                tuple(
                    LayerUpdate(Factors(layer.weight.errors, x), layer.bias)
                    for layer, x in zip(errors, activities[1].inputs, strict=True)
                )
            )

    return Second


@pytest.mark.parametrize("noisy_baseline", [False, True], ids=["clean", "noisy"])
@pytest.mark.parametrize("rule", RULES)
def test_inputs_are_those_of_the_first_pass(mini_batch, rule, noisy_baseline):
    """And a clean first pass shows the exact x*, to float32."""
    arguments = mini_batch.network, mini_batch.perturbation(), noisy_baseline, 3
    step = mini_batch.one_step(rule(*arguments))
    assert_first_pass_inputs(step)
    if not noisy_baseline:
        for x, exact in zip(step.activities[0].inputs, mini_batch.inputs):
            torch.testing.assert_close(x.double(), exact, rtol=1e-5, atol=1e-5)
    with pytest.raises(AssertionError):
        assert_first_pass_inputs(mini_batch.one_step(second_pass_inputs(rule)(*arguments)))
