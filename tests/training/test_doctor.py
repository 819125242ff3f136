"""What the doctor finds, against answers known in closed form, on networks of one layer.

With a linear network and a squared error, δL = g·(n₂ - n₁) + O(n²), g = 2 (a - t) / N: g drops out of a ratio of two
parts of δL, so for independent parts of standard deviations σ_s and σ_h a node the ratio is σ_s / σ_h. Of 4000 rows
of 2 outputs a root mean square strays by 1.1 % of itself, a ratio of two by 1.6 %: 8 % is five times that.
"""

import math
from dataclasses import replace

import pytest
import torch

from analogsim import Crossbar, load_chip
from analogsim.chip.margins import noise_and_step
from analogsim.chip.tile import Tile
from analogsim.config.chip import ChipDescription
from analogsim.config.schema import Experiment, OptimizerSettings
from analogsim.streams import Stream
from analogsim.training import doctor
from analogsim.training.build import build_network
from analogsim.training.data import Dataset
from analogsim.training.doctor import Diagnosis, diagnose

ROWS, INPUTS = 4000, 6
WITHIN = 0.08
FLICKER = {"strength": {"law": "power", "coefficient": 0.01, "exponent": 0.5, "max": 0.2}, "t_r_s": 2.5e-7}
ROUNDED = {"node_noise": {"sigma": 0.05}, "adc": {"bits": 8, "bound": 4.0}}


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(ROWS, INPUTS, generator=generator)
    y = torch.rand(ROWS, 2, generator=generator) * 20  # far from all outputs: δL is linear in the noise
    return Dataset("line", x, y, x[:10], y[:10], 1.0, 2)


@pytest.fixture(autouse=True)
def all_rows(monkeypatch):
    monkeypatch.setattr(doctor, "ROWS", ROWS)


def experiment(chip, rule="anp", batch=100, **learner):
    settings = {
        "data": "npz:line",
        "chip": {"name": "bench", **chip},
        "learner": {"rule": rule, **learner},
        "training": {"batch": batch, "epochs": 2},
    }
    return Experiment.model_validate(settings).resolved()


def found(data, chip, *rule, timed=False, **settings) -> Diagnosis:
    return diagnose(experiment(chip, *rule, **settings), data, seed=3, timed=timed)


# --- signal to noise of δL --------------------------------------------------------------------------


@pytest.mark.parametrize(("bits", "sigma"), [(8, 0.05), (7, 0.1), (8, 0.2)])
def test_rounding_hides_as_much_as_its_variance_says(data, bits, sigma):
    """σ against Δ / √12, Δ = 2 · 4 / (2^bits - 2): both passes have either, so √2 drops out."""
    step = 8 / (2**bits - 2)
    result = found(data, {"node_noise": {"sigma": sigma}, "adc": {"bits": bits, "bound": 4.0}})
    assert result.signal_to_noise == pytest.approx(math.sqrt(12) * sigma / step, rel=WITHIN)
    assert result.layers[0].adc_steps == pytest.approx(sigma / step, rel=1e-5)


def test_the_signal_is_that_of_two_noisy_passes(data):
    """rms δL = √2 σ rms |g|, without an ADC: nothing hides it."""
    result = found(data, {"node_noise": {"sigma": 1e-3}})
    chip = build_network(experiment({}), data).initial_weights(doctor.Stream.from_seed(3).child("initial weights"))
    g = 2 * (data.x_train @ chip[0].T - data.y_train) / 2
    expected = math.sqrt(2) * 1e-3 * float(g.square().sum(1).mean().sqrt())
    assert result.delta_loss == pytest.approx(expected, rel=WITHIN)
    assert (result.hidden, result.signal_to_noise) == (0.0, math.inf)


@pytest.mark.parametrize(
    ("rule", "difference", "expected"),
    [
        ("np", "both", 0.01 / 0.02),  # ε₂ - ε₁ against n₂ - n₁
        ("np", "second", 0.01 / math.hypot(0.01, 0.02, 0.02)),  # ε₂ against n₂ - n₁ - ε₁
        ("inp", "second", 0.01 / 0.02),
    ],
)
def test_rules_that_know_their_own_perturbation_alone(data, rule, difference, expected):
    chip = {"node_noise": {"sigma": 0.02}, "injection_port": True}
    result = found(data, chip, rule, perturbation=0.01, difference=difference)
    assert result.signal_to_noise == pytest.approx(expected, rel=WITHIN)


def test_noise_that_is_recorded_is_signal_to_anp(data):
    chip = {"node_noise": {"sigma": 0.02}, "injection_port": True}
    assert found(data, chip, "anp", perturbation=0.01).signal_to_noise == math.inf


