"""The training loop: ask the learner, run the chip, tell the learner, write the chip.

One `Trainer` is one run. Between any two steps its whole state can be saved, and a trainer
built anew and loaded with it goes on to the same bytes.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import Any, Literal

import torch
from torch import Tensor

from analogsim.at_hand import at_hand
from analogsim.backends.torch import full_precision, tf32_products
from analogsim.chip.chip import SimulatedChip
from analogsim.chip.passes import passes_at_once
from analogsim.contracts import Activities, Chip, Learner, Probe, WeightUpdate
from analogsim.errors import ArgumentError
from analogsim.learners.decorrelation import Decorrelated
from analogsim.streams import Stream
from analogsim.training import oracle
from analogsim.training.checkpoint import Checkpoint
from analogsim.training.data import Dataset
from analogsim.training.distributed import ALONE, Team
from analogsim.training.optimizer import Optimizer

DIVERGED = 10.0  # times the untrained loss
LOOK_EVERY = 50  # steps between two looks at a GPU's losses, each a wait for all that is queued there


@dataclass
class Progress:
    """Where a run stands. rows: the learning curve so far, one an epoch, epoch 0 untrained."""

    epoch: int = 1  # the one being trained, from 1
    batches: int = 0  # of this epoch, done
    step: int = 0
    loss_sum: float = 0.0  # of this epoch's first passes
    correct: int = 0
    seen: int = 0
    untrained_loss: float = math.nan
    seconds: float = 0.0
    status: str = "running"  # then ok or diverged
    rows: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Trainer:
    chip: Chip
    learner: Learner
    optimizer: Optimizer
    data: Dataset
    loss: oracle.Loss
    shuffle: Stream
    batch: int
    epochs: int
    angle: bool = False
    team: Team = ALONE
    together: int = 1  # trainers whose steps are made with this one's: each is one such part of the time
    progress: Progress = field(default_factory=Progress)
    _unread: Tensor | None = field(default=None, init=False, repr=False)  # (losses, hits) summed where the data lies

    def __post_init__(self) -> None:
        if isinstance(self.learner, Decorrelated):
            self.chip.update(self.learner.opening())

    @property
    def batches(self) -> int:
        """Steps an epoch; the last batch may be smaller."""
        return -(-len(self.data.x_train) // self.batch)

    def run(
        self,
        stop: Callable[[], bool] = lambda: False,
        after_step: Callable[[], None] = lambda: None,
        after_epoch: Callable[[], None] = lambda: None,
    ) -> None:
        """Train until done, diverged, or `stop()` between two steps; of several processes on GPUs, at a look."""
        with full_precision():
            steps = self.steps(stop, after_step, after_epoch)
            asked = next(steps, None)
            with suppress(StopIteration):
                while asked is not None:
                    asked = steps.send(self._step(*asked))

    def steps(
        self, stop: Callable[[], bool], after_step: Callable[[], None], after_epoch: Callable[[], None]
    ) -> Generator[tuple[Tensor, bool], float | None]:
        """All of `run` but its steps: (rows of the training data, whether to measure the angle) of each, for
        the angle that comes back. training/seeds.py makes the steps of several trainers in one."""
        progress, ticked = self.progress, time.perf_counter()

        def tick() -> None:
            nonlocal ticked
            now = time.perf_counter()
            progress.seconds += (now - ticked) / self.together
            ticked = now

        if not progress.rows:
            self._record_untrained()
            tick()
            progress.status = "running" if self.epochs else "ok"
            after_epoch()
        while progress.status == "running" and progress.epoch <= self.epochs:
            order = torch.from_numpy(self.shuffle.permutation(len(self.data.x_train), progress.epoch))
            order = order.to(self.data.x_train.device)
            angle = None
            while progress.batches < self.batches:
                if (self.team.size == 1 or self._looks(progress.batches)) and self.team.any(stop()):
                    return
                rows = order[progress.batches * self.batch : (progress.batches + 1) * self.batch]
                last = progress.batches == self.batches - 1
                angle = yield rows, self.angle and last
                tick()
                looked = last or self._looks(progress.batches)
                if looked and self._diverged():
                    progress.status = "diverged"
                    break
                # The last one's angle is in no checkpoint; the epoch's own follows at once. Between two looks the
                # processes hold a part of the losses each, and none can save.
                if not last and (looked or self.team.size == 1):
                    after_step()
            self._record_epoch(angle)
            if self.team.size > 1:
                self.team.check_alike(self.checkpoint().tensors)
            tick()
            if progress.status == "running" and progress.epoch > self.epochs:
                progress.status = "ok"
            after_epoch()

    def _looks(self, batches: int) -> bool:
        """Whether the losses are looked at after that many batches of the epoch: where that costs nothing, always.
        The processes of a team, all of which say the same, meet there and nowhere else."""
        return at_hand(self.data.x_train) or batches % LOOK_EVERY == 0

    def _diverged(self) -> bool:
        """Look at the losses of the steps since the last look. One odd sample is no divergence, a mean is."""
        progress, loss = self.progress, self._look()
        mean = progress.loss_sum / progress.seen
        return not (math.isfinite(loss) and mean <= DIVERGED * progress.untrained_loss)

    def _look(self) -> float:
        """Take what the steps since the last look summed on the device into the record; their losses, summed."""
        if self._unread is None:
            return 0.0
        loss, hits = self.team.totals(*self._unread.tolist())
        self._unread = None
        self.progress.loss_sum += loss
        self.progress.correct += int(hits)
        return loss

    def _step(self, rows: Tensor, with_angle: bool) -> float | None:
        progress, team, whole = self.progress, self.team, len(rows)
        x, y = self.data.batch("train", rows[team.begin(whole)])
        before = self.chip.ledger.of_passes() if team.share and isinstance(self.chip, SimulatedChip) else None
        exact = self.true_gradient(x, y) if with_angle else None
        gradient, sums = self.gradient(x, y, progress.step)
        team.count(self.chip, before)
        with tf32_products(self.optimizer.tf32):
            gradient = team.mean(gradient, self.optimizer.factored)
        angle = oracle.angle_deg(gradient, team.mean(exact)) if exact is not None else None
        self.chip.update(self.optimizer.step(gradient))
        self.count(sums, whole)
        return angle

    def gradient(self, x: Tensor, y: Tensor, step: int) -> tuple[WeightUpdate, Tensor]:
        """What the learner makes of a batch, and `sums` of its first pass."""
        probes = self.learner.ask(step, len(x))
        if not probes:
            raise ArgumentError("ask", probes, "one pass or more")
        passes = self._passes(x, y, probes)
        first, losses = next(passes)
        sums = self.sums(losses, first.outputs, y)
        passes = chain([(first, losses)], passes)
        del first, losses
        # Passes that fit in memory side by side are told as they are. More are told as iterators that
        # run the chip as they are consumed: the learner then keeps no more of them than it needs.
        with torch.no_grad():
            if isinstance(self.chip, SimulatedChip) and len(probes) > passes_at_once(self.chip.network, len(x)):
                return self.learner.tell(*side_by_side(passes)), sums
            return self.learner.tell(*zip(*passes)), sums

    def sums(self, losses: Tensor, outputs: Tensor, y: Tensor) -> Tensor:
        """(losses, hits) of a first pass, each summed where they are."""
        return torch.stack([losses.detach().sum().double(), oracle.hits(outputs, y).double()])

    def count(self, sums: Tensor, seen: int) -> None:
        """A step is done."""
        self._unread = sums if self._unread is None else self._unread + sums
        self.progress.step += 1
        self.progress.batches += 1
        self.progress.seen += seen

    def _passes(self, x: Tensor, y: Tensor, probes: Sequence[Probe]) -> Iterator[tuple[Activities, Tensor]]:
        chip = self.chip
        alone = (chip.run(x, probe) for probe in probes)
        for activities in chip.passes(x, probes) if isinstance(chip, SimulatedChip) else alone:
            activities.outputs.requires_grad_()  # BP starts from the loss's gradient there
            with torch.enable_grad():
                losses = self.loss(activities.outputs, y)
            yield activities, losses
            del activities, losses  # ahead of the next pass

    def true_gradient(self, x: Tensor, y: Tensor) -> WeightUpdate | None:
        """BP's of this batch, by the oracle."""
        matrices = list(self.learner.matrices) if isinstance(self.learner, Decorrelated) else None
        return oracle.true_gradient(self.chip, matrices, x, y, self.loss)

    def _record_untrained(self) -> None:
        chip = oracle.evaluation_view(self.chip)
        train = self._evaluate(chip, "train")
        self.progress.untrained_loss = train.loss
        self._record(0, train, self._evaluate(chip, "test"), None)

    def _record_epoch(self, angle: float | None) -> None:
        """Close the epoch: training figures are the mean over its own first passes."""
        progress = self.progress
        seen = max(progress.seen, 1)
        accuracy = progress.correct / seen if self.data.classification else None
        train = oracle.Score(progress.loss_sum / seen, accuracy)
        self._record(progress.epoch, train, self._evaluate(oracle.evaluation_view(self.chip), "test"), angle)
        progress.epoch += 1
        progress.batches = progress.correct = progress.seen = 0
        progress.loss_sum = 0.0

    def _evaluate(self, chip: Chip, split: Literal["train", "test"]) -> oracle.Score:
        rows = len(self.data.x_train if split == "train" else self.data.x_test)
        mine = self.team.take(rows)

        def batch(part: slice) -> tuple[Tensor, Tensor]:
            return self.data.batch(split, slice(mine.start + part.start, mine.start + part.stop))

        with torch.no_grad():
            loss, right = oracle.totals(chip, batch, mine.stop - mine.start, self.loss)
        loss, hits = self.team.sums(loss, right or 0)
        return oracle.Score(loss / rows, hits / rows if self.data.classification else None)

    def _record(self, epoch: int, train: oracle.Score, test: oracle.Score, angle: float | None) -> None:
        quiet = oracle.noise_free_view(self.chip)
        if quiet is None:
            ideal = None
        else:
            ideal = test.accuracy if quiet is self.chip else self._evaluate(quiet, "test").accuracy
        ledger, progress = self.chip.ledger, self.progress
        progress.rows.append(
            {
                "epoch": epoch,
                "step": progress.step,
                "reads": ledger.reads,
                "writes": ledger.writes,
                "train_loss": train.loss,
                "train_accuracy": train.accuracy,
                "test_loss": test.loss,
                "test_accuracy": test.accuracy,
                "test_accuracy_ideal": ideal,
                "angle_deg": angle,
                "seconds": progress.seconds,
                "status": "diverged" if progress.status == "diverged" else "ok",
                **self._costs(),
            }
        )

    def _costs(self) -> dict[str, Any]:
        """Pulses where the chip sends any, energy and time where its file says what things cost."""
        if not isinstance(self.chip, SimulatedChip):
            return {}
        chip, ledger = self.chip.description, self.chip.ledger
        pulses = {} if chip.write.mode == "ideal" else {"pulses": ledger.pulses}
        if chip.costs == type(chip.costs)():
            return pulses
        return pulses | {"energy_J": ledger.energy_J, "latency_s": ledger.latency_s}

    def checkpoint(self) -> Checkpoint:
        """The whole state, its tensors by reference. Between two looks all processes of a team must ask for it."""
        self._look()
        tensors: dict[str, Tensor] = {}
        for part, state in self._parts().items():
            tensors |= {f"{part}/{name}": tensor for name, tensor in state.items()}
        return Checkpoint(tensors, asdict(self.progress))

    def load(self, saved: Checkpoint) -> None:
        """Put a saved state back into a freshly built trainer of the same experiment."""
        parts: dict[str, dict[str, Tensor]] = {"chip": {}, "learner": {}, "optimizer": {}}
        for key, tensor in saved.tensors.items():
            part, _, name = key.partition("/")
            parts[part][name] = tensor
        if isinstance(self.chip, SimulatedChip):
            self.chip.load(parts["chip"])
        self.learner.load(parts["learner"])
        self.optimizer.load(parts["optimizer"])
        self.progress = Progress(**saved.record)

    def _parts(self) -> dict[str, Mapping[str, Tensor]]:
        # A lab's own chip keeps its cells itself and has no state to hand out.
        chip = self.chip.state() if isinstance(self.chip, SimulatedChip) else {}
        return {"chip": chip, "learner": self.learner.state(), "optimizer": self.optimizer.state()}


def side_by_side(passes: Iterator[tuple[Activities, Tensor]]) -> tuple[Iterator[Activities], Iterator[Tensor]]:
    """Activities and losses, each to be gone through on its own, in any order; either is held only until
    it is come to. (itertools.tee would hold 57 passes.)"""
    activities: deque[Activities] = deque()
    losses: deque[Tensor] = deque()

    def each(own: deque[Any]) -> Iterator[Any]:
        while True:
            if not own:
                both = next(passes, None)
                if both is None:
                    return
                activities.append(both[0])
                losses.append(both[1])
                del both
            yield own.popleft()

    return each(activities), each(losses)
