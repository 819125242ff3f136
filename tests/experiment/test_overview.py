"""What is said of a sweep before it runs: how much is left, how long it will take; and what many trials cost."""

import resource
import runpy
import shutil
import time
from pathlib import Path

import pytest

from analogsim.config.loader import parse_set
from analogsim.config.sweeps import load_sweep
from analogsim.experiment import estimate
from analogsim.experiment.overview import dry_run
from analogsim.experiment.results import TRIAL_FIGURES
from analogsim.experiment.sweep import Options, Watcher, grouped, run_sweep
from analogsim.experiment.trials import Ended

# Tests are imported one by one, not as a package: what is there already is fetched from its file.
_sweep = runpy.run_path(str(Path(__file__).with_name("test_sweep.py")))
SWEEP, whole, copy, contents = (_sweep[name] for name in ("SWEEP", "whole", "copy", "contents"))


def load(*changes):
    """changes: as with --set."""
    return load_sweep(SWEEP, [parse_set(change) for change in changes])


def test_a_dry_run_counts_and_estimates_and_writes_nothing(tmp_path, copy):
    text = dry_run(load(), tmp_path / "new", Options(workers=2))
    assert text.startswith("8 trials: 0 done, 0 failed, 8 left\nabout ")
    assert text.endswith("from a few timed steps of 8 trials (on 2 workers)")
    text = dry_run(load("batched_seeds=off"), tmp_path / "new", Options(workers=2))
    assert text.endswith("from a few timed steps of 4 trials (on 2 workers)")
    assert not (tmp_path / "new").exists()
    shutil.rmtree(copy / "trials" / load().trials[0].name)
    before = contents(copy)
    text = dry_run(load(), copy, Options())
    assert text.startswith("8 trials: 7 done, 0 failed, 1 left\nabout ")
    assert "as 7 finished trials took (on 1 worker)" in text
    assert dry_run(load("seeds=[1]"), copy, Options()) == "4 trials: 4 done, 0 failed, 0 left"
    assert contents(copy) == before


@pytest.mark.parametrize("changes", [("seeds=[0]",), ("seeds=4",), ("seeds=4", "batched_seeds=off")])
def test_an_estimate_is_of_the_right_size(tmp_path, changes):
    """Within a factor of ten of what the trials then took, on a machine that may be busy."""
    sweep = load("training.epochs=20", "training.batch=50", "axes.learner.rule=[danp]", *changes)
    text = dry_run(sweep, tmp_path, Options())
    guessed = float(text.split("about ")[1].split(" s ")[0])
    began = time.monotonic()
    run_sweep(sweep, tmp_path, Options(), Watcher())
    took = time.monotonic() - began
    assert took / 10 < guessed + 0.5 < took * 10 + 5


@pytest.mark.parametrize(("workers", "calls"), [(1, [16]), (2, [8, 8])])
def test_seeds_trained_together_are_timed_together(monkeypatch, workers, calls):
    """A step of 16 seeds in one is timed as such: 16 steps one by one would be another estimate."""
    sweep, timed = load("seeds=16", "axes.learner.rule=[danp]", "axes.chip.node_noise.sigma=[0.1]"), []
    monkeypatch.setattr(estimate, "timed", lambda group: timed.append(len(group)) or 1.0 * len(group))
    groups = grouped(sweep, sweep.trials, Options(workers=workers))
    runs = {trial.name: trial.run for trial in sweep.trials}
    guess = estimate.estimate(groups, {}, runs, workers)
    assert timed == calls
    assert guess.seconds == 16 / workers


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_two_thousand_trials_of_a_learner_that_does_nothing(tmp_path, workers):
    """The overhead a trial and the coordinator's memory; run with -s to read them."""
    figures = dict.fromkeys(TRIAL_FIGURES, 0) | {"status": "ok", "error": ""}

    def work(task, stop):
        return Ended("ok", seconds=0.0, memory_MB=1.0, figures=figures)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began, cpu = time.monotonic(), time.process_time()
    state = run_sweep(load("seeds=500"), tmp_path, Options(workers=workers, work=work), Watcher())
    took, cpu = time.monotonic() - began, time.process_time() - cpu
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert state.count("ok") == 2000
    assert len((tmp_path / "trials.csv").read_text().splitlines()) == 2001
    print(f"\n{workers} workers: {took / 2:.2f} ms a trial ({cpu / 2:.2f} ms of the coordinator's CPU), "
          f"{after / 1024:.0f} MB, {(after - before) / 1024:.0f} MB more than before")  # fmt: skip
    assert took / 2000 < 0.1
    assert after - before < 200 * 1024
