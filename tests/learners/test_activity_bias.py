"""ANP is biased, and its bias is known: learning.md checks 3 and 4.

E[u] = N · P · Q diag(h) Qᵀ · G ,   δa = P ε ,   PᵀP = Q Λ Qᵀ
"""

import numpy as np
import pytest
import torch

from analogsim.learners.activity_perturbation import ActivityPerturbation
from analogsim.learners.iterative_perturbation import IterativePerturbation
from analogsim.learners.node_perturbation import NodePerturbation


def test_shares_of_the_squared_norm_add_up(one_sample, shares):
    """Σ λ_i h_i = 1, and h = 1/(N λ) where all eigenvalues are one."""
    eigenvalues = np.linalg.eigvalsh((one_sample.propagators[0].T @ one_sample.propagators[0]).numpy())
    assert eigenvalues @ shares(eigenvalues) == pytest.approx(1, abs=1e-9)
    np.testing.assert_allclose(shares(np.full(7, 2.5)), 1 / (7 * 2.5), rtol=1e-9)


@pytest.mark.parametrize("setting", ["clean", "noisy", "intrinsic"])
def test_mean_of_activity_perturbation(one_sample, check_mean, setting):
    """The closed form holds, for a clean first pass, a perturbed one, and hidden noise in both passes.

    10^6 noise samples, z-test at α = 1e-6 over 13 components: detects 1.5 % of a layer's norm. The bias
    itself is 65 % of ‖E[u]‖ and N without the output units 23 %, so that G as the mean fails.
    """
    own = None if setting == "intrinsic" else one_sample.perturbation()
    rule = ActivityPerturbation(one_sample.network, own, noisy_baseline=setting == "noisy")
    errors = one_sample.errors(rule, node_noise=one_sample.sigma if own is None else 0.0)
    check_mean(errors, one_sample.anp_means[0])
    with pytest.raises(AssertionError, match="component"):
        check_mean(errors, one_sample.gradients[0])


def test_mean_of_averaged_activity_perturbation(one_sample, check_mean):
    """K = 4 passes against one first pass: the same mean (4·10^5 × 4 noise samples, 1.5 % of a layer's norm)."""
    rule = ActivityPerturbation(one_sample.network, one_sample.perturbation(), samples=4)
    check_mean(one_sample.errors(rule, steps=2), one_sample.anp_means[0])


@pytest.mark.parametrize("noisy_baseline", [False, True], ids=["clean", "noisy"])
def test_first_layer_directions_are_those_of_node_perturbation(one_sample, noisy_baseline):
    """Layer 1 has δa_1 = ε_1, so sample by sample ANP is NP times N σ² / ‖δa‖², from any draw.

    With a noisy baseline δa_1 = ε_1(2) - ε_1(1), so NP's `both` is the one that is parallel, and the
    factor is 2 N σ² / ‖δa‖². Their means are not parallel for a net this small: E[u_1] is layer 1 of
    the closed form, and its angle to G_1 is not 0 (only a wide net's is).
    """
    perturbation = one_sample.perturbation()
    anp = one_sample.one_step(ActivityPerturbation(one_sample.network, perturbation, noisy_baseline), rows=1000)
    np_rule = NodePerturbation(one_sample.network, perturbation, noisy_baseline, difference="both")
    node = one_sample.one_step(np_rule, rows=1000)
    first, second = (torch.cat(a.pre_activations, 1).double() for a in anp.activities)
    squared = (second - first).square().sum(1)
    factor = (2 if noisy_baseline else 1) * one_sample.nodes * one_sample.sigma**2 / squared
    mine, its = (s.update.layers[0].weight.errors.double() for s in (anp, node))
    assert float((mine - its * factor[:, None]).norm() / mine.norm()) < 1e-3  # float32 of a, 1e-7 / σ
    others = [s.update.layers[1].weight.errors.double() for s in (anp, node)]
    assert float((others[0] - others[1] * factor[:, None]).norm() / others[0].norm()) > 0.1

    span = one_sample.spans[0]
    cosine = torch.cosine_similarity(one_sample.anp_means[0, span], one_sample.gradients[0, span], 0)
    assert 0.9 < float(cosine) < 0.9999


def test_one_layer_makes_iterative_and_activity_perturbation_one_rule(make_bench):
    """INP = ANP bit for bit; NP = that × ‖ε‖²/(Nσ²), to float32 (x* and b are 0 here, so δa = ε)."""
    bench = make_bench(5, 7, samples=1, seed=3)
    bench.x.zero_()
    bench.biases[0].zero_()
    rules = (IterativePerturbation, ActivityPerturbation, NodePerturbation)
    inp, anp, node = (bench.one_step(rule(bench.network, bench.perturbation()), rows=500) for rule in rules)
    errors = [step.update.layers[0].weight.errors for step in (inp, anp, node)]
    assert torch.equal(errors[0], errors[1])
    squared = node.probes[1].perturbation[0].double().square().sum(1, keepdim=True)
    expected = errors[1].double() * squared / (7 * bench.sigma**2)
    torch.testing.assert_close(errors[2].double(), expected, rtol=2e-6, atol=0)
    assert float(errors[0].abs().min()) > 0


def test_one_layer_activity_perturbation_is_unbiased(make_bench, check_mean):
    """P = I makes the closed form G itself. 4·10^5 draws: detects 1.5 % of ‖G‖."""
    bench = make_bench(5, 7, samples=1, seed=3)
    torch.testing.assert_close(bench.anp_means, bench.gradients)
    check_mean(bench.errors(ActivityPerturbation(bench.network, bench.perturbation()), steps=2), bench.gradients[0])
