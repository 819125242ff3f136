"""How long a sweep will take and how much memory: from its finished trials, else from a few timed steps."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from analogsim.config.sweeps import Trial
from analogsim.experiment.threads import threads_limited
from analogsim.experiment.trials import Ended, load_once, peak_memory_MB
from analogsim.training.build import build_trainer
from analogsim.training.seeds import train_together

SAMPLED = 4  # trials, or seeds trained together, evenly spread over those left
STEPS = 4  # of each, the first left out: it compiles


@dataclass(frozen=True)
class Estimate:
    """seconds: of all that is left, on so many workers. memory_MB: of all workers. basis: what it rests on."""

    seconds: float
    memory_MB: float | None
    basis: str

    def __str__(self) -> str:
        memory = "" if self.memory_MB is None else f" and {self.memory_MB / 1000:.1f} GB"
        return f"about {duration(self.seconds)}{memory}, {self.basis}"


def estimate(
    groups: Sequence[Sequence[Trial]], finished: Mapping[str, Ended], runs: Mapping[str, str], workers: int
) -> Estimate:
    """groups: trials to run, seeds trained together in one. finished: how trials ended. runs: trial -> its variant."""
    took: dict[str, list[float]] = {}
    for name, ended in finished.items():
        if ended.seconds is not None:
            took.setdefault(runs[name], []).append(ended.seconds)
    memory = max((ended.memory_MB for ended in finished.values() if ended.memory_MB is not None), default=None)
    count = sum(map(len, took.values()))
    if count:
        basis = f"as {count} finished trial{'s' if count > 1 else ''} took"
        mean = statistics.fmean(seconds for each in took.values() for seconds in each)
        seconds = sum(statistics.fmean(took.get(trial.run, [mean])) for group in groups for trial in group)
    else:
        sampled = groups[:: max(1, math.ceil(len(groups) / SAMPLED))]
        trials = sum(map(len, sampled))
        seconds = sum(map(timed, sampled)) / trials * sum(map(len, groups)) if groups else 0.0
        memory, basis = peak_memory_MB(), f"from a few timed steps of {trials} trials"
    busy = max(1, min(workers, len(groups)))
    return Estimate(seconds / busy, None if memory is None else memory * busy, basis)


def timed(group: Sequence[Trial]) -> float:
    """Seconds these trials would take together: their first evaluation, and some steps, times their number."""
    with threads_limited(1):
        trainers = [build_trainer(trial.experiment, load_once(trial.experiment.data), trial.seed) for trial in group]
        first, ends = trainers[0], list[float]()
        began = time.perf_counter()
        note = lambda: ends.append(time.perf_counter())  # noqa: E731
        if len(group) == 1:
            first.run(lambda: len(ends) > STEPS, note, note)
        else:
            told = [note, *[lambda: None] * (len(group) - 1)]
            train_together(trainers, lambda: len(ends) > STEPS, told, told)
        evaluation, steps = (ends[0] - began) * len(group), [end - start for start, end in pairwise(ends)]
        step = min(steps[1:] or steps or [0.0])
        return evaluation * (1 + first.epochs / 2) + step * first.epochs * first.batches


def duration(seconds: float) -> str:
    """12 s, 3 min, 5.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
