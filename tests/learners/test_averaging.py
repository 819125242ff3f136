"""Deterministic facts of the perturbation rules: K passes are a plain mean, every position counts,
and a perturbation that vanished teaches nothing."""

from dataclasses import dataclass, replace
from functools import reduce

import pytest
import torch

from analogsim.contracts import Activities, Probe
from analogsim.learners.activity_perturbation import ActivityPerturbation
from analogsim.learners.backpropagation import BackPropagation
from analogsim.learners.iterative_perturbation import IterativePerturbation
from analogsim.learners.node_perturbation import NodePerturbation
from analogsim.learners.perturbation import Perturbation
from analogsim.network import Network

RULES = (NodePerturbation, IterativePerturbation, ActivityPerturbation)
CASES = [(rule, noisy, "second") for rule in RULES for noisy in (False, True)] + [(NodePerturbation, True, "both")]
every_case = pytest.mark.parametrize(("rule", "noisy", "difference"), CASES)


@dataclass(frozen=True)
class Scripted:
    """A perturbation that deals out given probes in turn."""

    sigma: float
    probes: list[Probe]
    begins_later: bool = False

    def probe(self, step, pass_index, batch, layers=None, inputs=False):
        return self.probes.pop(0)


class WithInputs(Perturbation):
    """Every pass is told with its x*: here each may be the first of a gradient of its own."""

    def probe(self, step, pass_index, batch, layers=None, inputs=False):
        return super().probe(step, pass_index, batch, layers, inputs=True)


def build(rule, network, perturbation, noisy, samples, difference):
    extra = {"difference": difference} if rule is NodePerturbation else {}
    return rule(network, perturbation, noisy, samples, **extra)


@every_case
def test_averaging_is_the_mean_of_separate_gradients(mini_batch, rule, noisy, difference):
    """K = 3 passes told together = the mean of three K = 1 gradients, each told its own passes."""
    samples, layers = 3, len(mini_batch.network.layers)
    perturbation = WithInputs(**vars(mini_batch.perturbation()))
    learner = build(rule, mini_batch.network, perturbation, noisy, samples, difference)
    together = mini_batch.one_step(learner, rows=40)
    separate = []
    for k in range(samples):
        if rule is not IterativePerturbation:
            passes = [0, 1 + k]
        elif noisy:
            passes = list(range(2 * layers * k, 2 * layers * (k + 1)))
        else:
            passes = [0, *range(1 + layers * k, 1 + layers * (k + 1))]
        scripted = Scripted(mini_batch.sigma, [together.probes[p] for p in passes if together.probes[p].perturbation])
        alone = build(rule, mini_batch.network, scripted, noisy, 1, difference)
        alone.ask(0, 40)
        separate.append(alone.tell([together.activities[p] for p in passes], [together.losses[p] for p in passes]))
    for index, layer in enumerate(together.update.layers):
        mean = sum(update.layers[index].weight.errors for update in separate) / samples
        torch.testing.assert_close(layer.weight.errors, mean, rtol=1e-5, atol=1e-6 * float(mean.abs().max()))
        bias = sum(update.layers[index].bias for update in separate) / samples
        torch.testing.assert_close(layer.bias, bias, rtol=1e-5, atol=1e-5 * float(bias.abs().max()))
        assert len({float(update.layers[index].bias.sum()) for update in separate}) == samples


# --- positions ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PositionedLayer:
    """A crossbar read at several positions a sample, as a convolution is."""

    inputs: int
    units: int
    positions: int

    @property
    def output_shape(self):
        return (self.positions, self.units)

    def adjoint(self, errors, *matrices):
        return reduce(torch.matmul, matrices, errors)  # patches that do not overlap


LAYERS = (PositionedLayer(4, 6, 5), PositionedLayer(7, 3, 2))
POSITIONED = Network(LAYERS, 0.2)
BATCH, SIGMA = 8, 0.125


def random_activities(passes, seed=2):
    rng = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=rng)

    activities = []
    for _ in range(passes):
        a = tuple(normal(BATCH, *layer.output_shape) for layer in LAYERS)
        inputs = tuple(normal(BATCH, layer.positions, layer.inputs) for layer in LAYERS)
        activities.append(Activities(inputs, a, a[-1].flatten(1)))
    return activities, [normal(BATCH).double() for _ in range(passes)]


def by_hand(rule, noisy, difference, probes, activities, losses):
    """The equations of learning.md, sample by sample, in float64 -> errors per layer."""
    errors = [torch.zeros(BATCH, *layer.output_shape, dtype=torch.float64) for layer in LAYERS]
    a = [[v.double() for v in activity.pre_activations] for activity in activities]
    nodes = 5 * 6 + 2 * 3
    for b in range(BATCH):
        if rule is IterativePerturbation:
            for layer in range(2):
                base, other = (2 * layer, 2 * layer + 1) if noisy else (0, 1 + layer)
                v = a[other][layer][b] - a[base][layer][b]
                units = (30, 6)[layer]
                errors[layer][b] = units * (losses[other][b] - losses[base][b]) * v / (v * v).sum()
            continue
        gap = losses[1][b] - losses[0][b]
        delta = [second[b] - first[b] for first, second in zip(*a)]
        for layer in range(2):
            if rule is ActivityPerturbation:
                errors[layer][b] = nodes * gap * delta[layer] / sum((d * d).sum() for d in delta)
                continue
            epsilon = probes[1].perturbation[layer][b].double()
            if difference == "both":
                epsilon = (epsilon - probes[0].perturbation[layer][b]) / 2
            errors[layer][b] = gap * epsilon / SIGMA**2
    return errors


