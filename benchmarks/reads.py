"""Reads of one crossbar against the bare product, normals against torch.randn, the nodal solver, and the start.

The floor of a read is counted: its products at the rate of the bare one, and for every stage beside them the larger
of its operations at that same rate and its bytes at the rate at which torch copies. (A core that adds and multiplies
vectors without fusing them does about as many operations a second as its products do.)
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from products import varied
from rows import Row
from timing import medians

from analogsim.backends import get_backend
from analogsim.chip.crossbar import Crossbar
from analogsim.config.chip import ChipDescription
from analogsim.config.loader import load_chip
from analogsim.physics.wires import NodalSolver
from analogsim.streams import Address, Stream

NORMAL = 68  # operations a normal: 12 a round and lane of Philox, 150 a lane of four of Box-Muller
SCALE = 2  # y + sigma z
ROOT = 18  # y + sqrt(sigma² + v) z, a root as 16
ADC = 21  # a division as 16, round, clip twice, scale
DAC = 20  # largest of its vector, a division, round, clip twice, scale, square
FLOAT = 4  # bytes

# What is read: noise of the cells, and how many products, operations and bytes an output and an input cost.
CELLS: dict[str, tuple[dict[str, Any], float]] = {
    "constant-σ cell noise": ({"law": "constant", "sigma_uS": 0.5}, 1.2),
    "proportional cell noise": ({"law": "proportional", "k": 0.05}, 2.3),
    "√g cell noise": ({"law": "sqrt", "k_sqrt_uS": 0.0875}, 2.3),
}


@dataclass(frozen=True)
class Size:
    """A crossbar and how many vectors it is read with, and where."""

    units: int = 1024
    vectors: int = 1000
    device: str = "cpu"

    @property
    def weight(self) -> torch.Tensor:
        return self._noise(1, self.units) / self.units**0.5

    @property
    def x(self) -> torch.Tensor:
        return self._noise(2, self.vectors)

    def _noise(self, seed: int, rows: int) -> torch.Tensor:
        return torch.from_numpy(Stream.from_seed(seed).normal(Address(), rows, self.units)).to(self.device)


def chips() -> dict[str, tuple[ChipDescription, float]]:
    """Chip and target of every row."""
    found = {}
    for name, (law, target) in CELLS.items():
        found[name] = ChipDescription.model_validate({"name": name, "cell": {"read_noise": law}}), target
    pcm = load_chip("pcm-nandakumar").replace(**{"tile.rows": None, "tile.columns": None})
    return found | {"DAC, ADC, differential pair, 1/f (pcm-nandakumar)": (pcm, 2.6)}


def read_rows(repeats: int, size: Size) -> list[Row]:
    weight, x, rows = size.weight, size.x, []
    out, copied = torch.empty_like(x), torch.empty_like(x)
    product = 2 * size.vectors * size.units**2
    for name, (chip, target) in chips().items():
        crossbar = Crossbar(weight, chip, seed=0)
        works = [
            lambda crossbar=crossbar: crossbar.read(x),
            lambda: torch.mm(x, weight.T, out=out),
            lambda: copied.copy_(x),
        ]
        ours, bare, copy = medians(works, 5 * repeats)  # short: more of them for a steady median
        floor = floor_s(chip, x.numel(), out.numel(), bare, product / bare, 2 * FLOAT * x.numel() / copy) / bare
        note = f"{product / bare / 1e9:.0f} GFLOP/s bare"
        work = f"read {size.vectors} × {size.units}²: {name}"
        rows.append(Row(work, ours / bare, target, ours * 1e3, bare * 1e3, note, floor))
    return rows


def floor_s(chip: ChipDescription, inputs: int, outputs: int, bare: float, operations: float, bytes_: float) -> float:
    """Seconds of a read at so many operations and bytes a second."""

    def stage(numbers: int, each: float, touched: float) -> float:
        return numbers * max(each / operations, touched * FLOAT / bytes_)

    check = stage(inputs, 1, 1)
    if not varied(chip):  # squares summed; y read and written
        return bare + check + stage(inputs, 2, 1) + stage(outputs, NORMAL + SCALE, 2)
    driven = stage(inputs, DAC, 3) if chip.dac else stage(inputs, 1, 2)  # x̂ and its square written
    return 2 * bare + check + driven + stage(outputs, NORMAL + ROOT + (ADC if chip.adc else 0), 3)


def normals_row(repeats: int, count: int, device: str) -> Row:
    backend, stream, where = get_backend("auto", device), Stream.from_seed(0), torch.device(device)
    works = [
        lambda: backend.normal(stream, Address(), count, count, where),
        lambda: torch.randn(count, count, device=where),
    ]
    ours, theirs = medians(works, 3 * repeats)
    drawn = works[0]().cpu().numpy().view(np.int32)
    same = np.array_equal(drawn, stream.normal(Address(), count, count).view(np.int32))
    note = f"against torch.randn; {'equal' if same else 'NOT EQUAL'} to NumPy's bit for bit"
    return Row(f"{count}² normals", ours / theirs, 0.25, ours * 1e3, theirs * 1e3, note)


def nodal_row(repeats: int, cells: int = 256) -> Row:
    g = np.abs(Stream.from_seed(3).normal(Address(), cells, cells).astype(np.float64)) * 5
    x = Stream.from_seed(4).normal(Address(), 1, cells)[0].astype(np.float64)
    start = time.perf_counter()
    solver = NodalSolver(g, 1.0)
    solver.read(x)
    programming = time.perf_counter() - start
    read, alone = medians([lambda: solver.read(x), lambda: solver.node_voltages(x)], repeats)
    note = f"against 3 ms; {programming:.2f} s a programming; a solve of its own {alone * 1e3:.1f} ms"
    return Row(f"exact IR-drop read, {cells}², a vector", read * 1e3 / 3, 1.0, read * 1e3, 3.0, note)


# --- start ------------------------------------------------------------------------------------------


def help_row(repeats: int) -> Row:
    """`analogsim --help`, in a process of its own."""
    command = [sys.executable, "-m", "analogsim", "--help"]
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        taken.append(time.perf_counter() - start)
    seconds = median(taken)
    return Row("analogsim --help", seconds / 0.3, 1.0, seconds * 1e3, 300.0, "against 0.3 s")


def train_rows(repeats: int) -> list[Row]:
    """`analogsim train` on digits until the line after its first step is printed: Numba's cache empty, then full."""
    with tempfile.TemporaryDirectory() as folder:
        cold = [first_step_s(Path(folder, f"cold-{number}")) for number in range(repeats)]
        warm = [first_step_s(Path(folder, "cold-0")) for _ in range(repeats)]
    rows = []
    for name, seconds in (("Numba's first compile", median(cold)), ("compiled before", median(warm))):
        note = "against 4 s; the step and both evaluations around it"
        rows.append(Row(f"train digits to first step, {name}", seconds / 4, 1.0, seconds * 1e3, 4000.0, note))
    return rows


def first_step_s(cache: Path) -> float:
    """From the start of the process to the end of an epoch of one step."""
    settings = ("training.epochs=1", "training.batch=1437")
    command = [sys.executable, "-m", "analogsim", "train", "quickstart", "--seed", "0"]
    command += [part for text in settings for part in ("--set", text)]
    environment = os.environ | {"NUMBA_CACHE_DIR": str(cache), "PYTHONUNBUFFERED": "1"}
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        with subprocess.Popen(
            [*command, "--out", f"{folder}/run"], env=environment, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if "epoch 1/" in line:
                    break
            taken = time.perf_counter() - start
            process.kill()
    return taken


def rows(repeats: int, size: Size, quick: bool, busy: bool = False) -> Sequence[Row]:
    """Every figure of this file. quick: small, and no training; busy: no wall's time."""
    found = [*read_rows(repeats, size), normals_row(repeats, 300 if quick else 1000, size.device)]
    if size.device != "cpu":
        return found
    found.append(nodal_row(repeats, 32 if quick else 256))
    if not busy:
        found.append(help_row(repeats))
    return found if quick or busy else [*found, *train_rows(repeats)]
