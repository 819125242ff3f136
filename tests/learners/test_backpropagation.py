"""BP and DBP against torch.autograd on a noise-free chip."""

import copy

import pytest
import torch

from analogsim.contracts import Activities, LayerUpdate, Probe, WeightUpdate
from analogsim.learners.backpropagation import BackPropagation
from analogsim.learners.decorrelation import Decorrelated, decorrelate
from analogsim.training.losses import LOSSES


def targets(bench, loss):
    if loss == "cross_entropy":
        return bench.y
    return torch.linspace(-1, 1, len(bench.x) * bench.network.layers[-1].units).view(len(bench.x), -1)


def autograd(bench, loss):
    """[(∂/∂W_l, ∂/∂b_l)] of the mean loss, in float64 from the network's equations."""
    parameters = [(w.double().requires_grad_(), b.double().requires_grad_()) for w, b in bench.layers]
    outputs = bench.forward(parameters)[1][-1]
    if loss == "cross_entropy":
        value = -torch.log_softmax(outputs, 1)[range(len(bench.y)), bench.y].mean()
    else:
        value = (outputs - targets(bench, loss).double()).square().mean()
    value.backward()
    return [(w.grad, b.grad) for w, b in parameters]


def back_propagate(bench, loss, learner, chip):
    (probe,) = learner.ask(0, len(bench.x))
    activity = chip.run(bench.x, probe)
    activity.outputs.requires_grad_()
    value = LOSSES[loss](activity.outputs, targets(bench, loss))
    with torch.no_grad():  # as the training loop does
        return learner.tell([activity], [value])


def assert_is_autograd(update, exact):
    """Weights and biases of every layer, to float32's rounding of a three-layer network."""
    for layer, (weight, bias) in zip(update.layers, exact):
        for mine, its in ((layer.weight.dense(), weight), (layer.bias, bias)):
            assert mine.shape == its.shape
            assert float((mine.double() - its).norm() / its.norm()) < 2e-6


@pytest.fixture(params=["5-6-4-3", "9-20-20-20-4", "7-3"])
def bench(request, make_bench):
    return make_bench(*map(int, request.param.split("-")), samples=32, seed=8)


def plain(bench):
    """The same network with R = I."""
    identities = tuple(torch.eye(layer.inputs) for layer in bench.network.layers)
    return type(bench)(bench.network, bench.weights, bench.biases, identities, bench.x, bench.y)


@pytest.mark.parametrize("loss", LOSSES)
def test_back_propagation_is_autograd(bench, loss):
    """Without decorrelation: no matrices on the chip, none in the rule."""
    bench = plain(bench)
    chip = bench.chip()
    undecorrelated = bench.chip()
    undecorrelated._decorrelation = [None] * len(bench.weights)
    for one in (chip, undecorrelated):
        assert_is_autograd(
            back_propagate(bench, loss, BackPropagation(bench.network, bench.weights), one), autograd(bench, loss)
        )


@pytest.mark.parametrize("loss", LOSSES)
def test_back_propagation_through_decorrelation_is_autograd(bench, loss):
    """With random R, and R left as it is."""
    matrices = [matrix.clone() for matrix in bench.matrices]
    update = back_propagate(bench, loss, BackPropagation(bench.network, bench.weights, matrices), bench.chip())
    assert_is_autograd(update, autograd(bench, loss))
    assert all(torch.equal(matrix, before) for matrix, before in zip(matrices, bench.matrices))


class UpdatesTooEarly(Decorrelated):
    """Planted bug: R moves on before BP used it."""

    def tell(self, activities, losses):
        for matrix, x in zip(self.matrices, activities[0].inputs):
            decorrelate(matrix, x, self.rate)
        update = self.rule.tell(activities, losses)
        return WeightUpdate(tuple(LayerUpdate(layer.weight, layer.bias) for layer in update.layers))


def decorrelated(bench, kind, rate):
    matrices = [matrix.clone() for matrix in bench.matrices]
    return kind(BackPropagation(bench.network, bench.weights, matrices), matrices, rate)


@pytest.mark.parametrize("loss", LOSSES)
def test_decorrelated_back_propagation_uses_the_matrices_of_its_pass(bench, loss):
    """Whatever the rate, R moves after the gradient, by one step."""
    learner = decorrelated(bench, Decorrelated, 0.01)
    update = back_propagate(bench, loss, learner, bench.chip())
    assert_is_autograd(update, autograd(bench, loss))
    for layer, matrix, before in zip(update.layers, learner.matrices, bench.matrices):
        assert layer.decorrelation is matrix
        assert not torch.equal(matrix, before)


def test_the_matrix_test_catches_an_early_update(make_bench):
    bench = make_bench(5, 6, 4, 3, samples=32, seed=8)
    update = back_propagate(bench, "cross_entropy", decorrelated(bench, UpdatesTooEarly, 0.01), bench.chip())
    with pytest.raises(AssertionError):
        assert_is_autograd(update, autograd(bench, "cross_entropy"))


def test_a_kink_has_the_slope_below_it(make_bench):
    """f'(0) is the negative slope, as torch's leaky ReLU has it."""
    network = make_bench(2, 2, 2, samples=1).network
    a = torch.tensor([-1.0, -0.0, 0.0, 1.0], requires_grad=True)
    torch.nn.functional.leaky_relu(a, network.negative_slope).sum().backward()
    assert torch.equal(network.derivative(a.detach()), a.grad)


def test_state_goes_out_and_in(make_bench):
    """`load` copies into the rule's own weights: the optimiser's shadow stays the same tensors."""
    bench = make_bench(5, 6, 4, 3, samples=2)
    learner = decorrelated(bench, Decorrelated, 0.01)
    saved = copy.deepcopy(dict(learner.state()))
    other = decorrelated(make_bench(5, 6, 4, 3, samples=2, seed=9), Decorrelated, 0.01)
    weights, matrices = list(other.rule.weights), list(other.matrices)
    other.load(saved)
    assert all(torch.equal(saved[name], tensor) for name, tensor in other.state().items())
    assert saved.keys() == other.state().keys()
    assert all(one is two for one, two in zip(other.rule.weights, weights))
    assert all(one is two for one, two in zip(other.matrices, matrices))
    assert all(one is two for one, two in zip(other.rule.matrices, matrices))


def test_activities_of_the_chip_are_those_of_the_equations(bench):
    """x*, a and the outputs, to float32: the ground all other checks stand on."""
    inputs, pre_activations = bench.forward()
    activity: Activities = bench.chip().run(bench.x, Probe())
    torch.testing.assert_close([x.double() for x in activity.inputs], inputs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close([a.double() for a in activity.pre_activations], pre_activations, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(activity.outputs.double(), pre_activations[-1], rtol=1e-5, atol=1e-5)
