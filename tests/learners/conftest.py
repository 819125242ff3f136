"""A 5-6-4-3 network on an ideal chip, its exact gradients in float64, and the checks learner tests share.

Everything exact here is written out again from the equations of learning.md; nothing of it is
asked of the code under test.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from types import SimpleNamespace

import numba
import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor

from analogsim.backends import get_backend
from analogsim.chip.chip import SimulatedChip
from analogsim.config.schema import ChipDescription
from analogsim.contracts import LayerUpdate, WeightUpdate
from analogsim.learners.perturbation import Perturbation
from analogsim.network import Network
from analogsim.streams import Stream

CPU = torch.device("cpu")
ALPHA = 1e-6  # of a whole check, shared out over its components
SIGMA = 1e-3  # finite differences err by σ² (1e-6), float32 by 1e-4 at random: both under any error looked for
SLOPE = 0.2


@dataclass(frozen=True)
class Bench:
    """A network with random W, b and R (seeded), and a mini-batch of x and labels y."""

    network: Network
    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    matrices: tuple[Tensor, ...]
    x: Tensor
    y: Tensor
    sigma: float = SIGMA

    @classmethod
    def random(cls, *sizes: int, samples: int = 4, seed: int = 0) -> "Bench":
        rng = torch.Generator().manual_seed(seed)

        def normal(*shape):
            return torch.randn(shape, generator=rng)

        pairs = list(pairwise(sizes))
        return cls(
            Network.dense(sizes[0], sizes[1:-1], sizes[-1], SLOPE),
            tuple(normal(o, i) * (2 / i) ** 0.5 for i, o in pairs),
            tuple(normal(o) * 0.3 for _, o in pairs),
            tuple(torch.eye(i) + normal(i, i) * 0.2 for i, _ in pairs),
            normal(samples, sizes[0]),
            torch.arange(samples) % sizes[-1],
        )

    def chip(self, node_noise: float = 0.0) -> SimulatedChip:
        """An ideal chip with injection port (hidden noise on every node, if asked), W, b and R in it."""
        ideal = ChipDescription(name="ideal", injection_port=True).replace(**{"node_noise.sigma": node_noise})
        chip = SimulatedChip(ideal, self.network, self.weights, Stream.from_seed(5))
        settings = (LayerUpdate(bias=-b, decorrelation=r.clone()) for b, r in zip(self.biases, self.matrices))
        chip.update(WeightUpdate(tuple(settings)))
        return chip

    def perturbation(self, seed: int = 6) -> Perturbation:
        return Perturbation(self.sigma, self.network, Stream.from_seed(seed), get_backend(), CPU)

    # --- what is exact ---------------------------------------------------------------------------

    def forward(self, parameters=None):
        """x*_{l-1} and a_l of the mini-batch in float64, from float64 (W, b) per layer."""
        x, inputs, pre_activations = self.x.double(), [], []
        for layer, (w, b) in enumerate(parameters or [(w.double(), b.double()) for w, b in self.layers]):
            inputs.append(x @ self.matrices[layer].double().T)
            pre_activations.append(inputs[-1] @ w.T + b)
            x = torch.where(pre_activations[-1] > 0, 1.0, SLOPE) * pre_activations[-1]
        return inputs, pre_activations

    @property
    def layers(self):
        return list(zip(self.weights, self.biases))

    @property
    def nodes(self) -> int:
        """N, the output units of every layer."""
        return sum(len(b) for b in self.biases)

    @cached_property
    def inputs(self) -> list[Tensor]:
        """x*_{l-1} of the mini-batch."""
        return self.forward()[0]

    @cached_property
    def slopes(self) -> list[Tensor]:
        """f'(a_l) of the hidden layers; every a_l is too far from 0 for a perturbation to cross."""
        hidden = self.forward()[1][:-1]
        assert all(float(a.abs().min()) > 20 * self.sigma for a in hidden)
        return [torch.where(a > 0, 1.0, SLOPE) for a in hidden]

    @cached_property
    def propagators(self) -> Tensor:
        """P = (I - S)⁻¹ per sample, S_{l,l-1} = W_l R_{l-1} f'(a_{l-1}): δa = P ε."""
        s = torch.zeros(len(self.x), self.nodes, self.nodes, dtype=torch.float64)
        spans = self.spans
        for layer in range(1, len(spans)):
            jacobian = (self.weights[layer].double() @ self.matrices[layer].double()) * self.slopes[layer - 1][:, None]
            s[:, spans[layer], spans[layer - 1]] = jacobian
        return torch.linalg.inv(torch.eye(self.nodes) - s)

    @cached_property
    def gradients(self) -> Tensor:
        """G = Pᵀ e_L per sample, e_L = softmax(a_L) - onehot(y): ∂L/∂a over all nodes, (samples, N)."""
        output = self.forward()[1][-1]
        error = torch.softmax(output, 1) - torch.nn.functional.one_hot(self.y, output.shape[1])
        return (error[:, None] @ self.propagators[:, self.spans[-1]])[:, 0]

    @cached_property
    def anp_means(self) -> Tensor:
        """N · P · Q diag(h) Qᵀ · G per sample, PᵀP = Q Λ Qᵀ (learning.md, check 3)."""
        means = []
        for p, g in zip(self.propagators.numpy(), self.gradients.numpy()):
            eigenvalues, q = np.linalg.eigh(p.T @ p)
            means.append(self.nodes * p @ q @ (anp_shares(eigenvalues) * (q.T @ g)))
        return torch.from_numpy(np.stack(means))

    @property
    def spans(self) -> list[slice]:
        """Where each layer stands among all N nodes."""
        ends = np.cumsum([layer.units for layer in self.network.layers]).tolist()
        return [slice(start, end) for start, end in zip([0, *ends], ends)]

    # --- what a learner says ---------------------------------------------------------------------

    def one_step(self, learner, chip=None, rows: int | None = None, step: int = 0):
        """Ask, run and tell on the mini-batch repeated to `rows` rows (row i: sample i mod samples)."""
        chip = chip or self.chip()
        repeats = (rows or len(self.x)) // len(self.x)
        x, y = self.x.repeat(repeats, 1), self.y.repeat(repeats)
        probes = learner.ask(step, len(x))
        activities = [chip.run(x, probe) for probe in probes]
        losses = [torch.nn.functional.cross_entropy(a.outputs.double(), y, reduction="none") for a in activities]
        update = learner.tell(activities, losses)
        return SimpleNamespace(update=update, probes=probes, activities=activities, losses=losses)

    def draws(self, learner, rows: int = 200_000, steps: int = 5, node_noise: float = 0.0):
        """Per mini-batch of distinct samples: errors (M, samples, N) and x* (M, samples, in) per layer.

        The 1/rows of the average over the big batch is undone, so that one error is one sample's.
        """
        chip, errors, inputs = self.chip(node_noise), [], []
        for step in range(steps):
            factors = [layer.weight for layer in self.one_step(learner, chip, rows, step).update.layers]
            rows_run = len(factors[0].errors)
            errors.append(torch.cat([f.errors for f in factors], 1).double() * rows_run)
            inputs.append([f.inputs for f in factors])
            chip.update(WeightUpdate((LayerUpdate(),) * len(factors)))
        groups = (-1, len(self.x))
        return torch.cat(errors).unflatten(0, groups), [torch.cat(x).unflatten(0, groups) for x in zip(*inputs)]

    def errors(self, learner, **options) -> Tensor:
        """(M, N) errors of the bench's one sample, each with noise of its own."""
        assert len(self.x) == 1
        return self.draws(learner, **options)[0][:, 0]

    # --- checks ----------------------------------------------------------------------------------

    def assert_gradient(self, learner, errors: Tensor, rows: int = 100_000, steps: int = 3, **options) -> None:
        """The mean gradient of a mini-batch, weights and biases, is (1/B) Σ e_b x*_bᵀ and (1/B) Σ e_b.

        z-test of each of its entries over rows * steps / B mini-batches, whose noises are independent.
        errors: (samples, N), the expected e_b.
        """
        drawn, inputs = self.draws(learner, rows, steps, **options)
        gradients, expected = [drawn.mean(1)], [errors.mean(0)]
        for span, x, exact in zip(self.spans, inputs, self.inputs):
            gradients.append(torch.einsum("msu,msi->mui", drawn[..., span], x.double()).flatten(1) / len(self.x))
            expected.append((errors[:, span].T @ exact).flatten() / len(self.x))
        assert_mean(torch.cat(gradients, 1), torch.cat(expected))


