"""Whole trainings for a few milliseconds' start each; see forked.py."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from analogsim.training.checkpoint import load_latest

SMALL = """
data: digits
chip: crossbar-generic
network: {hidden: [8]}
training: {epochs: 2, batch: 100, checkpoint_s: 0, angle: true}
variants:  # 31 checkpoints each: untrained, and 15 steps an epoch, the last one's with its row
  danp: {}
  bp: {learner.rule: bp, optimizer.name: sgd, optimizer.momentum: 0.9}
"""
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}


@pytest.fixture(scope="session")
def server():
    """ask(do=…, **request) has forked.py do it."""
    with subprocess.Popen(
        [sys.executable, Path(__file__).with_name("forked.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | ONE_THREAD,
    ) as process:

        def ask(**request):
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield ask
        process.stdin.close()


@pytest.fixture(scope="session")
def experiment(tmp_path_factory):
    path = tmp_path_factory.mktemp("experiment") / "small.yaml"
    path.write_text(SMALL)
    return str(path)


@pytest.fixture(scope="session")
def whole(server, experiment, tmp_path_factory):
    """The folder of the uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    log = folder.with_name("log")
    assert server(do="run", arguments=["train", experiment, "--out", str(folder)], log=str(log)) == 0, log.read_text()
    return folder


@pytest.fixture
def train(server, experiment, tmp_path):
    """train(…) -> (exit code, what was printed), in tmp_path/run."""
    folder, log = str(tmp_path / "run"), tmp_path / "log"

    def call(*options, resume=False, do="run", **request):
        start = ["--resume", folder] if resume else [experiment, "--out", folder]
        if do == "signalled":
            request["folder"] = folder
        log.unlink(missing_ok=True)
        code = server(do=do, arguments=["train", *start, *options], log=str(log), **request)
        return code, log.read_text()

    return call


@pytest.fixture(scope="session")
def result():
    """result(folder): curves, summary and the last state of every run, without the time they took."""

    def read(folder):
        with (folder / "curves.csv").open(newline="") as file:
            curves = [{name: text for name, text in row.items() if name != "seconds"} for row in csv.DictReader(file)]
        summary = [run | {"seconds": None} for run in json.loads((folder / "summary.json").read_text())]
        states = {}
        for checkpoints in sorted(folder.glob("checkpoints/*/*")):
            saved = load_latest(checkpoints, pytest.fail)
            record = saved.record | {"seconds": None, "rows": [row | {"seconds": None} for row in saved.record["rows"]]}
            states[checkpoints.parent.name] = ({n: t.numpy().tobytes() for n, t in saved.tensors.items()}, record)
        assert not list(folder.rglob(".*.part"))
        return curves, summary, states, (folder / "config.yaml").read_text()

    return read
