"""White read noise: every read of a crossbar draws each cell's conductance afresh.

    y_i = Σ_j (G_ij + σ(G_ij) ξ_ij) x_j ,   ξ ~ N(0, 1) independent over cells and reads
    y ~ N(G x, diag(V x²)) ,   V_ij = σ²(G_ij)          (exact: a sum of independent Gaussians)

so one further product replaces a noise matrix per vector; with σ constant over the cells,
V x² = σ² ‖x‖² and there is no product at all. In a differential pair V = V⁺ + V⁻, the idle
leg's σ²(G_min) included. Source: reference/devices.md §4; laws as in aihwkit and CrossSim.
"""

from __future__ import annotations

from torch import Tensor


def constant_variance(sigma_uS: float, g: Tensor) -> float:
    """σ² in µS², the same for every cell, whatever its conductance."""
    return sigma_uS * sigma_uS


def proportional_variance(k: float, g: Tensor) -> Tensor:
    """(k G)² in µS²."""
    return (g * k).square_()


def sqrt_variance(k_sqrt_uS: float, g: Tensor) -> Tensor:
    """k² G in µS²; k in √µS."""
    return g * (k_sqrt_uS * k_sqrt_uS)


LAWS = {"constant": constant_variance, "proportional": proportional_variance, "sqrt": sqrt_variance}


def read_variance(cell_variance: Tensor | float, x: Tensor) -> Tensor:
    """Variance of each output, V x², for a constant V: (..., 1); see `Crossbar` for the product.

    cell_variance: one number in (output/input units)²; x: (..., in) as the DAC drives it.
    """
    return cell_variance * x.square().sum(-1, keepdim=True)