def assert_mean(draws: Tensor, expected: Tensor) -> None:
    """z-test of each component's mean, (M, components) or (M,); two-sided, ALPHA over all together."""
    draws, expected = draws.reshape(len(draws), -1), torch.as_tensor(expected, dtype=torch.float64).flatten()
    assert bool(torch.isfinite(draws).all())
    z = (draws.mean(0) - expected) / (draws.std(0) / len(draws) ** 0.5)
    worst = int(z.abs().argmax())
    bound = float(stats.norm.isf(ALPHA / 2 / draws.shape[1]))
    mean, value = float(draws.mean(0)[worst]), float(expected[worst])
    assert float(z.abs()[worst]) < bound, f"component {worst}: mean {mean:.6g}, expected {value:.6g}, z {z[worst]:.1f}"


def anp_shares(eigenvalues: np.ndarray) -> np.ndarray:
    """h_i = ∫₀^∞ (1 + 2tλ_i)⁻¹ Π_j (1 + 2tλ_j)^{-1/2} dt = E[z_i² / Σ_j λ_j z_j²]."""

    def integrand(t, value):
        return np.exp(-0.5 * np.log1p(2 * t * eigenvalues).sum()) / (1 + 2 * t * value)

    return np.array([integrate.quad(integrand, 0, np.inf, args=(v,), epsabs=1e-13)[0] for v in eigenvalues])


@pytest.fixture(scope="session")
def one_sample() -> Bench:
    """One input: every row of a large batch is another draw of the noise."""
    return Bench.random(5, 6, 4, 3, samples=1, seed=22)


@pytest.fixture(scope="session")
def mini_batch() -> Bench:
    """Four inputs with different labels, so that mean(g xᵀ) is not mean(g) mean(x)ᵀ."""
    return Bench.random(5, 6, 4, 3, samples=4, seed=24)


@pytest.fixture(scope="session")
def make_bench():
    return Bench.random


@pytest.fixture(scope="session")
def check_mean():
    return assert_mean


@pytest.fixture(scope="session")
def shares():
    return anp_shares


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """These products are small: on a busy machine, threads that wait for each other cost four times the work."""
    before = torch.get_num_threads(), numba.get_num_threads()
    torch.set_num_threads(1)
    numba.set_num_threads(1)
    yield
    torch.set_num_threads(before[0])
    numba.set_num_threads(before[1])
