"""Runs side by side, with figures that can be checked by hand."""

import dataclasses
import io
import itertools
import math

import numpy as np
import pytest
from rich.console import Console
from scipy.stats import ttest_rel, wilcoxon

from analogsim.compare import compare, draw, levels, sheets
from analogsim.errors import ArgumentError

FINAL = {"a": (0.90, 0.92, 0.91), "b": (0.80, 0.86, 0.84)}


@pytest.fixture
def runs(results, trial):
    return results(
        trial(final, run=run, seed=seed) for run, finals in FINAL.items() for seed, final in enumerate(finals)
    )


def row(comparison, run):
    table = comparison.table
    return table[table["run"] == run].iloc[0]


def shown(comparison):
    console = Console(width=200, file=io.StringIO())
    console.print(*sheets(comparison))
    return " ".join(console.file.getvalue().split())


def test_final_and_best_are_means_with_their_band(runs):
    a = row(compare([runs]), "a")
    finals = runs.trials[runs.trials["run"] == "a"]["final_test_accuracy"]
    assert a[["final", "final low", "final high", "final n"]].tolist() == pytest.approx(
        [finals.mean(), finals.min(), finals.max(), 3]
    )
    std = row(compare([runs], band="std"), "a")
    assert std["final high"] - std["final"] == pytest.approx(finals.std())


def test_epochs_and_reads_to_an_accuracy_are_the_first_that_reach_it(runs):
    curves = runs.curves
    for level in (0.3, 0.8):
        a = row(compare([runs], at=[level]), "a")
        for name, column in ((f"epochs to {level}", "epoch"), (f"reads to {level}", "reads")):
            first = [
                group[group["test_accuracy"] >= level][column].min()
                for _, group in curves[curves["run"] == "a"].groupby("seed")
            ]
            assert a[name] == pytest.approx(np.mean(first))
            assert (a[f"{name} low"], a[f"{name} high"]) == (min(first), max(first))


def test_trials_that_do_not_get_there_are_counted(runs):
    b = row(compare([runs], at=[0.84, 0.99]), "b")
    assert b["epochs to 0.84 n"] == 1
    assert b["epochs to 0.99 n"] == 0
    assert math.isnan(b["epochs to 0.99"])
    text = shown(compare([runs], at=[0.84, 0.99]))
    assert "(1 of 3)" in text
    assert "not reached" in text


@pytest.mark.parametrize(("test", "reference"), [("t", ttest_rel), ("wilcoxon", wilcoxon)])
def test_the_test_is_paired_by_seed(results, trial, test, reference):
    rng = np.random.default_rng(0)
    finals = {"a": rng.uniform(0.8, 0.9, 8), "b": rng.uniform(0.82, 0.92, 8)}
    pairs = list(itertools.product(finals, range(8)))
    found = results(
        trial(finals[run][seed], run=run, seed=seed) for run, seed in rng.permutation(np.array(pairs, object))
    )
    table = found.trials.sort_values("seed")
    a, b = (table[table["run"] == run]["final_test_accuracy"].to_numpy() for run in found.trials["run"].unique())
    other = row(compare([found], test=test), found.trials["run"].unique()[1])
    assert other["p"] == pytest.approx(reference(b, a).pvalue)
    assert other["difference"] == pytest.approx((b - a).mean())
    assert other["pairs"] == 8


def test_only_common_seeds_are_paired(results, trial):
    found = results(
        [trial(0.9, run="a", seed=seed) for seed in (0, 1, 2)], [trial(0.8, run="b", seed=seed) for seed in (2, 3)]
    )
    b = row(compare([found]), "b")
    assert b["pairs"] == 1
    assert math.isnan(b["p"])
    assert b["difference"] < 0
    assert "–" in shown(compare([found]))


@pytest.mark.parametrize(("shift", "p"), [(0.0, 1.0), (0.1, math.nan)])
def test_differences_without_spread_are_not_tested(results, trial, shift, p):
    found = results(trial(0.5 + shift * (run == "b"), run=run, seed=seed) for run in "ab" for seed in range(3))
    assert row(compare([found]), "b")["p"] == pytest.approx(p, nan_ok=True)