def test_correlated_noise_leaves_a_share_of_the_signal(data):
    """√(1 - ρ) of it: τ of one read and of 4000, t_r = 250 ns, t = 20 s; ρ(τ) as in docs/laws.md."""
    chip = {"cell": {"g_max_uS": 25.0, "flicker": FLICKER}, "clock": {"t_first_read_s": 20.0, "t_read_s": 2.5e-7}}
    near = found(data, chip | {"pass_schedule": "interleaved"}, batch=4000)
    far = found(data, chip, batch=4000)
    assert (near.correlation, far.correlation) == (pytest.approx(0.90, abs=0.005), pytest.approx(0.43, abs=0.005))
    left = math.sqrt((1 - near.correlation) / (1 - far.correlation))
    assert near.delta_loss / far.delta_loss == pytest.approx(left, rel=WITHIN)
    assert near.layers[0].noise / far.layers[0].noise == pytest.approx(left, rel=1e-3)


def test_a_two_state_source_tells_passes_apart(data):
    """±a, independent after many reads; two reads in a row are alike but for 1 flip in 100."""
    chip = {"node_noise": {"telegraph": {"amplitude": 0.01, "flip_probability": 0.01}}}
    far, near = found(data, chip, batch=4000), found(data, chip | {"pass_schedule": "interleaved"})
    assert far.layers[0].noise == pytest.approx(0.01)
    assert near.layers[0].noise == pytest.approx(0.01 * math.sqrt(0.02))
    assert near.delta_loss / far.delta_loss == pytest.approx(math.sqrt(0.02), rel=0.2)  # 80 flips of 8000


DOCTOR_BUGS = {
    "the fine chip has noise of its own": ("_differences", lambda right: _of_other_noise(right)),
    "the fine chip rounds as well": ("_finely_read", lambda right: lambda e: e),
    "variance for rms": ("_rms", lambda right: lambda d: right(d) ** 2),
    "δL of the coarse chip for what hides it": ("_differences", lambda right: _coarse_only(right)),
}


def _of_other_noise(right):
    """The signal's passes with the rows the other way round: each row then meets another row's noise."""

    def planted(e, trainer, x, y, noisy, known=False):
        return (
            right(e, trainer, x.flip(0), y.flip(0), noisy, known).flip(1) if known else right(e, trainer, x, y, noisy)
        )

    return planted


def _coarse_only(right):
    def planted(e, trainer, x, y, noisy, known=False):
        return right(e, trainer, x, y, noisy, known) if known else 2 * right(e, trainer, x, y, noisy)

    return planted


@pytest.mark.parametrize("bug", DOCTOR_BUGS)
def test_the_rounding_ratio_catches(data, monkeypatch, bug):
    name, planted = DOCTOR_BUGS[bug]
    monkeypatch.setattr(doctor, name, planted(getattr(doctor, name)))
    with pytest.raises(AssertionError):
        test_rounding_hides_as_much_as_its_variance_says(data, 8, 0.05)


# --- outputs of several conversions -----------------------------------------------------------------

# 6-bit codes, weights of 3 cells and inputs in slices, tiles of 2 rows: 3 x 3 x 5 conversions an output
SLICED = {
    "cell": {"slices": {"bits": 2, "cells": 3}, "weight_max": 1.0},
    "dac": {"bits": 6, "bound": 1.0, "bit_serial": {"slice_bits": 1, "adc": "per_slice"}},
    "adc": {"bits": 8, "bound": "max"},
    "tile": {"rows": 2},
}


def test_the_step_of_a_sum_is_that_of_its_rounding(data):
    """lsb = B^k w_max rows / 127 / 31 of input slice k (B = 2), times f_k of a weight slice; all squared and summed."""
    step = 2 / 127 / 31 * math.sqrt(3 * sum(4**k for k in range(5)) * sum((3 * 4**k / 63) ** 2 for k in range(3)))
    (layer,) = found(data, SLICED | {"injection_port": True}, "anp", perturbation=1e-3).layers
    assert layer.adc_step == pytest.approx(step, rel=1e-5)


@pytest.mark.parametrize("name", ["isaac", "prime", "sram-cim"])
def test_a_library_chip_errs_by_what_its_step_says(name):
    """rms error = step / √12, but for cells that round weights a little and columns that read 0 exactly: ± 10 %."""
    weight = torch.randn(40, 300, generator=torch.Generator().manual_seed(0)) * 0.05
    x = torch.rand(300, 300, generator=torch.Generator().manual_seed(1))
    crossbar = Crossbar(weight, load_chip(name))
    error = doctor._rms(crossbar.read(x) - x @ weight.T)
    assert error == pytest.approx(noise_and_step(crossbar, x[:, None])[2] / math.sqrt(12), rel=0.1)


