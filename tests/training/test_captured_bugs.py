"""Bugs that would freeze a step in what is played, or leave it out of the host's counts, are caught."""

import pytest
import torch

from analogsim.training import captured, optimizer

pytestmark = pytest.mark.filterwarnings("error")
BP = {"learner.rule": "bp"}
DNP = {"chip": "ideal", "learner.rule": "dnp", "learner.baseline": "noisy"}  # perturbed twice


def chips_step(trainer, monkeypatch):
    monkeypatch.setattr(trainer.chip, "hold_step", lambda held: None)


def learners_step(trainer, monkeypatch):
    monkeypatch.setattr(captured, "HeldStep", lambda number, held: number)


def step_reckoned_with(trainer, monkeypatch):
    ask = trainer.learner.rule.ask
    monkeypatch.setattr(trainer.learner.rule, "ask", lambda step, batch: ask(step + 0, batch))


def batch(trainer, monkeypatch):
    plain = captured.Recording._set

    def bug(self, rows):
        plain(self, self._rows.clone() if self._play is not None else rows)

    monkeypatch.setattr(captured.Recording, "_set", bug)


def adams_count(trainer, monkeypatch):
    plain = optimizer.adam

    def bug(changes, gradients, first, second, largest, steps, **settings):
        number = float(trainer.progress.step)
        plain(changes, gradients, first, second, largest, [torch.full((), number) for _ in steps], **settings)
        for step in steps:
            step.add_(1)

    monkeypatch.setattr(optimizer, "adam", bug)


def losses(trainer, monkeypatch):
    plain = captured.Recording._record

    def bug(self):
        kept, self._sums = self._sums, torch.zeros_like(self._sums)
        plain(self)
        self._sums = kept

    monkeypatch.setattr(captured.Recording, "_record", bug)


FROZEN_BUGS = {
    "chip's step recorded as a number": (chips_step, {}),
    "learner's step recorded as a number": (learners_step, DNP),
    "learner's step reckoned with": (step_reckoned_with, DNP),
    "rows of the recorded batch": (batch, BP),
    "Adam's count recorded as a number": (adams_count, BP),
    "losses of the recorded step": (losses, BP),
}


@pytest.mark.parametrize("bug", FROZEN_BUGS)
def test_the_first_play_catches(bug, replays, monkeypatch, trainer_of, run, plain):
    """... and from there on the steps are plain: the numbers are right even so."""
    plant, changes = FROZEN_BUGS[bug]
    recorder = replays()
    trainer = trainer_of(recorder, **changes)
    plant(trainer, monkeypatch)
    with pytest.warns(UserWarning, match="other numbers than the plain step"):
        found = run(trainer)
    assert recorder.plays == 1
    monkeypatch.undo()
    assert found == plain(**changes)


@pytest.mark.parametrize("bug", FROZEN_BUGS)
def test_without_that_look_the_bytes_catch(bug, replays, monkeypatch, trainer_of, run, plain):
    plant, changes = FROZEN_BUGS[bug]
    expected = plain(**changes)
    trainer = trainer_of(replays(), **changes)
    plant(trainer, monkeypatch)
    monkeypatch.setattr(captured, "_same_bits", lambda one, other: True)
    assert run(trainer) != expected


def uncounted_reads(monkeypatch):
    plain = captured.SimulatedChip.played_again
    monkeypatch.setattr(
        captured.SimulatedChip, "played_again", lambda self, counts, samples: plain(self, [0 for _ in counts], samples)
    )


def uncounted_time(monkeypatch):
    plain = captured.SimulatedChip.played_again
    monkeypatch.setattr(captured.SimulatedChip, "played_again", lambda self, counts, samples: plain(self, counts, 0))


def uncounted_step(monkeypatch):
    plain = captured.SimulatedChip.played_again

    def bug(self, counts, samples):
        plain(self, counts, samples)
        self._step -= 1

    monkeypatch.setattr(captured.SimulatedChip, "played_again", bug)


HOST_BUGS = {
    "reads of a play not counted": uncounted_reads,
    "time of a play not counted": uncounted_time,
    "steps played not counted": uncounted_step,
}


@pytest.mark.parametrize("bug", HOST_BUGS)
def test_the_bytes_catch(bug, replays, monkeypatch, trainer_of, run, plain):
    changes = {"chip.clock": {"t_read_s": 1e-7, "t_update_s": 1e-6}}
    expected = plain(**changes)
    HOST_BUGS[bug](monkeypatch)
    assert run(trainer_of(replays(), **changes)) != expected
