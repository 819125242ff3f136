"""Read noise behind wires, where V holds the local voltages to first order: how far it is off.

Held against crossbars whose every cell is noisy, their wires solved anew for each draw.
"""

import pytest
import torch

import analogsim
from analogsim.config.chip import ChipDescription
from analogsim.physics import wires
from analogsim.physics.conductance import differential_pair

SIGMA, G_MIN, G_MAX = 0.3, 0.5, 25.0
READS, DRAWS = 4000, 600  # standard error of a mean variance over 24 outputs: 0.5 % and 1.2 %
rng = torch.Generator().manual_seed(0)
WEIGHT, X = torch.randn(8, 12, generator=rng) * 0.3, torch.rand(3, 12, generator=rng)


def fast(model, ohm):
    cell = {"g_min_uS": G_MIN, "g_max_uS": G_MAX, "read_noise": {"law": "constant", "sigma_uS": SIGMA}}
    chip = ChipDescription.model_validate({"cell": cell, "wires": {"segment_ohm": ohm, "model": model}})
    crossbar = analogsim.Crossbar(WEIGHT, chip=chip, seed=0)
    return torch.stack([crossbar.read(X, step=step) for step in range(READS)]).double()


def solved(model, ohm):
    draws = torch.Generator().manual_seed(1)
    weight_max = float(WEIGHT.abs().max())
    legs = differential_pair(WEIGHT, weight_max, G_MIN, G_MAX)
    reads = []
    for _ in range(DRAWS):
        noisy = [g + SIGMA * torch.randn(g.shape, generator=draws) for g in legs]
        plus, minus = (
            torch.as_tensor(getattr(wires, model)(g.numpy() if model == "exact" else g, ohm)).double() for g in noisy
        )
        reads.append(X.double() @ (plus - minus).T * weight_max / (G_MAX - G_MIN))
    return torch.stack(reads)


def check(model, ohm, most):
    """Mean variance of all outputs within `most`; means within 1 % of the range."""
    ours, theirs = fast(model, ohm), solved(model, ohm)
    assert float((ours.mean(0) - theirs.mean(0)).abs().max() / theirs.mean(0).abs().max()) < 0.01
    assert abs(float(ours.var(0).mean() / theirs.var(0).mean()) - 1) < most


@pytest.mark.parametrize(("ohm", "most"), [(10.0, 0.06), (200.0, 0.15)])
@pytest.mark.parametrize("model", ["first_order", "exact"])
def test_noise_behind_wires_is_that_of_crossbars_solved_anew(model, ohm, most):
    """10 Ω a segment is a 7 nm wire; 200 Ω is far beyond any, and V still within 15 %."""
    check(model, ohm, most)


BUGS = {"wires forgotten": ("first_order", lambda g, ohm: g), "V without drops": ("drops", lambda g, ohm: 0 * g)}


@pytest.mark.parametrize("bug", BUGS)
def test_the_check_catches(bug, monkeypatch):
    """In what the chip makes of its wires; the crossbars solved anew keep theirs."""
    theirs = solved("first_order", 200.0)
    monkeypatch.setitem(globals(), "solved", lambda *_: theirs)
    monkeypatch.setattr(wires, *BUGS[bug])
    with pytest.raises(AssertionError):
        check("first_order", 200.0, 0.15)
