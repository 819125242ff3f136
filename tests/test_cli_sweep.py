"""sweep, status, export and combine on the command line."""

import csv
import functools
import io
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import rich.console

COMMAND = [sys.executable, "-m", "analogsim"]
ONE_THREAD = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
SWEEP = """\
data: digits
chip: gaussian-node
network: {hidden: [8]}
training: {epochs: 1, batch: 500}
seeds: 2
axes:
  learner.rule: [danp, dbp]
"""
ONE_BY_ONE = SWEEP + "batched_seeds: off\n"


@pytest.fixture
def sweep(call):
    """call(…), in a folder that holds sweep.yaml."""
    Path("sweep.yaml").write_text(SWEEP)
    return call


def statuses(folder):
    with (Path(folder) / "trials.csv").open(newline="") as file:
        return [row["status"] for row in csv.DictReader(file)]


def test_a_sweep_from_start_to_export(sweep):
    code, out, err = sweep("sweep", "sweep.yaml", "-o", "out", "-j", 1, "--dry-run")
    assert (code, err) == (0, "")
    assert out.startswith("4 trials: 0 done, 0 failed, 4 left\nabout ")
    assert not Path("out").exists()
    code, out, err = sweep("sweep", "sweep.yaml", "-o", "out", "-j", 1)
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "0 of 4 done, 0 failed, 0 running"
    assert out.splitlines()[-3:] == [
        "4 of 4 done, 0 failed", "4 trials: 4 done, 0 failed, 0 left", "trials: out/trials.csv"
    ]  # fmt: skip
    assert sweep("status", "out") == (0, "4 trials: 4 done, 0 failed, 0 left\n", "")
    before = Path("out/trials.csv").stat().st_mtime_ns
    assert sweep("sweep", "-o", "out", "-j", 1)[0] == 0  # with the sweep.yaml in it
    assert Path("out/trials.csv").stat().st_mtime_ns == before
    for form in ("csv", "json", "parquet"):
        assert sweep("export", "out", "--format", form, "-o", f"curves.{form}") == (0, "", "")
    assert len(Path("curves.csv").read_text().splitlines()) == 1 + 4 * 2
    assert sweep("export", "out", "--what", "trials", "-o", "trials.csv")[0] == 0
    assert Path("trials.csv").read_bytes() == Path("out/trials.csv").read_bytes()
    assert sweep("sweep", "sweep.yaml", "-o", "more", "-j", 1, "--set", "seeds=[5]")[0] == 0
    assert sweep("combine", "out", "more", "-o", "both") == (0, "6 trials: both/trials.csv\n", "")
    assert sweep("status", "both")[1] == "6 trials: 6 done, 0 failed, 0 left\n"


def test_a_run_folder_can_be_exported_too(sweep):
    assert sweep("train", "small.yaml", "--out", "run")[0] == 0
    assert sweep("export", "run", "-o", "table.csv") == (0, "", "")
    assert Path("table.csv").read_text().startswith("trial,run,chip,rule,baseline,seed,epoch,step,")


def test_a_trial_that_cannot_be_read_is_named_and_the_rest_is_exported(sweep):
    sweep("sweep", "sweep.yaml", "-o", "out", "-j", 1)
    curves = next(Path("out").glob("trials/*/curves.csv"))
    curves.write_bytes(curves.read_bytes()[:-3])
    code, out, err = sweep("export", "out", "-o", "table.csv")
    assert (code, out, err) == (1, "", f"{curves}: line 3: torn; the line is left out\n")
    assert len(Path("table.csv").read_text().splitlines()) == 1 + 4 * 2 - 1


