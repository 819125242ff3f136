"""What there is to say of a sweep in a few lines: before, during and after it runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from analogsim.config.sweeps import Sweep, load_sweep
from analogsim.errors import RunFolderError
from analogsim.experiment.estimate import Estimate, estimate
from analogsim.experiment.state import standings
from analogsim.experiment.sweep import Options, grouped
from analogsim.experiment.tables import DONE, read_table
from analogsim.experiment.trials import Ended
from analogsim.training.build import check_plan

SHOWN = 10  # failed trials


def dry_run(sweep: Sweep, folder: Path, options: Options) -> str:
    """What running this sweep into this folder would do, how long it would take and how much memory."""
    check_plan({trial.name: trial.experiment for trial in sweep.trials})
    notes: list[str] = []
    ended = standings(sweep, folder, notes.append)
    lines = [*notes, overview(ended)]
    if sweep.repeated:
        lines.append(f"{sweep.repeated} more points of the axes repeat trials already there")
    guess = _estimate(sweep, ended, options)
    if guess is not None:
        workers = options.scheduler or f"{options.workers} worker{'s' if options.workers > 1 else ''}"
        lines.append(f"{guess} (on {workers})")
    return "\n".join(lines)


def status(folder: Path) -> str:
    """How far the sweep of a folder is, and what failed."""
    notes: list[str] = []
    if not (folder / "sweep.yaml").is_file():
        if not (folder / "trials.csv").is_file():
            raise RunFolderError(f"{folder}: no sweep here, it has no sweep.yaml")
        _, rows = read_table(folder / "trials.csv", notes.append)  # several sweeps combined
        return "\n".join([*notes, overview({row["trial"]: Ended(row["status"], row["error"]) for row in rows})])
    sweep = load_sweep(folder / "sweep.yaml")
    ended = standings(sweep, folder, notes.append)
    pending = [name for name, how in ended.items() if how.status == "pending"]
    begun = sum((folder / "trials" / name / "config.yaml").is_file() for name in pending)
    lines = [*notes, overview(ended) + (f", {begun} of them begun" if begun else "")]
    failed = [(name, how.error) for name, how in ended.items() if how.status == "failed"]
    lines += [f"failed: {name}: {error}" for name, error in failed[:SHOWN]]
    if len(failed) > SHOWN:
        lines.append(f"and {len(failed) - SHOWN} more, in {folder / 'trials.csv'}")
    return "\n".join(lines)


def overview(ended: Mapping[str, Ended]) -> str:
    """`40 trials: 38 done (2 diverged), 1 failed, 1 left`."""
    count = Counter(how.status for how in ended.values())
    diverged = f" ({count['diverged']} diverged)" if count["diverged"] else ""
    done = sum(count[status] for status in DONE)
    s = "" if len(ended) == 1 else "s"
    return f"{len(ended)} trial{s}: {done} done{diverged}, {count['failed']} failed, {count['pending']} left"


def _estimate(sweep: Sweep, ended: Mapping[str, Ended], options: Options) -> Estimate | None:
    again = ("pending", "failed") if options.retry_failed else ("pending",)
    left = [trial for trial in sweep.trials if ended[trial.name].status in again]
    finished = {name: how for name, how in ended.items() if how.status in DONE}
    runs = {trial.name: trial.run for trial in sweep.trials}
    return estimate(grouped(sweep, left, options), finished, runs, options.workers) if left else None
