"""Every figure of the bench: ratios against bare products taken in the same run, beside what was aimed at.

    python benchmarks/run.py [--quick] [--peers] [--busy] [--device cuda] [--runs N] [--json FILE] [--markdown]

Work and bare product take turns; figures are medians of --repeats turns (7). floor: the ratio that operations and
bytes, counted, would take. --runs: the whole of it so many times, for the median ratio with the smallest and the
largest. --quick: small sizes, half a minute, to see that all of it runs.
"""

from __future__ import annotations

import analogsim  # noqa: F401  before torch, as in the command: it says how OpenMP's threads wait

# isort: split
import argparse
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import peers
import reads
import step_ratios
import timing
import torch
from rows import Row, median_rows, table

PACKAGES = ("analogsim-danp", "numpy", "scipy", "torch", "numba", "llvmlite", "triton", "aihwkit")


def machine(device: str) -> dict[str, Any]:
    """What the figures were taken on, and with."""
    about = Path("/proc/cpuinfo")
    models = (
        [line.partition(":")[2] for line in about.read_text().splitlines() if line.startswith("model name")]
        if (about.exists())
        else []
    )
    return {
        "processor": models[0].strip() if models else platform.processor(),
        "cores": os.cpu_count(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: installed(name) for name in PACKAGES},
        "gpu": None if device == "cpu" else torch.cuda.get_device_name(),
        "threads": torch.get_num_threads(),  # the kernels' too
        "load_before": os.getloadavg()[0],  # above 0: the machine had other work
    }


def installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def bench(given: argparse.Namespace) -> list[Row]:
    """Every row once."""
    repeats = 3 if given.quick else given.repeats
    size = reads.Size(256, 100, given.device) if given.quick else reads.Size(device=given.device)
    rows = [*reads.rows(repeats, size, given.quick, given.busy)]
    if not given.busy:
        rows += step_ratios.rows(repeats, given.device, given.quick)
    if given.peers:
        rows += peers.rows(repeats, size)
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes: does it all run?")
    parser.add_argument("--peers", action="store_true", help="others' reads as well, where they are installed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--markdown", action="store_true", help="print the table as markdown")
    parser.add_argument("--repeats", type=int, default=7, metavar="N")
    parser.add_argument("--runs", type=int, default=1, metavar="N", help="of the whole bench: the median of each ratio")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--busy", action="store_true", help="reads by processor time of one thread, no training")
    given = parser.parse_args(arguments)
    if given.busy and given.device != "cpu":
        parser.error("--busy counts a processor's time, not a GPU's")
    if given.busy:
        timing.count_processor_time()
    about = machine(given.device)
    rows = median_rows([bench(given) for _ in range(given.runs)])
    print(table(rows, given.markdown))
    if given.json is not None:
        figures = {"machine": about, "busy": given.busy, "runs": given.runs, "rows": [asdict(row) for row in rows]}
        given.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
