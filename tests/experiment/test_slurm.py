"""A sweep through a Slurm file, by dask-jobqueue's own cluster and workers; Slurm's three commands are stood in for."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import distributed
import pytest
from dask import config as dask_config

from analogsim.config.slurm import load_slurm
from analogsim.config.sweeps import load_sweep
from analogsim.errors import ArgumentError, RunFolderError
from analogsim.experiment.cluster import work
from analogsim.experiment.export import export
from analogsim.experiment.sweep import Options, Watcher, run_sweep
from analogsim.experiment.trials import Ended, Task, run_trial

SWEEP = """
data: digits
chip: gaussian-node
network: {hidden: [8]}
training: {epochs: EPOCHS, batch: 20, checkpoint_s: 0.1}
axes: {chip.node_noise.sigma: [0.001, 0.1]}
"""
SWEEP_OF_ONE = {
    "data": "digits",
    "chip": "gaussian-node",
    "network": {"hidden": [4]},
    "training": {"epochs": 1, "batch": 500},
    "axes": {"learner.rule": ["danp"]},
}
SLURM = """
jobs: 2
memory: 3GB
cores: 2
queue: compute
account: my-project
walltime: "0-00:10:00"
directives: ["--gres=gpu:1", "--constraint=fast"]
"""
QUICK = {  # what dask waits for a lost worker to come back, and how often it looks for jobs to ask for
    "DASK_DISTRIBUTED__DEPLOY__LOST_WORKER_TIMEOUT": "0.5s",
    "DASK_DISTRIBUTED__ADAPTIVE__INTERVAL": "0.2s",
}
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("dask_jobqueue") is None or not sys.platform.startswith("linux"),
    reason="needs dask-jobqueue, of the extra slurm, and Linux",
)


class StandIn:
    """Slurm's commands in a folder for PATH, and what became of the jobs."""

    def __init__(self, folder):
        self.bin, self.jobs = folder / "bin", folder / "jobs"
        self.bin.mkdir()
        self.jobs.mkdir()
        script = Path(__file__).with_name("slurm_stand_in.py")
        for name in ("sbatch", "squeue", "scancel"):
            (self.bin / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}" {name} "$@"\n')
            (self.bin / name).chmod(0o755)
        self.environment = QUICK | {
            "SLURM_STAND_IN": str(self.jobs),
            "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
        }

    def call(self, name, *arguments):
        command, environment = [str(self.bin / name), *arguments], os.environ | self.environment
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    def queue(self):
        return self.call("squeue").split()

    def kill(self, number):
        self.call("scancel", "--signal=KILL", number)


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    stand_in = StandIn(tmp_path)
    for name, value in stand_in.environment.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "slurm.yaml").write_text(SLURM)
    yield stand_in
    for number in stand_in.queue():
        stand_in.kill(number)


@pytest.fixture
def started(server, slurm, tmp_path):
    """started(epochs) -> the process of `analogsim sweep`, its folder and its log."""

    def start(epochs, jobs=2, walltime="0-00:10:00"):
        sweep, folder, log = tmp_path / "sweep.yaml", tmp_path / "out", tmp_path / "log"
        sweep.write_text(SWEEP.replace("EPOCHS", str(epochs)))
        text = SLURM.replace("jobs: 2", f"jobs: {jobs}").replace("0-00:10:00", walltime)
        (tmp_path / "slurm.yaml").write_text(text)
        arguments = ["sweep", str(sweep), "-o", str(folder), "--scheduler", str(tmp_path / "slurm.yaml")]
        process = server(do="start", arguments=arguments, log=str(log), environment=slurm.environment)
        return process, folder, log

    return start


def once(true, *arguments):
    ends = time.monotonic() + 60
    while not true(*arguments):
        assert time.monotonic() < ends
        time.sleep(0.02)


def begun(folder):
    return any(folder.glob("trials/*/checkpoints/*/*/*.npz"))


def tables(folder):
    scratch = folder.with_name(f"{folder.name}.csv")
    export(folder, scratch)
    return [path.read_bytes() for path in (folder / "sweep.yaml", folder / "trials.csv", scratch)]


def by_one_process(tmp_path):
    run_sweep(load_sweep(tmp_path / "sweep.yaml"), tmp_path / "one", Options(), Watcher())
    return tables(tmp_path / "one")


def run(tmp_path, **options):
    return run_sweep(
        load_sweep(SWEEP_OF_ONE),
        tmp_path / "out",
        Options(scheduler=str(tmp_path / "slurm.yaml"), **options),
        Watcher(),
    )


