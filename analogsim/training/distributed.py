"""One training on several processes, started by torchrun: each runs its own rows of every batch, or its own passes.

    ΔW = Σ_p (n_p / n) ΔW_p ,   C = Σ_p X*_pᵀ X*_p / n            n_p of the batch's n rows in process p
    ΔW = Σ_p (K_p / K) ΔW_p                                       all rows, K_p of the K noisy samples in process p

Noise belongs to the numbers of a sample and a pass and not to who runs them (streams.py), so all processes
together do what one does alone, but for the order in which sums are taken. Where passes are shared out, all run
the first pass, which the others are compared with and R learns from; the ledger counts it once. Every process holds
the whole chip, writes it alike, and is told the same sums; the first alone writes files and talks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from analogsim.chip.chip import SimulatedChip
from analogsim.config.schema import Experiment
from analogsim.contracts import Chip, Factors, WeightUpdate
from analogsim.errors import ArgumentError, ProcessesError
from analogsim.training.data import Dataset

T = TypeVar("T")
APART = 1e-3  # of a tensor's Σ |.|: rounding differs on unlike machines, a state read from elsewhere far more


@dataclass(frozen=True)
class Passes:
    """The passes of a step: the first, then those of every sample, one after the other.

    samples: K. each: passes a sample. counted: 1 where the first pass is nobody's, 0 where the first sample's own.
    """

    samples: int
    each: int
    counted: int

    def before(self, sample: int) -> int:
        """The number of that sample's first pass."""
        return self.counted + self.each * sample