def test_diverged_and_failed_trials_are_counted_and_the_diverged_kept(results, trial):
    found = results(
        [trial(0.9, seed=0), trial(0.9, seed=1, status="diverged"), trial(seed=2, status="failed")], trial(0.8, run="b")
    )
    a = row(compare([found]), "danp")
    assert a[["seeds", "diverged", "failed", "final n"]].tolist() == [2, 1, 1, 2]
    assert a["final low"] == pytest.approx(0.1)
    assert "2 (1 diverged, 1 failed)" in shown(compare([found]))


def test_several_folders_are_named_apart(runs, results, trial, tmp_path):
    one = dataclasses.replace(results(trial(0.7)), folder=tmp_path / "one")
    both = dataclasses.replace(runs, folder=tmp_path / "both")
    assert compare([one, both]).table["run"].tolist() == ["one", "both: a", "both: b"]
    twin = dataclasses.replace(one, folder=tmp_path / "other" / "one")
    assert compare([one, twin]).table["run"].tolist() == [str(tmp_path / "one"), str(tmp_path / "other" / "one")]
    with pytest.raises(ArgumentError, match="each folder once"):
        compare([one, one])


def test_points_of_a_sweep_are_runs_of_their_own(results, trial):
    found = results(trial(0.5 + s / 10, seed=k, **{"chip.adc.bits": s}) for s in (1, 2) for k in range(2))
    assert compare([found]).table["run"].tolist() == ["adc.bits 1", "adc.bits 2"]


def test_losses_are_compared_where_there_are_no_classes(results, trial):
    found = results(trial(0.9, run=run, seed=k, classes=False) for run in "ab" for k in range(2))
    a = row(compare([found], at=[0.6]), "a")
    curve = found.curves[(found.curves["run"] == "a") & (found.curves["seed"] == 0)]
    assert a["epochs to 0.6"] == curve[curve["test_loss"] <= 0.6]["epoch"].min()
    classes = dataclasses.replace(results(trial(0.9)), folder=found.folder / "x")
    with pytest.raises(ArgumentError, match="classes or not"):
        compare([found, classes])


def test_the_overlay_draws_every_run_and_the_levels(runs, drawn, legend):
    comparison = compare([runs], at=[0.5])
    figure = draw(comparison)
    axes = drawn(figure)
    assert legend(figure)[:2] == ["a", "b"]
    assert all(any(line.get_ydata() == [50, 50] for line in axis.lines if len(line.get_ydata()) == 2) for axis in axes)


def test_the_table_says_which_test_against_what(runs):
    text = shown(compare([runs], test="wilcoxon", band="ci95"))
    assert "Wilcoxon signed-rank test over common seeds, two-sided, uncorrected" in text
    assert "against a;" in text
    assert "95 % confidence interval" in text
    assert " ± " in text


def test_mistakes_are_refused(runs):
    for settings, words in (
        ({"at": [90]}, "--at: 90 is not allowed; allowed: accuracies as fractions"),
        ({"test": "z"}, "--test: 'z' is not allowed; allowed: t, wilcoxon"),
        ({"band": "sem"}, "band: 'sem'"),
    ):
        with pytest.raises(ArgumentError, match=words):
            compare([runs], **settings)
    assert levels("0.8, .9") == (0.8, 0.9)
    assert levels("") == ()
    with pytest.raises(ArgumentError, match="numbers with commas"):
        levels("0.8;0.9")


def test_from_the_command_line(call):
    """Two chips on digits: whole lines however long, a picture, and one line for a mistake."""
    for chip in ("ideal", "gaussian-node"):
        call("train", "small.yaml", "--chip", chip, "--set", "seeds=2", "--set", "training.epochs=2", "--out", chip)
    code, out, err = call("compare", "ideal", "gaussian-node", "--at", "0.1,0.99", "-o", "both.svg")
    assert (code, err) == (0, "")
    assert "ideal" in out
    assert "not reached" in out
    assert out.endswith("picture: both.svg\n")
    for arguments in (["ideal", "--at", "9"], ["ideal", "nowhere"], ["ideal", "-o", "both.gif"]):
        code, out, err = call("compare", *arguments)
        assert (code, out, err.count("\n")) == (1, "", 1)
