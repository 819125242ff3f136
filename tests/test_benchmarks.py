"""The bench runs from end to end on small sizes. What it measures is never asserted."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="benchmarks/ is in a checkout alone")
def test_the_bench_runs(tmp_path):
    figures = tmp_path / "figures.json"
    command = [sys.executable, str(BENCHMARKS / "run.py"), "--quick", "--busy", "--peers", "--json", str(figures)]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    written = json.loads(figures.read_text())
    assert written["machine"]["versions"]["torch"]
    works = [row["work"] for row in written["rows"]]
    assert len(set(works)) == len(works) >= 9
    for row in written["rows"]:
        assert row["work"] in shown
        assert math.isfinite(row["ratio"])
        assert row["ratio"] > 0
