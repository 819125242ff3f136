"""A sweep's folder: what it holds, what is run again and what is not, and how trials fail."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import analogsim
from analogsim.config.loader import load_plan, parse_set
from analogsim.config.sweeps import load_sweep
from analogsim.errors import ArgumentError
from analogsim.experiment.overview import status
from analogsim.experiment.results import TRIAL_FIGURES
from analogsim.experiment.sweep import Options, Watcher, run_sweep
from analogsim.experiment.trials import Ended, run_trial

SWEEP = {
    "data": "digits",
    "chip": "gaussian-node",
    "network": {"hidden": [4]},
    "training": {"epochs": 1, "batch": 500},
    "seeds": 2,
    "axes": {"learner.rule": ["danp", "dbp"], "chip.node_noise.sigma": [0.001, 0.1]},
}
NAMES = [trial.name for trial in load_sweep(SWEEP).trials]


class Notes(Watcher):
    def __init__(self):
        self.said, self.states = [], []

    def message(self, text):
        self.said.append(text)

    def moved(self, state):
        self.states.append((state.count("ok", "diverged"), state.count("failed"), len(state.running)))


def run(folder, sweep=SWEEP, changes=(), notes=None, **options):
    """The state a sweep ends in; changes: as with --set."""
    plan = load_sweep(sweep, [parse_set(change) for change in changes])
    return run_sweep(plan, folder, Options(**options), notes or Notes())


def counting(trained):
    """Work that trains and notes which trial."""

    def work(task, stop):
        trained.append(task.name)
        return run_trial(task, stop)

    return work


def contents(folder):
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def rows(folder):
    with (folder / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweeps") / "whole"
    run(folder)
    return folder


@pytest.fixture
def copy(whole, tmp_path):
    """The whole sweep in a folder of its own."""
    return Path(shutil.copytree(whole, tmp_path / "copy"))


# What there is


def test_the_folder_holds_what_is_documented(whole):
    assert {path.name for path in whole.iterdir()} == {".lock", "sweep.yaml", "trials.csv", "timings.csv", "trials"}
    assert {path.name for path in (whole / "trials").iterdir()} == set(NAMES)
    for name in NAMES:
        assert {path.name for path in (whole / "trials" / name).iterdir()} == {
            ".lock", "config.yaml", "environment.json", "curves.csv", "summary.json"
        }  # fmt: skip


def test_the_table_has_a_row_a_trial_in_the_plan_s_order(whole):
    header = (whole / "trials.csv").read_text().splitlines()[0]
    labels = "trial,run,chip,rule,baseline,seed,learner.rule,chip.node_noise.sigma,"
    assert header == labels + ",".join(TRIAL_FIGURES)
    assert [row["trial"] for row in rows(whole)] == NAMES
    assert [(row["rule"], row["chip.node_noise.sigma"], row["seed"]) for row in rows(whole)] == [
        (rule, sigma, seed) for rule in ("danp", "dbp") for sigma in ("0.001", "0.1") for seed in "01"
    ]
    assert {row["status"] for row in rows(whole)} == {"ok"}
    assert "seconds" not in header  # all else is the same wherever it ran


def test_a_trial_s_folder_is_the_run_folder_of_its_one_run(whole, tmp_path):
    name = NAMES[3]
    trial = whole / "trials" / name
    (variant,) = load_plan(trial / "config.yaml").variants.values()
    assert variant == load_sweep(SWEEP).trials[3].experiment
    results = analogsim.load_results(trial)
    assert list(results.trials["trial"]) == [name]
    (row,) = (row for row in rows(whole) if row["trial"] == name)
    assert float(row["final_test_accuracy"]) == results.trials["final_test_accuracy"][0]
    assert float(row["best_test_loss"]) == results.trials["best_test_loss"][0]


def test_a_folder_can_be_moved_and_no_path_is_in_its_tables(whole, copy):
    for name in ("sweep.yaml", "trials.csv", "timings.csv"):
        assert str(whole.parent) not in (copy / name).read_text()
    before = contents(copy)
    moved = copy.rename(copy.with_name("moved"))
    trained = []
    run_sweep(load_sweep(moved / "sweep.yaml"), moved, Options(work=counting(trained)), Notes())
    assert trained == []
    assert {path.relative_to(copy): content for path, content in before.items()} == {
        path.relative_to(moved): content for path, content in contents(moved).items()
    }


# Going on


def test_a_finished_sweep_started_again_changes_no_byte(copy):
    before = contents(copy)
    run(copy)
    assert contents(copy) == before


def test_an_edited_sweep_trains_what_is_new_alone(copy, whole):
    trained, notes = [], Notes()
    run(copy, changes=["axes.learner.rule=[dbp, anp]"], notes=notes, work=counting(trained))
    assert notes.said == ["4 trials in the folder are not of this sweep; they are kept, and left out of its tables"]
    assert len(trained) == 4
    assert not set(trained) & set(NAMES)
    assert [row["trial"] for row in rows(copy)] == NAMES[4:] + trained
    assert rows(copy)[:4] == rows(whole)[4:]
    run(copy, work=counting(trained))  # and back: nothing is lost
    assert len(trained) == 4
    assert (copy / "trials.csv").read_bytes() == (whole / "trials.csv").read_bytes()


def test_a_trial_that_is_lost_is_trained_again_to_the_same_bytes(copy, whole):
    trained = []
    shutil.rmtree(copy / "trials" / NAMES[2])
    run(copy, work=counting(trained))
    assert trained == [NAMES[2]]
    assert (copy / "trials.csv").read_bytes() == (whole / "trials.csv").read_bytes()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"[3]", b'[{"status": "ok"}]', b"\xff"])
def test_a_trial_that_cannot_be_read_is_named_and_trained_again(copy, whole, content):
    notes, trained = Notes(), []
    (copy / "trials" / NAMES[1] / "summary.json").write_bytes(content)
    run(copy, notes=notes, work=counting(trained))
    assert trained == [NAMES[1]]
    (said,) = notes.said
    assert said.startswith(str(copy / "trials" / NAMES[1] / "summary.json") + ": cannot be read: ")
    assert said.endswith("; the trial is trained again")
    assert (copy / "trials.csv").read_bytes() == (whole / "trials.csv").read_bytes()


def test_a_torn_table_is_mended(copy, whole):
    table = (copy / "trials.csv").read_bytes()
    (copy / "trials.csv").write_bytes(table[:-40])
    run(copy)
    assert (copy / "trials.csv").read_bytes() == table


def test_an_interrupted_trial_goes_on_from_its_checkpoint(tmp_path, whole):
    """Stopped after its second step, a trial is pending, has a checkpoint, and ends at the same bytes."""
    asked = []

    def work(task, stop):
        def after_two() -> bool:
            asked.append(1)
            return task.name == NAMES[0] and len(asked) >= 3

        return run_trial(task, after_two)

    state = run(tmp_path / "out", work=work)
    first = tmp_path / "out" / "trials" / NAMES[0]
    assert state.ended[NAMES[0]].status == "pending"
    assert rows(tmp_path / "out")[0]["status"] == "pending"
    assert list(first.glob("checkpoints/*/*/*.npz"))
    assert "1 left, 1 of them begun" in status(tmp_path / "out")
    run(tmp_path / "out")
    assert not (first / "checkpoints").exists()
    assert (tmp_path / "out" / "trials.csv").read_bytes() == (whole / "trials.csv").read_bytes()


# Failing


def failing(names, reason):
    def work(task, stop):
        if task.name in names:
            return Ended("failed", reason, "Traceback …")
        return run_trial(task, stop)

    return work


def test_a_failed_trial_is_recorded_and_the_others_are_trained(tmp_path, whole):
    notes = Notes()
    state = run(tmp_path, notes=notes, work=failing(NAMES[1:2], "ValueError: a, b"))
    assert (state.count("ok"), state.count("failed")) == (7, 1)
    row = rows(tmp_path)[1]
    assert (row["status"], row["error"], row["epochs"], row["best_test_loss"]) == ("failed", "ValueError: a, b", "", "")
    assert json.loads((tmp_path / "trials" / NAMES[1] / "error.json").read_text()) == {
        "error": "ValueError: a, b", "traceback": "Traceback …"
    }  # fmt: skip
    assert notes.said == [f"trial {NAMES[1]} failed: ValueError: a, b"]
    assert notes.states[-1] == (7, 1, 0)
    assert f"failed: {NAMES[1]}: ValueError: a, b" in status(tmp_path)
    trained = []
    run(tmp_path, work=counting(trained))
    assert trained == []  # it stays failed
    assert rows(tmp_path)[1]["error"] == "ValueError: a, b"
    run(tmp_path, work=counting(trained), retry_failed=True)
    assert trained == NAMES[1:2]
    assert not (tmp_path / "trials" / NAMES[1] / "error.json").exists()
    assert (tmp_path / "trials.csv").read_bytes() == (whole / "trials.csv").read_bytes()


def test_a_trial_whose_folder_cannot_be_made_has_failed_and_the_others_are_trained(tmp_path, whole):
    (tmp_path / "sweep.yaml").touch()
    (tmp_path / "trials").mkdir()
    (tmp_path / "trials" / NAMES[1]).touch()
    notes = Notes()
    state = run(tmp_path, notes=notes)
    assert (state.count("ok"), state.count("failed")) == (7, 1)
    assert f"{NAMES[1]}: cannot be" in rows(tmp_path)[1]["error"]
    (tmp_path / "trials" / NAMES[1]).unlink()
    run(tmp_path)
    assert (tmp_path / "trials.csv").read_bytes() == (whole / "trials.csv").read_bytes()


def test_fail_fast_stops_at_the_first(tmp_path):
    state = run(tmp_path, work=failing(NAMES[1:3], "no"), fail_fast=True)
    assert (state.count("ok"), state.count("failed"), len(state.left)) == (1, 1, 6)
    state = run(tmp_path, work=failing(NAMES[2:3], "no"), fail_fast=True)  # of this start
    assert (state.count("ok"), state.count("failed"), len(state.left)) == (1, 2, 5)


def test_an_exception_is_a_failure_with_its_traceback(tmp_path, monkeypatch):
    def broken(name):
        raise ZeroDivisionError("in the\nloader")

    monkeypatch.setattr("analogsim.experiment.trials.load_once", broken)
    state = run(tmp_path, changes=["seeds=[0]", "axes.learner.rule=[bp]"])
    assert {ended.error for ended in state.ended.values()} == {"ZeroDivisionError: in the"}
    error = json.loads(next(tmp_path.glob("trials/*/error.json")).read_text())
    assert "in broken" in error["traceback"]


def test_a_diverged_trial_is_a_result(tmp_path):
    trained = []
    changes = ["optimizer.lr=1e30", "axes.learner.rule=[bp]", "seeds=[0]"]
    state = run(tmp_path, changes=changes, backend="torch")
    assert (state.count("diverged"), state.count("failed")) == (2, 0)
    assert rows(tmp_path)[0]["status"] == "diverged"
    assert rows(tmp_path)[0]["final_test_loss"] == ""
    run(tmp_path, changes=changes, work=counting(trained))
    assert trained == []


# Workers; forked.py's tests in test_sweep_kills.py compare their bytes


def deadly(name):
    """Work that kills its own process for one trial, and writes down every try."""

    def work(task, stop):
        if task.name == name:
            with open(Path(task.folder).parents[1] / "tries", "a") as file:
                file.write("x")
            os.kill(os.getpid(), signal.SIGKILL)
        return run_trial(task, stop)

    return work


def test_a_trial_that_kills_its_worker_is_tried_three_times_and_the_rest_is_trained(tmp_path, whole):
    notes = Notes()
    state = run(tmp_path, notes=notes, work=deadly(NAMES[0]), workers=2)
    assert (state.count("ok"), state.count("failed")) == (7, 1)
    assert (tmp_path / "tries").read_text() == "xxx"
    error = "its worker was killed 3 times, by a signal or for want of memory"
    assert rows(tmp_path)[0]["error"] == error
    assert rows(tmp_path)[1:] == rows(whole)[1:]
    assert notes.said == [f"trial {NAMES[0]} failed: {error}"]


def test_an_exception_in_a_worker_is_a_failure(tmp_path):
    def work(task, stop):
        raise RuntimeError(f"no {task.seed}" if hasattr(task, "seed") else "no")

    state = run(tmp_path, changes=["seeds=[0]", "axes.learner.rule=[bp]"], work=work, workers=2)
    assert {ended.error for ended in state.ended.values()} == {"RuntimeError: no"}


def test_a_running_cluster_by_its_address(tmp_path, whole):
    import distributed

    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
    ) as cluster:
        run(tmp_path, scheduler=cluster.scheduler_address)
    assert (tmp_path / "trials.csv").read_bytes() == (whole / "trials.csv").read_bytes()


# Beside others


def test_a_trial_in_use_is_waited_for(tmp_path, whole):
    """As by the worker of a killed sweep on a cluster, which trains on for a while."""
    first = tmp_path / "trials" / NAMES[0]
    (tmp_path / "sweep.yaml").touch()
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom analogsim.experiment.results import held\n"
        "with held(Path(sys.argv[1]), lambda: None):\n    print('held', flush=True)\n    time.sleep(1)"
    )
    with subprocess.Popen([sys.executable, "-c", code, first], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        run(tmp_path)
    assert (tmp_path / "trials.csv").read_bytes() == (whole / "trials.csv").read_bytes()


def test_a_sweep_from_python(tmp_path, whole):
    results = analogsim.sweep(SWEEP, tmp_path)
    assert (tmp_path / "trials.csv").read_bytes() == (whole / "trials.csv").read_bytes()
    assert results.axes == ("learner.rule", "chip.node_noise.sigma")
    experiment = load_sweep(SWEEP).trials[0].experiment
    results = analogsim.sweep(experiment, tmp_path / "more", axes={"learner.samples": [1]})
    assert list(results.trials["trial"]) == NAMES[:1]
    with pytest.raises(ArgumentError, match="worker: 3 is not allowed; allowed: one of backend"):
        analogsim.sweep(SWEEP, tmp_path, worker=3)
