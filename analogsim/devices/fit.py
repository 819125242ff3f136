"""From repeated reads of programmed cells to σ of programming, read noise and drift.

    y_ik = G_i (t_ik / t0)^-ν_i + σ_r(G) ε_ik ,   G_i = T_i + σ_p(T_i) ξ_i ,   ν_i = ν + s η_i

ε, ξ, η ~ N(0, 1) independent; T_i is the target, t0 the earliest read. A burst is reads of a programming
within 5 % of its first time. In this order, each from what the ones before leave:

    ν_i       least squares of all reads of a programming with two bursts or more (Gauss-Newton)
    σ_r(G)    maximum likelihood from S = Σ (z - z̄)² of every burst, z the reads with the drift within the
              burst taken off:  S ~ σ_r²(Ḡ) χ²_{n-1}
    ν, s      maximum likelihood, ν_i ~ N(ν, s² + v_i), v_i the variance of the estimate by σ_r
    σ_p(T)    maximum likelihood from the mean of the first burst, taken back to t0:
              (Ḡ_i - T_i)² ~ (σ_p²(T_i) + σ_r²/n) χ²_1, so that read noise does not count twice

Standard errors: from the expected information, one step's estimates taken as known in the next (their share is small
where bursts are many). Errors count about the target, so a mean error is part of σ_p; it is given apart as well.
Where no burst has two reads, read noise is left out, and counts as programming error. The law of σ is
physics/read_noise.py's own. Cells below 5 σ_r tell nothing of ν and are left out of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize

from analogsim.devices.measurements import Measurements
from analogsim.errors import ArgumentError, DataError
from analogsim.physics.read_noise import SIGMA_LAWS

Array = NDArray[np.float64]

LAWS = ("constant", "proportional", "sqrt", "polynomial", "exponential")
NOT_AT_ZERO = ("proportional", "sqrt", "exponential")  # laws of no spread at all where G = 0
BURST = 0.05
TELLING = 5.0
AGREE = 1e-7  # of the largest conductance: reads that differ by less are rounded alike
TINY = 1e-9  # of the mean square of what is fitted: the least variance a law may give


@dataclass(frozen=True)
class FittedSigma:
    """A law of σ(G): its keywords, and the standard errors of those that were fitted."""

    law: str
    keywords: dict[str, Any]
    errors: dict[str, Any]

    def __call__(self, g: Array) -> Array:
        return _sigma(self.law, g, self.keywords)

    @property
    def unsettled(self) -> list[str]:
        """The fitted keywords, `coefficients_uS[2]` and the like, whose standard error is larger than their value."""
        found = []
        for key, error in self.errors.items():
            values, errors = np.atleast_1d(self.keywords[key]), np.atleast_1d(error)
            listed = isinstance(error, list)
            found += [f"{key}[{k}]" if listed else key for k in np.flatnonzero(errors > np.abs(values))]
        return found


@dataclass(frozen=True)
class FittedDrift:
    """ν and s with their standard errors; t0, and the last time read; programmings that told of it."""

    nu: float
    nu_error: float
    spread: float
    spread_error: float
    t0_s: float
    last_s: float
    programmings: int


@dataclass(frozen=True)
class DeviceFit:
    """What was fitted, and what it was fitted to: first errors (programmings,), and bursts' own spreads."""

    measurements: Measurements
    programming: FittedSigma
    read_noise: FittedSigma | None
    drift: FittedDrift | None
    mean_error_uS: float
    mean_error_error_uS: float
    first_errors_uS: Array
    burst_level_uS: Array
    burst_variance: Array
    burst_freedom: Array


