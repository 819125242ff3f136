"""Chips with all that a file can say at once: shapes, backends, resuming, views, layers of positions, costs."""

from dataclasses import asdict
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import analogsim
from analogsim.chip.chip import SimulatedChip
from analogsim.config.chip import ChipDescription
from analogsim.contracts import Factors, LayerUpdate, Probe, WeightUpdate
from analogsim.errors import ChipError
from analogsim.network import ConvLayer, DenseLayer, Network
from analogsim.streams import Stream

POWER_OF_R = {"law": "power", "coefficient": 0.01, "exponent": 0.65, "max": 0.2}
FLICKER = {"strength": POWER_OF_R, "unit_uS": 25.0, "t_r_s": 2.5e-7}
DRIFT = {"law": "power", "t0_s": 20.0, "unit_uS": 25.0, "exponent": POWER_OF_R, "spread": POWER_OF_R}
LOG = {"law": "log", "mean_uS": -0.1, "spread_uS": 0.02, "spread_at_1s_uS": 0.1}
SQRT, CONSTANT = {"law": "sqrt", "k_sqrt_uS": 0.1}, {"law": "constant", "sigma_uS": 0.3}
TELEGRAPH = {"telegraph": {"amplitude": 0.1, "flip_probability": 0.2, "mean": 0.05}}
SPREAD = {"g_max_d2d": 0.1, "g_min_d2d_uS": 0.2, "faults": {"stuck_low": 0.01, "stuck_random": 0.02}}
SOFT = {"model": "soft_bounds", "dw_min": 0.01, "dw_min_d2d": 0.3, "c2c": 0.3, "w_max_d2d": 0.2, "write_noise": 1.0}
CONSTANT_STEPS = {"model": "constant", "dw_min": 0.01, "stuck": 0.1, "lifetime_updates": 50.0}
DAC, ADC = (
    {"bits": 7, "noise": 0.01},
    {"bits": 9, "bound": 10.0, "noise": 0.01, "gain_sigma": 0.02, "offset_sigma_lsb": 1.0},
)
CLOCK = {"t_read_s": 1e-5, "t_update_s": 0.1}


def chip(cell=None, **parts):
    cell = {"g_min_uS": 1.0, "read_noise": SQRT} | (cell or {})
    return ChipDescription.model_validate({"cell": cell, "clock": CLOCK, "node_noise": {"sigma": 0.01}} | parts)


CHIPS = {
    "ideal write, drift": chip(
        {"drift": DRIFT, "flicker": FLICKER, **SPREAD}, dac=DAC, adc=ADC, tile={"rows": 5, "columns": 4}
    ),
    "verify": chip(
        {"programming": CONSTANT, "drift": LOG, "flicker": FLICKER}, write={"mode": "verify", "threshold_uS": 0.3}
    ),
    "verify, reference": chip(
        {"programming": CONSTANT, "mapping": "reference", "weight_scale": "column", **SPREAD},
        write={"mode": "verify", "tolerance_uS": 0.2, "max_tries": 3},
        tile={"rows": 6, "columns": 3},
        wires={"segment_ohm": 2.0},
    ),
    "pulsed": chip({"mapping": "reference", "weight_headroom": 2.0}, write={"mode": "pulsed", "cell": SOFT}, adc=ADC),
    "pulsed, timed": chip({"drift": DRIFT, "flicker": FLICKER}, write={"mode": "pulsed", "cell": CONSTANT_STEPS}),
    "no cell, pulsed": ChipDescription.model_validate({"write": {"mode": "pulsed", "cell": SOFT}}),
    "telegraph nodes": chip(
        node_noise=TELEGRAPH, dac=DAC | {"stochastic_rounding": True}, adc=ADC | {"stochastic_rounding": True}
    ),
    "telegraph nodes, interleaved": chip(node_noise=TELEGRAPH, pass_schedule="interleaved", tile={"rows": 5}),
    "bit-serial, slices": chip(
        {"slices": {"bits": 2, "cells": 3}, "mapping": "offset", "weight_max": 1.0},
        dac={"bits": 6, "bit_serial": {"adc": "per_slice"}},
        adc={"bits": 8, "bound": "max"},
        tile={"rows": 4, "columns": 9},
    ),
    "decorrelation on chip": chip({"programming": CONSTANT}, write={"mode": "verify"}, decorrelation="on_chip"),
}
every_chip = pytest.mark.parametrize("name", CHIPS)
BATCH = 7


