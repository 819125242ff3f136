"""One training on several processes, started by torchrun: each runs its own rows of every batch.

    ΔW = Σ_p (n_p / n) ΔW_p ,   C = Σ_p X*_pᵀ X*_p / n            n_p of the batch's n rows in process p

Noise belongs to a sample's number in the batch and not to who runs it (streams.py), so all processes
together do what one does alone, but for the order in which sums are taken. Every process holds the whole
chip, writes it alike, and is told the same sums; the first alone writes files and talks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from analogsim.chip.ledger import CountingLedger
from analogsim.config.schema import Experiment
from analogsim.contracts import Factors, WeightUpdate
from analogsim.errors import ArgumentError, ProcessesError
from analogsim.training.data import Dataset

T = TypeVar("T")
APART = 1e-3  # of a tensor's Σ |.|: rounding differs on unlike machines, a state read from elsewhere far more


class Team:
    """The processes of a training, this one being number `rank` of `size`; a `contracts.Share` of the batch in hand.

    Alone, nothing is sent and nothing changes. All others must call the same methods in the same order.
    """

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0):
        self.rank, self.size, self._local_rank = rank, size, local_rank
        self.first = self.whole = self.rows = 0

    @property
    def leads(self) -> bool:
        """This process writes the files and shows the progress."""
        return self.rank == 0

    @property
    def share(self) -> Team | None:
        """What chip and learner are given: nothing if a batch is not shared."""
        return self if self.size > 1 else None

    def take(self, whole: int) -> slice:
        """Begin a batch of that many rows; gives those of this process, which differ by at most one in number."""
        start, stop = whole * self.rank // self.size, whole * (self.rank + 1) // self.size
        self.first, self.whole, self.rows = start, whole, stop - start
        return slice(start, stop)

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

    def mean(self, update: WeightUpdate, factored: bool = False) -> WeightUpdate:
        """The gradient of the batch, from the mean over this process's rows; factored: as the factors of all rows."""
        if self.size == 1:
            return update
        part = self.rows / self.whole
        layers = []
        for layer in update.layers:
            weight, bias = layer.weight, layer.bias
            if isinstance(weight, Factors) and factored:
                weight = Factors(self._gathered(weight.errors * part), self._gathered(weight.inputs))
            elif weight is not None:
                dense = weight.dense() if isinstance(weight, Factors) else weight
                weight = self.sum(dense * part)
            layers.append(replace(layer, weight=weight, bias=None if bias is None else self.sum(bias * part)))
        return WeightUpdate(tuple(layers))

    def count(self, ledger: object, before: Tensor | None) -> None:
        """Count what the others' rows cost as well. before: the ledger's state ahead of this step's passes."""
        if before is not None and isinstance(ledger, CountingLedger):
            ledger.load(before + self.sum(ledger.state() - before))

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


def check_shared(experiments: Iterable[tuple[Experiment, Dataset]], team: Team) -> None:
    """Refuse before training what cannot be split over the processes.

    Raises ProcessesError for a batch with fewer rows than processes, and for a chip whose noise goes on from
    one sample to the next (`node_noise.telegraph`), which no process could follow alone.
    """
    if team.size == 1:
        return
    for experiment, data in experiments:
        rows, batch = len(data.x_train), experiment.training.batch
        least = min(rows, batch, rows % batch or batch)
        if least < team.size:
            raise ProcessesError(
                f"training.batch: {batch} makes a batch of {least} rows of the {rows} of {data.name}, too few for "
                f"{team.size} processes; allowed: a batch that leaves {team.size} rows or more, or fewer processes"
            )
        if experiment.chip.node_noise.telegraph is not None:
            raise ProcessesError(
                f"chip {experiment.chip.name}: node_noise.telegraph goes on from one sample to the next, so its "
                f"batches cannot be split over {team.size} processes; allowed: one process"
            )
