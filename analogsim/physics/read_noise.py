"""σ(G) of a cell, and white read noise: every read of a crossbar draws each cell's conductance afresh.

    y_i = Σ_j (G_ij + σ(G_ij) ξ_ij) x_j ,   ξ ~ N(0, 1) independent over cells and reads
    y ~ N(G x, diag(V x²)) ,   V_ij = σ²(G_ij)          (exact: a sum of independent Gaussians)

so one further product replaces a noise matrix per vector; with σ constant over the cells,
V x² = σ² ‖x‖² and there is no product at all. In a differential pair V = V⁺ + V⁻, the idle
leg's σ²(G_min) included. Laws as in aihwkit and CrossSim (docs/laws.md).

The same laws give the σ of a programming error and the amplitude of a two-state cell. G and σ are
in µS throughout; a conductance below 0 counts as 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from analogsim.at_hand import at_hand
from analogsim.errors import ArgumentError

ROUNDING = 1e-5  # of a table's span: how far outside it float32 may carry a conductance that is its end


def constant_sigma(g: Tensor, *, sigma_uS: float) -> Tensor:
    """σ(G) = sigma_uS for every cell."""
    return torch.full_like(g, sigma_uS)


def proportional_sigma(g: Tensor, *, k: float) -> Tensor:
    """σ(G) = k G."""
    return g.clamp(min=0) * k


def sqrt_sigma(g: Tensor, *, k_sqrt_uS: float) -> Tensor:
    """σ(G) = k √G, k in √µS."""
    return g.clamp(min=0).sqrt_() * k_sqrt_uS


def polynomial_sigma(g: Tensor, *, coefficients_uS: Sequence[float], unit_uS: float = 1.0) -> Tensor:
    """σ(G) = max(Σ_k c_k r^k, 0) ,   r = G / unit_uS ,   c_k = coefficients_uS[k]."""
    return polynomial(g.clamp(min=0) / unit_uS, coefficients_uS).clamp_(min=0)


def exponential_sigma(g: Tensor, *, amplitude_uS: float, scale_uS: float) -> Tensor:
    """σ(G) = A (1 - e^(-G/B)) ,   A = amplitude_uS, B = scale_uS."""
    return torch.expm1(g.clamp(min=0) / -scale_uS) * -amplitude_uS


def table_sigma(g: Tensor, *, g_uS: Sequence[float], sigma_uS: Sequence[float]) -> Tensor:
    """σ(G) by straight lines between measured points (g_uS rising, sigma_uS).

    Never extrapolates: a conductance outside the points, NaN included, raises ArgumentError. What
    lies outside by no more than float32's rounding of an end (1e-5 of the span) is that end; on a device,
    where it is not looked at, all that lies outside.
    """
    slack = ROUNDING * (g_uS[-1] - g_uS[0])
    if g.numel() and at_hand(g) and not (g_uS[0] - slack <= float(g.min()) and float(g.max()) <= g_uS[-1] + slack):
        found = f"{float(g.min()):.6g} to {float(g.max()):.6g} µS"
        raise ArgumentError("g", found, f"conductances within the table, {g_uS[0]} to {g_uS[-1]} µS")
    points, values = g.new_tensor(g_uS), g.new_tensor(sigma_uS)
    upper = torch.bucketize(g.contiguous(), points).clamp_(1, len(g_uS) - 1)
    share = ((g - points[upper - 1]) / (points[upper] - points[upper - 1])).clamp_(0, 1)
    return torch.lerp(values[upper - 1], values[upper], share)


SIGMA_LAWS: dict[str, Callable[..., Tensor]] = {
    "constant": constant_sigma,
    "proportional": proportional_sigma,
    "sqrt": sqrt_sigma,
    "polynomial": polynomial_sigma,
    "exponential": exponential_sigma,
    "table": table_sigma,
}


def sigma(g: Tensor, *, law: str, **coefficients: object) -> Tensor:
    """σ(G) in µS by the law of that name, in the shape of g; coefficients are the law's keywords."""
    return SIGMA_LAWS[law](g, **coefficients)


def cell_variance(g: Tensor, *, law: str, **coefficients: object) -> Tensor | float:
    """V = σ²(G) in µS², in the shape of g; one number where σ is constant, so that no product is needed."""
    if law == "constant":
        sigma_uS = float(coefficients["sigma_uS"])  # type: ignore[arg-type]
        return sigma_uS * sigma_uS
    if law == "sqrt":  # the root would only be squared again
        k_sqrt_uS = float(coefficients["k_sqrt_uS"])  # type: ignore[arg-type]
        return g.clamp(min=0) * (k_sqrt_uS * k_sqrt_uS)
    return sigma(g, law=law, **coefficients).square_()


def read_variance(cell_variance: Tensor | float, x: Tensor) -> Tensor:
    """Variance of each output, V x², for a constant V: (..., 1); see `Crossbar` for the product.

    cell_variance: one number in (output/input units)²; x: (..., in) as the DAC drives it.
    """
    return cell_variance * torch.linalg.vector_norm(x, dim=-1, keepdim=True).square()  # half the time of Σ x²


def polynomial(r: Tensor, coefficients: Sequence[float]) -> Tensor:
    """Σ_k c_k r^k by Horner's rule, c_0 first."""
    total = torch.full_like(r, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        total.mul_(r).add_(c)
    return total
