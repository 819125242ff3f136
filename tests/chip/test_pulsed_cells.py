"""What an update does to the cells that it sends no pulse to: nothing, but that they grow older."""

import pytest
import torch

import analogsim
from analogsim.chip.chip import SimulatedChip
from analogsim.chip.leg import Leg
from analogsim.chip.pulsed_cells import PulsedCells
from analogsim.config.chip import ChipDescription
from analogsim.contracts import Factors, LayerUpdate, WeightUpdate
from analogsim.network import Network
from analogsim.streams import Stream

NOISY = {"model": "soft_bounds", "dw_min": 0.002, "w_max_d2d": 0.2, "c2c": 0.3, "write_noise": 50.0}
QUIET = {"model": "constant", "dw_min": 0.01}
LOG = {"law": "log", "mean_uS": -0.1, "spread_uS": 0.02, "spread_at_1s_uS": 0.1}
FLICKER = {"strength": {"law": "power", "coefficient": 0.01, "exponent": 0.65, "max": 0.2}, "t_r_s": 2.5e-7}
TIMED = {"g_min_uS": 9.0, "g_max_uS": 88.0, "drift": LOG, "flicker": FLICKER}
OUTPUTS, INPUTS = 30, 40


def numbers(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))) * 0.3


def crossbar_of(pulses=NOISY, cell=None, seed=1):
    parts = {"write": {"mode": "pulsed", "cell": pulses}, "clock": {"t_read_s": 1e-5}}
    chip = ChipDescription.model_validate(parts | ({} if cell is None else {"cell": {"weight_max": 1.0} | cell}))
    return analogsim.Crossbar(numbers(OUTPUTS, INPUTS), chip, seed=seed)


def change_of(rows):
    """Ten pulses each on the first rows, none elsewhere."""
    change = torch.zeros(OUTPUTS, INPUTS)
    change[:rows] = 0.1 * torch.ones(INPUTS)
    return change


def check_write_noise():
    """Cells without a pulse are read as before, to the bit; the others anew, each write and cell by itself."""
    crossbar = crossbar_of()
    seen = [crossbar.effective_weight.clone()]
    for change in (
        torch.zeros(OUTPUTS, INPUTS),
        change_of(10),
        change_of(10),
        Factors(torch.zeros(1, OUTPUTS), numbers(1, INPUTS)),
    ):
        crossbar.write(change)
        seen.append(crossbar.effective_weight.clone())
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[1][10:], seen[3][10:])
    assert torch.equal(seen[3], seen[4])
    moved = (seen[2] - seen[1])[:10], (seen[3] - seen[2])[:10]
    assert all(bool((one != 0).all()) for one in moved)
    assert 0.05 < float(moved[0].std()) < 0.3  # √2 · 50 dw_min = 0.14
    assert float((moved[0] + moved[1]).std()) == pytest.approx(0.14, rel=0.2)  # the middle noise drops out


def test_write_noise_is_renewed_by_pulses_alone():
    check_write_noise()


def test_a_leak_renews_the_write_noise_of_all():
    crossbar = crossbar_of(NOISY | {"lifetime_updates": 1e6})
    before = crossbar.effective_weight.clone()
    crossbar.write(torch.zeros(OUTPUTS, INPUTS))
    assert bool((crossbar.effective_weight != before).all())


def found(crossbar):
    cells = crossbar.cells
    return {name: one.g.clone() for name, one in cells.found(crossbar.clock.now_s, crossbar.lag_s, noisy=True).items()}


def check_ages(mapping):
    """A cell without a pulse goes on drifting as if no update had been; a pulsed one is a second old again."""
    ours, theirs = (crossbar_of(QUIET, TIMED | {"mapping": mapping}) for _ in range(2))
    for crossbar in (ours, theirs):
        crossbar.age(1e4)
    ours.write(change_of(10))
    for crossbar in (ours, theirs):
        crossbar.age(1e3)
    for name, g in found(ours).items():
        same = slice(None) if name == "reference" else slice(10, None)
        assert torch.equal(g[same], found(theirs)[name][same])
        leg = ours.cells.legs[name]
        age = torch.as_tensor(leg._age(ours.clock.now_s)).expand(leg.shape)
        assert bool((age[same] == 11_001).all())
        assert name == "reference" or bool((age[:10] == 1001).all())
        assert name == "reference" or bool((leg._slow[:10] != theirs.cells.legs[name]._slow[:10]).all())


@pytest.mark.parametrize("mapping", ["differential", "reference", "offset"])
def test_drift_and_slow_noise_go_on_where_no_pulse_comes(mapping):
    check_ages(mapping)


def test_cells_in_slices_age_with_their_weight():
    crossbar = crossbar_of(QUIET, TIMED | {"slices": {"bits": 2, "cells": 3}})
    crossbar.age(1e4)
    crossbar.write(change_of(10))
    for leg in crossbar.cells.legs.values():
        age = leg._age(crossbar.clock.now_s).view(3, OUTPUTS, INPUTS)
        assert bool((age[:, :10] == 1).all())
        assert bool((age[:, 10:] == 10_001).all())