class Team:
    """The processes of a training, this one being number `rank` of `size`; a `contracts.Share` of the step in hand.

    Alone, nothing is sent and nothing changes. All others must call the same methods in the same order.
    """

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0):
        self.rank, self.size, self._local_rank = rank, size, local_rank
        self.first = self.whole = self.rows = self.skipped = 0
        self._passes: Passes | None = None  # shared out in place of the rows

    def sharing(self, passes: Passes) -> Team:
        """The same processes, each with samples of its own, K_p of them, on all rows."""
        other = copy(self)
        other._passes = passes
        return other

    @property
    def leads(self) -> bool:
        """This process writes the files and shows the progress."""
        return self.rank == 0

    @property
    def share(self) -> Team | None:
        """What chip and learner are given: nothing if a step is not shared."""
        return self if self.size > 1 else None

    @property
    def share_of_rows(self) -> Team | None:
        """What is given to those who sum over a batch: nothing if all of it is here."""
        return self.share if self._passes is None else None

    def samples_of(self, samples: int) -> int:
        """Those of K that this process runs, which differ by at most one in number."""
        own = slice(0, samples) if self._passes is None else self._part(samples)
        return own.stop - own.start

    def take(self, whole: int) -> slice:
        """Begin a pass over that many rows; gives those of this process, which differ by at most one in number."""
        own = self._part(whole)
        self.first, self.whole, self.rows, self.skipped = own.start, whole, own.stop - own.start, 0
        return own

    def begin(self, whole: int) -> slice:
        """Begin a step on a batch of that many rows; gives those that this process runs."""
        if self._passes is None:
            return self.take(whole)
        self.first, self.whole, self.rows = 0, whole, whole
        self.skipped = max(self._passes.before(self._part(self._passes.samples).start) - 1, 0)
        return slice(0, whole)

    def _part(self, whole: int) -> slice:
        return slice(whole * self.rank // self.size, whole * (self.rank + 1) // self.size)

    def device(self, name: str) -> str:
        """`cuda` is a GPU a process; cpu stays what it is."""
        if self.size == 1 or name == "cpu":
            return name
        if name != "cuda":
            raise ArgumentError(
                "device", name, "cpu or cuda where several processes train: each takes a GPU of its own"
            )
        return f"cuda:{self._local_rank}"

    # --- sums over the processes ----------------------------------------------------------------

    def sum(self, tensor: Tensor) -> Tensor:
        """Added up over the processes, in place."""
        return self._reduced(tensor, dist.ReduceOp.SUM)

    def sums(self, *numbers: float) -> list[float]:
        """Numbers added up over the processes, in float64."""
        return list(numbers) if self.size == 1 else self.sum(torch.tensor(numbers, dtype=torch.float64)).tolist()

    def any(self, flag: bool) -> bool:
        """Whether any process says so; all get the same answer."""
        return self.sums(flag)[0] > 0

    def totals(self, *numbers: float) -> list[float]:
        """Figures of a step's first pass over all rows, from those of this process's."""
        return self.sums(*(number if self._passes is None or self.leads else 0.0 for number in numbers))

    def mean(self, update: WeightUpdate, factored: bool = False) -> WeightUpdate:
        """The gradient of the step, from the mean over this process's rows or samples; factored: as factors of all."""
        if self.size == 1:
            return update
        passes = self._passes
        part = self.rows / self.whole if passes is None else self.samples_of(passes.samples) / passes.samples
        layers = []
        for layer in update.layers:
            weight, bias = layer.weight, layer.bias
            if isinstance(weight, Factors) and factored:
                errors = weight.errors * part
                if passes is None:
                    weight = Factors(self._gathered(errors), self._gathered(weight.inputs))
                else:
                    weight = Factors(self.sum(errors), weight.inputs)
            elif weight is not None:
                dense = weight.dense() if isinstance(weight, Factors) else weight
                weight = self.sum(dense * part)
            layers.append(replace(layer, weight=weight, bias=None if bias is None else self.sum(bias * part)))
        return WeightUpdate(tuple(layers))

    def count(self, chip: Chip, before: Sequence[int] | None) -> None:
        """Count what the others' passes cost as well; a row costs what any other does, and so does a pass.

        before: the ledger's `of_passes` ahead of this step's. Nobody is asked, so that nobody is waited for.
        """
        if before is None or not isinstance(chip, SimulatedChip):
            return
        if self._passes is None:
            chip.ledger.share(before, self.rows, self.whole)
            return
        passes, later = (self._passes.before(n) for n in (self._passes.samples, self._part(self._passes.samples).stop))
        chip.skip(passes - later)
        chip.ledger.share(before, later - self.skipped, passes)

    def _gathered(self, rows: Tensor) -> Tensor:
        """The rows of all processes, in order; exact, since each adds its own to zeros."""
        all_rows = rows.new_zeros(self.whole, *rows.shape[1:])
        all_rows[self.first : self.first + self.rows] = rows
        return self.sum(all_rows)

    def _reduced(self, tensor: Tensor, how: dist.ReduceOp.RedOpType) -> Tensor:
        if self.size > 1:
            self._answered(lambda: dist.all_reduce(tensor, how))
        return tensor

    def _answered(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except RuntimeError as error:  # torch's own, when a process is gone
            raise ProcessesError(f"process {self.rank} of {self.size}: another process has ended or is lost") from error

    # --- going on together ----------------------------------------------------------------------

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """The first process does it, then the others; where it fails, they do not begin."""
        if not self.leads:
            self.sums(0)
        yield
        if self.leads:
            self.sums(0)

    def check_alike(self, tensors: Mapping[str, Tensor]) -> None:
        """Raises ProcessesError where a state is not the same in all processes, as where folders are not."""
        sizes = torch.tensor([float(tensor.double().abs().sum()) for tensor in tensors.values()], dtype=torch.float64)
        sizes = sizes.nan_to_num(0.0, 0.0, 0.0)  # of a diverged network
        least = self._reduced(sizes.clone(), dist.ReduceOp.MIN)
        most = self._reduced(sizes.clone(), dist.ReduceOp.MAX)
        for name, low, high in zip(tensors, least.tolist(), most.tolist()):
            if high - low > APART * high:
                raise ProcessesError(f"{name} is not the same in all {self.size} processes; do all see the same files?")


ALONE = Team()


@contextmanager
def joined() -> Iterator[Team]:
    """The team that torchrun made this process part of."""
    cuda = torch.cuda.is_available() and dist.is_nccl_available()
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if cuda and local < torch.cuda.device_count():
        torch.cuda.set_device(local)
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    except (RuntimeError, ValueError) as error:
        raise ProcessesError(f"the processes cannot find each other: {error}") from error
    try:
        yield Team(dist.get_rank(), dist.get_world_size(), local)
    finally:
        dist.destroy_process_group()


def shared_out(team: Team, experiment: Experiment, data: Dataset, layers: int) -> Team:
    """The team as it trains this experiment, a network of that many layers: by rows, or by samples."""
    if team.size == 1 or not _by_samples(experiment, data, team.size):
        return team
    settings = experiment.learner
    one_by_one, noisy = settings.base_rule == "inp", settings.baseline == "noisy"
    each = layers * (2 if noisy else 1) if one_by_one else 1
    return team.sharing(Passes(settings.samples, each, 0 if one_by_one and noisy else 1))


def _by_samples(experiment: Experiment, data: Dataset, size: int) -> bool:
    """Whether `training.split` shares out the noisy samples, not the rows; auto: where rows are too few.

    All processes run the first pass and move R where it shares out samples, so rows are shared out where they can be.
    """
    learner, split, batch = experiment.learner, experiment.training.split, experiment.training.batch
    samples = 0 if learner.base_rule == "bp" else learner.samples
    if split == "samples":
        if samples < size:
            lacking = f"learner.samples: {samples} are too few" if samples else f"rule {learner.rule} has none"
            raise ProcessesError(
                f"training.split: samples, and {lacking} for {size} processes; "
                f"allowed: {size} samples or more of another rule than bp and dbp, split: batch, or fewer processes"
            )
        return True
    rows = len(data.x_train)
    least = min(rows, batch, rows % batch or batch)
    if least >= size:
        return False
    if split == "auto" and samples >= size:
        return True
    or_samples = f", {size} learner.samples or more" if split == "auto" and samples else ""
    raise ProcessesError(
        f"training.batch: {batch} makes a batch of {least} rows of the {rows} of {data.name}, too few for "
        f"{size} processes; allowed: a batch that leaves {size} rows or more{or_samples}, or fewer processes"
    )


def check_shared(experiments: Iterable[tuple[Experiment, Dataset]], team: Team) -> None:
    """Refuse before training what cannot be split over the processes.

    Raises ProcessesError for fewer rows or samples than processes, whichever `training.split` shares out, and for a
    chip whose noise goes on from one sample to the next (`node_noise.telegraph`), which no process could follow alone.
    """
    if team.size == 1:
        return
    for experiment, data in experiments:
        _by_samples(experiment, data, team.size)
        if experiment.chip.node_noise.telegraph is not None:
            raise ProcessesError(
                f"chip {experiment.chip.name}: node_noise.telegraph goes on from one sample to the next, so its "
                f"steps cannot be split over {team.size} processes; allowed: one process"
            )
