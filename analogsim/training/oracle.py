"""The one observer that may look at the truth. Nothing a learner uses imports this file.

Evaluation reads the chip through a view with a stream and ledger of its own, so that how often
one looks changes neither the training nor its count of reads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from analogsim.chip.chip import SimulatedChip
from analogsim.contracts import Chip, Factors, LayerUpdate, Probe, WeightUpdate
from analogsim.learners.backpropagation import BackPropagation

CHUNK = 1000  # rows a call; the noise does not depend on it
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Score:
    """Mean loss, and the share of rows whose largest output is the target's (None: no classes)."""

    loss: float
    accuracy: float | None


def correct(outputs: Tensor, targets: Tensor) -> int | None:
    """How many rows are classified right; None for targets that are no classes."""
    return int(hits(outputs, targets)) if targets.ndim == 1 else None


def hits(outputs: Tensor, targets: Tensor) -> Tensor:
    """The same where the outputs lie; 0 for targets that are no classes."""
    return (outputs.argmax(1) == targets).sum() if targets.ndim == 1 else outputs.new_zeros(())


def evaluate(chip: Chip, batch: Callable[[slice], tuple[Tensor, Tensor]], rows: int, loss: Loss) -> Score:
    """One pass over `rows` rows, as the chip reads them; `batch` gives a slice of the data."""
    total, right = totals(chip, batch, rows, loss)
    return Score(total / rows, None if right is None else right / rows)


def totals(
    chip: Chip, batch: Callable[[slice], tuple[Tensor, Tensor]], rows: int, loss: Loss
) -> tuple[float, int | None]:
    """The same as sums: of the losses, and of the rows that are classified right."""
    total, right = 0.0, 0
    for start in range(0, rows, CHUNK):
        x, y = batch(slice(start, min(start + CHUNK, rows)))
        outputs = chip.run(x, Probe(first_sample=start, inputs=False)).outputs
        total += float(loss(outputs, y).sum())
        hits = correct(outputs, y)
        right = None if hits is None or right is None else right + hits
    return total, right


def evaluation_view(chip: Chip) -> Chip:
    """The chip as it reads, for evaluation; a chip that is not simulated is read as it is."""
    return chip.view("evaluation") if isinstance(chip, SimulatedChip) else chip


def noise_free_view(chip: Chip) -> Chip | None:
    """The same cells without noise: the chip itself if it has none, None if there is no way to."""
    if chip.capabilities.noise_free:
        return chip
    return chip.view("oracle", noisy=False) if isinstance(chip, SimulatedChip) else None


def true_gradient(
    chip: Chip, matrices: Sequence[Tensor] | None, x: Tensor, y: Tensor, loss: Loss
) -> WeightUpdate | None:
    """BP's gradient of one batch, noise-free, through the chip's own weights; None for a lab's chip."""
    if not isinstance(chip, SimulatedChip):
        return None
    truth = BackPropagation(chip.network, chip.weights, matrices)
    activities = chip.view("oracle", noisy=False).run(x, Probe())
    activities.outputs.requires_grad_()
    return truth.tell([activities], [loss(activities.outputs, y)])


def angle_deg(one: WeightUpdate, other: WeightUpdate) -> float | None:
    """Angle between two weight gradients, all layers stacked in one vector; None if one is 0."""
    dot = first = second = 0.0
    for mine, its in zip(one.layers, other.layers):
        a, b = _dense(mine), _dense(its)
        dot, first, second = dot + float((a * b).sum()), first + float((a * a).sum()), second + float((b * b).sum())
    if first == 0 or second == 0:
        return None
    return math.degrees(math.acos(max(-1.0, min(1.0, dot / math.sqrt(first * second)))))


def _dense(layer: LayerUpdate) -> Tensor:
    assert layer.weight is not None
    return (layer.weight.dense() if isinstance(layer.weight, Factors) else layer.weight).double()
