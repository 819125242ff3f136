"""Conductances that change after they were written.

    power       G(t) = G (t / t0)^-ν ,   ν = |μ(r) + s(r) ξ| ,  r = G / unit ,   t ≥ t0
    log         G(t) = G + m ln t + (s₁ ln t + s₀) ξ ,   t in s, t ≥ 1
    retention   G(t) = G_target + σ(G_target, t) ξ ,   σ measured at some times, between them linear in ln t

ξ ~ N(0, 1) of every cell is passed in, the same at all times: a cell drifts along one curve, and the
law over cells is exact at every t. Before t0 (power) and 1 s (log) G is as written: at 1 s the log
law's s₀ ξ appears at once. Results are not clipped. Source: aihwkit, CrossSim (docs/laws.md).

Every law is called as DRIFT_LAWS[law](g, xi, t_s, **coefficients): g in µS as written (retention: the
target, since its σ takes the place of the programming error), xi in the same shape, t_s the time
since the write, one number or one a cell.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from analogsim.at_hand import at_hand
from analogsim.errors import ArgumentError
from analogsim.physics.flicker import of_r
from analogsim.physics.read_noise import sigma


def drift_exponent(
    g: Tensor, xi: Tensor, *, unit_uS: float, exponent: Mapping[str, Any], spread: Mapping[str, Any]
) -> Tensor:
    """ν = |μ(r) + s(r) ξ|; exponent is μ and spread is s, each a law of r (`flicker.of_r`)."""
    r = g / unit_uS
    return (of_r(r, **exponent) + of_r(r, **spread) * xi).abs_()


def power_drift(
    g: Tensor,
    xi: Tensor,
    t_s: Tensor | float,
    *,
    t0_s: float,
    unit_uS: float,
    exponent: Mapping[str, Any],
    spread: Mapping[str, Any],
    measured: Tensor | None = None,
) -> Tensor:
    """G (t / t0)^-ν from t0 on, G before it. measured: G to take ν of, where g leaves what it was fitted over."""
    nu = drift_exponent(g if measured is None else measured, xi, unit_uS=unit_uS, exponent=exponent, spread=spread)
    return g * torch.exp(-nu * _log_time(t_s, t0_s).to(g.dtype))


def log_drift(
    g: Tensor, xi: Tensor, t_s: Tensor | float, *, mean_uS: float, spread_uS: float, spread_at_1s_uS: float
) -> Tensor:
    """G + m ln t + (s₁ ln t + s₀) ξ from 1 s on, G before it; a spread below 0 counts as 0."""
    log_t = _log_time(t_s, 1.0)
    shift, spread = log_t * mean_uS, (log_t * spread_uS + spread_at_1s_uS).clamp_(min=0)
    spread = spread * (torch.as_tensor(t_s, dtype=torch.float64) >= 1)
    return g + shift.to(g.dtype) + spread.to(g.dtype) * xi


def retention(
    g: Tensor, xi: Tensor, t_s: Tensor | float, *, times_s: Sequence[float], errors: Sequence[Mapping[str, Any]]
) -> Tensor:
    """G_target + σ(G_target, t) ξ; g is the target, not what was written."""
    return g + retention_sigma(g, t_s, times_s=times_s, errors=errors) * xi


def retention_sigma(
    g: Tensor, t_s: Tensor | float, *, times_s: Sequence[float], errors: Sequence[Mapping[str, Any]]
) -> Tensor:
    """σ(G, t) in µS: errors[k] (a law of `read_noise.sigma`) at times_s[k], linear in ln t between them.

    Up to the first time as at the first. Raises ArgumentError after the last: nothing was measured there; times on
    a device are not looked at, and count as the last.
    """
    t = torch.as_tensor(t_s, dtype=torch.float64)
    if t.numel() and at_hand(t) and not float(t.max()) <= times_s[-1]:
        raise ArgumentError("t_s", float(t.max()), f"up to {times_s[-1]} s, the last time measured")
    total = sigma(g, **errors[0])
    for before, after, t0, t1 in zip(errors, errors[1:], times_s, times_s[1:]):
        share = (_log_time(t, t0) / _log_time(t1, t0)).clamp_(max=1).to(g.dtype)
        total = total + (sigma(g, **after) - sigma(g, **before)) * share
    return total


DRIFT_LAWS: dict[str, Callable[..., Tensor]] = {"power": power_drift, "log": log_drift, "retention": retention}


def _log_time(t_s: Tensor | float, t0_s: float) -> Tensor:
    """ln(t / t0) in float64, 0 before t0."""
    return torch.log((torch.as_tensor(t_s, dtype=torch.float64) / t0_s).clamp(min=1))
