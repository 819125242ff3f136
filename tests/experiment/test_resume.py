"""Promise 5, nothing lost: whatever stops a training, `--resume` ends at the same bytes.

One uninterrupted run is the measure; forked.py runs, kills and signals the others.
"""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest
import yaml

from analogsim.experiment.results import claimed
from analogsim.training.checkpoint import load_latest

EXPERIMENT = """
data: digits
chip: crossbar-generic
network: {hidden: [8]}
training: {epochs: 2, batch: 100, checkpoint_s: 0, angle: true}
variants:  # 31 checkpoints each: untrained, and 15 steps an epoch, the last one's with its row
  danp: {}
  bp: {learner.rule: bp, optimizer.name: sgd, optimizer.momentum: 0.9}
"""
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    path = tmp_path_factory.mktemp("experiment") / "small.yaml"
    path.write_text(EXPERIMENT)
    return str(path)


@pytest.fixture(scope="module")
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


def result(folder):
    """Curves, summary and the last state of every run, without the time they took."""
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


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


# Killed


def check_kills(server, experiment, measure, home, wanted, seed):
    request = {"first": ["train", experiment], "folder": str(home / "run"), "log": str(home / "log")}
    told = server(do="stopped_until_done", number=signal.SIGKILL, wanted=wanted, seed=seed, **request)
    assert told["codes"].keys() == {"-9"}
    assert sum(told["landed"].values()) >= wanted
    for folder in told["folders"]:
        assert result(Path(folder)) == measure
    printed = (home / "log").read_text()
    assert "Traceback" not in printed
    assert "damaged" not in printed
    return told["landed"]


def test_fifty_kills_at_random_instants_change_no_byte(server, experiment, whole, tmp_path):
    landed = check_kills(server, experiment, result(whole), tmp_path, wanted=50, seed=2310)
    assert landed["computing"] > 5
    assert len(landed) > 1  # some of them in the midst of a write, or before there was anything to resume


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("rule", ["inp", "dbp"])
def test_five_hundred_kills_change_no_byte(server, tmp_path, rule, seed):
    path = tmp_path / "long.yaml"
    tree = yaml.safe_load(EXPERIMENT)
    tree["chip"], tree["training"]["epochs"], tree["variants"] = "ideal", 10, {rule: {"learner.rule": rule}}
    path.write_text(yaml.safe_dump(tree))
    arguments = ["train", str(path), "--out", str(tmp_path / "whole")]
    assert server(do="run", arguments=arguments, log=str(tmp_path / "log")) == 0
    check_kills(server, str(path), result(tmp_path / "whole"), tmp_path, wanted=500, seed=seed)


# Interrupted


