"""Steps recorded once and played again: on a GPU as a CUDA graph, so that a small network does not wait for launches.

    recorded: rows -> x, y -> passes -> gradient -> W, R, b and what the optimiser keeps        work on fixed memory
    a step:   its number and its batch's rows into that memory, play, and count on the host what a step counts

Only where a step is the same work whatever the numbers in it, so that to play it gives what the plain step gives:
a chip whose reads and writes decide nothing on the host, a rule of this package, one process, full batches, no
angle. Every other step is made plainly. The first playing is held against the plain step, all bits of it; where they
differ, or nothing can be recorded, all steps are plain ones. A graph keeps the memory of its step to itself: steps
whose passes do not fit side by side (passes.py), which launches do not hold up, are not recorded.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from analogsim.chip.chip import SimulatedChip
from analogsim.chip.passes import passes_at_once
from analogsim.learners.activity_perturbation import ActivityPerturbation
from analogsim.learners.backpropagation import BackPropagation
from analogsim.learners.decorrelation import Decorrelated
from analogsim.learners.iterative_perturbation import IterativePerturbation
from analogsim.learners.node_perturbation import NodePerturbation
from analogsim.streams import HeldStep
from analogsim.training.checkpoint import Checkpoint
from analogsim.training.loop import Trainer
from analogsim.training.losses import LOSSES

WARM = 3  # steps made aside ahead of a recording: by then all kernels are compiled, all libraries set up
RULES = (ActivityPerturbation, BackPropagation, IterativePerturbation, NodePerturbation)
Work = Callable[[], object]


class Recorder(Protocol):
    """Records what is done on a device, to do it again on the same memory without its Python."""

    def aside(self, work: Work) -> None:
        """Do the work, in order with all else, where recordings are made."""
        ...

    def record(self, work: Work) -> Work:
        """What does the work again at every call. Of this first time only what it does on the host is done."""
        ...


class CudaGraphs:
    """A recording is a CUDA graph, made on a stream of its own."""

    def __init__(self, device: torch.device):
        self._device, self._stream = device, torch.cuda.Stream(device)

    def aside(self, work: Work) -> None:
        now = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(now)
        with torch.cuda.stream(self._stream):
            work()
        now.wait_stream(self._stream)

    def record(self, work: Work) -> Work:
        now, graph = torch.cuda.current_stream(self._device), torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self._stream):
                work()
        finally:
            torch.cuda.set_stream(now)  # torch leaves its own where a recording fails
        return graph.replay


def recorder_of(device: str | torch.device) -> Recorder | None:
    """What records steps on that device, if anything does."""
    device = torch.device(device)
    return CudaGraphs(device) if device.type == "cuda" else None


@dataclass
class CapturedTrainer(Trainer):
    """A trainer whose steps are recorded, where they can be; to the same numbers."""

    recorder: Recorder | None = None
    _recording: Recording | None = field(default=None, init=False, repr=False)

    def _step(self, rows: Tensor, with_angle: bool) -> float | None:
        recording = None if with_angle else self._recording_for(rows)
        if recording is None:
            return super()._step(rows, with_angle)
        recording.step(rows)
        return None

    def _recording_for(self, rows: Tensor) -> Recording | None:
        size = min(self.batch, len(self.data.x_train))
        if self.recorder is None or len(rows) < size:
            return None
        if self._recording is None or not self._recording.is_of(self):
            self._recording = Recording(self, self.recorder, size)
        return self._recording if self._recording.serves else None

    def load(self, saved: Checkpoint) -> None:
        self._recording = None  # it works on memory that a load may replace
        super().load(saved)


class Recording:
    """The step of a trainer on `size` rows: made plainly until it is recorded and held against a plain one."""

    def __init__(self, trainer: Trainer, recorder: Recorder, size: int):
        self._trainer, self._recorder, self._size = trainer, recorder, size
        self._chip: Any = trainer.chip  # SimulatedChip, where it `fits`
        self._made_of = _parts(trainer)
        device = trainer.data.x_train.device
        self._rows = torch.zeros(size, dtype=torch.int64, device=device)
        # The learner's count is not the chip's, nor its memory: no learner can turn a chip's count back.
        self._chip_step, self._step = (torch.zeros(1, dtype=torch.int64, device=device) for _ in range(2))
        self._sums = torch.zeros(2, dtype=torch.float64, device=device)
        self._warm, self._trusted = 0, False
        self._play: Work | None = None
        self._counts: list[int] = []  # of the ledger, a step
        self._samples = 0  # rows of all its passes
        self._fits = fits(trainer)
        if self._fits:
            passes = len(trainer.learner.ask(trainer.progress.step, size))
            self._samples = passes * size
            self._fits = passes <= passes_at_once(self._chip.network, size)

    def is_of(self, trainer: Trainer) -> bool:
        """Whether nothing that it is of was replaced."""
        return all(one is other for one, other in zip(self._made_of, _parts(trainer)))

    @property
    def serves(self) -> bool:
        """It makes the next step. (Not one that somebody ran a pass of before: that pass counts.)"""
        return self._fits and self._chip.step is not None

    def step(self, rows: Tensor) -> None:
        """A step of the training."""
        if self._play is not None and self._trusted:
            self._set(rows)
            self._play()
            self._chip.played_again(self._counts, self._samples)
            sums = self._sums.clone()
        elif self._play is not None:
            sums = self._compared(rows, self._play)
        elif self._warm < WARM:
            self._warm += 1
            self._set(rows)
            self._recorder.aside(self._held)
            sums = self._sums.clone()
        else:
            self._record()
            sums = self._plain(rows, self._trainer.progress.step)
        self._trainer.count(sums, self._size)

    def _set(self, rows: Tensor) -> None:
        """Put into memory what sets this step apart from others."""
        self._rows.copy_(rows)
        self._chip_step.fill_(self._chip.step)
        self._step.fill_(self._trainer.progress.step)

    def _held(self) -> None:
        """The step on what lies in memory; this is what is recorded."""
        self._chip.hold_step(self._chip_step)
        self._sums.copy_(self._plain(self._rows, HeldStep(self._trainer.progress.step, self._step)))

    def _plain(self, rows: Tensor, step: int) -> Tensor:
        trainer = self._trainer
        x, y = trainer.data.batch("train", rows)
        gradient, sums = trainer.gradient(x, y, step)
        trainer.chip.update(trainer.optimizer.step(gradient))
        return sums

    def _record(self) -> None:
        before, counts = self._chip.state(), self._chip.ledger.counts()
        try:
            self._play = self._recorder.record(self._held)
            self._counts = [now - then for now, then in zip(self._chip.ledger.counts(), counts)]
        except RuntimeError as error:
            self._give_up(str(error).partition("\n")[0])
        self._chip.load(before)  # the host's counts back to where the device still is

    def _compared(self, rows: Tensor, play: Work) -> Tensor:
        """A plain step, and the same one played: are all bits those of the plain one?"""
        parts = (self._chip, self._trainer.learner, self._trainer.optimizer)
        memory = [tensor for part in parts for tensor in part.state().values()]
        before = [tensor.clone() for tensor in memory]
        self._set(rows)
        sums = self._plain(rows, self._trainer.progress.step)
        plain = [tensor.clone() for tensor in memory]
        _fill(memory, before)
        play()
        self._trusted = all(_same_bits(*pair) for pair in zip([*memory, self._sums], [*plain, sums]))
        if not self._trusted:
            _fill(memory, plain)
            self._give_up("played again, it gives other numbers than the plain step")
        return sums

    def _give_up(self, reason: str) -> None:
        self._fits, self._play = False, None
        text = f"the step is not recorded as a CUDA graph ({reason}); each of its kernels is launched by itself"
        warnings.warn(text, UserWarning, stacklevel=2)


def fits(trainer: Trainer) -> bool:
    """A step is the same work on the device, whatever the numbers in it: nothing is decided on the host.

    So with no cells (their range is chosen at every write), converters (constants come from the host) or telegraph
    noise (its state is replaced by every read). Gradients on their way to pulses are handed on and not summed up.
    """
    chip, learner = trainer.chip, trainer.learner
    rule = learner.rule if type(learner) is Decorrelated else learner
    if isinstance(learner, Decorrelated) and learner.every > 1:  # R moves in some steps only
        return False
    if type(chip) is not SimulatedChip or type(rule) not in RULES or trainer.loss not in LOSSES.values():
        return False
    made = chip.description
    bare = made.cell is None and made.dac is None and made.adc is None and made.write.mode == "ideal"
    mixed = made.node_noise.telegraph is not None or made.decorrelation == "on_chip"
    return bare and not mixed and not trainer.optimizer.factored and trainer.team.size == 1


def _parts(trainer: Trainer) -> tuple[object, ...]:
    return trainer.chip, trainer.learner, trainer.optimizer, trainer.data, trainer.loss


def _fill(memory: list[Tensor], numbers: list[Tensor]) -> None:
    for tensor, filling in zip(memory, numbers):
        tensor.copy_(filling)


def _same_bits(one: Tensor, other: Tensor) -> bool:
    """As bytes, since a diverged step's NaN is no reason to distrust."""
    return torch.equal(one.flatten().view(torch.uint8), other.flatten().view(torch.uint8))
