"""Every rule trains a convolutional network: two convolutions and two dense layers on images of 7 × 6 pixels.

How well a rule follows the gradient at positions is held in tests/learners/test_convolution.py; here chip, learner and
optimiser are put together as a user's are.
"""

import math

import pytest
import torch

from analogsim.config import schema
from analogsim.config.loader import load_chip
from analogsim.training.build import build_trainer
from analogsim.training.data import Dataset

ROWS, BATCH, EPOCHS = 9, 4, 2  # three steps an epoch, the last of one row
LAYERS = [
    {"conv": {"channels": 4, "kernel": 3, "stride": 2, "padding": 1}},
    {"conv": {"channels": 3, "kernel": 2}},
    {"dense": 5},
]
CLEAN = {"baseline": "clean", "perturbation": 1e-3}
HIDDEN = {"baseline": "noisy", "perturbation": "intrinsic"}
RULES = {  # the chip and what the learner is told besides: np and inp need a perturbation that they know
    "bp": ("ideal", {}),
    "np": ("ideal", CLEAN),
    "anp": ("gaussian-node", HIDDEN),
    "inp": ("ideal", CLEAN),
    "dbp": ("ideal", {}),
    "dnp": ("ideal", CLEAN),
    "danp": ("gaussian-node", HIDDEN),
    "dinp": ("ideal", CLEAN),
}


def trainer_of(rule):
    chip, settings = RULES[rule]
    generator = torch.Generator().manual_seed(1)
    x, y = torch.rand(ROWS, 7, 6, 2, generator=generator), torch.arange(ROWS) % 3
    plan = schema.Experiment(
        data="digits",
        chip=load_chip(chip),
        network=schema.Network.model_validate({"layers": LAYERS}),
        learner=schema.LearnerSettings(rule=rule, **settings),
        decorrelation=schema.DecorrelationSettings(rate=1e-2),
        training=schema.TrainingSettings(epochs=EPOCHS, batch=BATCH, angle=True),
    ).resolved()
    return build_trainer(plan, Dataset("tiny", x, y, x[:4], y[:4], 1.0, 3), 0, "torch")


def moving(trainer):
    """W and b of every layer, and R where the rule has one."""
    return [*trainer.chip.weights, *trainer.chip.biases, *(getattr(trainer.learner, "matrices", None) or ())]


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_trains_a_convolutional_network(rule):
    """Six steps: no loss is NaN or infinite, every W, b and R moves, and BP's update is at 0° to BP through the chip.

    Caught: a layer whose errors a rule leaves at 0, and a copy of the weights that BP does not keep in step with the
    chip's. (The arc cosine of a rounded 1 is up to 0.02°.)
    """
    trainer = trainer_of(rule)
    before = [tensor.clone() for tensor in moving(trainer)]
    trainer.run()
    progress, after = trainer.progress, moving(trainer)
    assert (progress.status, progress.step, len(progress.rows)) == ("ok", 6, 1 + EPOCHS)
    assert all(math.isfinite(row[name]) for row in progress.rows for name in ("train_loss", "test_loss"))
    assert len(before) == (12 if rule.startswith("d") else 8)
    for tensor, now in zip(before, after, strict=True):
        assert torch.isfinite(now).all()
        assert not torch.equal(tensor, now)
    if rule.endswith("bp"):
        assert all(row["angle_deg"] < 0.05 for row in progress.rows[1:])
