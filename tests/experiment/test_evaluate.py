"""A trained network on other chips: exact where nothing differs, worse where cells drift, one line where wrong."""

import csv
import json
import math
import shutil

import pandas as pd
import pytest

from analogsim.config.chip import ChipDescription
from analogsim.errors import ArgumentError, ChipError, RunFolderError
from analogsim.experiment import evaluate as evaluating
from analogsim.experiment.evaluate import evaluate, summary, time_name, times_s
from analogsim.training.data import load_data

EXPERIMENT = """\
data: digits
chip: gaussian-node
network: {hidden: [16]}
decorrelation: {rate: 1.0e-2}
optimizer: {lr: 3.0e-3}
training: {epochs: 3, batch: 50}
seeds: 2
variants:
  danp: {}
  bp: {learner.rule: bp}
"""
FADING = {  # G(t) = G (t / 1 s)^-ν, ν spread over cells, so that a drift is more than a gain
    "law": "power",
    "t0_s": 1.0,
    "unit_uS": 25.0,
    "exponent": {"law": "log", "slope": 0.0, "intercept": 0.1, "min": 0.1, "max": 0.1},
    "spread": {"law": "log", "slope": 0.0, "intercept": 0.1, "min": 0.1, "max": 0.1},
    "valid_s": [1.0, 1e8],
}
PORT = ChipDescription(name="ideal")


def chip(**sections):
    return ChipDescription.model_validate({"name": "other", **sections})


DRIFTING = chip(cell={"drift": FADING})


