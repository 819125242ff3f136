"""1/f read noise: a cell's conductance wanders, so two reads of it are alike, the more so the closer they lie.

    G_read = G + σ ξ ,   σ(G, t) = G Q(r) √L(t) ,   L(t) = ln((t + t_r) / (2 t_r)) ,   r = G / unit
    cor(ξ at t, ξ at t + τ) = ρ(τ) = 1 - [ln(π τ / t_r) + 0.577] / L(t)

t counts from the write of the cell, t_r is how long a read takes. L is the noise power between the
frequencies 1/(t + t_r) and 1/(2 t_r); the same band gives, with the cosine integral Ci, exactly

    ρ(τ) = [Ci(π τ / t_r) - Ci(2π τ / (t + t_r))] / L(t)

of which the line above is the limit t_r ≪ τ ≪ t: up to τ = t/30 it is within 0.043 / L(t) of it from
10 t_r on and within 0.21 / L(t) from t_r on, where the sharp end of the band makes Ci swing. It reaches 1
at τ = 0.179 t_r and 0 near τ = 0.089 t; beyond either it is held there. L is 0 up to t = t_r.

Two reads x1, x2:  cov(n1, n2) = ρ V (x1∘x2) ,  V = σ²  (exact for Gaussian ξ). A read is drawn as

    n = Σ_j √(ρ V_ij) s_ij x_j + N(0, (1-ρ) V x²)

with s a standard normal a cell, kept for all reads of a step, and the rest fresh, per output: exact for
two reads a step; more reads in a step get ρ(τ) for every pair of them. From step to step s moves by
AR(1), which has the right ρ one step apart and falls geometrically where 1/f noise falls as ln τ.
Source: σ(G, t) as in aihwkit; ρ derived from it (docs/laws.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from analogsim.physics.read_noise import polynomial as horner

EULER = 0.5772156649015329
TINY = torch.finfo(torch.float32).tiny

# --- strength Q ------------------------------------------------------------------------------------


def power_of_r(r: Tensor, *, coefficient: float, exponent: float, max: float, floor: float = 1e-3) -> Tensor:
    """min(max, coefficient / max(r^exponent, floor)); r ≥ 0."""
    return (coefficient / r.clamp(min=0).pow(exponent).clamp_(min=floor)).clamp_(max=max)


def log_of_r(
    r: Tensor,
    *,
    slope: float,
    intercept: float,
    min: float,
    max: float,
    split: float | None = None,
    polynomial: Sequence[float] = (),
) -> Tensor:
    """clip(slope ln r + intercept, min, max) below r = split, Σ_k polynomial[k] r^k from there on."""
    low = (r.clamp(min=TINY).log_() * slope + intercept).clamp_(min, max)
    return low if split is None else torch.where(r < split, low, horner(r, polynomial))


def log10_of_g(g: Tensor, *, coefficient_uS: float) -> Tensor:
    """coefficient_uS log10(G / 1 µS) / G, so that G Q = coefficient_uS log10(G); 0 below 1 µS."""
    g = g.clamp(min=1)
    return g.log10() * coefficient_uS / g


R_LAWS: dict[str, Callable[..., Tensor]] = {"power": power_of_r, "log": log_of_r}


def of_r(r: Tensor, *, law: str, **coefficients: Any) -> Tensor:
    """The function of r of that name: a 1/f strength Q(r), or a drift's μ(r) or s(r)."""
    return R_LAWS[law](r, **coefficients)


# --- variance and correlation ----------------------------------------------------------------------


def noise_power(t_s: Tensor | float, *, t_r_s: float) -> Tensor:
    """L(t) = ln((t + t_r) / (2 t_r)), float64, in the shape of t_s; 0 for t ≤ t_r."""
    t = torch.as_tensor(t_s, dtype=torch.float64)
    return torch.log((t + t_r_s) / (2 * t_r_s)).clamp_(min=0)


def flicker_sigma(
    g: Tensor, t_s: Tensor | float, *, strength: Mapping[str, Any], unit_uS: float = 1.0, t_r_s: float
) -> Tensor:
    """σ(G, t) = G Q √L(t) in µS, in the shape of g.

    t_s: since the write, one time or one a cell. strength: `law` (power, log or log10) and its keywords.
    """
    g = g.clamp(min=0)
    if strength["law"] == "log10":
        q = log10_of_g(g, coefficient_uS=strength["coefficient_uS"])
    else:
        q = of_r(g / unit_uS, **strength)
    return g * q * noise_power(t_s, t_r_s=t_r_s).sqrt_().to(g.dtype)


def correlation(tau_s: Tensor | float, t_s: Tensor | float, *, t_r_s: float) -> Tensor:
    """ρ(τ) of two reads τ apart, at t since the write; float64, clipped to [0, 1], see the module on where it holds."""
    lag = torch.as_tensor(tau_s, dtype=torch.float64)
    power = noise_power(t_s, t_r_s=t_r_s).clamp(min=TINY)
    return (1 - (torch.log(math.pi * lag / t_r_s) + EULER) / power).clamp_(0, 1)


# --- slow part, fast part --------------------------------------------------------------------------


def slow_part(sigma: Tensor, rho: Tensor | float, slow: Tensor) -> Tensor:
    """√ρ σ s in µS: what all reads of a step add to the cells' conductances; s = slow ~ N(0, 1) a cell."""
    return sigma * slow * torch.as_tensor(rho, dtype=torch.float64).sqrt().to(sigma.dtype)


def fast_variance(sigma: Tensor, rho: Tensor | float) -> Tensor:
    """(1 - ρ) σ² in µS²: the variance of a cell that every read draws afresh."""
    return sigma.square() * (1 - torch.as_tensor(rho, dtype=torch.float64)).to(sigma.dtype)


def next_slow(slow: Tensor, xi: Tensor, rho: Tensor | float) -> Tensor:
    """s ← ρ s + √(1 - ρ²) ξ: the slow part a step later, again N(0, 1) and correlated by ρ with what it was."""
    rho = torch.as_tensor(rho, dtype=torch.float64)
    return slow * rho.to(slow.dtype) + xi * (1 - rho * rho).sqrt().to(slow.dtype)


def step_correlation(rho_passes: Tensor | float, rho_steps: Tensor | float) -> Tensor:
    """ρ(T)/ρ(τ), for `next_slow`: reads a step T apart then correlate by ρ(T), those τ apart within it by ρ(τ)."""
    within, between = (torch.as_tensor(rho, dtype=torch.float64) for rho in (rho_passes, rho_steps))
    return (between / within.clamp(min=TINY)).clamp_(0, 1)


def two_read_covariance(cell_variance: Tensor, rho: Tensor | float, x1: Tensor, x2: Tensor) -> Tensor:
    """ρ V (x1∘x2): covariance of the outputs of two reads; V (out, in), x (batch, in) -> (batch, out)."""
    return (x1 * x2) @ cell_variance.T * torch.as_tensor(rho, dtype=torch.float64).to(x1.dtype)