@every_case
def test_every_position_counts(mini_batch, rule, noisy, difference):
    """N and norms over units × positions, gradients summed over positions and averaged over the batch."""
    perturbation = replace(mini_batch.perturbation(), network=POSITIONED, sigma=SIGMA)
    learner = build(rule, POSITIONED, perturbation, noisy, 1, difference)
    probes = learner.ask(3, BATCH)
    for probe in probes:
        for layer, epsilon in zip(LAYERS, probe.perturbation or ()):
            assert epsilon is None or epsilon.shape == (BATCH, *layer.output_shape)
    activities, losses = random_activities(len(probes))
    update = learner.tell(activities, losses)
    for index, errors in enumerate(by_hand(rule, noisy, difference, probes, activities, losses)):
        x = activities[0].inputs[index].double()
        dense = sum(torch.outer(errors[b, p], x[b, p]) for b in range(BATCH) for p in range(errors.shape[1])) / BATCH
        torch.testing.assert_close(update.layers[index].weight.dense().double(), dense, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(update.layers[index].bias.double(), errors.sum((0, 1)) / BATCH, rtol=1e-4, atol=1e-4)


def test_back_propagation_through_positions():
    """Two layers read at the same three positions (1×1 kernels), against autograd."""
    network = Network((PositionedLayer(4, 6, 3), PositionedLayer(6, 2, 3)), 0.2)
    rng = torch.Generator().manual_seed(4)
    weights = [torch.randn(6, 4, generator=rng), torch.randn(2, 6, generator=rng)]
    x = torch.randn(BATCH, 3, 4, generator=rng)
    parameters = [weight.double().requires_grad_() for weight in weights]
    hidden = torch.nn.functional.leaky_relu(x.double() @ parameters[0].T, 0.2)
    (hidden @ parameters[1].T).square().sum((1, 2)).mean().backward()

    first = x @ weights[0].T
    activated = network.activation(first)
    outputs = (activated @ weights[1].T).requires_grad_()
    losses = outputs.double().square().sum((1, 2))
    update = BackPropagation(network, weights).tell([Activities((x, activated), (first, outputs), outputs)], [losses])
    for layer, parameter in zip(update.layers, parameters):
        torch.testing.assert_close(layer.weight.dense().double(), parameter.grad, rtol=1e-5, atol=1e-5)


# --- nothing moved --------------------------------------------------------------------------------


@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("rule", [ActivityPerturbation, IterativePerturbation])
def test_a_vanished_perturbation_gives_no_gradient(mini_batch, rule, noisy):
    """δa = 0 everywhere (lost under an ADC step) is 0, not NaN, even where the losses differ; others still learn."""
    learner = rule(mini_batch.network, mini_batch.perturbation(), noisy, 2)
    step = mini_batch.one_step(learner, rows=8)
    still = [step.activities[0]] * len(step.activities)
    rising = [loss + index for index, loss in enumerate(step.losses)]
    for losses in (rising, step.losses[:1] * len(still)):
        for layer in learner.tell(still, losses).layers:
            assert not bool(layer.weight.errors.any())
            assert not bool(layer.weight.dense().any())
            assert not bool(layer.bias.any())

    moved = []  # all rows but the first
    for activity in step.activities:
        a = tuple(v.clone() for v in activity.pre_activations)
        for v, first in zip(a, step.activities[0].pre_activations):
            v[0] = first[0]
        moved.append(Activities(activity.inputs, a, activity.outputs))
    for layer, before in zip(learner.tell(moved, step.losses).layers, step.update.layers):
        assert not bool(layer.weight.errors[0].any())
        assert torch.equal(layer.weight.errors[1:], before.weight.errors[1:])
        assert bool(torch.isfinite(layer.weight.errors).all())


@pytest.mark.parametrize("rule", RULES)
def test_telling_leaves_activities_and_losses_alone(mini_batch, rule):
    learner = rule(mini_batch.network, mini_batch.perturbation(), True, 2)
    step = mini_batch.one_step(learner, rows=8)
    before = [[t.clone() for t in (*a.inputs, *a.pre_activations, a.outputs)] for a in step.activities]
    again = learner.tell(step.activities, step.losses)
    for copies, activity in zip(before, step.activities):
        for copy, tensor in zip(copies, (*activity.inputs, *activity.pre_activations, activity.outputs)):
            assert torch.equal(copy, tensor)
    for one, two in zip(again.layers, step.update.layers):
        assert torch.equal(one.weight.errors, two.weight.errors)
