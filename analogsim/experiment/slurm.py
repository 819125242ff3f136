"""The workers of a sweep as Slurm jobs, by dask-jobqueue; and what keeps them from coming, which dask does not say.

A job leaves in time before its walltime: its trial writes a checkpoint and goes on in another job, as one that is lost
is asked for anew. When fewer trials than jobs are left, jobs without one are given back.
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

from dask import config as dask_config
from dask_jobqueue.slurm import SLURMCluster, SLURMJob
from distributed.core import Status

from analogsim.config.slurm import SlurmSettings
from analogsim.errors import RunFolderError

ASK_EVERY_S = 15.0  # squeue, which sites want asked rarely
LEAVES_EARLY_S = 180.0  # before the walltime, or half of it: a start from a slow disk counts to it too
PRELOADED = {"DASK_DISTRIBUTED__WORKER__PRELOAD": '["analogsim.experiment.trials"]'}  # fails before a trial would


class Jobs:
    """What Slurm said of the jobs of one cluster."""

    def __init__(self, log: Path):
        self.log, self.refusal, self.asked = log, "", time.monotonic()
        self.waited_for: dict[str, str] = {}  # a worker's name -> the job it has yet to come from
        self.held: set[str] = set()  # jobs that Slurm took and that were not given back

    def trouble(self, names: set[str]) -> str:
        """Why there is no worker and none will come; empty while there is one, or may be. names: of workers there."""
        for name in names & self.waited_for.keys():
            del self.waited_for[name]
        if names:
            return ""
        if not self.held:
            return self.refusal
        if self.held - set(self.waited_for.values()) or time.monotonic() - self.asked < ASK_EVERY_S:
            return ""  # a lost one will be asked for anew
        self.asked, queue = time.monotonic(), _queue()
        if queue is None or self.held & queue:
            return ""
        which = ", ".join(sorted(self.held))
        return f"job {which} ended before a worker came of it; what it printed is in {self.log}"


class _Job(SLURMJob):
    def __init__(self, *arguments: Any, jobs: Jobs, **options: Any):
        super().__init__(*arguments, **options)
        self.jobs = jobs

    async def start(self) -> None:
        try:
            await super().start()
        except (OSError, RuntimeError, ValueError) as error:  # dask would log it and wait for ever
            said = [line for line in str(error).split("\n") if line.strip() and not line.endswith(":")]
            self.jobs.refusal = said[-1].strip() if said else type(error).__name__
            self.status = Status.running  # else dask ends in an assertion
            return
        self.jobs.held.add(str(self.job_id))
        self.jobs.waited_for[str(self.name)] = str(self.job_id)

    async def close(self) -> None:
        await super().close()
        self.status = Status.closed
        self.jobs.held.discard(str(self.job_id))
        self.jobs.waited_for.pop(str(self.name), None)


class Cluster(SLURMCluster):
    """Jobs of one worker each. Raises RunFolderError from `watch` when none of them can come.

    most: of jobs at a time. threads: of each worker. logs: the folder for what jobs print.
    """

    job_cls = _Job

    def __init__(self, file: str, settings: SlurmSettings, most: int, threads: dict[str, Any], logs: Path):
        self.file, self.most, self.jobs = file, most, Jobs(logs)
        leaves_after_s = max(settings.walltime_s - LEAVES_EARLY_S, settings.walltime_s / 2)
        environment = threads | PRELOADED
        before = list(dask_config.get("jobqueue.slurm.job-script-prologue", None) or [])
        try:
            super().__init__(
                cores=settings.cores,
                processes=1,
                memory=settings.memory,
                queue=settings.queue,
                account=settings.account,
                walltime=settings.walltime,
                job_name="analogsim",
                job_extra_directives=list(settings.directives),
                job_script_prologue=[*before, *(f"export {name}='{value}'" for name, value in environment.items())],
                log_directory=str(logs),
                silence_logs="critical",
                worker_extra_args=[
                    *("--nthreads", "1"),
                    *("--memory-limit", "0"),  # Slurm keeps watch of it; dask would pause workers
                    *("--lifetime", f"{leaves_after_s:g}s"),
                ],
                scheduler_options={"dashboard_address": "127.0.0.1:0"}
                | (dask_config.get("jobqueue.slurm.scheduler-options", None) or {}),
                jobs=self.jobs,
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise RunFolderError(f"{file}: the jobs' scheduler could not be started: {error}") from None
        self.adapt(minimum_jobs=most, maximum_jobs=most)

    def watch(self, trials: int) -> None:
        """Called again and again: looks for trouble, and keeps no more jobs than trials are left."""
        names = {str(worker["name"]) for worker in self.scheduler_info["workers"].values()}
        trouble = self.jobs.trouble(names)
        if trouble:
            raise RunFolderError(f"{self.file}: no worker comes: {trouble}")
        if 0 < trials < self.most:
            self.most = trials
            self.adapt(minimum_jobs=trials, maximum_jobs=trials)


def _queue() -> set[str] | None:
    """The user's jobs that wait or run; None where Slurm does not say."""
    command = ["squeue", "--noheader", "--me", "--format=%A"]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return set(done.stdout.split()) if done.returncode == 0 else None
