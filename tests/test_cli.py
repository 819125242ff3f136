"""The command line: what it writes, what it prints, and that no mistake of a user's ends in a traceback."""

import csv
import functools
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import rich.console
import yaml

COMMAND = str(Path(sys.executable).with_name("analogsim"))
COLUMNS = (
    "run,chip,rule,baseline,seed,epoch,step,reads,writes,train_loss,train_accuracy,test_loss,test_accuracy,"
    "test_accuracy_ideal,angle_deg,seconds,status"
)
ONE_THREAD = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}  # more only get in each other's way here


def rows(folder):
    with (Path(folder) / "curves.csv").open(newline="") as file:
        return list(csv.DictReader(file))


# Help


def test_help_is_quick():
    """Under 0.3 s on a free machine; here the best of three on one that may be busy."""
    took = []
    for _ in range(3):
        begun = time.monotonic()
        done = subprocess.run([COMMAND, "--help"], capture_output=True, text=True)
        took.append(time.monotonic() - begun)
    assert done.returncode == 0
    assert all(name in done.stdout for name in ("train", "validate", "config"))
    assert min(took) < 1


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["train", "--nope"]])
def test_help_waits_for_nothing_heavy(arguments):
    code = f"""
import sys
from analogsim.cli import main
sys.argv = ["analogsim", *{arguments}]
try:
    main()
except SystemExit:
    heavy = ("torch", "numba", "numpy", "scipy", "sklearn", "matplotlib", "pandas", "yaml")
    print([name for name in heavy if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == "[]"


def test_no_arguments_is_help(call):
    code, out, err = call()
    assert code in (0, 2)
    assert "Usage" in out + err


# Train


def test_the_quickstart_from_any_folder_writes_what_is_documented(tmp_path):
    changes = ["training.epochs=1", "seeds=2", "network.hidden=[8]", "training.batch=500"]
    options = [part for change in changes for part in ("--set", change)]
    command = [COMMAND, "train", "quickstart", *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=os.environ | ONE_THREAD)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "quickstart"
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    assert {path.name for path in folder.iterdir()} == {
        ".lock", "config.yaml", "environment.json", "curves.csv", "summary.json", "plots", "checkpoints"
    }  # fmt: skip
    assert {str(path.parent.relative_to(folder)) for path in folder.rglob("*.npz")} == {
        f"checkpoints/{run}/seed-{seed}" for run in ("gaussian-node", "crossbar-generic") for seed in (0, 1)
    }
    assert (folder / "curves.csv").read_text().splitlines()[0] == COLUMNS
    assert [(row["run"], row["seed"], row["epoch"]) for row in rows(folder)] == [
        (run, seed, epoch) for run in ("gaussian-node", "crossbar-generic") for seed in "01" for epoch in "01"
    ]
    facts = json.loads((folder / "environment.json").read_text())
    assert {"versions", "backend", "threads", "git_commit"} <= set(facts)
    assert (facts["backend"], facts["device"]) == ("numba", "cpu")
    lines = done.stdout.splitlines()
    assert len(lines) == 4 * 2 + 2
    assert lines[-2:] == ["curves:  runs/quickstart/curves.csv", "picture: runs/quickstart/plots/curves.png"]
    assert not any(mark in done.stdout + done.stderr for mark in ("\x1b", "\r", "Traceback"))


def test_options_win_over_the_file(call):
    options = ["--chip", "crossbar-generic", "--set", "learner.rule=bp", "--set", "network.hidden=[4, 3]"]
    code, out, _ = call("train", "small.yaml", *options, "--seed", 7, "--backend", "numpy", "--out", "out")
    assert code == 0
    assert {(row["chip"], row["rule"], row["seed"], row["run"]) for row in rows("out")} == {
        ("crossbar-generic", "bp", "7", "bp")
    }
    assert yaml.safe_load(Path("out/config.yaml").read_text())["network"]["hidden"] == [4, 3]
    assert json.loads(Path("out/environment.json").read_text())["backend"] == "numpy"
    assert out.splitlines()[0].startswith("bp seed 7  epoch 0/1  loss 3.")


def test_runs_of_one_name_count_up(call):
    for _ in range(2):
        assert call("train", "small.yaml", "--set", "training.epochs=0")[0] == 0
    assert sorted(path.name for path in Path("runs").iterdir()) == ["small", "small-2"]


def test_a_run_that_diverges_is_marked_and_the_others_go_on(call):
    Path("runs.yaml").write_text(
        Path("small.yaml").read_text() + "variants:\n  bad: {optimizer.lr: 1.0e+30}\n  good: {}\n"
    )
    code, out, _ = call("train", "runs.yaml", "--out", "out", "--backend", "torch")
    assert code == 0
    assert [(row["run"], row["status"]) for row in rows("out")] == [
        ("bad", "ok"), ("bad", "diverged"), ("good", "ok"), ("good", "ok")
    ]  # fmt: skip
    summary = json.loads(Path("out/summary.json").read_text(), parse_constant=pytest.fail)
    assert [run["status"] for run in summary] == ["diverged", "ok"]
    assert [line.endswith("diverged") for line in out.splitlines()] == [False, True, False, False, False, False]
    before = Path("out/curves.csv").read_bytes()
    assert call("train", "--resume", "out")[0] == 0
    assert Path("out/curves.csv").read_bytes() == before


def test_real_targets_have_losses_and_no_accuracies(call):
    x, y = np.random.default_rng(0).random((2, 30, 4))
    np.savez("reals.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    code, out, _ = call(
        "train", "small.yaml", "--set", "data=npz:reals.npz", "--set", "learner.rule=bp", "--out", "out"
    )
    assert code == 0
    for row in rows("out"):
        assert {row[name] for name in ("train_accuracy", "test_accuracy", "test_accuracy_ideal")} == {""}
        assert float(row["test_loss"]) > 0
    assert "test 0." in out
    assert "%" not in out
    assert Path("out/plots/curves.png").stat().st_size > 5000


# Validate and config


def test_validate_says_what_would_run(call):
    code, out, err = call("validate", "small.yaml", "--set", "seeds=3")
    assert (code, err) == (0, "")
    assert out == "small.yaml: valid, 3 runs: danp\n"
    assert not Path("runs").exists()


def test_config_prints_what_reads_back_to_the_same(call):
    code, out, err = call("config", "noisy_vs_clean", "--seed", 3, "--set", "training.batch=10")
    assert (code, err) == (0, "")
    Path("resolved.yaml").write_text(out)
    assert call("config", "resolved.yaml")[1] == out
    assert yaml.safe_load(out)["seeds"] == [3]


# Progress


def test_a_terminal_gets_the_bar(call, monkeypatch):
    screen = io.StringIO()
    terminal = functools.partial(rich.console.Console, file=screen, force_terminal=True, width=100)
    monkeypatch.setattr(rich.console, "Console", terminal)
    code, out, _ = call("train", "small.yaml", "--out", "out")
    assert code == 0
    assert "100%" in screen.getvalue()
    assert out == "curves:  out/curves.csv\npicture: out/plots/curves.png\n"
