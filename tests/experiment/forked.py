"""Runs `analogsim` in forked children and stops them: a fork takes milliseconds, a start seconds.

A server for test_resume.py: reads one JSON request a line, answers with one JSON line. It has
imported everything and started no thread (its environment says one thread to each library); a
child is the command line's own `main`, with arguments of its own.
"""

from __future__ import annotations

import gc
import json
import os
import random
import resource
import signal
import sys
import time
import traceback
from pathlib import Path

import sklearn.model_selection  # noqa: F401
import torch
import torch._dynamo  # torch.optim imports it, and that takes a second

import analogsim.backends.numba
import analogsim.plots
import analogsim.progress  # noqa: F401 - with it all of training
from analogsim import cli


def start(arguments: list[str], log: str, largest_file: int | None = None) -> int:
    """A child's process id; what it prints goes to `log`. largest_file: bytes, as if the disk were full."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        if largest_file is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
        sys.argv = ["analogsim", *arguments]
        cli.main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(process: int) -> int:
    """Its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def run(arguments: list[str], log: str, largest_file: int | None = None) -> int:
    return wait(start(arguments, log, largest_file))


def saved(folder: Path) -> int:
    """How many checkpoints were written so far, over all runs."""
    newest: dict[Path, int] = {}
    for path in folder.glob("checkpoints/*/*/*.npz"):
        newest[path.parent] = max(newest.get(path.parent, 0), int(path.name.partition("-")[0]))
    return sum(newest.values())


def signalled(arguments: list[str], log: str, folder: str, after: int, number: int, times: int = 1) -> int:
    """Run, and send a signal once so many checkpoints are there."""
    process = start(arguments, log)
    while not Path(log).exists():  # the interpreter's own work after a fork would swallow it
        time.sleep(0.001)
    while saved(Path(folder)) < after and os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(0.001)
    for _ in range(times):
        os.kill(process, number)
    return wait(process)


def where(folder: Path) -> str:
    """What a kill interrupted, by what it left behind."""
    if not (folder / "config.yaml").is_file():
        return "before it began"
    if any(folder.glob("checkpoints/**/.*.part")):
        return "writing a checkpoint"
    return "writing a table" if any(folder.rglob(".*.part")) else "computing"


def stopped_until_done(first: list[str], folder: str, log: str, number: int, wanted: int, seed: int) -> dict:
    """Send a signal at random instants, resume, and so on to the end, in as many folders as `wanted` needs.

    The delays follow the machine: longer after a child that came no further, shorter after one that did.
    """
    chance, delay = random.Random(seed), 0.1
    landed: dict[str, int] = {}
    codes: dict[int, int] = {}
    folders: list[str] = []
    while sum(landed.values()) < wanted:
        path = Path(f"{folder}-{len(folders)}")
        folders.append(str(path))
        code = None
        while code != 0:
            before = saved(path)
            begun = (path / "config.yaml").is_file()
            process = start(["train", "--resume", str(path)] if begun else [*first, "--out", str(path)], log)
            time.sleep(chance.uniform(0, 2 * delay))
            os.kill(process, number)
            code = wait(process)
            if code:
                landed[where(path)] = landed.get(where(path), 0) + 1
                codes[code] = codes.get(code, 0) + 1
            delay *= 0.9 if saved(path) > before else 1.1
    return {"landed": landed, "codes": {str(code): count for code, count in codes.items()}, "folders": folders}


if __name__ == "__main__":
    torch.optim.Adam([torch.zeros(1)])
    gc.freeze()
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(globals()[request.pop("do")](**request)), flush=True)
