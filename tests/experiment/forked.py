"""Runs `analogsim` in forked children and stops them: a fork takes milliseconds, a start seconds.

A server for test_resume.py and test_sweep_kills.py: reads one JSON request a line, answers with one JSON line. It has
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
from itertools import count
from pathlib import Path

import dask
import psutil
import sklearn.model_selection  # noqa: F401

import analogsim.backends.numba
import analogsim.experiment.cluster
import analogsim.experiment.overview
import analogsim.plots
import analogsim.progress  # noqa: F401 - with it all of training
from analogsim import cli


def start(
    arguments: list[str],
    log: str,
    largest_file: int | None = None,
    crash_at: int | None = None,
    environment: dict[str, str] | None = None,
) -> int:
    """A child's process id; what it prints goes to `log`.

    largest_file: in bytes, as if the disk were full. crash_at: how many of the calls that write a
    file the child survives. environment: what differs in the child's.
    """
    process = os.fork()
    if process:
        return process
    code, entered = 1, False
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        if environment:
            os.environ.update(environment)
            dask.config.refresh()
        if largest_file is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
        if crash_at is not None:
            crash(crash_at)
        sys.argv = ["analogsim", *arguments]
        sys.modules["__main__"].__dict__.pop("__file__", None)  # workers need not import this file
        entered = True
        cli.main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        if entered:  # a signal may come before
            traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def crash(at: int) -> None:
    """Have SIGKILL come at the `at`-th fsync or replace from here on, half the time just after it."""
    calls = count(1)

    def deadly(call):
        def wrapped(*arguments):
            here = next(calls)
            if here == at and at % 2:
                os.kill(os.getpid(), signal.SIGKILL)
            call(*arguments)
            if here == at:
                os.kill(os.getpid(), signal.SIGKILL)

        return wrapped

    os.fsync, os.replace = deadly(os.fsync), deadly(os.replace)


def wait(process: int) -> int:
    """Its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def run(arguments: list[str], log: str, largest_file: int | None = None) -> int:
    return wait(start(arguments, log, largest_file))


def begun(folder: Path) -> bool:
    return (folder / "config.yaml").is_file()


def saved(folder: Path) -> int:
    """How many checkpoints were written so far, over all runs."""
    newest: dict[Path, int] = {}
    for path in folder.glob("checkpoints/*/*/*.npz"):
        newest[path.parent] = max(newest.get(path.parent, 0), int(path.name.partition("-")[0]))
    return sum(newest.values())


def crashed_until_done(first: list[str], folder: str, log: str, seed: int) -> dict[str, int]:
    """Crash within writes, resume, and so on to the end."""
    chance, landed = random.Random(seed), {}
    while True:
        arguments = ["train", "--resume", folder] if begun(Path(folder)) else [*first, "--out", folder]
        if wait(start(arguments, log, crash_at=chance.randint(1, 30))) == 0:
            return landed
        landed[where(Path(folder))] = landed.get(where(Path(folder)), 0) + 1


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
    if not begun(folder):
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
            process = start(["train", "--resume", str(path)] if begun(path) else [*first, "--out", str(path)], log)
            time.sleep(chance.uniform(0, 2 * delay))
            os.kill(process, number)
            code = wait(process)
            if code:
                landed[where(path)] = landed.get(where(path), 0) + 1
                codes[code] = codes.get(code, 0) + 1
            delay *= 0.9 if saved(path) > before else 1.1
    return {"landed": landed, "codes": {str(code): count for code, count in codes.items()}, "folders": folders}


def sweep_killed_until_done(arguments: list[str], folder: str, log: str, wanted: int, seed: int, share: float) -> dict:
    """Kill a sweep's coordinator, or (a `share` of the times) one of its workers, at random instants; start it again.

    Returns how often each was killed, over as many sweeps as `wanted` kills needed, their folders, and the
    finished trials that were written again although they had been finished before. The delays follow the
    machine, as in `stopped_until_done`.
    """
    chance = random.Random(seed)
    told: dict = {"coordinator": 0, "worker": 0, "folders": [], "rewritten": [], "given_up": 0, "delay": 0.3}
    while told["coordinator"] + told["worker"] < wanted:
        path = Path(f"{folder}-{len(told['folders'])}")
        told["folders"].append(str(path))
        finished: dict[str, int] = {}
        while not _killed_once([*arguments, "-o", str(path)], path, log, chance, share, wanted, finished, told):
            pass
    return told


def _killed_once(arguments, path, log, chance, share, wanted, finished, told) -> bool:
    """Start a sweep and kill until its coordinator is gone; True if it came to its end."""
    coordinator = start(arguments, log)
    before, early = _come_so_far(path), not share or chance.random() < 0.1  # else let the workers start first
    while True:
        ends = time.monotonic() + chance.uniform(0.0, 2 * told["delay"])
        enough = told["coordinator"] + told["worker"] >= wanted
        while enough or time.monotonic() < ends:
            if os.waitpid(coordinator, os.WNOHANG)[0]:
                _note_finished(path, finished, told)
                if not (path / "trials.csv").exists():
                    return False
                table = (path / "trials.csv").read_text()
                given_up = table.count(",failed,")  # killed three times: the next start tries them again
                assert given_up == table.count("its worker was killed 3 times"), table
                told["given_up"] += given_up
                return ",pending," not in table and not given_up
            time.sleep(0.005)
        workers = _workers(coordinator)
        if not workers and not early:
            continue
        kill_worker = bool(workers) and chance.random() < share
        if kill_worker:
            chance.choice(workers).kill()
        else:
            os.kill(coordinator, signal.SIGKILL)
            os.waitpid(coordinator, 0)
        told["worker" if kill_worker else "coordinator"] += 1
        so_far = _come_so_far(path)
        told["delay"] *= 0.9 if so_far > before else 1.2
        before = so_far
        _note_finished(path, finished, told)
        if not kill_worker:
            return False


def _come_so_far(path: Path) -> int:
    """Grows with every checkpoint and every finished trial."""
    return 10_000 * len(list(path.glob("trials/*/summary.json"))) + sum(map(saved, path.glob("trials/*")))


def _workers(coordinator: int) -> list[psutil.Process]:
    found = []
    try:
        for child in psutil.Process(coordinator).children():
            if "forkserver" in " ".join(child.cmdline()):
                found += child.children()
    except psutil.Error:
        pass
    return found


def _note_finished(path: Path, finished: dict[str, int], told: dict) -> None:
    """Which trials are finished, and whether one that was has been written again."""
    for summary in path.glob("trials/*/summary.json"):
        text = summary.read_text()
        if '"status": "ok"' in text or '"status": "diverged"' in text:
            written = summary.stat().st_mtime_ns
            if finished.setdefault(str(summary), written) != written:
                told["rewritten"].append(str(summary))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job inherits it ignored
    gc.freeze()
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(globals()[request.pop("do")](**request)), flush=True)
