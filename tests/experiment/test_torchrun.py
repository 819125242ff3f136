"""`torchrun -m analogsim train` on two processes: the run folder of one process, to rounding.

What is summed, and every way to get it wrong, is in tests/training/test_distributed.py; here are the
processes themselves: gloo, one folder, signals, a process lost, and errors.
"""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch.distributed as dist

import analogsim

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available() and os.name == "posix"), reason="needs gloo and signals"
)
ROUNDING = 1e-5
PLANTED = [Path(__file__).with_name("planted_team.py")]
SMALL = """
data: digits
chip: gaussian-node
network: {hidden: [8]}
training: {epochs: 2, batch: 479, checkpoint_s: 0}
variants:
  nodes: {}
  converters: {chip: crossbar-generic}
"""
SAMPLES = """
data: digits
chip: gaussian-node
network: {hidden: [8]}
learner: {samples: 3}
training: {epochs: 2, batch: 479, split: samples}
"""
WAIT_S = 300  # on a busy machine


def environment():
    one = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    return os.environ | one | {"PYTHONPATH": str(Path(analogsim.__file__).parents[1])}


def start(folder, *arguments, program=("-m", "analogsim"), processes=2):
    """`torchrun PROGRAM arguments`, or with one process the program alone."""
    torchrun = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
    torchrun += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]  # a free port
    return subprocess.Popen(
        [sys.executable, *(torchrun if processes > 1 else []), *program, *map(str, arguments)],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def done(process):
    out, err = process.communicate(timeout=WAIT_S)
    return process.returncode, out, err


def curves(folder):
    with (folder / "curves.csv").open(newline="") as file:
        return [{name: text for name, text in row.items() if name != "seconds"} for row in csv.DictReader(file)]


def check_same(folder, expected):
    rows, right = curves(folder), curves(expected)
    assert len(rows) == len(right) > 0
    for row, one in zip(rows, right):
        assert row.keys() == one.keys()
        for name in row:
            if name.endswith("loss"):
                assert float(row[name]) == pytest.approx(float(one[name]), rel=ROUNDING)
            else:
                assert row[name] == one[name], name


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("torchrun")
    (folder / "small.yaml").write_text(SMALL)
    code, _, err = done(start(folder, "train", "small.yaml", "--out", "one", processes=1))
    assert code == 0, err
    return folder


@pytest.fixture(scope="module")
def two(work):
    """What two processes printed and left in work/two."""
    code, out, err = done(start(work, "train", "small.yaml", "--out", "two"))
    assert code == 0, err
    return out, err


def test_two_processes_train_as_one(work, two):
    check_same(work / "two", work / "one")


def test_the_comparison_catches_noise_drawn_twice(work):
    """Both processes take their samples for the first half of the batch."""
    code, _, err = done(start(work, "rows", "train", "small.yaml", "--out", "planted", program=PLANTED))
    assert code == 0, err
    with pytest.raises(AssertionError):
        check_same(work / "planted", work / "one")


def test_two_processes_with_passes_of_their_own_train_as_one(work):
    """And not where both take their passes for the step's first."""
    (work / "samples.yaml").write_text(SAMPLES)
    for folder, processes in (("passes one", 1), ("passes two", 2)):
        code, _, err = done(start(work, "train", "samples.yaml", "--out", folder, processes=processes))
        assert code == 0, err
    check_same(work / "passes two", work / "passes one")
    code, _, err = done(start(work, "passes", "train", "samples.yaml", "--out", "planted passes", program=PLANTED))
    assert code == 0, err
    with pytest.raises(AssertionError):
        check_same(work / "planted passes", work / "passes one")


def test_the_first_process_alone_writes_and_talks(work, two):
    out, _ = two
    assert [line.split()[4] for line in out.splitlines() if " epoch " in line] == ["0/2", "1/2", "2/2"] * 2
    assert out.count("curves:") == 1
    assert not (work / "runs").exists()
    assert sorted(path.name for path in (work / "two").iterdir()) == sorted(
        path.name for path in (work / "one").iterdir()
    )
    assert json.loads((work / "two" / "environment.json").read_text())["processes"] == 2


def test_a_team_that_was_stopped_or_lost_one_goes_on_to_the_same_bytes(work, two):
    """SIGTERM to torchrun ends all with a checkpoint; a process that is killed ends the others by name."""
    folder = work / "stopped"
    process = start(work, "train", "small.yaml", "--out", folder)
    _wait_for(lambda: list(folder.glob("checkpoints/*/*/00000[2-9]-*.npz")), process)
    process.send_signal(signal.SIGTERM)
    assert done(process)[0] != 0
    assert len(curves(folder)) < len(curves(work / "one"))
    process = start(work, "train", "--resume", folder)
    _wait_for(lambda: list(folder.glob("checkpoints/converters/*/00000[3-9]-*.npz")), process)
    workers = [one for one in psutil.Process(process.pid).children() if one.environ().get("RANK") == "1"]
    assert len(workers) == 1
    workers[0].kill()
    code, _, err = done(process)
    assert code != 0
    assert "process 0 of 2: another process has ended or is lost" in err
    assert len(curves(folder)) < len(curves(work / "one"))
    code, _, err = done(start(work, "train", "--resume", folder))
    assert code == 0, err
    assert curves(folder) == curves(work / "two")


def _wait_for(there, process):
    until = time.monotonic() + WAIT_S
    while not there():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["small.yaml", "--set", "learner.rul=np"], "--set learner.rul=np: learner.rul: unknown key"),
        (["small.yaml", "--set", "training.batch=1436"], "training.batch: 1436 makes a batch of 1 rows of the 1437"),
        (["small.yaml", "--set", "training.split=samples"], "training.split: samples, and learner.samples: 1 are too"),
        (["small.yaml", "--chip", "smtj-node"], "chip smtj-node: node_noise.telegraph goes on from one sample"),
    ],
)
def test_a_mistake_is_named_once_and_ends_all(work, arguments, message):
    code, _, err = done(start(work, "train", *arguments, "--out", "never"))
    assert code != 0
    assert len([line for line in err.splitlines() if line.startswith(message)]) == 1
    assert "process 1 of 2: another process has ended" in err
    assert not (work / "never" / "config.yaml").exists()
