"""Trainers of the bench: experiments of examples/ on noise for data, past the steps in which things are set up."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timing import Work

from analogsim.backends.torch import full_precision
from analogsim.config.loader import load_plan, parse_set
from analogsim.config.schema import Experiment
from analogsim.streams import Address, Stream
from analogsim.training.build import build_trainer
from analogsim.training.captured import WARM
from analogsim.training.data import Dataset
from analogsim.training.loop import Trainer


def load(experiment: str, settings: Sequence[str] = ()) -> Experiment:
    """Its first variant, with KEY=VALUE settings."""
    return next(iter(load_plan(experiment, [parse_set(text) for text in settings]).variants.values()))


def make_trainer(experiment: str, settings: Sequence[str] = (), device: str = "cpu") -> Trainer:
    """On images of CIFAR-10's size, ready."""
    chosen = load(experiment, settings)
    x = torch.from_numpy(Stream.from_seed(0).normal(Address(), 2 * chosen.training.batch, 3072)).view(-1, 32, 32, 3)
    x = x.mul_(50).add_(128).clamp_(0, 255).to(torch.uint8)
    y = torch.arange(len(x)) % 10
    return ready(chosen, Dataset("noise", x, y, x[:10], y[:10], 255.0, 10), device)


def ready(chosen: Experiment, data: Dataset, device: str = "cpu") -> Trainer:
    """Past the steps in which kernels are compiled and, on a GPU, the step is recorded and held against a plain one."""
    trainer = build_trainer(chosen, data, seed=0, device=device)
    trainer.progress.untrained_loss = float("inf")
    step = step_of(trainer)
    for _ in range(1 if device == "cpu" else WARM + 3):
        step()
    return trainer


def step_of(trainer: Trainer, steps: int = 1) -> Work:
    """So many steps, at the precision of `Trainer.run`; the host waits for none of them."""
    rows = torch.arange(trainer.batch, device=trainer.data.x_train.device)

    def run() -> None:
        with full_precision():
            for _ in range(steps):
                trainer._step(rows, with_angle=False)

    return run


def passes_of(trainer: Trainer) -> Work:
    """The passes of a step alone, each let go as it comes. Nothing folded or held is left to what runs next."""
    chip = trainer.chip
    x, _ = trainer.data.batch("train", torch.arange(trainer.batch, device=trainer.data.x_train.device))

    def run() -> None:
        with full_precision():
            for activities in chip.passes(x, trainer.learner.ask(chip._step, len(x))):
                del activities
        chip._runner._folded.clear()
        chip._runner._held.clear()
        chip._step, chip._pass, chip._rows = chip._step + 1, -1, 0

    return run
