"""load_results, export and combine: what the tables hold, and what becomes of what cannot be read."""

import json
import math
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest

import analogsim
from analogsim.config.sweeps import load_sweep
from analogsim.errors import ArgumentError, RunFolderError
from analogsim.experiment.export import combine, export
from analogsim.experiment.results import EPOCH_COLUMNS, RUN_COLUMNS, TRIAL_FIGURES
from analogsim.experiment.sweep import Options, Watcher, run_sweep
from analogsim.experiment.tables import load_results
from analogsim.experiment.trials import Ended, run_trial

SWEEP = {
    "data": "digits",
    "chip": "ideal",
    "network": {"hidden": [4]},
    "training": {"epochs": 1, "batch": 500},
    "seeds": [3],
    "axes": {"noise": [0.01, 0.1], "network.bias": [True, False], "network.hidden": [[4], [5, 4]]},
    "variants": {
        "NA": {"chip": "gaussian-node", "chip.node_noise.sigma": "$noise"},
        "reference": {"learner.rule": "bp"},
    },
}
TRIALS = load_sweep(SWEEP).trials
FAILED, PENDING = TRIALS[0].name, TRIALS[1].name


@pytest.fixture(scope="session")
def swept(tmp_path_factory):
    """12 trials; the first has failed, the second is left."""

    def work(task, stop):
        if task.name == FAILED:
            return Ended("failed", 'Error: "quoted", and a comma')
        return Ended("pending") if task.name == PENDING else run_trial(task, stop)

    folder = tmp_path_factory.mktemp("tables") / "swept"
    run_sweep(load_sweep(SWEEP), folder, Options(work=work), Watcher())
    return folder


@pytest.fixture
def copy(swept, tmp_path):
    return Path(shutil.copytree(swept, tmp_path / "copy"))


# load_results


def test_the_tables_of_a_sweep(swept):
    results = load_results(swept)
    axes = ("network.bias", "network.hidden", "noise")
    assert (results.kind, set(results.axes), results.problems) == ("sweep", set(axes), ())
    assert tuple(results.trials.columns) == ("trial", *RUN_COLUMNS, *results.axes, *TRIAL_FIGURES)
    assert tuple(results.curves.columns) == ("trial", *RUN_COLUMNS, *results.axes, *EPOCH_COLUMNS)
    assert list(results.trials["trial"]) == [trial.name for trial in TRIALS]
    assert list(results.trials["status"][:3]) == ["failed", "pending", "ok"]
    assert list(results.trials["error"][:2]) == ['Error: "quoted", and a comma', ""]
    done = results.trials["trial"][2:]
    assert list(results.curves["trial"]) == [name for name in done for _ in range(2)]
    assert list(results.curves["epoch"]) == [0, 1] * len(done)


def test_columns_are_of_their_kinds(swept):
    trials, curves = load_results(swept).trials, load_results(swept).curves
    assert trials["network.bias"].dtype == bool
    assert set(trials["network.hidden"]) == {"[4]", "[5, 4]"}
    assert trials["seed"].dtype == curves["epoch"].dtype == curves["reads"].dtype == "int64"
    assert trials["epochs"].dtype == "float64"  # two trials have none
    assert trials["final_test_loss"][:2].isna().all()
    assert set(trials["run"]) == {"NA", "reference"}  # the text, not pandas' nothing
    assert curves["angle_deg"].isna().all()


def test_a_variant_without_the_named_axis_has_an_empty_cell(swept):
    trials = load_results(swept).trials
    assert trials["noise"][trials["run"] == "reference"].isna().all()
    assert set(trials["noise"][trials["run"] == "NA"]) == {0.01, 0.1}
    assert (trials["run"] == "reference").sum() == 4


def test_figures_come_back_exactly(swept):
    trials = load_results(swept).trials
    for index in range(2, len(trials)):
        (summary,) = json.loads((swept / "trials" / trials["trial"][index] / "summary.json").read_text())
        assert trials["final_test_loss"][index] == summary["final"]["test_loss"]


def test_an_axis_of_chips_is_the_chip_column(tmp_path):
    sweep = SWEEP | {"variants": {}, "axes": {"chip": ["ideal", "gaussian-node"], "learner.rule": ["bp"]}}
    results = analogsim.sweep(sweep, tmp_path)
    assert results.axes == ("chip", "learner.rule")
    assert list(results.trials["chip"]) == ["ideal", "gaussian-node"]


def test_the_tables_of_a_run(swept):
    folder = swept / "trials" / TRIALS[-1].name
    results = load_results(folder)
    assert (results.kind, results.axes, results.problems) == ("run", (), ())
    assert list(results.trials["trial"]) == [TRIALS[-1].name]
    assert tuple(results.curves.columns) == ("trial", *RUN_COLUMNS, *EPOCH_COLUMNS)
    assert list(results.curves["trial"]) == [TRIALS[-1].name] * 2


@pytest.mark.parametrize("name", ["nothing", "empty"])
def test_a_folder_without_results_is_named(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunFolderError, match=f"{name}: no results here"):
        load_results(tmp_path / name)


# What cannot be read


