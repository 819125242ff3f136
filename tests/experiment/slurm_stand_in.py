"""Stands in for Slurm's sbatch, squeue and scancel: a job is a session of this machine's processes.

$SLURM_STAND_IN/N/ holds job N: `script`, `session` (its id), `code` once it has ended by itself, which is
124 where its walltime ended it. While $SLURM_STAND_IN/refuse exists, sbatch prints it and takes no job.
"""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

JOBS = Path(os.environ["SLURM_STAND_IN"])


def sbatch(script: str) -> None:
    if (JOBS / "refuse").exists():
        sys.exit((JOBS / "refuse").read_text())
    number = 1 + max((int(path.name) for path in JOBS.glob("[0-9]*")), default=0)
    while (JOBS / str(number)).exists():
        number += 1
    folder = JOBS / str(number)
    folder.mkdir()
    text = Path(script).read_text()
    (folder / "script").write_text(text)
    days, hours, minutes, seconds = re.search(r"^#SBATCH -t (?:(\d+)-)?(\d+):(\d+):(\d+)$", text, re.M).groups("0")
    walltime = ((int(days) * 24 + int(hours)) * 60 + int(minutes)) * 60 + int(seconds)
    logs = [re.search(rf"^#SBATCH -{kind} (.*)$", text, re.M) for kind in "oe"]
    out, err = [log[1].replace("%J", str(number)) if log else f"slurm-{number}.out" for log in logs]
    run = f'timeout -k 5 {walltime} bash "{folder}/script"; echo $? > "{folder}/code"'
    with open(out, "a") as output, open(err, "a") as errors:
        job = subprocess.Popen(
            ["bash", "-c", run], stdin=subprocess.DEVNULL, stdout=output, stderr=errors, start_new_session=True
        )
    (folder / "session").write_text(str(job.pid))
    print(f"Submitted batch job {number}")


def squeue() -> None:
    for folder in JOBS.glob("[0-9]*"):
        if alive(folder):
            print(folder.name)


def scancel(number: str, *options: str) -> None:
    """SIGTERM, and SIGKILL five seconds later, as Slurm's KillWait; with --signal=KILL at once."""
    folder = JOBS / number
    for kind in (signal.SIGTERM, signal.SIGKILL)["--signal=KILL" in options :]:
        ends = time.monotonic() + 5
        for process in alive(folder):
            with suppress(ProcessLookupError):
                os.kill(process, kind)
        while alive(folder) and time.monotonic() < ends:
            time.sleep(0.05)


def alive(folder: Path) -> list[int]:
    """The processes of the job's session, without zombies."""
    try:
        session = (folder / "session").read_text()
    except FileNotFoundError:
        return []
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, its = stat.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if its == session and state != "Z":
            found.append(int(stat.parent.name))
    return found


if __name__ == "__main__":
    if sys.argv[1] == "sbatch":
        sbatch(sys.argv[-1])
    elif sys.argv[1] == "squeue":
        squeue()
    else:
        scancel(sys.argv[-1], *sys.argv[2:-1])
