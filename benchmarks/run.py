"""Every figure of the bench: ratios against bare products taken in the same run, beside what was aimed at.

    python benchmarks/run.py [--quick] [--peers] [--busy] [--json FILE]

Work and bare product take turns; figures are medians of --repeats turns (7). floor: the ratio that operations and
bytes, counted, would take. --quick: small crossbars, no training, a few seconds, to see that all of it runs.
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
import timing
import torch
from rows import Row

PACKAGES = ("analogsim-danp", "numpy", "scipy", "torch", "numba", "llvmlite", "aihwkit")


def machine() -> dict[str, Any]:
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
        "threads": torch.get_num_threads(),  # the kernels' too
        "load_before": os.getloadavg()[0],  # above 0: the machine had other work
    }


def installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def step_rows(repeats: int, left_out: bool) -> list[Row]:
    if left_out:
        return []
    import step_ratios  # trains networks of its own

    return step_ratios.rows(repeats)


def show(rows: Sequence[Row]) -> None:
    width = max(len(row.work) for row in rows)
    print(f"{'work':{width}}{'ratio':>9}{'target':>8}{'floor':>7}{'ms':>10}{'bare ms':>10}  note")
    for row in rows:
        floor = getattr(row, "floor", None)
        target = "" if row.target is None else f"{row.target:.2f}"
        missed = " " if row.target is None or row.ratio <= row.target else "*"
        print(
            f"{row.work:{width}}{row.ratio:9.2f}{target:>7}{missed}{'' if floor is None else f'{floor:.2f}':>7}"
            f"{row.milliseconds:10.2f}{row.bare_ms:10.2f}  {row.note}"
        )
    print("* above its target")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, no training: does it all run?")
    parser.add_argument("--peers", action="store_true", help="others' reads as well, where they are installed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--repeats", type=int, default=7, metavar="N")
    parser.add_argument("--busy", action="store_true", help="reads by processor time of one thread, no training")
    given = parser.parse_args(arguments)
    if given.busy:
        timing.count_processor_time()
    repeats, about = 3 if given.quick else given.repeats, machine()
    rows = [*reads.rows(repeats, given.quick, given.busy), *step_rows(repeats, given.quick or given.busy)]
    if given.peers:
        rows += peers.rows(repeats, reads.Size(256, 100) if given.quick else reads.Size())
    show(rows)
    if given.json is not None:
        given.json.write_text(
            json.dumps({"machine": about, "busy": given.busy, "rows": [asdict(row) for row in rows]}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
