"""Trials on the workers of a dask cluster: processes here, a running cluster, or Slurm's.

One trial a worker at a time, sent when one is free: a trial that kills its worker takes no other with
it. It is tried again after the others, at most twice, and then has failed.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import queue
import shutil
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import distributed
from dask import config as dask_config
from distributed.utils import get_mp_context

from analogsim.config.slurm import load_slurm
from analogsim.errors import ArgumentError, RunFolderError
from analogsim.experiment.trials import STOP_EVERY_S, Ended, Task

if TYPE_CHECKING:
    from analogsim.experiment.slurm import Cluster
    from analogsim.experiment.sweep import Options

RETRIES = 2
STARTS = 3  # of the workers: dask starts again one that is killed, but not while the first are starting
SLURM_FILE = (".yaml", ".yml")
PRELOADED = ["distributed", "analogsim.experiment.trials", "sklearn.model_selection", "torch._dynamo"]  # seconds
KILLED = f"its worker was killed {RETRIES + 1} times, by a signal or for want of memory"
LEAVING = (distributed.Status.closing_gracefully, distributed.Status.closing)
FAREWELL_S = 60.0  # for running trials to write a checkpoint after Ctrl-C


def dask_setup(worker: distributed.Worker) -> None:
    """Called by dask in each worker that preloads this module, before it takes a task.

    Ctrl-C on a terminal reaches every process of the group; what it means is for the sweep to say. And
    what dask logs when one of its processes is gone is said by the sweep too, in a line.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.disable()


def run_all(
    groups: list[list[Task]],
    folder: Path,
    options: Options,
    stop: Callable[[], bool],
    begun: Callable[[Task], None],
    ended: Callable[[Task, Ended], None],
) -> None:
    """Run the tasks to their ends, or until `stop()`, told as they begin and end. Those of a group go together."""
    mark = folder.absolute() / ".stop"
    with _client(options, len(groups), folder) as (client, watch):
        try:
            _Dispatch(client, mark, options, begun, ended).run(deque(groups), stop, watch)
        except (OSError, RuntimeError, CancelledError) as error:
            if client.status == "running":
                raise
            raise RunFolderError(f"{options.scheduler or 'the workers'}: the cluster is gone: {error}") from None
        finally:
            mark.unlink(missing_ok=True)


class _Dispatch:
    def __init__(self, client: distributed.Client, mark: Path, options: Options, begun: Any, ended: Any):
        self.client, self.mark, self.options, self.begun, self.ended = client, mark, options, begun, ended
        self.running: dict[distributed.Future, list[Task]] = {}
        scheduler = options.scheduler or ""  # a running cluster has counted already, by its own rule
        self.counts_here = not scheduler or scheduler.endswith(SLURM_FILE)
        self.deaths: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()  # dask would give a key's old result again
        self.ready: queue.SimpleQueue[distributed.Future] = queue.SimpleQueue()

    def run(self, waiting: deque[list[Task]], stop: Callable[[], bool], watch: Callable[[int], None]) -> None:
        stopping: float | None = None
        while waiting or self.running:
            watch(len(waiting) + len(self.running))
            if stopping is None and stop():
                stopping = time.monotonic()
                self.mark.touch()
            if stopping is None and waiting:
                free = len(cast(dict[str, int], self.client.nthreads())) - len(self.running)
                for _ in range(min(free, len(waiting))):
                    self._submit(waiting.popleft())
            if stopping is not None and (not self.running or time.monotonic() - stopping > FAREWELL_S):
                return
            try:
                future = self.ready.get(timeout=STOP_EVERY_S)
            except queue.Empty:
                continue
            waiting.extend([task] for task in self._gather(future))

    def _submit(self, group: list[Task]) -> None:
        task = group[0]
        self.sent[task.name] += 1
        wanted = {"GPU": 1} if task.device.startswith("cuda") and self._have_gpus() else None
        future = self.client.submit(
            work,
            self.options.run,
            group,
            str(self.mark),
            key=f"{task.name}-{self.sent[task.name]}",
            pure=False,
            resources=wanted,
        )
        self.running[future] = group
        future.add_done_callback(self.ready.put)
        for task in group:
            self.begun(task)

    def _gather(self, future: distributed.Future) -> list[Task]:
        """Take note of how tasks ended; those to be tried again, as their worker died and they have a try left."""
        group = self.running.pop(future)
        if future.status == "finished":
            ends = list(zip(group, future.result()))
            for task, how in ends:
                self.ended(task, how)
            return [task for task, how in ends if how == Ended("pending")]  # its worker left
        error = future.exception() if future.status == "error" else None
        return [task for task in group if self._again(task, future.status, error)]

    def _again(self, task: Task, status: str | None, error: Any) -> bool:
        if isinstance(error, distributed.KilledWorker):
            self.deaths[task.name] += 1
            again = self.counts_here and self.deaths[task.name] <= RETRIES
            self.ended(task, Ended("pending") if again else Ended("failed", KILLED))
            return again
        if status == "error":
            self.ended(task, Ended("failed", f"{type(error).__name__}: {error}".split("\n")[0]))
            return False
        self.ended(task, Ended("pending"))  # cancelled, lost: the scheduler forgot it
        return True

    def _have_gpus(self) -> bool:
        workers = self.client.scheduler_info()["workers"].values()
        return any("GPU" in worker["resources"] for worker in workers)


