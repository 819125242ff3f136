"""Every effect of a chip at the output positions of a convolution, against reads of every cell in float64.

A position is a read of its own: R times its patch, with the DAC's full scale of that patch and fresh noise of
cells, DACs and reference columns; what is made once - programming errors, drift, the slow part of 1/f noise, gains -
is the same at all of them. Statistical tests run at fixed seeds and level 1e-6: they never flake.
"""

import runpy
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from analogsim.backends.numba import NumbaBackend
from analogsim.chip import crossbar, leg
from analogsim.chip.cell_by_cell import CellByCell
from analogsim.chip.tile import Tile
from analogsim.contracts import Probe

# Tests are imported one by one, not as a package: what is there already is fetched from its file.
_positions, _read, _written = (
    runpy.run_path(str(Path(__file__).with_name(f"test_{name}.py")))
    for name in ("positions", "read_law", "written_law")
)
chip_of, patches, check_alike = _positions["chip_of"], _positions["patches"], _read["check_alike"]
LAYER, IMAGE, WEIGHT = _positions["LAYER"], _positions["IMAGE"], _positions["WEIGHT"]

ALPHA, READS = 1e-6, 2500  # 2 · 10^5 outputs
READ_ONLY = [
    "rows of tiles, per vector",
    "rows of tiles, reference",
    "reference column",
    "digital offset",
    "scale per column, rows of tiles",
    "DAC noise",
    "DAC noise, tiles",
    "DAC rounding",
    "bit-serial",
    "bit-serial, DAC noise",
    "per slice, DAC noise",
    "weight slices",
    "gain and offset",
    "stochastic rounding",
    "1/f",
    "1/f, white",
]
ERRONEOUS = {  # cells read after a write with errors, some of them long after
    "programming error": {},
    "stuck cells": {},
    "reference column that drifts": {"mapping": "reference", "tile": {}, "clock": {"t_first_read_s": 1e5}},
    "power drift, a day": {"clock": {"t_first_read_s": 86400.0}},
    "log drift": {"clock": {"t_first_read_s": 3600.0}},
    "retention, an hour": {"clock": {"t_first_read_s": 3600.0}},
}


def described(name):
    if name in READ_ONLY:
        return _read["CHIPS"][name]
    cell = _written["CHIPS"][name][0].cell.model_dump(exclude_unset=True) | {"read_noise": _read["SQRT"]}
    changed = ERRONEOUS[name]
    return _written["chip"](tile=changed.get("tile"), clock=changed.get("clock"), **cell)


def fast(name, planted=None, backend="numba"):
    """(READS, positions, units) outputs of the chip, in one pass."""
    chip = chip_of(described(name), backend)
    if planted is not None:
        chip._runner.backend = planted
        for tile in chip._crossbars[0]._tiles:
            tile._backend = planted
    x = torch.from_numpy(np.tile(IMAGE.reshape(1, -1), (READS, 1)))
    return chip.run(x, Probe()).pre_activations[0].double().numpy()


@cache
def reference(name):
    """As many, cell by cell, of cells and columns with the errors that the chip's have."""
    description, fast_one = described(name), chip_of(described(name))._crossbars[0]
    now_s = fast_one.clock.now_s
    t_s = description.clock.t_first_read_s + now_s
    cells = CellByCell(WEIGHT, description, np.random.default_rng(302), t_s, fast_one.lag_s)
    found = fast_one.cells.found(now_s, fast_one.lag_s, False)
    order = sorted(fast_one._tiles, key=lambda tile: (tile.rows.start, tile.columns.start))
    for slow, tile in zip(cells.tiles, order, strict=True):
        assert (slow.rows, slow.columns) == (tile.rows, tile.columns)
        if tile._gain is not None:
            slow.gain, slow.offset = tile._gain.double().numpy(), tile._offset.double().numpy()
        if description.cell.flicker:
            slow.slow = [one._slow.double().numpy()[None] for one in fast_one.cells.legs.values()]
        if name in ERRONEOUS:
            held = {leg_name: one.g.double().numpy() for leg_name, one in found.items()}
            slow.reference = held.pop("reference", None)
            slow.legs = [(sign, g[None]) for (sign, _), g in zip(slow.legs, held.values(), strict=True)]
    return cells.read(np.tile(patches(), (READS, 1))).reshape(READS, LAYER.positions, LAYER.units)


def check(ours, name):
    theirs = reference(name)
    check_alike(ours, theirs)
    check_positions(ours, theirs)


def check_positions(ours, theirs):
    """What positions have in common, in units of their spreads: every pair of them, of values and of squares."""
    pairs = []
    for sample in (ours, theirs):
        z = (sample - sample.mean(0)) / (theirs.std(0) + 1e-9)
        pairs.append([np.einsum("nvi,nwi->nvw", w, w) / LAYER.units for w in (z, z**2 - (z**2).mean(0))])
    for a, b in zip(*pairs, strict=True):
        error = np.sqrt((a.var(0) + b.var(0)) / READS) + 1e-4
        assert abs((a.mean(0) - b.mean(0)) / error).max() < stats.norm.isf(ALPHA / LAYER.positions**2)


OTHERS = [(name, other) for name in ("rows of tiles, per vector", "power drift, a day") for other in ("numpy", "torch")]


@pytest.mark.parametrize(("name", "backend"), [*((name, "numba") for name in (*READ_ONLY, *ERRONEOUS)), *OTHERS])
def test_every_effect_at_positions_follows_the_cell_by_cell_law(name, backend):
    """2 · 10^5 outputs of 16 positions fast and as many cell by cell, each test at α = 1e-6.

    Refused: over all, a KS distance of 0.9 %, a σ off by 1.1 %; of one position and unit a mean off by 16 % of σ, a
    variance off by 22 %; of two positions a correlation off by 8 %.
    """
    check(fast(name, backend=backend), name)


# Planted bugs: (chip that shows it, a backend) or (chip, object, name, what stands there instead)


class ReferenceShared(NumbaBackend):
    """What is not drawn within the output stage, the reference columns' noise, is the same at every position."""

    def normal(self, *where):
        z = super().normal(*where)
        return z[:, :1].expand_as(z)


def dac_noise_shared(self, *where):
    draw = dac_noise(self, *where)
    return lambda number: draw(number)[:, :1].expand(*draw(number).shape)


def one_full_scale(x, dac, *draws):
    return drive(x, dac.model_copy(update={"bound": float(x.abs().max())}), *draws)


dac_noise, drive, drifted = Tile.dac_noise, crossbar.drive, leg.Leg._drifted
POSITION_BUGS = {
    "tiles' noise shared over positions": ("rows of tiles, per vector", _positions["SharedOverPositions"]),
    "reference column's noise shared over positions": ("reference column", ReferenceShared),
    "DAC noise shared over positions": ("DAC noise", Tile, "dac_noise", dac_noise_shared),
    "one full scale of the DAC for all positions": ("bit-serial", crossbar, "drive", one_full_scale),
    "1/f at positions without its slow part": ("1/f", leg.flicker, "slow_part", lambda sigma, rho, slow: 0 * sigma),
    "positions read before the drift": (
        "power drift, a day",
        leg.Leg,
        "_drifted",
        lambda self, age: drifted(self, 1.0),
    ),
}


@pytest.mark.parametrize("bug", POSITION_BUGS)
def test_the_check_of_positions_catches(bug, monkeypatch):
    """The same check of 2 · 10^5 outputs at α = 1e-6."""
    name, *planted = POSITION_BUGS[bug]
    ours = _read["read_with"](monkeypatch, fast, name, *planted)
    with pytest.raises(AssertionError):
        check(ours, name)
