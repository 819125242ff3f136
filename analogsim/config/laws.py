"""Laws of a cell in a chip file: how σ, 1/f strength and drift depend on its conductance.

A section names a law and its coefficients; physics/ holds the function of the same name, whose
keyword arguments are the section's keys. `valid_uS` is the range the source measured: a cell whose
range leaves it is refused, since a fit says nothing there.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from analogsim.config.base import Allowed, NonNegative, Positive, Section


def _rising(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] >= ends[1]:
        raise ValueError
    return ends


Coefficients = Annotated[
    tuple[float, ...], Field(strict=False, min_length=1), Allowed("a list of numbers, one or more")
]
Range = Annotated[
    tuple[NonNegative, Positive],
    Field(strict=False),
    AfterValidator(_rising),
    Allowed("two numbers, the lower first, none below 0"),
]


class Fitted(Section):
    """A law fitted to measurements of a stated range."""

    valid_uS: Range | None = Field(default=None, description="conductances the fit was made from; left out: any")


# --- σ(G), of a programming error or of a read ------------------------------------------------------


class ConstantSigma(Fitted):
    """σ(G) = sigma_uS for every cell, whatever its conductance."""

    law: Literal["constant"]
    sigma_uS: NonNegative = Field(description="σ")


class ProportionalSigma(Fitted):
    """σ(G) = k G."""

    law: Literal["proportional"]
    k: NonNegative = Field(description="σ over G")


class SqrtSigma(Fitted):
    """σ(G) = k √G."""

    law: Literal["sqrt"]
    k_sqrt_uS: NonNegative = Field(description="in √µS, so that σ(G) comes out in µS")


class PolynomialSigma(Fitted):
    """σ(G) = max(Σ_k c_k r^k, 0), r = G / unit_uS."""

    law: Literal["polynomial"]
    coefficients_uS: Coefficients = Field(description="c_0, c_1, ...")
    unit_uS: Positive = Field(default=1.0, description="the conductance at which r = 1")


class ExponentialSigma(Fitted):
    """σ(G) = A (1 - e^(-G/B))."""

    law: Literal["exponential"]
    amplitude_uS: NonNegative = Field(description="A")
    scale_uS: Positive = Field(description="B")


class TableSigma(Fitted):
    """σ(G) between measured points by straight lines; a range outside the table is refused."""

    law: Literal["table"]
    g_uS: Annotated[tuple[NonNegative, ...], Field(strict=False, min_length=2, description="rising")]
    sigma_uS: Annotated[tuple[NonNegative, ...], Field(strict=False, min_length=2, description="σ at each g_uS")]

    @model_validator(mode="after")
    def _points(self) -> TableSigma:
        if len(self.g_uS) != len(self.sigma_uS):
            raise ValueError("sigma_uS", f"as many numbers as g_uS has, {len(self.g_uS)}")
        if any(b <= a for a, b in zip(self.g_uS, self.g_uS[1:])):
            raise ValueError("g_uS", "conductances that rise from one to the next")
        return self


Sigma = Annotated[
    ConstantSigma | ProportionalSigma | SqrtSigma | PolynomialSigma | ExponentialSigma | TableSigma,
    Field(discriminator="law"),
]


# --- functions of r, for 1/f strength and drift -----------------------------------------------------


class PowerOfR(Section):
    """min(max, coefficient / max(r^exponent, floor))."""

    law: Literal["power"]
    coefficient: float = Field(description="the value at r = 1")
    exponent: float = Field(description="of r, in the denominator")
    floor: Positive = Field(default=1e-3, description="the least denominator")
    max: Positive = Field(description="the largest value")


class LogOfR(Section):
    """clip(slope ln r + intercept, min, max) below r = split, Σ_k c_k r^k from there on."""

    law: Literal["log"]
    slope: float = Field(description="of ln r")
    intercept: float = Field(description="the value at r = 1")
    min: float = Field(description="the least value")
    max: float = Field(description="the largest")
    split: Positive | None = Field(default=None, description="left out: the logarithm everywhere")
    polynomial: tuple[float, ...] = Field(default=(), strict=False, description="c_0, c_1, ... at and above split")

    @model_validator(mode="after")
    def _both(self) -> LogOfR:
        if (self.split is None) != (not self.polynomial):
            raise ValueError("polynomial", "split and polynomial together, or neither")
        return self


class Log10OfG(Section):
    """coefficient_uS · log10(G / 1 µS) / G, so that σ = coefficient_uS log10(G) √L."""

    law: Literal["log10"]
    coefficient_uS: Positive = Field(description="σ at 10 µS, but for √L")


OfR = Annotated[PowerOfR | LogOfR, Field(discriminator="law")]


class Flicker(Fitted):
    """1/f read noise: σ(G, t) = G Q(r) √L(t), L(t) = ln((t + t_r) / (2 t_r)), t since programming.

    Two reads τ apart correlate by ρ(τ) = 1 - [ln(π τ / t_r) + 0.577] / L(t).
    """

    strength: Annotated[PowerOfR | LogOfR | Log10OfG, Field(discriminator="law")] = Field(description="Q(r)")
    unit_uS: Positive = Field(default=1.0, description="the conductance at which r = 1")
    t_r_s: Positive = Field(description="duration of a read in the source's measurement")


# --- drift and retention ----------------------------------------------------------------------------


class PowerDrift(Fitted):
    """G(t) = G (t / t0)^-ν for t ≥ t0, ν = |μ(r) + s(r) ξ| fixed for every cell at its making."""

    law: Literal["power"]
    t0_s: Positive = Field(description="since the write, when G is as written")
    unit_uS: Positive = Field(description="the conductance at which r = 1")
    exponent: OfR = Field(description="μ(r)")
    spread: OfR = Field(description="s(r)")
    valid_s: Range | None = Field(default=None, description="times since programming the fit was made from")


class LogDrift(Fitted):
    """G(t) = G + m ln(t / 1 s) + (s₁ ln(t / 1 s) + s₀) ξ for t ≥ 1 s, ξ fixed for every programming."""

    law: Literal["log"]
    mean_uS: float = Field(description="m")
    spread_uS: float = Field(description="s₁")
    spread_at_1s_uS: NonNegative = Field(description="s₀")
    valid_s: Range | None = Field(default=None, description="times since programming the fit was made from")


class Retention(Fitted):
    """Programming error measured at some times: σ(G, t) replaces the error at programming, with the
    same ξ; between times interpolated in ln t, before the first as at the first, after the last refused."""

    law: Literal["retention"]
    times_s: Annotated[tuple[Positive, ...], Field(strict=False, min_length=1, description="measured, rising")]
    errors: Annotated[tuple[Sigma, ...], Field(strict=False, min_length=1, description="σ(G) at each of them")]

    @property
    def valid_s(self) -> tuple[float, float]:
        return 0.0, self.times_s[-1]

    @model_validator(mode="after")
    def _times(self) -> Retention:
        if len(self.times_s) != len(self.errors):
            raise ValueError("errors", f"as many laws as times_s has, {len(self.times_s)}")
        if any(b <= a for a, b in zip(self.times_s, self.times_s[1:])):
            raise ValueError("times_s", "times that rise from one to the next")
        return self


Drift = Annotated[PowerDrift | LogDrift | Retention, Field(discriminator="law")]


def coefficients(law: Section) -> dict[str, Any]:
    """The keyword arguments of the physics function of this law."""
    of_range = {"valid_uS": True, "valid_s": True}
    return law.model_dump(exclude={"law": True, **of_range, "errors": {"__all__": of_range}})