def fit_device(measured: Measurements, law: str = "polynomial", degree: int = 2) -> DeviceFit:
    """Fit all three. law, degree: of σ_p and of σ_r.

    Raises DataError for too few targets for the law, and for reads that spread where it has σ = 0.
    """
    if law not in LAWS:
        raise ArgumentError("--law", law, ", ".join(LAWS))
    targets = len(set(measured.target_uS))
    needed = {"polynomial": degree + 1, "exponential": 2}.get(law, 1)
    if targets < needed:
        raise DataError(f"{measured.name}: {targets} targets; allowed: {needed} or more for --law {law}")
    if law in NOT_AT_ZERO:
        _refuse_zero(measured, law)
    t0 = float(measured.time_s.min())
    nu, unit_variance, level = _drift_of_each(measured, t0)
    burst, first = _bursts(measured)
    flat = measured.read_uS * (measured.time_s / measured.time_s[first][burst]) ** nu[measured.programming]
    count = np.bincount(burst).astype(float)
    mean = np.bincount(burst, flat) / count
    square = np.bincount(burst, (flat - mean[burst]) ** 2).astype(float)
    repeated = count > 1
    read_noise = None
    if repeated.any():
        level_at, squares, freedom = mean[repeated], square[repeated], count[repeated] - 1
        none = np.zeros_like(level_at)
        read_noise = fit_sigma(law, degree, level_at, squares, freedom, none, measured.name, "read noise")
    variance = np.zeros_like(mean) if read_noise is None else read_noise(mean) ** 2
    opening = np.flatnonzero(np.diff(measured.programming[first], prepend=-1))  # the first burst of each
    drift = _drift(nu, unit_variance, level, variance[opening], measured, t0)
    back = (measured.time_s[first][opening] / t0) ** nu
    errors, known = mean[opening] * back - measured.target_uS, variance[opening] / count[opening] * back**2
    one = np.ones(len(errors))
    programming = fit_sigma(law, degree, measured.target_uS, errors**2, one, known, measured.name, "programming error")
    weight = 1 / np.maximum(programming(measured.target_uS) ** 2 + known, TINY * np.mean(errors**2))
    return DeviceFit(
        measured,
        programming,
        read_noise,
        drift,
        float(np.sum(weight * errors) / np.sum(weight)),
        float(np.sum(weight) ** -0.5),
        errors,
        mean[repeated],
        square[repeated] / (count[repeated] - 1),
        count[repeated] - 1,
    )


def _refuse_zero(measured: Measurements, law: str) -> None:
    """Reads of a target of 0 that are not 0: the law rules them out, and the fit would pass over them."""
    off = np.abs(measured.read_uS) > AGREE * np.abs(measured.read_uS).max()
    refused = np.flatnonzero(off & (measured.target_uS[measured.programming] == 0))
    if not len(refused):
        return
    at = refused[np.argmin(measured.line[refused])]
    others = ", ".join(one for one in LAWS if one not in NOT_AT_ZERO)
    raise DataError(
        f"{measured.name}:{measured.line[at]}: read_uS: {measured.read_uS[at]:g} at a target of 0, where --law {law} "
        f"has no spread at all; allowed: --law {others}, or no target of 0"
    )


def fit_sigma(
    law: str, degree: int, g: Array, square: Array, freedom: Array, known: Array, name: str, what: str
) -> FittedSigma:
    """Maximum likelihood of a law of σ:  square_i ~ (σ²(g_i) + known_i) χ²_{freedom_i}.

    All arrays in one shape; µS and µS². Raises DataError where the law cannot be fitted.
    """
    keywords, start, bounds = _parameters(law, degree, g, np.sqrt(square / freedom))
    scale = np.maximum(np.abs(start), 0.1 * np.abs(start).max())
    typical = float(np.mean(square / freedom))
    least = TINY * typical
    if typical <= (AGREE * float(np.abs(g).max())) ** 2:
        raise DataError(f"{name}: {what}: there is none: all reads agree; allowed: measurements that spread")

    def variance(x: Array) -> tuple[Array, Array]:
        """v_i and its slopes (parameters, i): by differences, exact for laws linear in their parameters."""
        sigma = _sigma(law, g, keywords(x * scale))
        slopes = np.array(
            [
                (_sigma(law, g, keywords((x + h) * scale)) - _sigma(law, g, keywords((x - h) * scale))) / 2e-5
                for h in 1e-5 * np.eye(len(x))
            ]
        )
        return np.maximum(sigma**2 + known, least), 2 * sigma * slopes

    def cost(x: Array) -> tuple[float, Array]:
        v, slopes = variance(x)
        value = 0.5 * np.sum(freedom * np.log(v) + square / v)
        return float(value), slopes @ (0.5 * (freedom - square / v) / v)

    result = minimize(cost, start / scale, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 2000})
    v, slopes = variance(result.x)
    information = (slopes * (0.5 * freedom / v**2)) @ slopes.T
    if not np.all(np.isfinite(result.x)) or np.linalg.cond(information) > 1e12:
        raise DataError(f"{name}: {what}: these measurements do not settle --law {law}; allowed: a simpler law")
    error = np.sqrt(np.diag(np.linalg.inv(information))) * scale
    errors = {key: value for key, value in keywords(error).items() if key != "unit_uS"}
    return FittedSigma(law, keywords(result.x * scale), errors)


def _sigma(law: str, g: Array, keywords: dict[str, Any]) -> Array:
    return SIGMA_LAWS[law](torch.as_tensor(g, dtype=torch.float64), **keywords).numpy()


