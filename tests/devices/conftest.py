"""Simulated measurements of cells with known laws, written as a lab would write them."""

import numpy as np
import pytest

BURSTS = (20.0, 20.2, 20.4, 600.0, 605.0, 3600.0, 3620.0, 40000.0, 40100.0)


@pytest.fixture(scope="session")
def simulated():
    return simulate


def simulate(rng, programming, read_noise, nu=0.0, spread=0.0, cells=400, targets=20, times=BURSTS, low=0.5):
    """Rows (target, read, time, number of the programming); laws are functions of G in µS."""
    rows = []
    for cell in range(cells):
        target = np.linspace(low, 25.0, targets)[cell % targets]
        written = target + programming(target) * rng.standard_normal()
        exponent = nu + spread * rng.standard_normal()
        for time in times:
            g = written * (time / times[0]) ** -exponent
            rows.append((target, g + read_noise(max(g, 0.0)) * rng.standard_normal(), time, cell))
    return rows


@pytest.fixture
def measured(tmp_path):
    """measured(rows, numbered) -> a CSV file of them."""

    def write(rows, numbered=False, name="m.csv"):
        columns = ["target_uS", "read_uS", "time_s", "programming"][: 4 if numbered else 3]
        lines = [",".join(columns), *(",".join(f"{value:.9g}" for value in row[: len(columns)]) for row in rows)]
        (tmp_path / name).write_text("\n".join(lines) + "\n")
        return tmp_path / name

    return write
