"""Seeds of one configuration trained together, to the numbers that each has alone.

    rows of S seeds, B of each one after the other, (S·B, ...)

Data, losses, and what a rule makes of a sample are computed once for the rows of all; the optimiser steps once. A
seed's chip, its streams, R, the means over its batch and its optimiser's state are its own, and so is its trainer:
its curve, its divergence and its checkpoints are as if it were alone.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

import torch
from torch import Tensor

from analogsim.backends.torch import full_precision
from analogsim.chip.chip import SimulatedChip
from analogsim.chip.passes import STACKED_BYTES, passes_at_once
from analogsim.chip.side_by_side import ChipsSideBySide
from analogsim.config.schema import Experiment
from analogsim.contracts import WeightUpdate
from analogsim.learners.side_by_side import SideBySide
from analogsim.network import Network, own
from analogsim.training import oracle
from analogsim.training.loop import Trainer
from analogsim.training.optimizer import step_together

Asked = tuple[Tensor, bool]  # rows, whether to measure the angle


def seeds_at_once(experiment: Experiment, network: Network) -> int:
    """How many seeds are trained together: what they hold takes at most STACKED_BYTES, or 1 is.

    Of each: W and what torch.optim keeps of it, R, W R, and the activities of all passes of a step.
    """
    learner, batch = experiment.learner, experiment.training.batch
    passes = 1 if learner.base_rule == "bp" else 1 + learner.samples
    if learner.base_rule == "inp":
        passes = 1 + 2 * learner.samples * len(network.layers)
    if passes > passes_at_once(network, batch):
        return 1
    matrices = sum(8 * layer.units * layer.inputs + 2 * layer.inputs**2 for layer in network.layers)
    vectors = sum(layer.positions * (layer.inputs + 4 * layer.units) for layer in network.layers)
    return max(1, STACKED_BYTES // (4 * (matrices + passes * batch * vectors)))


def train_together(
    trainers: Sequence[Trainer],
    stop: Callable[[], bool],
    after_step: Sequence[Callable[[], None]],
    after_epoch: Sequence[Callable[[], None]],
) -> None:
    """`Trainer.run` of all, newly built and alike but for their seeds, with the steps of all made together."""
    runs = [one.steps(stop, *told) for one, *told in zip(trainers, after_step, after_epoch)]
    stack = SeedStack(trainers)
    with full_precision():
        asked = {index: next(run, None) for index, run in enumerate(runs)}
        while members := {index: one for index, one in asked.items() if one is not None}:
            if len(members) < len(stack.trainers):  # the others diverged, or were stopped
                stack = SeedStack([trainers[index] for index in members])
            angles = stack.step([rows for rows, _ in members.values()], any(angle for _, angle in members.values()))
            asked = {index: _sent(runs[index], angle) for index, angle in zip(members, angles)}


def _sent(run: Generator[Asked, float | None], angle: float | None) -> Asked | None:
    try:
        return run.send(angle)
    except StopIteration:
        return None


class SeedStack:
    """The steps of these trainers, all of them at the same one."""

    def __init__(self, trainers: Sequence[Trainer]):
        self.trainers = trainers
        self._chips = ChipsSideBySide([_chip(one) for one in trainers])
        self._learners = SideBySide([one.learner for one in trainers])
        for one in trainers:
            one.together = len(trainers)

    def step(self, rows: Sequence[Tensor], with_angle: bool) -> list[float | None]:
        """What `Trainer._step` does, for every trainer with its rows of the training data."""
        trainers, first, batch = self.trainers, self.trainers[0], len(rows[0])
        x, y = first.data.batch("train", torch.cat(list(rows)))
        targets = y.split(batch)
        exact: list[WeightUpdate | None] = [None for _ in trainers]
        if with_angle:
            exact = [
                one.true_gradient(own(part), target) for one, part, target in zip(trainers, x.split(batch), targets)
            ]
        activities, inputs = self._chips.passes(x, self._learners.ask(first.progress.step, batch))
        losses = []
        for one in activities:
            one.outputs.requires_grad_()  # BP starts from the loss's gradient there
            with torch.enable_grad():
                losses.append(first.loss(one.outputs, y))
        shown = zip(trainers, losses[0].split(batch), activities[0].outputs.split(batch), targets)
        sums = [one.sums(*told) for one, *told in shown]
        with torch.no_grad():
            gradients = self._learners.tell(activities, losses, inputs)
        angles = [None if e is None else oracle.angle_deg(g, e) for g, e in zip(gradients, exact)]
        changes = step_together([one.optimizer for one in trainers], gradients)
        for one, change, told in zip(trainers, changes, sums):
            one.chip.update(change)
            one.count(told, batch)
        return angles


def _chip(trainer: Trainer) -> SimulatedChip:
    assert isinstance(trainer.chip, SimulatedChip)
    return trainer.chip