def test_failed_trials_make_the_command_fail(sweep, monkeypatch):
    def broken(name):
        raise ZeroDivisionError("no")

    monkeypatch.setattr("analogsim.experiment.trials.load_once", broken)
    Path("sweep.yaml").write_text(ONE_BY_ONE)
    code, out, err = sweep("sweep", "sweep.yaml", "-o", "out", "-j", 1)
    assert code == 1
    assert "4 trials: 0 done, 4 failed, 0 left" in out
    assert err.count("failed: ZeroDivisionError: no") == 4
    assert sweep("status", "out")[1].count("failed: ") == 4


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["sweep", "nosuch.yaml", "-o", "out"], "nosuch.yaml: does not exist; allowed: a .yaml file"),
        (["sweep", "-o", "out"], "out/sweep.yaml: does not exist; allowed: a .yaml file"),
        (["sweep", "small.yaml", "-o", "out"], "small.yaml:1:1: axes: is missing: a sweep needs axes"),
        (["train", "sweep.yaml"], "sweep.yaml:6:1: axes: an experiment with axes is a sweep; run it with `analogsim"),
        (["sweep", "sweep.yaml", "-o", "out", "--log", "wandb"], "--log: 'wandb' is not allowed; allowed: tensorboard"),
        (["sweep", "sweep.yaml", "-o", "small.yaml"], "small.yaml: not empty, and no sweep's folder; give another -o"),
        (
            ["sweep", "sweep.yaml", "-o", "out", "--device", "tpu"],
            "device: 'tpu' is not allowed; allowed: cpu, cuda, or",
        ),
        (["sweep", "sweep.yaml", "-o", "out", "--backend", "x"], "backend: 'x' is not allowed"),
        (["status", "nosuch"], "nosuch: no sweep here, it has no sweep.yaml"),
        (["export", "nosuch", "-o", "x"], "nosuch: no results here"),
        (["export", "nosuch", "-o", "x", "--format", "xls"], "--format: 'xls' is not allowed; allowed: csv, parquet"),
        (["combine", "nosuch", "-o", "x"], "nosuch: no sweep here, it has no trials.csv"),
    ],
)
def test_mistakes_are_one_line(sweep, arguments, expected):
    code, out, err = sweep(*arguments)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(expected)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_is_one_line_and_the_sweep_goes_on_after(tmp_path, workers):
    """As if the disk held no file over 9 kB: the tables fit, a checkpoint does not."""
    (tmp_path / "sweep.yaml").write_text(ONE_BY_ONE)
    command = [*COMMAND, "sweep", "sweep.yaml", "-o", "out", "-j", str(workers)]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | ONE_THREAD, capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000)),
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.endswith("cannot be written: File too large\n")
    assert statuses(tmp_path / "out") == ["pending"] * 4
    done = subprocess.run([*command[:-1], "1"], cwd=tmp_path, env=os.environ | ONE_THREAD, capture_output=True)
    assert done.returncode == 0
    assert statuses(tmp_path / "out") == ["ok"] * 4


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_stops_quietly_and_says_how_to_go_on(tmp_path, workers):
    """Sent to the whole process group, as a terminal does, once trials run."""
    (tmp_path / "sweep.yaml").write_text(SWEEP.replace("epochs: 1", "epochs: 10000"))
    command = [*COMMAND, "sweep", "sweep.yaml", "-o", "out", "-j", str(workers)]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=os.environ | ONE_THREAD, text=True, process_group=0,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    while len(list(tmp_path.glob("out/trials/*/curves.csv"))) < workers and process.poll() is None:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (130, "")
    assert out.splitlines()[-1] == "stopped; go on with: analogsim sweep -o out"
    assert statuses(tmp_path / "out") == ["pending"] * 4
    assert not (tmp_path / "out" / ".stop").exists()
    begun = list(tmp_path.glob("out/trials/*/checkpoints/*/*/*.npz"))
    assert len({path.parents[3] for path in begun}) == 2 * workers  # the two seeds of a rule are trained together


def test_a_terminal_gets_a_bar(sweep, monkeypatch):
    screen = io.StringIO()
    terminal = functools.partial(rich.console.Console, file=screen, force_terminal=True, width=100)
    monkeypatch.setattr(rich.console, "Console", terminal)
    code, out, _ = sweep("sweep", "sweep.yaml", "-o", "out", "-j", 1)
    assert code == 0
    assert "4 of 4 done, 0 failed" in screen.getvalue()
    assert out == "4 trials: 4 done, 0 failed, 0 left\ntrials: out/trials.csv\n"


# TensorBoard


def scalars(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_event_files_of_a_training_and_of_every_trial(sweep):
    pytest.importorskip("tensorboard")
    assert sweep("train", "small.yaml", "--out", "run", "--log", "tensorboard")[0] == 0
    found = scalars("run/tensorboard/danp/seed-0")
    (summary,) = json.loads(Path("run/summary.json").read_text())
    step, value = found["accuracy/test"][-1]
    assert (step, value) == (1, pytest.approx(summary["final"]["test_accuracy"], rel=1e-6))
    assert set(found) == {"loss/train", "accuracy/train", "loss/test", "accuracy/test", "accuracy_ideal/test"}
    assert sweep("sweep", "sweep.yaml", "-o", "out", "-j", 1, "--log", "tensorboard")[0] == 0
    assert len(list(Path("out").glob("trials/*/tensorboard/*/*/events*"))) == 4


def test_without_tensorboard_the_option_says_what_to_install(sweep, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.delitem(sys.modules, "analogsim.experiment.tensorboard", raising=False)
    code, _, err = sweep("sweep", "sweep.yaml", "-o", "out", "-j", 1, "--log", "tensorboard")
    assert code == 1
    assert "pip install analogsim-danp[tensorboard]" in err
    assert not Path("out").exists()