@pytest.mark.parametrize(
    ("number", "after"), [(signal.SIGINT, 1), (signal.SIGINT, 16), (signal.SIGINT, 31), (signal.SIGTERM, 40)]
)
def test_a_signal_leaves_a_good_checkpoint_and_says_how_to_go_on(train, whole, tmp_path, number, after):
    code, printed = train(do="signalled", after=after, number=number)
    assert code == 130
    assert printed.splitlines()[-1] == f"stopped; go on with: analogsim train --resume {tmp_path / 'run'}"
    assert "Traceback" not in printed
    stopped = [load_latest(path, pytest.fail) for path in (tmp_path / "run").glob("checkpoints/*/*")]
    assert any(saved.record["status"] == "running" for saved in stopped) or after == 31
    code, printed = train(resume=True)
    assert (code, "damaged" in printed) == (0, False)
    assert result(tmp_path / "run") == result(whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_is_obeyed_at_once(train, whole, tmp_path, number):
    code, printed = train(do="signalled", after=5, number=number, times=2)
    assert code in (130, 1, -number)
    assert "Traceback" not in printed
    train(resume=True)
    assert result(tmp_path / "run") == result(whole)


def test_a_signal_before_anything_began_is_quiet(train):
    code, printed = train(do="signalled", after=0, number=signal.SIGINT)
    assert code in (130, 1)
    assert "Traceback" not in printed


def test_a_path_with_a_space_is_quoted_to_be_pasted(server, experiment, tmp_path):
    folder, log = tmp_path / "my run", tmp_path / "log"
    arguments = ["train", experiment, "--out", str(folder)]
    server(do="signalled", arguments=arguments, log=str(log), folder=str(folder), after=2, number=signal.SIGINT)
    assert log.read_text().splitlines()[-1].endswith(f"--resume '{folder}'")


# Damaged


@pytest.mark.parametrize("newest", [1, 2])
def test_damaged_checkpoints_are_named_and_the_run_ends_at_the_same_bytes(train, whole, tmp_path, newest):
    """The last one damaged: back to the one before. Both damaged: the run begins anew."""
    train(do="signalled", after=20, number=signal.SIGINT)
    damaged = sorted((tmp_path / "run").glob("checkpoints/danp/*/*.npz"))[-newest:]
    for path in damaged:
        flip_a_byte(path)
    code, printed = train(resume=True)
    assert code == 0
    assert [path.name for path in reversed(damaged)] == [
        line.split()[1] for line in printed.splitlines() if "is damaged" in line
    ]
    assert result(tmp_path / "run") == result(whole)


def test_a_finished_run_that_is_lost_is_trained_again_into_its_place(train, whole, tmp_path):
    train(do="signalled", after=45, number=signal.SIGINT)
    for path in (tmp_path / "run").glob("checkpoints/danp/*/*.npz"):
        flip_a_byte(path)
    assert train(resume=True)[0] == 0
    assert result(tmp_path / "run") == result(whole)


def test_going_on_with_a_finished_run_changes_no_byte(train, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    before = contents(tmp_path / "run")
    assert train(resume=True)[0] == 0
    assert contents(tmp_path / "run") == before
    assert len([path for path in before if path.suffix == ".npz"]) == 4


BROKEN = [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"backend": "numba"}', b'{"backend": 1, "device": 2, "threads": 1}']
BROKEN += [
    b'{"backend": "numba", "device": "cpu", "threads": %s}' % threads for threads in (b"0", b"-1", b"Infinity", b'"x"')
]


@pytest.mark.parametrize("content", BROKEN)
def test_a_damaged_environment_is_one_line(train, whole, tmp_path, content):
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run" / "environment.json").write_bytes(content)
    before = contents(tmp_path / "run")
    code, printed = train(resume=True)
    assert (code, printed.count("\n")) == (1, 1)
    assert "environment.json: damaged" in printed or "device: '2' is not allowed" in printed
    assert contents(tmp_path / "run") == before


@pytest.mark.parametrize(
    "content", [b"", b"data: [", b"- a", b"\xff\xfe\x00", b"data: digits\n", b"data: digits\nchip: 3"]
)
def test_a_damaged_config_is_one_line(train, whole, tmp_path, content):
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run" / "config.yaml").write_bytes(content)
    code, printed = train(resume=True)
    assert (code, printed.count("\n")) == (1, 1)
    assert printed.startswith(str(tmp_path / "run" / "config.yaml"))


def test_checkpoints_of_another_network_are_refused_in_one_line(train, whole, tmp_path):
    train(do="signalled", after=3, number=signal.SIGINT)
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("- 8\n", "- 9\n"))
    code, printed = train(resume=True)
    assert (code, printed.count("\n")) == (1, 1)
    assert "checkpoints do not fit config.yaml" in printed


# The folder's own facts


def test_a_resumed_run_keeps_its_backend(train, tmp_path):
    train("--backend", "numpy", do="signalled", after=3, number=signal.SIGINT)
    facts = (tmp_path / "run" / "environment.json").read_bytes()
    assert json.loads(facts)["backend"] == "numpy"
    assert json.loads(facts)["threads"] == 1
    assert train(resume=True)[0] == 0
    assert (tmp_path / "run" / "environment.json").read_bytes() == facts


@pytest.mark.parametrize("largest_file", [600, 5_000, 12_000, 40_000])
def test_a_full_disk_is_one_line_and_the_run_goes_on_after(train, whole, tmp_path, largest_file):
    """config.yaml, the first checkpoint, a later one and the picture are the first too large."""
    code, printed = train(largest_file=largest_file)
    last = printed.splitlines()[-1]
    assert code == 1
    assert "Traceback" not in printed
    assert last.startswith(str(tmp_path / "run"))
    assert last.endswith("cannot be written: File too large")
    begun = (tmp_path / "run" / "config.yaml").exists()
    assert train(resume=begun)[0] == 0
    assert result(tmp_path / "run") == result(whole)


@pytest.mark.parametrize("option", ["--resume", "--out"])
def test_a_second_process_refuses_within_two_seconds(experiment, whole, tmp_path, option):
    folder = whole if option == "--resume" else tmp_path / "new"
    command = [sys.executable, "-m", "analogsim", "train", *([experiment] if option == "--out" else []), option, folder]
    with claimed(folder, resume=option == "--resume"):
        for attempt in count(1):  # a busy machine may take longer once
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=2)
                break
            except subprocess.TimeoutExpired:
                assert attempt < 4
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"{folder}: another process is writing here; wait for it, or give another --out\n"
