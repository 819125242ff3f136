"""Time between passes: drift from one to the next is that of the schedule, however the passes are run.

With one drift exponent ν for all cells and t ≥ t0, a(t + τ) / a(t) = (1 + τ/t)^-ν exactly.
"""

import pytest
import torch

from analogsim.chip import passes as running
from analogsim.chip.chip import SimulatedChip
from analogsim.chip.clock import Clock
from analogsim.config.chip import ChipDescription
from analogsim.contracts import LayerUpdate, Probe, WeightUpdate
from analogsim.network import ConvLayer, Network
from analogsim.streams import Stream

NU, T_FIRST, T_READ, T_UPDATE, BATCH = 0.06, 20.0, 0.01, 3.0, 100
ALIKE = {"law": "power", "exponent": 0.0, "max": 1.0}
DRIFT = {"law": "power", "t0_s": 20.0, "unit_uS": 25.0, "exponent": ALIKE | {"coefficient": NU}}
X = torch.rand(BATCH, 16, generator=torch.Generator().manual_seed(0))
LAGS = {"whole_batch": BATCH * 9 * T_READ, "interleaved": T_READ}  # 9 positions a sample


def chip(schedule):
    cell = {"g_min_uS": 0.0, "drift": DRIFT | {"spread": ALIKE | {"coefficient": 0.0}}}
    clock = {"t_first_read_s": T_FIRST, "t_read_s": T_READ, "t_update_s": T_UPDATE}
    description = ChipDescription.model_validate({"cell": cell, "clock": clock, "pass_schedule": schedule})
    network = Network((ConvLayer(1, 4, 4, units=3, kernel=2, stride=1, padding=0),))
    return SimulatedChip(description, network, network.initial_weights(Stream.from_seed(1)), Stream.from_seed(2))


def ratios(schedule, probes=3):
    """‖a_k‖ / ‖a_1‖ of the passes of the second step, cells being written at the end of the first."""
    one = chip(schedule)
    for step in range(2):
        outputs = [a.outputs.double() for a in one.passes(X, [Probe()] * probes)]
        if step == 0:
            change = torch.zeros(3, 4)
            one.update(WeightUpdate((LayerUpdate(change),)))
    return [float(a.norm() / outputs[0].norm()) for a in outputs]


def check(schedule):
    """The first read of a step comes t_update after its write's clock time and t_first_read after that."""
    age = T_FIRST + T_UPDATE
    expected = [(1 + number * LAGS[schedule] / age) ** -NU for number in range(3)]
    assert ratios(schedule) == pytest.approx(expected, rel=2e-6)


@pytest.mark.parametrize("schedule", LAGS)
@pytest.mark.parametrize("together", [True, False])
def test_cells_drift_from_pass_to_pass_by_the_lag_of_the_schedule(schedule, together, monkeypatch):
    if not together:  # passes streamed, one at a time
        monkeypatch.setattr(running, "STACKED_BYTES", 1)
    check(schedule)


@pytest.mark.parametrize("schedule", LAGS)
def test_a_resumed_chip_goes_on_at_the_same_time(schedule):
    ours, theirs = chip(schedule), chip(schedule)
    for one in (ours, theirs):
        for _ in range(2):
            one.run(X, Probe())
        one.update(WeightUpdate((LayerUpdate(torch.zeros(3, 4)),)))
    resumed = chip(schedule)
    resumed.load(ours.state())
    for _ in range(3):
        assert torch.equal(resumed.run(X, Probe()).outputs, theirs.run(X, Probe()).outputs)
    assert resumed.clock.now_s == theirs.clock.now_s == pytest.approx(T_UPDATE + 5 * BATCH * 9 * T_READ)


CLOCK_BUGS = {
    "interleaved passes opened a batch apart": ("interleaved", lambda clock, k: clock.now_s),
    "whole batches opened a read apart": ("whole_batch", lambda clock, k: clock.opened_s + k * T_READ),
    "all passes opened at once": ("whole_batch", lambda clock, k: clock.opened_s),
}


@pytest.mark.parametrize("bug", CLOCK_BUGS)
def test_the_check_of_the_schedule_catches(bug, monkeypatch):
    schedule, opened = CLOCK_BUGS[bug]
    monkeypatch.setattr(Clock, "open", lambda self, k: self._passes.update({k: opened(self, k)}))
    with pytest.raises(AssertionError):
        check(schedule)