def test_a_torn_line_is_named_and_the_rest_is_there(copy):
    table = (copy / "trials.csv").read_bytes()
    (copy / "trials.csv").write_bytes(table[:-20])
    with pytest.warns(UserWarning, match=f"trials.csv: line {len(TRIALS) + 1}: torn; the line is left out"):
        results = load_results(copy)
    assert list(results.trials["trial"]) == [trial.name for trial in TRIALS[:-1]]
    curves = copy / "trials" / TRIALS[4].name / "curves.csv"
    curves.write_bytes(curves.read_bytes()[:-4])
    with pytest.warns(UserWarning, match="torn"):
        results = load_results(copy)
    assert results.problems[1] == f"{curves}: line 3: torn; the line is left out"
    assert list(results.curves["epoch"][results.curves["trial"] == TRIALS[4].name]) == [0]


@pytest.mark.parametrize("damage", ["gone", "empty", "binary", "alien", "a folder"])
def test_a_trial_that_cannot_be_read_is_named_and_the_rest_is_there(copy, tmp_path, damage):
    curves = copy / "trials" / TRIALS[4].name / "curves.csv"
    curves.unlink()
    if damage == "a folder":
        curves.mkdir()
    elif damage != "gone":
        curves.write_bytes({"empty": b"", "binary": b"\xff\x00", "alien": b"a,b\n1,2\n"}[damage])
    with pytest.warns(UserWarning, match="curves.csv"):
        results = load_results(copy)
    (problem,) = results.problems
    assert problem.startswith(str(curves))
    assert len(results.trials) == len(TRIALS)
    assert set(results.curves["trial"]) == {trial.name for trial in TRIALS[2:]} - {TRIALS[4].name}
    assert export(copy, tmp_path / "curves.csv") == (problem,)
    assert len(pd.read_csv(tmp_path / "curves.csv")) == len(results.curves)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everywhere")
def test_a_trial_one_may_not_read_is_named(copy):
    (copy / "trials" / TRIALS[4].name).chmod(0)
    with pytest.warns(UserWarning, match="Permission denied"):
        assert len(load_results(copy).problems) == 1


def test_a_table_of_other_columns_is_refused(copy):
    (copy / "trials.csv").write_text("a,b\n1,2\n")
    with pytest.raises(RunFolderError, match=r"trials\.csv: line 1: not the columns of a sweep's table"):
        load_results(copy)


# export


@pytest.mark.parametrize("what", ["curves", "trials"])
def test_every_format_holds_the_same_table(swept, tmp_path, what):
    results = load_results(swept)
    expected = results.trials if what == "trials" else results.curves.drop(columns="seconds")
    for form in ("csv", "json", "parquet"):
        assert export(swept, tmp_path / form, form, what) == ()
    rows = json.loads((tmp_path / "json").read_text(), parse_constant=pytest.fail)
    plain = [{k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}
             for row in expected.to_dict("records")]  # fmt: skip
    assert rows == plain
    parquet = pd.read_parquet(tmp_path / "parquet")
    assert list(parquet.columns) == list(expected.columns)
    assert parquet["reads"].dtype == "Int64"
    assert [None if pd.isna(x) else x for x in parquet["noise"]] == [row["noise"] for row in rows]
    header, first, *_ = (tmp_path / "csv").read_text().splitlines()
    assert header == ",".join(expected.columns)
    if what == "trials":
        assert (tmp_path / "csv").read_bytes() == (swept / "trials.csv").read_bytes()
    assert "true" in first


def test_an_export_is_the_same_bytes_again(swept, copy, tmp_path):
    for form in ("csv", "json", "parquet"):
        export(swept, tmp_path / "one", form)
        export(copy, tmp_path / "two", form)
        assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_what_export_does_not_know_is_refused(swept, tmp_path):
    with pytest.raises(ArgumentError, match="--format: 'xlsx' is not allowed; allowed: csv, parquet, json"):
        export(swept, tmp_path / "x", "xlsx")
    with pytest.raises(ArgumentError, match="--what: 'all' is not allowed"):
        export(swept, tmp_path / "x", what="all")
    with pytest.raises(RunFolderError, match="cannot be written"):
        export(swept, swept / "trials.csv" / "x")


# combine


def test_combined_sweeps_stand_in_one_table_each_trial_once(swept, tmp_path):
    more = SWEEP | {"seeds": [3, 4], "axes": SWEEP["axes"] | {"noise": [0.01]}}
    analogsim.sweep(more, tmp_path / "more")
    count, problems = combine([swept, tmp_path / "more"], tmp_path / "both")
    assert (count, problems) == (len(TRIALS) + 8, ())
    results = load_results(tmp_path / "both")
    assert len(set(results.trials["trial"])) == count
    assert dict(zip(results.trials["trial"], results.trials["status"]))[FAILED] == "ok"  # finished in the other
    assert set(results.curves["trial"]) == set(results.trials["trial"][results.trials["status"] == "ok"])
    with pytest.raises(RunFolderError, match="both: not empty; give another -o"):
        combine([swept], tmp_path / "both")
    with pytest.raises(RunFolderError, match="no sweep here"):
        combine([tmp_path], tmp_path / "other")


def test_an_axis_of_one_sweep_is_filled_in_for_the_other(tmp_path):
    plain = {key: value for key, value in SWEEP.items() if key != "variants"}
    analogsim.sweep(plain | {"axes": {"learner.samples": [1, 2]}}, tmp_path / "a")
    analogsim.sweep(plain | {"axes": {"optimizer.lr": [0.01]}}, tmp_path / "b")
    combine([tmp_path / "a", tmp_path / "b"], tmp_path / "both")
    trials = load_results(tmp_path / "both").trials
    assert list(trials["learner.samples"]) == [1, 2, 1]
    assert list(trials["optimizer.lr"]) == [0.001, 0.001, 0.01]
