"""Folders of sweeps that nobody trained: real plans and files, made-up curves."""

import json
import math

import pytest

from analogsim.config.sweeps import load_sweep
from analogsim.experiment.results import EPOCH_COLUMNS, RUN_COLUMNS, TRIAL_FIGURES, csv_text, summarise, trial_figures

ENVIRONMENT = {
    "backend": "numba",
    "device": "cpu",
    "device_name": "",
    "threads": 1,
    "python": "3.12.1",
    "platform": "Linux",
    "versions": {"analogsim-danp": "0.1.0", "numpy": "2.1.0", "torch": None},
    "git_commit": "0123456789abcdef0123456789abcdef01234567",
}
NOISE = {  # 3 rules × 13 × 5 seeds and 5 of the reference: 200 trials
    "data": "digits",
    "chip": "ideal",
    "training": {"epochs": 30},
    "seeds": 5,
    "axes": {"node_noise": {"logspace": [1e-5, 1.0, 13]}},
    "variants": {
        "danp": {"learner.rule": "danp", "chip": "gaussian-node", "chip.node_noise.sigma": "$node_noise"},
        "dnp": {"learner.rule": "dnp", "learner.baseline": "noisy", "learner.perturbation": "$node_noise"},
        "dbp": {"learner.rule": "dbp", "chip": "gaussian-node", "chip.node_noise.sigma": "$node_noise"},
        "dbp noise-free": {"learner.rule": "dbp"},
    },
}
GRID = {
    "data": "digits",
    "chip": "crossbar-generic",
    "training": {"epochs": 5},
    "seeds": 2,
    "axes": {"chip.adc.bits": [4, 6, 8, 10], "chip.cell.read_noise.k_sqrt_uS": [0.01, 0.1, 1.0]},
}


def epochs(trial, ended):
    """A made-up training: best where the noise is neither small nor large."""
    last = trial.experiment.training.epochs
    last = last // 2 if ended == "diverged" else last
    try:
        noise = max(float(next(iter(trial.point.values()), "1e-3")), 1e-6)
    except ValueError:  # an axis of names
        noise = 1e-3
    top = 0.97 - 0.03 * abs(math.log10(noise) + 2.5) - 0.02 * ("dnp" in trial.run) + 0.01 * math.sin(7.0 * trial.seed)
    for epoch in range(last + 1):
        share = 0.1 + (top - 0.1) * (1 - math.exp(-4 * epoch / max(last, 1)))
        gone = ended == "diverged" and epoch == last
        loss = 2.4 * math.exp(-3 * share)
        if gone:
            loss = 50.0 if noise >= 1 else math.nan
        row = {"epoch": epoch, "step": 36 * epoch, "reads": 1437 * 2 * epoch, "writes": 9000 * epoch}
        row |= {"train_loss": loss, "train_accuracy": share + 0.01, "test_loss": loss, "test_accuracy": share}
        row |= {"test_accuracy_ideal": share + 0.005, "angle_deg": None, "seconds": 0.5 * epoch}
        yield row | {"status": "diverged" if gone else "ok"}


def make(folder, plan, how=lambda place, trial: "ok"):
    """A sweep's folder in which trial after trial ended as how(place, trial) says: ok, diverged, failed, pending."""
    sweep = load_sweep(plan)
    folder.mkdir(parents=True)
    (folder / "sweep.yaml").write_text(sweep.text)
    rows = []
    for place, trial in enumerate(sweep.trials):
        ended, home = how(place, trial), folder / "trials" / trial.name
        figures = {"status": ended, "error": ""}
        if ended != "pending":
            home.mkdir(parents=True)
            (home / "environment.json").write_text(json.dumps(ENVIRONMENT))
        if ended == "failed":
            figures["error"] = "MemoryError: no room for <b>this</b>"
            (home / "error.json").write_text(
                json.dumps({"error": figures["error"], "traceback": "File <x>\nMemoryError"})
            )
        elif ended != "pending":
            labels = {name: trial.labels[name] for name in RUN_COLUMNS}
            curve = list(epochs(trial, ended))
            text = csv_text((*RUN_COLUMNS, *EPOCH_COLUMNS), [labels | row for row in curve])
            (home / "curves.csv").write_text(text)  # without a sync to the disk each
            figures = trial_figures(summarise(labels, curve, ended))
        rows.append(trial.labels | figures)
    columns = ("trial", *RUN_COLUMNS, *sweep.columns, *TRIAL_FIGURES)
    (folder / "trials.csv").write_text(csv_text(columns, rows))
    return folder


def troubled(place, trial):
    return {5: "diverged", 60: "diverged", 7: "failed", 9: "pending"}.get(place, "ok")


@pytest.fixture(scope="session")
def noise_sweep(tmp_path_factory):
    """200 trials over one axis, with a reference, two divergences, a failure and one to go."""
    return make(tmp_path_factory.mktemp("noise") / "noise", NOISE, troubled)


@pytest.fixture(scope="session")
def grid_sweep(tmp_path_factory):
    return make(tmp_path_factory.mktemp("grid") / "grid", GRID, troubled)


@pytest.fixture
def made():
    return make
