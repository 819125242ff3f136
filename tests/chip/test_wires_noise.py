"""Read noise behind wires, where V holds the local voltages to first order: how far it is off.

Held against crossbars whose every cell is noisy, their wires solved anew for each draw.
"""

import pytest
import torch

import analogsim
from analogsim.config.chip import ChipDescription
from analogsim.physics import wires
from analogsim.physics.conductance import differential_pair, single_cells

SIGMA, G_MIN, G_MAX = 0.3, 0.5, 25.0
READS, DRAWS = 20_000, 1000  # standard error of the variance of a sum of 8 outputs: 1 % and 4.5 %, over 3 inputs less
rng = torch.Generator().manual_seed(0)
WEIGHT, X = torch.randn(8, 12, generator=rng) * 0.3, torch.rand(3, 12, generator=rng)


def fast(model, ohm, mapping):
    noise = {"law": "constant", "sigma_uS": SIGMA}
    cell = {"g_min_uS": G_MIN, "g_max_uS": G_MAX, "mapping": mapping, "read_noise": noise}
    chip = ChipDescription.model_validate({"cell": cell, "wires": {"segment_ohm": ohm, "model": model}})
    crossbar = analogsim.Crossbar(WEIGHT, chip=chip, seed=0)
    return crossbar.read(X.repeat(READS, 1)).view(READS, len(X), -1).double()


def solved(model, ohm, mapping):
    generator = torch.Generator().manual_seed(1)
    weight_max, reads = float(WEIGHT.abs().max()), []
    if mapping == "differential":
        legs, scale = differential_pair(WEIGHT, weight_max, G_MIN, G_MAX), weight_max / (G_MAX - G_MIN)
    else:
        middle = torch.full((1, WEIGHT.shape[1]), (G_MIN + G_MAX) / 2)
        legs = [torch.cat([single_cells(WEIGHT, weight_max, G_MIN, G_MAX), middle])]  # the reference column is last
        scale = 2 * weight_max / (G_MAX - G_MIN)
    for _ in range(DRAWS):
        noisy = [g + SIGMA * torch.randn(g.shape, generator=generator) for g in legs]
        met = [
            torch.as_tensor(getattr(wires, model)(g.numpy() if model == "exact" else g, ohm)).double() for g in noisy
        ]
        weights = met[0] - met[1] if mapping == "differential" else met[0][:-1] - met[0][-1:]
        reads.append(X.double() @ weights.T * scale)
    return torch.stack(reads)


def check(model, ohm, most, mapping):
    """Means within 1 %; the mean variance of outputs within `most`, and of their sum, which tells what they share."""
    ours, theirs = fast(model, ohm, mapping), solved(model, ohm, mapping)
    assert float((ours.mean(0) - theirs.mean(0)).abs().max() / theirs.mean(0).abs().max()) < 0.01
    for one, other in ((ours, theirs), (ours.sum(-1), theirs.sum(-1))):
        assert abs(float(one.var(0).mean() / other.var(0).mean()) - 1) < most


@pytest.mark.parametrize("ohm", [10.0, 200.0])
@pytest.mark.parametrize("model", ["first_order", "exact"])
@pytest.mark.parametrize("mapping", ["differential", "reference"])
def test_noise_behind_wires_is_that_of_crossbars_solved_anew(mapping, model, ohm):
    """10 Ω a segment is a 7 nm wire; 200 Ω is far beyond any, and takes 0.4 of what a reference column puts in."""
    check(model, ohm, 0.1, mapping)


def _unseen_reference(legs, ohm):
    """The share of the last column, the reference, as if it had no wires."""
    share = NOISE_SHARE(legs, ohm)
    return torch.cat([share[:-1], torch.ones_like(share[-1:])])


NOISE_SHARE = wires.noise_share
WIRE_BUGS = {
    "wires forgotten": ("differential", "first_order", lambda g, ohm: g),
    "V without drops": ("differential", "noise_share", lambda g, ohm: torch.ones_like(g)),
    "V_ref without drops": ("reference", "noise_share", _unseen_reference),
    "current lost along the column forgotten": (
        "reference",
        "noise_share",
        lambda g, ohm: 1 / (1 + wires.drops(g, ohm)),
    ),
}


@pytest.mark.parametrize("bug", WIRE_BUGS)
def test_the_check_catches(bug, monkeypatch):
    """In what the chip makes of its wires; the crossbars solved anew keep theirs."""
    mapping, *planted = WIRE_BUGS[bug]
    theirs = solved("first_order", 200.0, mapping)
    monkeypatch.setitem(globals(), "solved", lambda *_: theirs)
    monkeypatch.setattr(wires, *planted)
    with pytest.raises(AssertionError):
        check("first_order", 200.0, 0.1, mapping)