def test_jobs_ask_for_what_the_file_says_and_give_the_same_bytes(server, slurm, started, tmp_path):
    process, folder, log = started(epochs=1)
    assert server(do="wait", process=process) == 0, log.read_text()
    assert tables(folder) == by_one_process(tmp_path)
    assert slurm.queue() == []
    assert sorted(path.name for path in slurm.jobs.iterdir()) == ["1", "2"]
    lines = (slurm.jobs / "1" / "script").read_text().split("\n")
    asked = {line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")}
    assert asked >= {"-p compute", "-A my-project", "-t 0-00:10:00", "--mem=3G", "--cpus-per-task=2", "-n 1"}
    assert asked >= {"-J analogsim", "--gres=gpu:1", "--constraint=fast"}
    assert "export OMP_NUM_THREADS='1'" in lines
    assert "Start worker at" in (folder / "slurm" / "analogsim-1.err").read_text()


def test_a_trial_whose_job_is_killed_is_tried_again_in_another(server, slurm, started, tmp_path):
    process, folder, log = started(epochs=6, jobs=1)
    once(begun, folder)
    slurm.kill("1")
    assert server(do="wait", process=process) == 0, log.read_text()
    assert tables(folder) == by_one_process(tmp_path)
    assert slurm.queue() == []


def test_ctrl_c_stops_trials_and_leaves_no_job(server, slurm, started):
    process, folder, log = started(epochs=1000, jobs=1)
    once(begun, folder)
    os.kill(process, signal.SIGINT)
    assert server(do="wait", process=process) == 130
    assert "stopped; go on with: analogsim sweep" in log.read_text()
    assert "Traceback" not in log.read_text()
    assert slurm.queue() == []
    assert begun(folder)
    assert not list(folder.glob("trials/*/error.json"))


@pytest.mark.slow  # a minute: four jobs or so, each for half of its walltime of 30 s
def test_a_job_leaves_before_its_walltime_and_its_trial_goes_on_in_another(server, slurm, started, tmp_path):
    process, folder, log = started(epochs=60, jobs=1, walltime="00:00:30")
    assert server(do="wait", process=process) == 0, log.read_text()
    assert len(list(slurm.jobs.iterdir())) > 1
    assert "124" not in {path.read_text().strip() for path in slurm.jobs.glob("*/code")}  # none was ended at it
    assert "Reason: worker-lifetime-reached" in (folder / "slurm" / "analogsim-1.err").read_text()
    assert tables(folder) == by_one_process(tmp_path)


def test_a_worker_that_leaves_stops_its_trial(monkeypatch, tmp_path):
    task = Task("a", str(tmp_path), "danp", "{}")
    for status, stops in [("running", False), ("closing_gracefully", True), ("closing", True)]:
        worker = SimpleNamespace(status=distributed.Status[status])
        monkeypatch.setattr(distributed, "get_worker", lambda worker=worker: worker)
        assert work(lambda group, stop: stop(), [task], str(tmp_path / ".stop")) is stops


def test_a_trial_stopped_with_its_worker_is_sent_again(tmp_path):
    tries = tmp_path / "tries"

    def leaves_twice(task, stop):
        with tries.open("a") as file:
            file.write(".")
        return run_trial(task, stop) if len(tries.read_text()) > 2 else Ended("pending")

    sweep = load_sweep(SWEEP_OF_ONE)
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
    ) as cluster:
        options = Options(scheduler=cluster.scheduler_address, work=leaves_twice)
        state = run_sweep(sweep, tmp_path / "out", options, Watcher())
    assert state.count("ok") == 1
    assert len(tries.read_text()) == 3


def test_fewer_trials_than_jobs_give_jobs_back(slurm, tmp_path):
    from analogsim.experiment.slurm import Cluster

    with (
        dask_config.set(
            {"jobqueue.slurm.job-script-prologue": ["exec sleep 60"], "distributed.adaptive.interval": 0.1}
        ),
        Cluster("slurm.yaml", load_slurm(tmp_path / "slurm.yaml"), 2, {}, tmp_path / "logs") as cluster,
    ):
        once(lambda: len(slurm.queue()) == 2)
        cluster.watch(5)
        cluster.watch(1)
        once(lambda: len(slurm.queue()) == 1)
        time.sleep(0.5)
        assert len(slurm.queue()) == 1
    assert slurm.queue() == []


# Refused


def test_without_sbatch_a_line_says_so(server, slurm, started, tmp_path):
    (slurm.bin / "sbatch").unlink()
    process, _, log = started(epochs=1)
    assert server(do="wait", process=process) == 1
    last = log.read_text().strip().split("\n")[-1]
    assert last.endswith("a Slurm file needs `sbatch` on the PATH of this machine")
    assert "Traceback" not in log.read_text()


def test_jobs_that_slurm_refuses(slurm, tmp_path):
    (slurm.jobs / "refuse").write_text("sbatch: error: Batch job submission failed: Invalid account\n")
    with pytest.raises(RunFolderError, match=r"slurm.yaml: no worker comes: sbatch: error: .*: Invalid account$"):
        run(tmp_path)


def test_jobs_that_end_before_their_worker_comes(slurm, tmp_path, monkeypatch):
    monkeypatch.setattr("analogsim.experiment.slurm.ASK_EVERY_S", 0.2)
    with (
        dask_config.set({"jobqueue.slurm.job-script-prologue": ["exit 1"]}),
        pytest.raises(RunFolderError, match=r"no worker comes: job 1 ended before .* printed is in .*out/slurm$"),
    ):
        run(tmp_path)
    assert slurm.queue() == []


def test_without_dask_jobqueue_a_line_says_what_to_install(slurm, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "analogsim.experiment.slurm", raising=False)
    for name in ("dask_jobqueue", "dask_jobqueue.slurm"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ArgumentError, match=r"needs dask-jobqueue: pip install analogsim-danp\[slurm\]"):
        run(tmp_path)
