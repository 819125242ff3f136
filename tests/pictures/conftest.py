"""Results made up for pictures: the tables that `load_results` would give, from a rule for every trial."""

import hashlib
import itertools
import math
import warnings
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from analogsim.experiment.results import EPOCH_COLUMNS, FIGURES, RUN_COLUMNS, TRIAL_FIGURES
from analogsim.experiment.tables import Results


def _trial(
    final=0.9,
    *,
    run="danp",
    rule=None,
    chip="gaussian-node",
    seed=0,
    epochs=10,
    status="ok",
    classes=True,
    reads=1000,
    wiggle=0.0,
    **axes,
):
    """One trial whose test accuracy rises from 0.1 to `final`; a diverged one falls back to 0.1 half-way."""
    labels = {
        "trial": hashlib.sha256(repr((run, chip, seed, axes)).encode()).hexdigest()[:16],
        "run": run,
        "chip": chip,
    }
    labels |= {"rule": rule or run.split()[0], "baseline": "noisy", "seed": seed, **axes}
    figures = dict.fromkeys(TRIAL_FIGURES, math.nan) | {"status": status, "error": ""}
    if status in ("failed", "pending"):
        return labels | figures | {"error": "killed" if status == "failed" else ""}, []
    rows = []
    last = epochs // 2 if status == "diverged" else epochs
    for epoch in range(last + 1):
        share = 0.1 + (final - 0.1) * (1 - math.exp(-4 * epoch / max(epochs, 1))) + wiggle * math.sin(3 * epoch + seed)
        gone = status == "diverged" and epoch == last
        share, loss = (0.1, math.nan) if gone else (share, 2.5 * math.exp(-2.5 * share))
        shares = [share, share, min(1.0, share + 0.01)] if classes else [math.nan] * 3
        row = dict.fromkeys(EPOCH_COLUMNS, math.nan) | {"epoch": epoch, "step": 10 * epoch, "reads": reads * epoch}
        row |= {"writes": 7 * epoch, "train_loss": loss * 0.9, "test_loss": loss, "seconds": 0.5 * epoch}
        row |= {"train_accuracy": shares[0], "test_accuracy": shares[1], "test_accuracy_ideal": shares[2]}
        rows.append(labels | row | {"status": "diverged" if gone else "ok"})
    best = max(rows, key=lambda row: row["test_accuracy"] if classes else -row["test_loss"])
    figures |= {"epochs": last, "reads": reads * last, "writes": 7 * last, "best_epoch": best["epoch"]}
    figures |= {f"final_{name}": rows[-1][name] for name in FIGURES} | {f"best_{name}": best[name] for name in FIGURES}
    return labels | figures, rows


def _results(trials, folder="folder", kind=None):
    """The tables of those trials; the axes are the columns that no other table has."""
    trials = list(trials)
    axes = list(dict.fromkeys(itertools.chain(*trials and [list(one) for one, _ in trials])))
    axes = [name for name in axes if name not in ("trial", *RUN_COLUMNS, *TRIAL_FIGURES)]
    head = ["trial", *RUN_COLUMNS, *axes]
    texts = [name for name in axes if any(isinstance(one.get(name), str) for one, _ in trials)]
    table = pd.DataFrame([one for one, _ in trials], columns=[*head, *TRIAL_FIGURES])
    curves = pd.DataFrame([row for _, rows in trials for row in rows], columns=[*head, *EPOCH_COLUMNS])
    for name in texts:
        table[name], curves[name] = table[name].fillna(""), curves[name].fillna("")
    varied = (*(["chip"] if axes and table["chip"].nunique() > 1 else []), *axes)
    return Results(Path(folder), kind or ("sweep" if axes else "run"), varied, table, curves, ())


@pytest.fixture
def trial():
    """trial(final, **labels and axes) -> one trial's row and curve."""
    return _trial


@pytest.fixture
def results(tmp_path):
    """results(trials) -> what `load_results` would give of a folder with them."""
    return lambda *trials: _results(
        itertools.chain(*([one] if isinstance(one, tuple) else one for one in trials)), tmp_path
    )


@pytest.fixture
def drawn():
    """drawn(figure) -> its visible axes, once it has been laid out and drawn without a warning."""

    def drawn(figure: Figure):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            figure.canvas.draw()
        return [axis for axis in figure.axes if axis.get_visible()]

    return drawn


@pytest.fixture
def legend():
    """legend(figure) -> the words of the legend below it."""
    return lambda figure: [text.get_text() for one in figure.legends for text in one.get_texts()]
