"""Promise 5, nothing lost: whatever stops a training, `--resume` ends at the same bytes.

One uninterrupted run is the measure; forked.py runs, kills and signals the others.
"""

import shutil
import signal
from pathlib import Path

import pytest
import yaml

from analogsim.training.checkpoint import load_latest


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


# Killed


@pytest.fixture
def check_kills(server, result, tmp_path):
    """Kill and resume at least so many times; every folder must end as `measure`."""

    def check(experiment, measure, wanted, seed):
        request = {"first": ["train", experiment], "folder": str(tmp_path / "run"), "log": str(tmp_path / "log")}
        told = server(do="stopped_until_done", number=signal.SIGKILL, wanted=wanted, seed=seed, **request)
        print(told)
        assert told["codes"].keys() == {"-9"}
        assert sum(told["landed"].values()) >= wanted
        for folder in told["folders"]:
            assert result(Path(folder)) == result(measure)
        printed = (tmp_path / "log").read_text()
        assert "Traceback" not in printed
        assert "damaged" not in printed

    return check


def test_fifty_kills_at_random_instants_change_no_byte(check_kills, experiment, whole):
    check_kills(experiment, whole, wanted=50, seed=2310)


def test_kills_within_every_kind_of_write_change_no_byte(server, experiment, whole, result, tmp_path):
    """Before and after the syncs and renames, where a kill at a random instant seldom lands."""
    log, folder = tmp_path / "log", tmp_path / "run"
    request = {"first": ["train", experiment], "folder": str(folder), "log": str(log)}
    landed = server(do="crashed_until_done", seed=1, **request)
    assert set(landed) == {"before it began", "computing", "writing a checkpoint", "writing a table"}
    assert result(folder) == result(whole)
    assert "Traceback" not in log.read_text()
    assert "damaged" not in log.read_text()


CONVOLUTIONAL = """
data: digits
chip: {name}
network: {{layers: [conv: {{channels: 2, kernel: 3, stride: 2}}, conv: {{channels: 3, kernel: 3}}]}}
learner: {{rule: danp, baseline: noisy}}
optimizer: {optimizer}
training: {{epochs: 1, batch: 100, checkpoint_s: 0}}
"""


@pytest.mark.parametrize(("name", "optimizer"), [("pcm-nandakumar", "adam"), ("reram-es", "on_chip")])
def test_a_convolutional_training_on_cells_killed_twice_ends_at_the_same_bytes(
    server, result, tmp_path, name, optimizer
):
    """Cells that are verified, flicker and drift; and cells that pulses move: read at every position of two layers."""
    path, log, whole, folder = (tmp_path / part for part in ("convolutional.yaml", "log", "whole", "run"))
    path.write_text(CONVOLUTIONAL.format(name=name, optimizer=optimizer))
    first, go_on = ["train", str(path), "--out"], ["train", "--resume", str(folder)]
    assert server(do="run", arguments=[*first, str(whole)], log=str(log)) == 0, log.read_text()
    request = {"do": "signalled", "folder": str(folder), "log": str(log), "number": signal.SIGKILL}
    assert server(arguments=[*first, str(folder)], after=5, **request) == -signal.SIGKILL
    assert server(arguments=go_on, after=11, **request) == -signal.SIGKILL
    assert server(do="run", arguments=go_on, log=str(log)) == 0, log.read_text()
    assert result(folder) == result(whole)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("rule", ["inp", "dbp"])
def test_five_hundred_kills_change_no_byte(server, check_kills, experiment, tmp_path, rule, seed):
    path = tmp_path / "long.yaml"
    tree = yaml.safe_load(Path(experiment).read_text())
    tree["chip"], tree["training"]["epochs"], tree["variants"] = "ideal", 10, {rule: {"learner.rule": rule}}
    path.write_text(yaml.safe_dump(tree))
    arguments = ["train", str(path), "--out", str(tmp_path / "whole")]
    assert server(do="run", arguments=arguments, log=str(tmp_path / "log")) == 0
    check_kills(str(path), tmp_path / "whole", wanted=500, seed=seed)


# Interrupted


@pytest.mark.parametrize(
    ("number", "after"), [(signal.SIGINT, 1), (signal.SIGINT, 16), (signal.SIGINT, 31), (signal.SIGTERM, 40)]
)
def test_a_signal_leaves_a_good_checkpoint_and_says_how_to_go_on(train, whole, result, tmp_path, number, after):
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
def test_a_second_signal_is_obeyed_at_once(train, whole, result, tmp_path, number):
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
def test_damaged_checkpoints_are_named_and_the_run_ends_at_the_same_bytes(train, whole, result, tmp_path, newest):
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


def test_a_finished_run_that_is_lost_is_trained_again_into_its_place(train, whole, result, tmp_path):
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