@pytest.fixture(scope="module")
def trained(server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate")
    (folder / "small.yaml").write_text(EXPERIMENT)
    arguments = ["train", str(folder / "small.yaml"), "--out", str(folder / "run")]
    assert server(do="run", arguments=arguments, log=str(folder / "log")) == 0, (folder / "log").read_text()
    return folder / "run"


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def ends(folder):
    """The last row of every run of a run folder, by (run, seed)."""
    with (folder / "curves.csv").open(newline="") as file:
        return {(row["run"], int(row["seed"])): row for row in csv.DictReader(file)}


# --- known answers ----------------------------------------------------------------------------------


def test_an_ideal_chip_reads_what_the_oracle_read(run):
    """Every draw: decorrelation matrices, biases and weights all arrive."""
    evaluate(run, PORT, repeats=2)
    draws = pd.read_csv(run / "evaluations" / "ideal" / "draws.csv")
    assert len(draws) == 2 * 2 * 2
    for row in draws.to_dict("records"):
        assert row["test_accuracy"] == float(ends(run)[row["run"], row["seed"]]["test_accuracy_ideal"])


TRANSFER_BUGS = {
    "biases left behind": ("digital", lambda right: lambda *a: ([bias * 0 for bias in right(*a)[0]], right(*a)[1])),
    "decorrelation matrices left behind": (
        "digital",
        lambda right: lambda *a: (right(*a)[0], [None] * len(right(*a)[0])),
    ),
    "an earlier checkpoint": ("load_latest", lambda right: lambda *a: _untrained(right(*a))),
}


def _untrained(saved):
    for tensor in saved.tensors.values():
        if tensor.ndim == 2 and tensor.is_floating_point():
            tensor.mul_(0.5)
    return saved


@pytest.mark.parametrize("bug", TRANSFER_BUGS)
def test_the_ideal_chip_catches(run, monkeypatch, bug):
    name, planted = TRANSFER_BUGS[bug]
    home = evaluating if name == "digital" else evaluating.checkpoint
    monkeypatch.setattr(home, name, planted(getattr(home, name)))
    with pytest.raises(AssertionError):
        test_an_ideal_chip_reads_what_the_oracle_read(run)


def test_drift_costs_accuracy_and_no_more_than_all(run):
    """Conductances that fall apart by (t/s)^-(0.1 ± 0.1): as at the write at 1 s, and far below at a year."""
    at = [1.0, 86400.0, 3e7]
    found = evaluate(run, DRIFTING, at, repeats=3, variants=["danp"]).table
    start, _, end = found["mean"]
    assert list(found["time_s"]) == at
    assert start == pytest.approx(_mean_ideal(run, "danp"), abs=1e-9)
    assert end < start - 0.1


def _mean_ideal(run, name):
    figures = [float(row["test_accuracy_ideal"]) for (variant, _), row in ends(run).items() if variant == name]
    return sum(figures) / len(figures)


AGE_BUGS = {
    "time stands still": lambda right: lambda chip, seconds: None,
    "days counted from the last time": lambda right: lambda chip, seconds: right(chip, seconds / 1e6),
}


@pytest.mark.parametrize("bug", AGE_BUGS)
def test_the_drift_test_catches_at_times(run, monkeypatch, bug):
    monkeypatch.setattr(evaluating, "_age", AGE_BUGS[bug](evaluating._age))
    with pytest.raises((AssertionError, ChipError)):
        test_drift_costs_accuracy_and_no_more_than_all(run)


def test_time_counts_from_programming_whatever_was_read_before(run):
    """The same draw at one time, alone or after others, on a chip whose update takes a minute."""
    slow = chip(cell={"drift": FADING}, clock={"t_read_s": 1.0, "t_update_s": 60.0})
    alone = evaluate(run, slow, [3600.0], repeats=1, variants=["bp"], out=run / "one").table
    after = evaluate(run, slow, [1.0, 60.0, 3600.0], repeats=1, variants=["bp"], out=run / "two").table
    assert alone["mean"].iloc[0] == after["mean"].iloc[2]


def test_draws_differ_and_repeat(run):
    cells = chip(cell={"programming": {"law": "constant", "sigma_uS": 4.0}}, write={"mode": "verify"})
    first = evaluate(run, cells, repeats=4, variants=["danp"])
    again = evaluate(run, cells, repeats=4, variants=["danp"])
    draws = pd.read_csv(first.folder / "draws.csv")
    assert (first.folder.name, again.folder.name) == ("other", "other-2")  # nothing is written over
    assert len(set(draws["test_loss"])) == len(draws) == 8
    assert (first.folder / "draws.csv").read_bytes() == (again.folder / "draws.csv").read_bytes()


def test_the_band_is_that_of_the_draws():
    draws = pd.DataFrame(
        {"run": "a", "chip": "c", "time_s": [1.0, 1.0, 1.0, 2.0], "test_accuracy": [0.5, 0.6, 0.7, 0.1]}
    )
    one, two = summary(draws, "accuracy").to_dict("records")
    assert [one[name] for name in ("draws", "mean", "sd", "min", "max")] == pytest.approx([3, 0.6, 0.1, 0.5, 0.7])
    assert (two["draws"], two["mean"]) == (1, 0.1)
    assert math.isnan(two["sd"])


# --- the command ------------------------------------------------------------------------------------


def test_the_command_writes_tables_and_a_picture(call, run):
    code, printed, said = call("evaluate", run, "--chip", "sonos", "--at", "1h,5d", "--repeats", 2, "--variant", "danp")
    folder = run / "evaluations" / "sonos"
    assert (code, said) == (0, "")
    assert printed.splitlines()[-2:] == [f"tables:  {folder}", f"picture: {folder / 'accuracy.png'}"]
    lines = printed.splitlines()[1:3]
    assert [line.split()[:5] for line in lines] == [["danp", "sonos", "1", "h", "4"], ["danp", "sonos", "5", "d", "4"]]
    assert len(pd.read_csv(folder / "accuracy.csv")) == 2
    assert "retention" in (folder / "chip.yaml").read_text()
    assert json.loads((folder / "environment.json").read_text())["device"] == "cpu"
    assert (folder / "accuracy.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--chip", "sonos", "--at", "30d"],
            "law retention: t = 2.592e+06 s since programming; allowed: 0 to",
        ),
        (["--chip", "pcm-nandakumar", "--at", "1s"], "allowed: 20 s or later: chip pcm-nandakumar is first read then"),
        (["--chip", "ideal", "--at", "1w"], "--at: '1w' is not allowed; allowed: times above 0 such as"),
        (["--chip", "ideal", "--variant", "np"], "--variant: 'np' is not allowed; allowed: danp, bp"),
        (["--chip", "ideal", "--out", "."], "not empty; give another --out"),
        (["--chip", "idael"], "did you mean ideal?"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(call, run, options, said):
    code, _, line = call("evaluate", run, *options)
    assert (code, line.count("\n")) == (1, 1)
    assert said in line
    assert not (run / "evaluations").exists()


def test_a_folder_that_holds_no_run_is_one_line(call, tmp_path):
    code, _, line = call("evaluate", tmp_path / "nothing", "--chip", "ideal")
    assert (code, line) == (1, f"{tmp_path / 'nothing'}: no run here, it has no config.yaml\n")
    assert not (tmp_path / "nothing").exists()


def test_runs_without_a_checkpoint_are_left_out_and_named(run):
    shutil.rmtree(run / "checkpoints" / "danp" / "seed-1")
    shutil.rmtree(run / "checkpoints" / "bp")
    said = []
    found = evaluate(run, PORT, repeats=1, warn=said.append)
    assert list(found.table["run"]) == ["danp"]
    assert said == [f"{name}: left out, it has no checkpoint yet" for name in ("danp seed 1", "bp seed 0", "bp seed 1")]
    with pytest.raises(RunFolderError, match="no trained network"):
        evaluate(run, PORT, variants=["bp"])


@pytest.mark.parametrize(
    ("text", "seconds"), [("1h", [3600]), ("1d, 30s,2min,30s", [30, 120, 86400]), ("1y", [31557600])]
)
def test_times(text, seconds):
    assert times_s(text) == seconds


@pytest.mark.parametrize("text", ["", "1", "h", "-1h", "0s", "1h,,2h", "1e999s", "nan s"])
def test_what_is_no_time(text):
    with pytest.raises(ArgumentError, match="--at"):
        times_s(text)


def test_times_are_named_in_their_largest_unit():
    assert [time_name(t) for t in (1, 90, 3600, 86400, 2592000, 31557600)] == [
        "1 s",
        "1.5 min",
        "1 h",
        "1 d",
        "30 d",
        "1 y",
    ]


def test_data_is_loaded_once(run, monkeypatch):
    loaded = []
    monkeypatch.setattr(evaluating, "load_data", lambda name: loaded.append(name) or load_data(name))
    evaluate(run, PORT, repeats=1)
    assert loaded == ["digits"]