@pytest.mark.parametrize("cell", [None, TIMED, TIMED | {"mapping": "reference"}])
def test_what_was_not_pulsed_comes_back_from_a_state(cell):
    first, second = crossbar_of(NOISY, cell), crossbar_of(NOISY, cell)
    first.age(10.0)
    first.write(change_of(10))
    second.clock.move_to(first.clock.now_s)
    second.load({key: tensor.clone() for key, tensor in first.state().items()})
    for crossbar in (first, second):
        crossbar.age(100.0)
        crossbar.write(change_of(5))
    for key, tensor in first.state().items():
        assert torch.equal(tensor, second.state()[key]), key
    assert torch.equal(first.effective_weight, second.effective_weight)


def mixed_chip():
    """One layer of INPUTS, its decorrelation matrix on cells with write noise."""
    parts = {"write": {"mode": "pulsed", "cell": NOISY | {"c2c": 0.0, "w_max_d2d": 0.0}}, "decorrelation": "on_chip"}
    network = Network.dense(INPUTS, (), OUTPUTS)
    return SimulatedChip(
        ChipDescription.model_validate(parts), network, [numbers(OUTPUTS, INPUTS)], Stream.from_seed(1)
    )


def pulses_of(chip, matrix):
    before = chip.ledger.pulses
    chip.update(WeightUpdate((LayerUpdate(decorrelation=matrix),)))
    return chip.ledger.pulses - before


def check_mixing():
    """R as it was costs nothing; 100 steps one way, each in place, no more pulses than they are long."""
    chip, matrix = mixed_chip(), torch.eye(INPUTS)
    assert [pulses_of(chip, matrix) for _ in range(3)] == [0, 0, 0]
    spent = 0
    for _ in range(100):
        matrix -= 1e-3
        spent += pulses_of(chip, matrix)
    assert spent == pytest.approx(INPUTS**2 * 0.1 / 0.002, rel=0.03)  # less than a pulse a cell is left in the shadow


def test_a_decorrelation_matrix_costs_the_pulses_of_its_changes():
    check_mixing()


def test_a_decorrelation_matrix_goes_on_from_a_state():
    first, second, matrix = mixed_chip(), mixed_chip(), torch.eye(INPUTS)
    pulses_of(first, matrix)
    second.load({key: tensor.clone() for key, tensor in first.state().items()})
    matrix = matrix + 0.05
    assert pulses_of(first, matrix) == pulses_of(second, matrix) > 0
    for key, tensor in first.state().items():
        assert torch.equal(tensor, second.state()[key]), key


# Planted bugs: (where, what, the check that sees it)

show, place = PulsedCells._show, Leg.place


def to_what_is_read(self, index, matrix):
    mixer = self._mixer(index, matrix)
    mixer.write(mixer.weight - matrix)


def without_a_copy(self, index, matrix):
    self._mixer(index, matrix).write(self._mixed.setdefault(index, matrix) - matrix)


PULSED_BUGS = {
    "write noise of all cells at every update": (
        (PulsedCells, "_show", lambda self, written, now_s, pulsed=None: show(self, written, now_s)),
        check_write_noise,
    ),
    "write noise drawn once for good": (
        (PulsedCells, "_normal", lambda self, name, write: self._drawn_once("normal")(name)),
        check_write_noise,
    ),
    "all cells young again at every update": (
        (Leg, "place", lambda self, target, write, now_s, moved=None: place(self, target, write, now_s)),
        lambda: check_ages("differential"),
    ),
    "R written from what is read": ((SimulatedChip, "_mix", to_what_is_read), check_mixing),
    "R written from itself": ((SimulatedChip, "_mix", without_a_copy), check_mixing),
}


@pytest.mark.parametrize("bug", PULSED_BUGS)
def test_the_pulsed_checks_catch(bug, monkeypatch):
    planted, check = PULSED_BUGS[bug]
    monkeypatch.setattr(*planted)
    with pytest.raises(AssertionError):
        check()


# Stuck cells


def test_stuck_cells_are_not_at_an_end_of_a_range():
    """10 % of 1200 cells, ±5 σ; of the others one, the largest weight, is at its end, and then all are."""
    crossbar = crossbar_of(QUIET | {"stuck": 0.1})
    assert crossbar.cells.clipped_share < 1.1 / (0.85 * OUTPUTS * INPUTS)
    assert crossbar.cells.stuck_share == pytest.approx(0.1, abs=5 * 0.0087)
    for _ in range(3):
        crossbar.write(torch.ones(OUTPUTS, INPUTS))
    assert crossbar.cells.clipped_share == 1
    assert crossbar_of(QUIET | {"stuck": 1.0}).cells.clipped_share == 0


def test_faults_of_conductances_are_stuck_as_well():
    crossbar = crossbar_of(QUIET | {"stuck": 0.5}, {"faults": {"stuck_low": 0.2, "stuck_high": 0.2}})
    assert crossbar.cells.stuck_share == pytest.approx(0.5 + 0.5 * 0.4, abs=5 * 0.016)
