"""Per-sample losses, in float64: a difference of two float32 losses would lose its last digits.

cross-entropy: L = log Σ_k exp a_k - a_y        mean squared error: L = Σ_k (a_k - y_k)² / N_L
"""

from __future__ import annotations

import torch
from torch import Tensor


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """outputs (batch, classes), targets (batch,) class numbers -> (batch,) float64."""
    return torch.nn.functional.cross_entropy(outputs.double(), targets, reduction="none")


def mean_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """outputs and targets (batch, units) -> (batch,) float64, the mean over units."""
    return (outputs.double() - targets).square().mean(1)


LOSSES = {"cross_entropy": cross_entropy, "mse": mean_squared_error}
