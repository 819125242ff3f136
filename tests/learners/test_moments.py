"""First and second moments of NP and INP, learning.md checks 1, 2 and 5.

One input, 10^6 noise samples, each check at α = 1e-6 over all its components together. Told apart are
a mean 1.5 % of ‖G_l‖ off (INP 0.5 %) and a second moment 1.2 % off (INP 0.6 %).

The same of a small convolutional network, whose layers' units are those of all positions, from 1.5·10^5 samples: a
second moment 4 % off (INP 2 %) is told apart.
"""

import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from analogsim.learners.iterative_perturbation import IterativePerturbation
from analogsim.learners.node_perturbation import NodePerturbation
from analogsim.learners.perturbation import Perturbation

# Tests are imported one by one, not as a package: the convolutional network is fetched from its file.
_convolution = runpy.run_path(str(Path(__file__).with_name("test_convolution.py")))
NETWORK, GRADIENT, SIZES = _convolution["NETWORK"], _convolution["G"], _convolution["SIZES"]
perturbation, errors_of = _convolution["perturbation"], _convolution["errors"]


def squares(bench, errors):
    """‖u_l‖² per draw and layer, (M, L)."""
    return torch.stack([errors[:, span].square().sum(1) for span in bench.spans], 1)


def units(bench):
    return torch.tensor([layer.units for layer in bench.network.layers], dtype=torch.float64)


@pytest.mark.parametrize("noisy_baseline", [False, True], ids=["clean", "noisy"])
def test_iterative_perturbation(one_sample, check_mean, noisy_baseline):
    """E[u_l] = G_l and E‖u_l‖² = N_l ‖G_l‖²; a paired noisy baseline changes neither."""
    errors = one_sample.errors(
        IterativePerturbation(one_sample.network, one_sample.perturbation(), noisy_baseline=noisy_baseline)
    )
    check_mean(errors, one_sample.gradients[0])
    check_mean(squares(one_sample, errors), units(one_sample) * squares(one_sample, one_sample.gradients)[0])


@pytest.mark.parametrize(
    ("noisy_baseline", "difference", "all_layers", "own_layer"),
    [(False, "second", 1, 2), (True, "second", 2, 2), (True, "both", 1, 2)],
    ids=["clean", "noisy, second", "noisy, both"],
)
def test_node_perturbation(one_sample, check_mean, noisy_baseline, difference, all_layers, own_layer):
    """E[u] = G and E‖u_l‖² = c N_l ‖G‖² + 2 ‖G_l‖², c = 2 for the second pass's ε alone, else 1.

    Summed over layers: (2N + 2) ‖G‖² for `second`, (N + 2) ‖G‖² for `both` and a clean baseline.
    """
    rule = NodePerturbation(one_sample.network, one_sample.perturbation(), noisy_baseline, difference=difference)
    errors, gradient = one_sample.errors(rule), one_sample.gradients
    check_mean(errors, gradient[0])
    whole, own = gradient.square().sum(), squares(one_sample, gradient)[0]
    check_mean(squares(one_sample, errors), all_layers * units(one_sample) * whole + own_layer * own)
    total = all_layers * one_sample.nodes + 2
    check_mean(errors.square().sum(1), total * whole)


@pytest.mark.parametrize("samples", [3, 32])
@pytest.mark.parametrize("rule", [IterativePerturbation, NodePerturbation])
def test_averaging_over_perturbed_passes(one_sample, check_mean, rule, samples):
    """E‖ū_l‖² of K averaged passes, from which the cosines to BP of check 5 follow.

    INP (K + N_l - 1)/K ‖G_l‖², NP ((K + 1) ‖G_l‖² + N_l ‖G‖²)/K: told to 2 % at K = 3 (6·10^5 draws),
    5 % at K = 32 (6·10^4 draws). Forgetting 1/K, or drawing one perturbation K times, is off by more
    than 100 %. The mean cosine to G_l is then √(‖G_l‖²/E‖ū_l‖²) but for the spread of ‖ū_l‖, which the
    formula leaves out: within 6 %, where √K forgotten would be 70 % or more.
    """
    k = samples
    errors = one_sample.errors(
        rule(one_sample.network, one_sample.perturbation(), samples=k), rows=60_000, steps=10 if k == 3 else 1
    )
    gradient, own = one_sample.gradients, squares(one_sample, one_sample.gradients)[0]
    if rule is IterativePerturbation:
        expected = (k + units(one_sample) - 1) / k * own
    else:
        expected = ((k + 1) * own + units(one_sample) * gradient.square().sum()) / k
    check_mean(errors, gradient[0])
    check_mean(squares(one_sample, errors), expected)
    for layer, span in enumerate(one_sample.spans):
        cosine = torch.cosine_similarity(errors[:, span], gradient[:, span]).mean()
        assert float(cosine) == pytest.approx(float((own[layer] / expected[layer]).sqrt()), rel=0.06)


# --- at positions -----------------------------------------------------------------------------------


def layer_squares(errors):
    """‖u_l‖² per draw and layer of the convolutional network, over all its units at all positions."""
    return torch.stack([part.square().sum(1) for part in errors.split(SIZES, 1)], 1)


def check_squares(rule, check_mean):
    """N_l ‖G_l‖² for INP; c N_l ‖G‖² + 2 ‖G_l‖² for NP, c = 2 for the second pass's ε alone, else 1."""
    own, size = layer_squares(GRADIENT[None])[0], torch.tensor(SIZES, dtype=torch.float64)
    if isinstance(rule, IterativePerturbation):
        expected = size * own
    else:
        expected = (2 if rule.noisy_baseline else 1) * size * own.sum() + 2 * own
    check_mean(layer_squares(errors_of(rule)), expected)


@pytest.mark.parametrize("noisy_baseline", [False, True], ids=["clean", "noisy"])
@pytest.mark.parametrize("rule", [IterativePerturbation, NodePerturbation])
def test_second_moments_count_the_units_of_all_positions(rule, noisy_baseline, check_mean):
    """1.5·10^5 draws of 27, 8 and 3 units; z-test of the three layers' ‖u_l‖² at α = 1e-6 in all."""
    check_squares(rule(NETWORK, perturbation(), noisy_baseline), check_mean)


class NormOfAPosition(IterativePerturbation):
    """v/‖v‖² and N_l of every position by itself: as unbiased, and noisier."""

    def errors(self, activities, losses):
        (first, first_loss), *others = zip(activities, losses)
        errors = []
        for index, (a, (noisy, loss)) in enumerate(zip(first.pre_activations, others, strict=True)):
            v = noisy.pre_activations[index] - a
            scaled = (loss - first_loss).float().view(-1, *[1] * (v.ndim - 1)) * v.shape[-1]
            errors.append(scaled * v / v.square().sum(-1, keepdim=True))
        return errors, first.inputs


class Signs(Perturbation):
    """ε = ±σ, of the same variance: as unbiased, and its square never above the mean."""

    def probe(self, *where, **which):
        asked = super().probe(*where, **which)
        return replace(asked, perturbation=tuple(self.sigma * epsilon.sign() for epsilon in asked.perturbation))


MOMENT_BUGS = {
    "INP: a norm for every position": lambda: NormOfAPosition(NETWORK, perturbation()),
    "NP: signs for normals at positions": lambda: NodePerturbation(NETWORK, perturbation(Signs)),
}


@pytest.mark.parametrize("bug", MOMENT_BUGS)
def test_the_check_of_second_moments_catches(bug, check_mean):
    """Both have the right mean: no test of bias sees them."""
    with pytest.raises(AssertionError, match="component"):
        check_squares(MOMENT_BUGS[bug](), check_mean)
