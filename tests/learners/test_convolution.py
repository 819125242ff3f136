"""The rules at positions: a small convolutional network on an ideal chip, against autograd.

Everything exact is autograd's, in float64, through torch's own unfold: G = ∂L/∂ε at ε = 0, and
P = ∂a/∂ε, the stacked pre-activations' Jacobian, for ANP's closed form (learning.md, check 3).
"""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy, leaky_relu, unfold

from analogsim.backends import get_backend
from analogsim.chip.chip import SimulatedChip
from analogsim.config.chip import ChipDescription
from analogsim.contracts import Factors, LayerUpdate, Probe, WeightUpdate
from analogsim.learners import backpropagation
from analogsim.learners.activity_perturbation import ActivityPerturbation
from analogsim.learners.backpropagation import BackPropagation
from analogsim.learners.iterative_perturbation import IterativePerturbation
from analogsim.learners.node_perturbation import NodePerturbation
from analogsim.learners.perturbation import Perturbation
from analogsim.network import ConvLayer, DenseLayer, Network
from analogsim.streams import Stream

SIGMA, SLOPE, ROWS, STEPS = 1e-3, 0.2, 50_000, 3
LAYERS = (ConvLayer(2, 4, 4, 3, 2), ConvLayer(3, 3, 3, 2, 2), DenseLayer(8, 3))
NETWORK = Network(LAYERS, SLOPE)
LABEL = 1