def test_noise_of_conversions_adds_as_their_sum(data):
    """White noise of cells, of every slice and tile: σ of an output against what 4000 reads scatter by; ± 5 %."""
    cell = SLICED["cell"] | {"read_noise": {"law": "constant", "sigma_uS": 0.5}}
    weight = torch.rand(20, INPUTS, generator=torch.Generator().manual_seed(0)) - 0.5
    chip = ChipDescription.model_validate(SLICED | {"cell": cell, "adc": {"bits": 16, "bound": 4.0}})
    crossbar = Crossbar(weight, chip)
    x = data.x_train[:1].repeat(4000, 1)
    ahead, after, _ = noise_and_step(crossbar, x[:, None], besides=1e-3)
    assert ahead == pytest.approx(float(crossbar.read(x).var(0).mean().sqrt()), rel=0.05)
    assert after == 1e-3


def test_a_perturbation_added_after_the_adcs_is_not_weighed_against_them(data):
    chip = SLICED | {"injection_port": True}
    result = found(data, chip, "anp", perturbation=1e-5)
    (layer,) = result.layers
    assert (layer.noise, layer.after_adc, layer.adc_steps) == (1e-5, 1e-5, None)
    assert not any("of an ADC step" in line for line in result.advice)
    whole = found(data, {"injection_port": True, "adc": {"bits": 8, "bound": 4.0}}, "anp", perturbation=1e-5)
    assert any("of an ADC step" in line for line in whole.advice)


def _alike(right):
    """Every input slice counted once."""
    return lambda self, *rest: [[replace(one, share=1.0) for one in ones] for ones in right(self, *rest)]


STEP_BUGS = {
    "shares of input slices forgotten": (Crossbar, "_currents", _alike),
    "lsb of a sum added for its square": (Tile, "squares", lambda right: lambda self, now: right(self, now).sqrt()),
}


@pytest.mark.parametrize("bug", STEP_BUGS)
def test_the_step_of_a_sum_catches(data, monkeypatch, bug):
    where, name, planted = STEP_BUGS[bug]
    monkeypatch.setattr(where, name, planted(getattr(where, name)))
    with pytest.raises(AssertionError):
        test_the_step_of_a_sum_is_that_of_its_rounding(data)


# --- cells and converters ---------------------------------------------------------------------------


def test_an_ideal_chip_has_nothing_wrong(data):
    result = found(data, {"injection_port": True}, "anp", perturbation=1e-3)
    (layer,) = result.layers
    assert (layer.noise, layer.adc_steps, layer.clipped_share, layer.saturated_share) == (1e-3, None, 0, 0)
    assert layer.weight_error == 0  # so these are the weights that the run begins with
    assert (result.correlation, result.advice) == (None, ())


def test_shares_of_weights_clipped_and_outputs_saturated(data):
    weights = build_network(experiment({}), data).initial_weights(doctor.Stream.from_seed(3).child("initial weights"))
    most = float(weights[0].abs().median())
    clipped = weights[0].clamp(-most, most)
    chip = {"node_noise": {"sigma": 0.1}, "cell": {"weight_max": most}, "adc": {"bits": 8, "bound": 1.0}}
    (layer,) = found(data, chip).layers
    assert layer.clipped_share == pytest.approx(float((weights[0].abs() >= most).float().mean()))
    beyond = (data.x_train @ clipped.T).abs() > most * (1 + 0.5 / 127)
    assert layer.saturated_share == pytest.approx(float(beyond.float().mean()), abs=1e-3)
    assert 0.01 < layer.saturated_share < 1
    assert layer.weight_error == pytest.approx(float((clipped - weights[0]).norm() / weights[0].norm()), rel=1e-5)


def test_cells_that_hold_nothing_miss_all_of_the_weights(data):
    chip = {"node_noise": {"sigma": 0.1}, "cell": {"faults": {"stuck_low": 1.0}}}
    assert found(data, chip).layers[0].weight_error == pytest.approx(1)


