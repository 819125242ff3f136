"""First and second moments of NP and INP, learning.md checks 1, 2 and 5.

One input, 10^6 noise samples, each check at α = 1e-6 over all its components together. Told apart are
a mean 1.5 % of ‖G_l‖ off (INP 0.5 %) and a second moment 1.2 % off (INP 0.6 %).
"""

import pytest
import torch

from analogsim.learners.iterative_perturbation import IterativePerturbation
from analogsim.learners.node_perturbation import NodePerturbation


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
