"""Where steps are not recorded they are made plainly: for the chip, the memory or a failure, or because asked to."""

import pytest
import torch

from analogsim.training import captured
from analogsim.training.loop import Trainer

pytestmark = pytest.mark.filterwarnings("error")
PLAIN = {
    "cells": {"chip": "crossbar-generic"},
    "tiles of cells": {"chip": "isaac"},
    "an ADC": {"chip.adc": {"bits": 8, "bound": 4.0}},
    "telegraph noise": {"chip.node_noise": {"telegraph": {"amplitude": 0.1, "flip_probability": 0.2}}},
    "R on the chip": {"chip.decorrelation": "on_chip"},
    "no steps of an optimiser": {"optimizer.name": "on_chip"},
    "R in every other step": {"decorrelation.every": 2},
}


@pytest.mark.parametrize("name", PLAIN)
def test_other_steps_are_made_plainly_and_nothing_is_said(name, replays, trainer_of):
    recorder = replays()
    trainer = trainer_of(recorder, **PLAIN[name])
    trainer.run(lambda: trainer.progress.step >= 5)
    assert recorder.recorded == 0
    assert trainer._recording is not None
    assert not trainer._recording.serves


def test_passes_that_do_not_fit_side_by_side_are_not_recorded(replays, monkeypatch, trainer_of):
    monkeypatch.setattr("analogsim.chip.passes.STACKED_BYTES", 8 * 25 * (12 + 9 + 10) * 3)
    for samples, recorded in ((2, 1), (3, 0)):
        recorder = replays()
        trainer = trainer_of(recorder, **{"learner.samples": samples})
        trainer.run(lambda: trainer.progress.step >= 5)  # noqa: B023 - called within this turn
        assert recorder.recorded == recorded


def test_on_a_cpu_or_with_capture_off_a_trainer_is_a_plain_one(replays, trainer_of):
    assert captured.recorder_of("cpu") is None
    assert type(trainer_of()) is Trainer
    assert type(trainer_of(replays())) is captured.CapturedTrainer
    assert type(trainer_of(replays(), **{"training.capture": "auto"})) is captured.CapturedTrainer
    assert type(trainer_of(replays(), **{"training.capture": "off"})) is Trainer


@pytest.mark.parametrize("at", ["the first pass", "the write", "the end"])
def test_where_a_recording_fails_the_plain_steps_go_on(at, replays, monkeypatch, trainer_of, run, plain):
    """As where a library waits for the device, or memory runs out."""
    recorder = replays()
    trainer, recorded = trainer_of(recorder), recorder.record
    owner, name = {
        "the first pass": (trainer.learner.rule.__class__, "tell"),
        "the write": (trainer.chip._crossbars[1].cells.__class__, "write"),
        "the end": (captured.Recording, "_plain"),
    }[at]
    whole = getattr(owner, name)

    def failing(*args):
        done = whole(*args)
        torch.zeros(1).item()
        return done

    def record(work):
        with monkeypatch.context() as within:
            within.setattr(owner, name, failing)
            return recorded(work)

    recorder.record = record
    with pytest.warns(UserWarning, match=r"not recorded as a CUDA graph \(.*not permitted"):
        found = run(trainer)
    assert recorder.plays == 0
    assert found == plain()