def _parameters(
    law: str, degree: int, g: Array, spread: Array
) -> tuple[Callable[[Array], dict[str, Any]], Array, Sequence[tuple[float | None, float | None]]]:
    """(parameters -> keywords, where to start, bounds). Laws linear in them start at a straight regression."""
    positive = (1e-12, None)
    unit = float(g.max())
    if law == "exponential":
        start = np.array([float(np.sqrt(np.mean(spread**2))), unit / 3])
        return lambda x: {"amplitude_uS": float(x[0]), "scale_uS": float(x[1])}, start, [(1e-3, 1e3)] * 2
    if law == "polynomial":
        basis = (g / unit)[:, None] ** np.arange(degree + 1)
        start = np.asarray(np.linalg.lstsq(basis, spread, rcond=None)[0] * 1.25, np.float64)  # E|ξ| = 0.80 σ
        return lambda x: {"coefficients_uS": [float(c) for c in x], "unit_uS": unit}, start, [(None, None)] * len(start)
    key, column = {
        "constant": ("sigma_uS", np.ones_like(g)),
        "proportional": ("k", np.maximum(g, 0)),
        "sqrt": ("k_sqrt_uS", np.sqrt(np.maximum(g, 0))),
    }[law]
    start = np.array([max(float(np.sqrt(np.mean(spread**2) / np.mean(column**2))), 1e-12)])
    return lambda x: {key: float(x[0])}, start, [positive]


def _bursts(measured: Measurements) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """(burst of every read, first read of every burst)."""
    first, burst = [], np.empty(len(measured.read_uS), np.intp)
    for read, (programming, time) in enumerate(zip(measured.programming, measured.time_s)):
        start = first[-1] if first else None
        if start is None or programming != measured.programming[start] or time > measured.time_s[start] * (1 + BURST):
            first.append(read)
        burst[read] = len(first) - 1
    return burst, np.array(first)


def _drift_of_each(measured: Measurements, t0: float) -> tuple[Array, Array, Array]:
    """(ν_i, its variance for a read noise of 1 µS, G_i at t0); 0 and ∞ where the reads span less than two bursts."""
    cell, y = measured.programming, measured.read_uS
    log_t = np.log(measured.time_s / t0)
    cells = len(measured.target_uS)

    def total(values: Array) -> Array:
        return np.bincount(cell, values, cells).astype(float)

    nu, level = np.zeros(cells), total(y) / total(np.ones_like(y))
    begin = np.flatnonzero(np.diff(cell, prepend=-1))
    spans = np.maximum.reduceat(log_t, begin) - np.minimum.reduceat(log_t, begin) > np.log1p(BURST)

    def normal_equations() -> tuple[NDArray[np.bool_], Array, Array, Array]:
        """(programmings with two unknowns, steps of ν, steps of G, variance of ν for a σ of 1)."""
        decay = np.exp(-nu[cell] * log_t)
        slope = -level[cell] * log_t * decay
        rest = y - level[cell] * decay
        aa, an, nn = total(decay**2), total(decay * slope), total(slope**2)
        ra, rn = total(decay * rest), total(slope * rest)
        two = spans & (aa * nn - an**2 > 1e-12 * aa * nn)
        determinant = np.where(two, aa * nn - an**2, 1.0)
        step = np.where(two, (aa * rn - an * ra) / determinant, 0.0)
        return two, step, np.where(two, (nn * ra - an * rn) / determinant, ra / aa), aa / determinant

    for _ in range(50):
        _, step, rise, _ = normal_equations()
        level = level + rise
        nu = np.clip(nu + np.clip(step, -0.5, 0.5), -2.0, 2.0)
        if np.abs(step).max() < 1e-12:
            break
    two, _, _, variance = normal_equations()
    return np.where(two, nu, 0.0), np.where(two, variance, np.inf), level


def _drift(
    nu: Array, unit_variance: Array, level: Array, noise: Array, measured: Measurements, t0: float
) -> FittedDrift | None:
    told = np.isfinite(unit_variance) & (level > TELLING * np.sqrt(noise))
    if told.sum() < 3:
        return None
    estimates, v = nu[told], np.maximum(unit_variance[told] * noise[told], 1e-16)  # where no noise is known

    def cost(x: Array) -> float:
        total = x[1] ** 2 + v
        return float(0.5 * np.sum(np.log(total) + (estimates - x[0]) ** 2 / total))

    start = np.array([np.mean(estimates), max(float(np.std(estimates)), 1e-6)])
    best = minimize(cost, start, method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-9, "maxiter": 4000}).x
    spread = abs(float(best[1]))
    total = spread**2 + v
    variance_error = (np.sum(0.5 / total**2)) ** -0.5  # of s²
    return FittedDrift(
        nu=float(best[0]),
        nu_error=float(np.sum(1 / total) ** -0.5),
        spread=spread,
        spread_error=float(min(variance_error / (2 * spread) if spread else np.inf, variance_error**0.5)),
        t0_s=t0,
        last_s=float(measured.time_s.max()),
        programmings=int(told.sum()),
    )
