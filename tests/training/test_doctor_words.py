"""What the doctor says in words: the number, the remedy, and nothing where nothing is wrong."""

import runpy
from pathlib import Path

import numpy as np
import pytest

from analogsim.config.schema import Experiment

# Tests are imported one by one, not as a package: what is there already is fetched from its file.
_doctor = runpy.run_path(str(Path(__file__).with_name("test_doctor.py")))
data, all_rows, experiment, found = (_doctor[name] for name in ("data", "all_rows", "experiment", "found"))
FLICKER, ROUNDED = _doctor["FLICKER"], _doctor["ROUNDED"]


@pytest.mark.parametrize(
    ("chip", "said"),
    [
        ({"node_noise": {"sigma": 1e-3}, "adc": {"bits": 8, "bound": 4.0}}, "the chip's noise is 0.032 of an ADC step"),
        ({"node_noise": {"sigma": 1e-3}, "adc": {"bits": 8, "bound": 4.0}}, "raise adc.bits"),
        ({"node_noise": {"sigma": 1e-3}, "adc": {"bits": 8, "bound": 4.0}}, "signal to noise 0."),
        ({"node_noise": {"sigma": 0.1}, "cell": {"weight_max": 0.1}}, "raise cell.weight_max (now 0.1)"),
        ({"node_noise": {"sigma": 0.1}, "adc": {"bits": 8, "bound": 0.5}}, "raise adc.bound (now 0.5)"),
        ({"node_noise": {"sigma": 0.1}, "cell": {"faults": {"stuck_low": 1.0}}}, "asked of them by 100%"),
        (
            {"cell": {"flicker": FLICKER}, "clock": {"t_first_read_s": 20.0, "t_read_s": 2.5e-9}},
            "a larger training.batch",
        ),
    ],
)
def test_advice_names_the_number_and_the_remedy(data, chip, said):
    assert any(said in line for line in found(data, chip).advice)


def test_what_is_above_its_bound_is_not_warned_of(data):
    assert found(data, ROUNDED).advice == ()


def test_the_command_and_training_say_the_same(call):
    options = ["small.yaml", "--chip", "crossbar-generic", "--set", "training.epochs=0"]
    code, printed, _ = call("doctor", *options)
    lines = [line for line in printed.splitlines() if "of an ADC step" in line]
    assert code == 0
    assert [line.split(" is ")[0] for line in lines] == [
        "danp: layer 1: the chip's noise",
        "danp: layer 2: the chip's noise",
    ]
    code, _, said = call("train", *options, "--out", "run")
    assert (code, said.splitlines()) == (0, lines)


@pytest.mark.parametrize(
    ("layer", "channels_first", "said"),
    [("conv: {channels: 2, kernel: 3}", True, 1), ("conv: {channels: 2, kernel: 3}", False, 0), ("dense: 4", True, 0)],
)
def test_channels_that_seem_to_come_first_are_advised_of(call, layer, channels_first, said):
    x, y = np.ones((20, 3, 8, 8) if channels_first else (20, 8, 8, 3), np.uint8), np.arange(20) % 2
    np.savez("mine.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    options = ["--set", "data=npz:mine.npz", "--set", "network.hidden=[]", "--set", f"network.layers=[{{{layer}}}]"]
    code, _, printed = call("train", "small.yaml", *options, "--out", "run")
    line = "if it holds 3 channels of 8 × 8, give x as (rows, height, width, channels)\n"
    assert (code, printed.count(line)) == (0, said)


def test_the_command_refuses_what_training_refuses(call):
    code, _, said = call("doctor", "small.yaml", "--set", "learner.rule=dnp")
    assert (code, said.count("\n")) == (1, 1)
    assert "rule dnp cannot run on chip gaussian-node" in said


@pytest.mark.parametrize(
    ("rule", "optimizer", "idle"),
    [
        ("anp", {}, []),
        ("anp", {"momentum": 0.9}, ["optimizer.momentum"]),
        ("anp", {"name": "sgd", "momentum": 0.9, "betas": (0.5, 0.9)}, ["optimizer.betas"]),
        ("anp", {"name": "on_chip", "eps": 1e-3, "momentum": 0.5}, ["optimizer.eps", "optimizer.momentum"]),
        ("np", {"betas": (0.5, 0.9)}, []),
    ],
)
def test_settings_without_effect_are_named(rule, optimizer, idle):
    settings = experiment({"injection_port": True}, rule).model_dump() | {"optimizer": optimizer}
    assert list(Experiment.model_validate(settings).idle()) == idle


@pytest.mark.parametrize(("rule", "baseline", "idle"), [("np", "noisy", 0), ("np", "clean", 1), ("anp", "noisy", 1)])
def test_a_difference_that_no_pass_makes_is_advised_of(data, rule, baseline, idle):
    chip = {"injection_port": True, **({"node_noise": {"sigma": 0.05}} if baseline == "noisy" else {})}
    lines = found(data, chip, rule, baseline=baseline, perturbation=0.1, difference="both").advice
    assert lines.count("learner.difference has no effect here; it is for np with a noisy baseline") == idle
