"""Under torch.inference_mode() a chip reads as ever. torch counts no changes there: nothing is kept between passes."""

from contextlib import nullcontext

import pytest
import torch

from analogsim import load_chip
from analogsim.chip import passes as passes_module
from analogsim.chip.chip import SimulatedChip
from analogsim.contracts import LayerUpdate, Probe, WeightUpdate
from analogsim.network import ConvLayer, DenseLayer, Network
from analogsim.streams import Stream

NETWORKS = {
    "dense": Network((DenseLayer(11, 7), DenseLayer(7, 5))),
    "conv": Network((ConvLayer(2, 6, 5, 4, 3, 1, 1), DenseLayer(120, 5))),
}
BATCH = 40  # more than any dense layer has units: folds pay
every_network = pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
every_chip = pytest.mark.parametrize("name", ["ideal", "gaussian-node", "crossbar-generic", "pcm-nandakumar"])
STEP = [Probe(), Probe(inputs=False), Probe(inputs=False)]


def change(network, decorrelated=True):
    generator = torch.Generator().manual_seed(2)
    r = [
        torch.eye(one.inputs) + torch.randn(one.inputs, one.inputs, generator=generator) / 20 for one in network.layers
    ]
    w = [torch.randn(one.units, one.inputs, generator=generator) / 20 for one in network.layers]
    return WeightUpdate(tuple(LayerUpdate(weight=a, decorrelation=b if decorrelated else None) for a, b in zip(w, r)))


def build(network, name):
    weights = network.initial_weights(Stream.from_seed(9))
    return SimulatedChip(load_chip(name), network, weights, Stream.from_seed(1))


def images(network):
    return torch.randn(BATCH, network.layers[0].size, generator=torch.Generator().manual_seed(1))


def numbers(told):
    return [tensor for one in told for tensor in (*one.inputs, *one.pre_activations, one.outputs)]


@pytest.mark.parametrize("within", ["by turns", "always"])
@pytest.mark.parametrize("at_once", [1, 2**40])
@every_chip
@every_network
def test_passes_are_those_outside_to_rounding(network, name, at_once, within, monkeypatch):
    """Steps within the mode and outside of it by turns; or a chip that is made there too. With a new R, and with it."""
    monkeypatch.setattr(passes_module, "STACKED_BYTES", at_once)
    told = []
    for mode in (torch.inference_mode, nullcontext):
        with mode() if within == "always" else nullcontext():
            chip = build(network, name)
        told.append([])
        for step in range(4):
            with mode() if within == "always" or step % 2 == 0 else nullcontext():
                told[-1] += chip.passes(images(network), STEP)
                chip.update(change(network, decorrelated=step < 2))
    for inside, outside in zip(*map(numbers, told), strict=True):
        error = (inside - outside).abs().flatten().sort().values
        share = 0.95 if load_chip(name).dac else 1.0  # of numbers where no converter may tip
        assert float(error[int(share * (len(error) - 1))]) <= 2e-6 * float(outside.abs().max())


@every_network
def test_an_x_that_is_changed_between_passes_is_read_as_it_is(network, monkeypatch):
    monkeypatch.setattr(passes_module, "STACKED_BYTES", 1)
    with torch.inference_mode():
        x, chip = images(network), build(network, "ideal")
        told = chip.passes(x, STEP)
        next(told)
        x.mul_(0.5)
        second = next(told)
    expected = build(network, "ideal").run(0.5 * images(network), STEP[1])
    torch.testing.assert_close(second.outputs, expected.outputs, rtol=1e-5, atol=1e-5)


def test_an_r_that_is_changed_between_steps_is_folded_anew():
    network = NETWORKS["dense"]
    with torch.inference_mode():
        chip, update = build(network, "ideal"), change(network)
        chip.update(update)
        list(chip.passes(images(network), STEP))
        for layer in update.layers:
            layer.decorrelation.neg_()
        told = list(chip.passes(images(network), STEP))
        fresh = build(network, "ideal")
        fresh.update(update)
    assert torch.equal(told[1].outputs, list(fresh.passes(images(network), STEP))[1].outputs)
