"""A rule may be told by iterators that run the passes as they are consumed: the same gradient, few passes alive."""

import gc
import weakref
from dataclasses import replace

import pytest
import torch

from analogsim.learners.activity_perturbation import ActivityPerturbation
from analogsim.learners.decorrelation import Decorrelated
from analogsim.learners.iterative_perturbation import IterativePerturbation
from analogsim.learners.node_perturbation import NodePerturbation
from analogsim.training.loop import side_by_side

SAMPLES = 12
RULES = (NodePerturbation, IterativePerturbation, ActivityPerturbation)
every_rule = pytest.mark.parametrize("rule", RULES)
every_baseline = pytest.mark.parametrize("noisy", [False, True], ids=["clean", "noisy"])
every_wrap = pytest.mark.parametrize("decorrelated", [False, True], ids=["plain", "decorrelated"])


def build(bench, rule, noisy, decorrelated):
    learner = rule(bench.network, bench.perturbation(), noisy, SAMPLES)
    return Decorrelated(learner, [m.clone() for m in bench.matrices], 0.01) if decorrelated else learner


def tell_one_by_one(bench, learner):
    """(update, most passes alive at once, passes run), told as the loop tells."""
    chip, probes = bench.chip(), learner.ask(0, len(bench.x))
    alive, counts = weakref.WeakSet(), []

    class Pass:  # a set of its own: activities compare by their tensors
        def __init__(self, activities):
            self.inputs, self.pre_activations = activities.inputs, activities.pre_activations
            self.outputs = activities.outputs

    def passes():
        for probe in probes:
            activities = Pass(chip.run(bench.x, probe))
            alive.add(activities)
            gc.collect(0)
            counts.append(len(alive))
            yield activities, torch.nn.functional.cross_entropy(activities.outputs.double(), bench.y, reduction="none")
            del activities

    update = learner.tell(*side_by_side(passes()))
    return update, max(counts), len(counts)


@every_wrap
@every_baseline
@every_rule
def test_told_one_by_one_the_gradient_is_the_same(mini_batch, rule, noisy, decorrelated):
    learners = [build(mini_batch, rule, noisy, decorrelated) for _ in range(2)]
    together = mini_batch.one_step(learners[0])
    update, _, run = tell_one_by_one(mini_batch, learners[1])
    assert run == len(together.probes)
    for one, two in zip(update.layers, together.update.layers, strict=True):
        assert torch.equal(one.weight.errors, two.weight.errors)
        assert torch.equal(one.weight.inputs, two.weight.inputs)
        assert torch.equal(one.bias, two.bias)
        if decorrelated:
            assert torch.equal(one.decorrelation, two.decorrelation)


class Hoarder(NodePerturbation):
    def tell(self, activities, losses):
        return super().tell(list(activities), list(losses))


@every_wrap
@every_baseline
@every_rule
def test_no_more_passes_are_alive_than_a_rule_compares(mini_batch, rule, noisy, decorrelated):
    """The first, the one just run, and one or two that the rule at work has yet to let go."""
    _, most, run = tell_one_by_one(mini_batch, build(mini_batch, rule, noisy, decorrelated))
    assert run > 2 * most
    assert most <= 4


def test_a_rule_that_keeps_all_would_show(mini_batch):
    _, most, run = tell_one_by_one(mini_batch, build(mini_batch, Hoarder, False, False))
    assert most == run == 1 + SAMPLES


@every_baseline
@every_rule
def test_the_inputs_of_later_passes_are_not_looked_at(mini_batch, rule, noisy):
    """What a chip leaves out, since it was not asked for, is not missed."""
    learner, whole = (rule(mini_batch.network, mini_batch.perturbation(), noisy, SAMPLES) for _ in range(2))
    step = mini_batch.one_step(learner)
    assert [bool(told.inputs) for told in step.activities] == [True] + [False] * (len(step.activities) - 1)
    chip = mini_batch.chip()
    asked = whole.ask(0, len(mini_batch.x))
    told = [chip.run(mini_batch.x, replace(probe, inputs=True)) for probe in asked]
    for one, two in zip(whole.tell(told, step.losses).layers, step.update.layers, strict=True):
        torch.testing.assert_close(one.weight.errors, two.weight.errors, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(one.weight.inputs, two.weight.inputs)