@pytest.mark.parametrize(
    "chip",
    [
        {"write": {"mode": "pulsed", "cell": {"model": "constant", "dw_min": 1e-4, "stuck": 0.5}}},
        {"cell": {"faults": {"stuck_high": 0.5}}, "write": {"mode": "verify"}},
    ],
)
def test_stuck_cells_are_told_apart_from_clipped_weights(data, chip):
    """Of 12 weights, or 24 cells, at 50 %; a headroom of 2, so that no other is at its end."""
    chip = {"node_noise": {"sigma": 0.1}, **chip, "cell": {"weight_headroom": 2.0} | chip.get("cell", {})}
    result = found(data, chip)
    (layer,) = result.layers
    assert 0 < layer.stuck_share < 1
    assert layer.clipped_share == 0
    (said,) = [line for line in result.advice if "stuck" in line]
    assert said == f"layer 1: {layer.stuck_share:.1%} of the cells are stuck, whatever is written to them"
    assert not any("headroom" in line for line in result.advice)


def test_no_adc_is_advised_on_where_there_is_none(data):
    """np, whose own ε of 1e-3 the chip's noise of 0.1 hides."""
    chip = {"node_noise": {"sigma": 0.1}, "injection_port": True}
    (said,) = found(data, chip, "np", perturbation=1e-3, difference="both").advice
    assert said.endswith("raise learner.perturbation, or learner.samples")


# --- costs ------------------------------------------------------------------------------------------


def test_updates_a_pulse(data):
    """dw_min = 0.1 of a range that is three times the largest weight; SGD's first update goes with lr."""
    cell = {"g_min_uS": 0.0, "g_max_uS": 1.0, "mapping": "reference", "weight_headroom": 3.0}
    pulsed = {
        "node_noise": {"sigma": 0.1},
        "cell": cell,
        "write": {"mode": "pulsed", "cell": {"model": "constant", "dw_min": 0.1}},
    }
    slow, fast = (at_rate(data, pulsed, lr) for lr in (1e-4, 2e-4))
    weights = build_network(experiment(pulsed), data).initial_weights(Stream.from_seed(3).child("initial weights"))
    for weight, once, twice in zip(weights, slow.layers, fast.layers, strict=True):
        assert once.least_change == pytest.approx(0.1 * 3 * float(weight.abs().max()), rel=1e-6)
        assert once.updates_a_write == pytest.approx(once.least_change / once.update)
        assert twice.update == pytest.approx(2 * once.update, rel=1e-4)
    assert any("updates one way until a cell moves" in line for line in slow.advice)
    assert all(
        layer.updates_a_write is None for layer in found(data, {"cell": cell, "node_noise": {"sigma": 0.1}}).layers
    )


def at_rate(data, chip, lr):
    one = experiment(chip)
    return diagnose(one.model_copy(update={"optimizer": OptimizerSettings(name="sgd", lr=lr)}), data, seed=3)


def test_memory_and_time(data):
    result = found(data, {"node_noise": {"sigma": 0.1}}, timed=True)
    memory = result.memory_bytes
    assert memory["data"] == 4 * (ROWS + 10) * (INPUTS + 2)
    assert memory["optimizer"] == 4 * 4 * (2 * INPUTS + 2)  # change, gradient and Adam's two moments
    assert memory["activities"] == 4 * 100 * (2 * INPUTS + 2 * 2 * 2 + 2)  # x, x*; two passes of a and f(a); errors
    assert memory["weights"] >= 4 * 2 * INPUTS
    assert result.seconds is not None
    assert 0 < result.seconds < 60
    assert found(data, {"node_noise": {"sigma": 0.1}}).seconds is None


def test_time_grows_with_the_steps(data, monkeypatch):
    """A clock that moves on by 1 s a look: a step takes one look, the evaluation of 10 rows one more."""
    ticks = iter(range(10**6))
    monkeypatch.setattr(doctor.time, "perf_counter", lambda: float(next(ticks)))
    one, ten = (doctor._seconds(e, data, 3, "numpy", "cpu") for e in (_epochs(1), _epochs(10)))
    assert ten - one == pytest.approx(9 * (ROWS / 100) * _step(one, ten) + 9 * 2 * 10 * 0.1, rel=1e-9)


def _epochs(epochs):
    settings = experiment({"node_noise": {"sigma": 0.1}})
    return settings.model_copy(update={"training": settings.training.model_copy(update={"epochs": epochs})})


def _step(one, ten):
    """Looks between two steps, from the untrained evaluation of 4000 rows at 0.1 s a row and both totals."""
    return (one - (ROWS + 2 * 2 * 10) * 0.1) / (ROWS / 100)


def test_bp_compares_no_passes(data):
    result = found(data, {"node_noise": {"sigma": 1e-5}, "adc": {"bits": 8, "bound": 4.0}}, "bp")
    assert (result.delta_loss, result.signal_to_noise, result.advice) == (None, None, ())