def numbers(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


WEIGHTS = [numbers(layer.units, layer.inputs, seed=i) * (2 / layer.inputs) ** 0.5 for i, layer in enumerate(LAYERS)]
MATRICES = [
    torch.eye(layer.inputs) + 0.1 * numbers(layer.inputs, layer.inputs, seed=9 + i) for i, layer in enumerate(LAYERS)
]
IMAGE = numbers(1, 4, 4, 2, seed=6)
SIZES = [torch.Size(layer.output_shape).numel() for layer in LAYERS]


def forward(epsilon, weights=None):
    """All pre-activations stacked, with ε (N,) added to them; float64."""
    x, parts = IMAGE.double(), []
    weights = [w.double() for w in WEIGHTS] if weights is None else weights
    for layer, w, r, e in zip(LAYERS, weights, MATRICES, epsilon.split(SIZES)):
        if isinstance(layer, ConvLayer):
            image = x.reshape(1, layer.height, layer.width, layer.channels).permute(0, 3, 1, 2)
            vectors = unfold(image, layer.kernel, stride=layer.stride).transpose(1, 2)[0]
        else:
            vectors = x.reshape(1, -1)
        a = vectors @ r.double().T @ w.T + e.view(-1, layer.units)
        parts.append(a.flatten())
        x = leaky_relu(a, SLOPE)
    return torch.cat(parts)


def loss_of(pre_activations):
    return cross_entropy(pre_activations[-SIZES[-1] :][None], torch.tensor([LABEL]))


ZERO = torch.zeros(sum(SIZES), dtype=torch.float64)
G = torch.func.grad(lambda e: loss_of(forward(e)))(ZERO)
P = torch.func.jacrev(forward)(ZERO)
assert float(forward(ZERO)[: -SIZES[-1]].abs().min()) > 20 * SIGMA  # no perturbation crosses a kink


def chip(network=NETWORK):
    ideal = ChipDescription(name="ideal", injection_port=True)
    made = SimulatedChip(ideal, network, WEIGHTS, Stream.from_seed(5))
    made.update(WeightUpdate(tuple(LayerUpdate(decorrelation=r) for r in MATRICES)))
    return made


def perturbation(kind=Perturbation):
    return kind(SIGMA, NETWORK, Stream.from_seed(6), get_backend(), torch.device("cpu"))


def one_step(learner, device, rows, step=0):
    x, y = IMAGE.repeat(rows, 1, 1, 1), torch.full((rows,), LABEL)
    activities = [device.run(x, probe) for probe in learner.ask(step, rows)]
    for a in activities:
        a.outputs.requires_grad_()
    losses = [cross_entropy(a.outputs.double(), y, reduction="none") for a in activities]
    with torch.no_grad():
        return learner.tell(activities, losses)


def errors(learner, network=NETWORK):
    """150,000 draws of the error of one image, (draws, N); the 1/B is undone."""
    device, draws = chip(network), []
    for step in range(STEPS):
        factors = [layer.weight for layer in one_step(learner, device, ROWS, step).layers]
        draws.append(torch.cat([f.errors.flatten(1) for f in factors], 1).double() * ROWS)
        device.update(WeightUpdate((LayerUpdate(),) * len(LAYERS)))
    return torch.cat(draws)


def check(learner, expected, check_mean, network=NETWORK):
    """150,000 draws, z-test of each of the 38 nodes' means, α = 1e-6 in all."""
    check_mean(errors(learner, network), expected)


@pytest.fixture(scope="module")
def anp_mean(shares):
    eigenvalues, q = torch.linalg.eigh(P.T @ P)
    h = torch.from_numpy(shares(eigenvalues.numpy()))
    return NETWORK.nodes * P @ q @ (h * (q.T @ G))


@pytest.mark.parametrize("noisy_baseline", [False, True], ids=["clean", "noisy"])
@pytest.mark.parametrize("rule", [NodePerturbation, IterativePerturbation])
def test_np_and_inp_are_unbiased(rule, noisy_baseline, check_mean):
    """E[u] = ∂L/∂a at every position; detects 3 % of a layer's norm."""
    check(rule(NETWORK, perturbation(), noisy_baseline), G, check_mean)


@pytest.mark.parametrize("noisy_baseline", [False, True], ids=["clean", "noisy"])
def test_anp_has_its_closed_form_bias(noisy_baseline, check_mean, anp_mean):
    check(ActivityPerturbation(NETWORK, perturbation(), noisy_baseline), anp_mean, check_mean)


def check_bp():
    """Weight and bias gradients, both summed over positions, to float32 rounding (averages: 75 % off or more)."""
    update = one_step(BackPropagation(NETWORK, WEIGHTS, MATRICES), chip(), 1)
    weights = [w.double().requires_grad_() for w in WEIGHTS]
    exact = torch.autograd.grad(loss_of(forward(ZERO, weights)), weights)
    for layer, change, weight, error in zip(LAYERS, update.layers, exact, G.split(SIZES)):
        torch.testing.assert_close(change.weight.dense().double(), weight, rtol=1e-4, atol=1e-6)
        bias = error.view(-1, layer.units).sum(0)
        torch.testing.assert_close(change.bias.double(), bias, rtol=1e-4, atol=1e-6)


def test_bp_is_autograd():
    check_bp()


# --- planted bugs ---------------------------------------------------------------------------------


class SharedOverPositions(Perturbation):
    def probe(self, step, pass_index, batch, layers=None, inputs=False):
        drawn = super().probe(step, pass_index, batch, layers, inputs).perturbation
        shared = [e if e is None or e.ndim == 2 else e[:, :1].expand_as(e).contiguous() for e in drawn]
        return Probe(tuple(shared), inputs=inputs)


class ChannelsOnly(Network):
    @property
    def nodes(self):
        return sum(layer.units for layer in self.layers)


class OnePosition(ConvLayer):
    @property
    def output_shape(self):
        return (self.units,)


class Transposed(ConvLayer):
    """Patches with rows and columns swapped."""

    def image(self, x):
        return super().image(x).transpose(1, 2).contiguous()


class AveragedOverPositions(NodePerturbation):
    def tell(self, activities, losses):
        layers = super().tell(activities, losses).layers
        return WeightUpdate(
            tuple(
                LayerUpdate(Factors(u.weight.errors / layer.positions, u.weight.inputs), u.bias)
                for u, layer in zip(layers, LAYERS)
            )
        )


UNITS_OF_ONE = Network((OnePosition(2, 4, 4, 3, 2), OnePosition(3, 3, 3, 2, 2), LAYERS[2]), SLOPE)
ORDER = Network((Transposed(2, 4, 4, 3, 2), *LAYERS[1:]), SLOPE)
RULE_BUGS = {  # (the rule, the network it is checked on)
    "noise shared over positions": lambda: (NodePerturbation(NETWORK, perturbation(SharedOverPositions)), NETWORK),
    "N counts channels only": lambda: (
        ActivityPerturbation(ChannelsOnly(LAYERS, SLOPE), perturbation()),
        NETWORK,
    ),
    "N_l counts channels only": lambda: (IterativePerturbation(UNITS_OF_ONE, perturbation()), NETWORK),
    "gradient averaged over positions": lambda: (AveragedOverPositions(NETWORK, perturbation()), NETWORK),
    "patch order transposed": lambda: (NodePerturbation(ORDER, perturbation()), ORDER),
}


@pytest.mark.parametrize("bug", RULE_BUGS)
def test_the_checks_catch_planted_bugs(bug, check_mean, anp_mean):
    learner, network = RULE_BUGS[bug]()
    expected = anp_mean if isinstance(learner, ActivityPerturbation) else G
    with pytest.raises(AssertionError):
        check(learner, expected, check_mean, network)


def averaged_matrix(self):
    return dense(self) / (self.errors[0].numel() // self.errors.shape[-1])


def averaged_bias(errors, inputs):
    layers = zip(LAYERS, gradient(errors, inputs).layers)
    return WeightUpdate(tuple(replace(change, bias=change.bias / layer.positions) for layer, change in layers))


dense, gradient = Factors.dense, backpropagation.gradient
SUM_BUGS = {  # (where, name, what stands there instead)
    "matrix of the factors averaged over positions": (Factors, "dense", averaged_matrix),
    "bias averaged over positions": (backpropagation, "gradient", averaged_bias),
}


@pytest.mark.parametrize("bug", SUM_BUGS)
def test_the_check_of_bp_catches(bug, monkeypatch):
    monkeypatch.setattr(*SUM_BUGS[bug])
    with pytest.raises(AssertionError, match="not close"):
        check_bp()
