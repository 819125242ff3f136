"""Known perturbations through a simulated chip's injection port: a_l = W_l x*_{l-1} + b_l + ε_l."""

import numpy as np
import pytest
import torch

from analogsim import load_chip
from analogsim.backends import NAMES
from analogsim.chip.chip import SimulatedChip
from analogsim.contracts import Probe
from analogsim.errors import ArgumentError, CapabilityError
from analogsim.network import Network
from analogsim.streams import Stream

IDEAL = load_chip("ideal")
NODE = load_chip("gaussian-node").replace(**{"node_noise.sigma": 0.1})
UNITS, BATCH = (7, 5, 3), 13
X, *EPSILON = (
    torch.from_numpy(np.random.default_rng(width).normal(size=(BATCH, width)).astype(np.float32))
    for width in (11, *UNITS)
)
KNOWN = tuple(EPSILON)


def build(description, backend="auto"):
    network = Network.dense(11, UNITS[:2], UNITS[2])
    weights = network.initial_weights(Stream.from_seed(9))
    return SimulatedChip(description, network, weights, Stream.from_seed(1), backend)


@pytest.mark.parametrize("backend", NAMES)
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_perturbation_is_added_to_its_layer_and_passes_on(backend, layer):
    chip = build(IDEAL, backend=backend)
    clean = chip.run(X, Probe())
    perturbed = chip.run(X, Probe(tuple(e if index == layer else None for index, e in enumerate(KNOWN))))
    assert all(map(torch.equal, perturbed.pre_activations[:layer], clean.pre_activations))
    assert torch.equal(perturbed.pre_activations[layer], clean.pre_activations[layer] + KNOWN[layer])
    assert (perturbed.outputs != clean.outputs).all()


def test_a_perturbation_lands_ahead_of_noise_and_adc():
    noisy = NODE.replace(injection_port=True)
    known, none = (build(noisy).run(X, Probe(p)).pre_activations[0] for p in (KNOWN, None))
    torch.testing.assert_close(known, none + KNOWN[0], rtol=0, atol=1e-6)
    adc = IDEAL.replace(adc={"bits": 4, "bound": 7.0})
    coarse, exact = (build(d).run(X, Probe(KNOWN)).pre_activations[0] for d in (adc, IDEAL))
    assert torch.equal(coarse, exact.round().clamp(-7, 7))


def test_a_perturbation_needs_an_injection_port_and_a_refusal_costs_no_noise():
    chip = build(NODE)
    assert (chip.capabilities.injection_port, build(IDEAL).capabilities.injection_port) == (False, True)
    with pytest.raises(CapabilityError, match="gaussian-node has no injection port"):
        chip.run(X, Probe(KNOWN))
    assert torch.equal(chip.run(X, Probe()).outputs, build(NODE).run(X, Probe()).outputs)


WRONG = {
    "layers": KNOWN[:2],
    "units": (KNOWN[1], None, None),
    "rows": (None, KNOWN[1][:5], None),
    "positions": (None, None, KNOWN[2][:, None]),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_perturbations_of_another_shape_are_refused(wrong):
    with pytest.raises(ArgumentError, match=r"^perturbation: ") as caught:
        build(IDEAL).run(X, Probe(WRONG[wrong]))
    assert caught.value.argument == "perturbation"