def numbers(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def image_network():
    """6 × 5 images of 2 channels, a convolution, a hidden layer, three outputs."""
    convolution = ConvLayer(2, 6, 5, units=4, kernel=3, stride=2, padding=1)
    inputs = convolution.positions * 4
    return Network((convolution, DenseLayer(inputs, 5), DenseLayer(5, 3)))


def build(name, backend="auto", seed=1):
    network = image_network()
    weights = network.initial_weights(Stream.from_seed(9))
    return SimulatedChip(CHIPS[name], network, weights, Stream.from_seed(seed), backend, batch=BATCH)


X = numbers(BATCH, 60)


def update_of(step, factors=True):
    """Gradients in factors, as rules give them, a change of biases and new decorrelation matrices."""
    layers = []
    for index, layer in enumerate(image_network().layers):
        positions = (layer.positions,) if layer.positions > 1 else ()
        errors = numbers(BATCH, *positions, layer.units, seed=10 * step + index) * 0.01
        gradient = Factors(errors, numbers(BATCH, *positions, layer.inputs, seed=99 + step))
        weight = gradient if factors else gradient.dense()
        matrix = torch.eye(layer.inputs) + numbers(layer.inputs, layer.inputs, seed=step) * 0.01
        layers.append(LayerUpdate(weight, numbers(layer.units, seed=step) * 0.01, matrix))
    return WeightUpdate(tuple(layers))


def tensors(activities):
    return [*activities.inputs, *activities.pre_activations, activities.outputs]


def same(first, second):
    return all(map(torch.equal, tensors(first), tensors(second)))


def trained(name, steps=3, backend="auto", factors=True):
    chip = build(name, backend)
    for step in range(steps):
        for _ in range(2):
            chip.run(X, Probe())
        chip.update(update_of(step, factors))
    return chip


@every_chip
@pytest.mark.parametrize("factors", [True, False])
def test_a_resumed_chip_goes_on_to_the_same_bytes(name, factors):
    """After any step, into a chip built anew from the same seed: reads, cells, clock and counts."""
    for stop in (1, 3):
        first, second = trained(name, stop, factors=factors), build(name)
        second.update(update_of(50))
        second.run(X, Probe())
        second.load({key: tensor.clone() for key, tensor in first.state().items()})
        for step in (stop, stop + 1):
            for chip in (first, second):
                for index, layer in enumerate(update_of(step - 1).layers):
                    chip._decorrelation[index] = layer.decorrelation  # the learner's own, which its state brings back
            assert all(same(first.run(X, Probe()), second.run(X, Probe())) for _ in range(2))
            first.update(update_of(step, factors))
            second.update(update_of(step, factors))
        assert first.ledger == second.ledger
        for key, tensor in first.state().items():
            assert torch.equal(tensor, second.state()[key]), key


@every_chip
def test_two_chips_of_one_seed_are_the_same_and_of_two_are_not(name):
    assert same(trained(name).run(X, Probe()), trained(name).run(X, Probe()))
    assert not same(build(name).run(X, Probe()), build(name, seed=2).run(X, Probe()))


@every_chip
def test_looking_changes_nothing(name):
    """Evaluations, noise-free ones included, between two passes and between two steps."""
    ours, theirs = build(name), build(name)
    for step in range(2):
        for chip in (ours, theirs):
            chip.run(X, Probe())
        for noisy in (True, False):
            view = ours.view("evaluation", noisy)
            for _ in range(2):
                view.run(numbers(11, 60), Probe())
            assert [w.shape for w in ours.weights] == [w.shape for w in view.weights]
        assert len(ours.view("oracle").noise_and_steps(X)) == len(ours.clipped_shares) == len(ours.targets) == 3
        for chip in (ours, theirs):
            chip.run(X, Probe())
            chip.update(update_of(step))
    assert ours.clock.now_s == theirs.clock.now_s
    assert same(ours.run(X, Probe()), theirs.run(X, Probe()))


@every_chip
@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_backends_give_the_same_noise(name, backend):
    """To rounding, or one code of the converters here and there."""
    ours, theirs = (tensors(trained(name, 1, one).run(X, Probe())) for one in (backend, "numba"))
    for a, b in zip(ours, theirs):
        apart = (a - b).abs() > 1e-3
        assert apart.float().mean() < 0.02
        assert (a - b).abs().max() < 0.6


@every_chip
@settings(max_examples=6, deadline=None)
@given(cuts=st.lists(st.integers(1, BATCH - 1), unique=True).map(sorted))
def test_a_pass_in_parts_is_the_pass_in_one_piece(name, cuts):
    ours, theirs = trained(name, 1), trained(name, 1)
    for _ in range(2):
        whole = theirs.run(X, Probe())
        ends = [0, *cuts, BATCH]
        parts = [ours.run(X[a:b], Probe(first_sample=a)) for a, b in pairwise(ends)]
        for index, tensor in enumerate(tensors(whole)):
            joined = torch.cat([tensors(part)[index] for part in parts])
            assert ((joined - tensor).abs() > 1e-4).float().mean() < 0.02  # a code tipped by the products' rounding
    assert ours.clock.now_s == theirs.clock.now_s


SIZES = st.sampled_from([1, 2, 3, 7, 13, 31])


@every_chip
@settings(max_examples=12, deadline=None)
@given(batch=st.just(0) | SIZES, out=SIZES, inputs=SIZES, positions=st.sampled_from([None, 1, 3]))
def test_any_size_is_read_and_written(name, batch, out, inputs, positions):
    """Shapes, finite outputs, and that the noise-free read is the product with `effective_weight`."""
    crossbar = analogsim.Crossbar(numbers(out, inputs), chip=CHIPS[name], seed=1)
    x = numbers(*(batch,) if positions is None else (batch, positions), inputs, seed=2)
    y = crossbar.read(x)
    assert y.shape == (*x.shape[:-1], out)
    assert torch.isfinite(y).all()
    crossbar.write(numbers(out, inputs, seed=3) * 0.1)
    crossbar.write(Factors(numbers(4, out) * 0.1, numbers(4, inputs)))
    assert torch.isfinite(crossbar.read(x)).all()
    if "telegraph" not in name:  # whose source goes on from read to read
        strided = x.mT.contiguous().mT
        torch.testing.assert_close(crossbar.read(strided, step=9), crossbar.read(x, step=9), rtol=1e-4, atol=1e-4)
    assert crossbar.effective_weight.shape == (out, inputs)


def test_a_read_without_noise_is_the_product_with_the_effective_weight():
    for name in ("verify", "pulsed, timed", "no cell, pulsed"):
        crossbar = analogsim.Crossbar(numbers(9, 14), chip=CHIPS[name], seed=1)
        quiet, x = crossbar.view(Stream.from_seed(0), crossbar.ledger, noisy=False), numbers(20, 14, seed=2)
        torch.testing.assert_close(quiet.read(x), x @ crossbar.effective_weight.T, rtol=1e-4, atol=1e-4)


# Costs


def test_energy_and_time_by_hand():
    """Two tiles of rows, one of columns; 4 DAC slices, 2 row tiles; 7 vectors of 6 inputs, 3 outputs."""
    costs = {
        "read_J": 1.0,
        "read_s": 0.5,
        "conversion_J": 0.01,
        "conversion_s": 0.125,
        "pulse_J": 100.0,
        "pulse_s": 10.0,
    }
    serial = {"bits": 5, "bit_serial": {"slice_bits": 1}}
    description = chip(
        dac=serial, adc={"bits": 6, "bound": 4.0}, tile={"rows": 4}, costs=costs, write={"mode": "verify"}
    )
    crossbar = analogsim.Crossbar(numbers(3, 6), chip=description)
    assert (crossbar.ledger.writes, crossbar.ledger.pulses) == (36, 36)
    crossbar.read(numbers(7, 6))
    assert crossbar.ledger.conversions == 7 * (6 * 4 + 3 * 2)
    assert crossbar.ledger.energy_J == pytest.approx(36 * 100 + 7 * 2 + 0.01 * 7 * 30)
    assert crossbar.ledger.latency_s == pytest.approx(36 * 10 + 7 * 0.5 + 7 * 5 * 0.125)
    assert asdict(crossbar.ledger.slots) == {"tile_reads": 14, "reads": 7, "conversions": 35, "pulses": 36}


def test_pulse_trains_reach_all_cells_at_once():
    """Constant steps, one sample, all of one size: n = ⌈η max x max d / dw_min⌉ = 5 slots, a pulse a cell in each."""
    description = chip({"weight_max": 1.0}, write={"mode": "pulsed", "cell": {"model": "constant", "dw_min": 2**-7}})
    crossbar = analogsim.Crossbar(torch.zeros(3, 4), chip=description)
    crossbar.write(Factors(torch.full((1, 3), 5 * 2**-7), torch.ones(1, 4)))
    assert (crossbar.ledger.pulses, crossbar.ledger.slots.pulses) == (5 * 12, 5)
    torch.testing.assert_close(crossbar.weight, torch.full((3, 4), -5 * 2**-7))


# Time


def test_an_age_that_nobody_measured_is_refused():
    description = chip({"drift": DRIFT | {"valid_s": [1.0, 1e6]}})
    crossbar = analogsim.Crossbar(numbers(3, 4), chip=description)
    crossbar.read(numbers(2, 4))
    crossbar.age(1e7)
    with pytest.raises(ChipError, match=r"^chip chip: cell.drift, law power: t = 1e\+07 s .*1 to 1e\+06 s"):
        crossbar.read(numbers(2, 4))


def test_the_clock_counts_reads_and_updates():
    """A sample of this network takes as long as its convolution's 9 positions; an update 0.1 s."""
    running = build("ideal write, drift")
    running.run(X, Probe())
    assert running.clock.now_s == pytest.approx(BATCH * 9 * 1e-5)
    running.update(update_of(0))
    assert running.clock.now_s == pytest.approx(BATCH * 9 * 1e-5 + 0.1)
    view = running.view("evaluation")
    view.run(X, Probe())
    assert view.clock.now_s > running.clock.now_s
    running.age(100.0)
    assert running.clock.now_s == pytest.approx(BATCH * 9 * 1e-5 + 100.1)


def test_drifting_weights_shrink_with_age_and_a_write_starts_anew():
    crossbar = analogsim.Crossbar(numbers(30, 40), chip=chip({"drift": DRIFT, "g_min_uS": 0.0}), seed=1)
    sizes = []
    for _ in range(3):
        sizes.append(float(crossbar.effective_weight.abs().sum()))
        crossbar.age(1e4)
    assert sizes[0] > 1.001 * sizes[1] > 1.001 * sizes[2]
    crossbar.write(torch.zeros(30, 40))
    assert float(crossbar.effective_weight.abs().sum()) == pytest.approx(sizes[0])
