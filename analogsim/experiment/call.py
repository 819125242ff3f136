"""Train from Python as `analogsim train` does, and get the tables back."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from analogsim.config.loader import Plan, load_plan
from analogsim.config.schema import Experiment
from analogsim.experiment.results import claimed
from analogsim.experiment.run import Reporter
from analogsim.experiment.run import train as train_plan
from analogsim.experiment.tables import Results, load_results


def train(
    experiment: str | Path | Mapping[str, Any] | Experiment | Plan,
    out: str | Path | None = None,
    backend: str = "auto",
    device: str = "cpu",
    reporter: Reporter | None = None,
) -> Results:
    """Train every variant and seed of an experiment: `train("quickstart").trials`.

    experiment: a shipped NAME, a FILE, a mapping as in a file, an Experiment or a Plan.
    out: the run folder to make, left out: none is kept. reporter: told of every step; None: silent.
    Raises ConfigError, CapabilityError, DataError or RunFolderError before any training; Ctrl-C
    ends it with KeyboardInterrupt, and what is done so far is in `out`, where --resume goes on.
    """
    if isinstance(experiment, Experiment):
        plan = Plan({experiment.learner.rule: experiment.resolved()})
    else:
        plan = experiment if isinstance(experiment, Plan) else load_plan(experiment)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="analogsim-")) if out is None else out)
        with claimed(folder, resume=False):
            outcome = train_plan(plan, folder, backend, device, resume=False, reporter=reporter or Reporter())
        if outcome.interrupted:
            raise KeyboardInterrupt
        return load_results(folder)