def work(run: Callable[[list[Task], Callable[[], bool]], list[Ended]], group: list[Task], mark: str) -> list[Ended]:
    """Run tasks in a worker, until the sweep's mark says stop, or the worker leaves."""
    looked, seen = 0.0, False
    worker = distributed.get_worker()

    def stop() -> bool:
        nonlocal looked, seen
        if not seen and time.monotonic() - looked > STOP_EVERY_S:
            seen, looked = os.path.exists(mark) or worker.status in LEAVING, time.monotonic()
        return seen

    if group[0].device == "cuda":
        group = [replace(task, device=_own_gpu()) for task in group]
    return run(group, stop)


def _own_gpu() -> str:
    """One GPU a worker: they are numbered, and the GPUs given out in turn."""
    import torch

    name, count = distributed.get_worker().name, torch.cuda.device_count()
    return f"cuda:{name % count}" if isinstance(name, int) and count else "cuda"


@contextmanager
def _client(options: Options, tasks: int, folder: Path) -> Iterator[tuple[distributed.Client, Callable[[int], None]]]:
    """A client of the cluster, and what is to be called again and again with the number of trials left."""
    before = dict(os.environ)  # dask sets the number of threads there, for its workers
    settings: dict[str, Any] = {
        "distributed.scheduler.allowed-failures": 0,  # counted here
        "distributed.nanny.pre-spawn-environ": _thread_environment(options.threads),
    }
    scheduler = options.scheduler
    try:
        if scheduler is None:
            settings["distributed.worker.multiprocessing-method"] = _start_method(options)
            settings["distributed.worker.preload"] = [__name__]
            with dask_config.set(settings), ExitStack() as opened:
                yield _local(options, tasks, opened), _unwatched
        elif scheduler.endswith(SLURM_FILE):
            with dask_config.set(settings), ExitStack() as opened:
                cluster = _slurm(options, tasks, folder)
                opened.enter_context(cluster)
                yield opened.enter_context(distributed.Client(cluster)), cluster.watch
        else:
            try:
                client = distributed.Client(scheduler, timeout=10)
            except (OSError, ValueError) as error:
                allowed = f"the address of a running dask scheduler, such as tcp://host:8786 ({error})"
                raise ArgumentError("--scheduler", scheduler, allowed) from None
            with client:
                yield client, _unwatched
    finally:
        os.environ.clear()
        os.environ.update(before)


def _local(options: Options, tasks: int, opened: ExitStack) -> distributed.Client:
    for tries_left in reversed(range(STARTS)):
        try:
            cluster = distributed.LocalCluster(
                n_workers=min(options.workers, tasks),
                threads_per_worker=1,
                processes=True,
                dashboard_address="127.0.0.1:0",  # any free port
                memory_limit=None,
                silence_logs=logging.CRITICAL,
                resources={"GPU": 1} if options.device.startswith("cuda") else None,
            )
            return opened.enter_context(distributed.Client(opened.enter_context(cluster)))
        except (OSError, RuntimeError, TimeoutError) as error:  # a worker killed as it starts takes all with it
            if not tries_left:
                hint = 'a script that starts workers needs `if __name__ == "__main__":`; workers=1 starts none'
                raise RunFolderError(f"the workers could not be started ({error}); {hint}") from None
    raise AssertionError("the last try returns or raises")


def _slurm(options: Options, tasks: int, folder: Path) -> Cluster:
    """Jobs of one worker each, no more than there are tasks."""
    file = str(options.scheduler)
    settings = load_slurm(file)
    ours = signal.getsignal(signal.SIGINT)
    try:
        from analogsim.experiment.slurm import Cluster

        signal.signal(signal.SIGINT, ours)  # dask-jobqueue, imported, ends the program at Ctrl-C
    except ImportError:
        allowed = "an address; a Slurm file needs dask-jobqueue: pip install analogsim-danp[slurm]"
        raise ArgumentError("--scheduler", file, allowed) from None
    if shutil.which("sbatch") is None:
        raise ArgumentError("--scheduler", file, "an address; a Slurm file needs `sbatch` on the PATH of this machine")
    logs = folder.absolute() / "slurm"
    return Cluster(file, settings, min(settings.jobs, tasks), _thread_environment(options.threads), logs)


def _unwatched(left: int) -> None:
    pass


def _start_method(options: Options) -> str:
    """Where it can be had, a server that has imported all and forks workers in no time; dask's own setting first."""
    method = dask_config.get("distributed.worker.multiprocessing-method")
    if method != "spawn" or not sys.platform.startswith("linux") or options.device.startswith("cuda"):
        return method
    with dask_config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        get_mp_context()  # dask names its own modules there first
    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)
    os.environ.update({name: str(value) for name, value in _thread_environment(options.threads).items()})
    os.environ["DASK_LOGGING__DISTRIBUTED"] = "critical"
    return "forkserver"


def _thread_environment(threads: int) -> dict[str, int]:
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
    return dict.fromkeys(names, threads)
