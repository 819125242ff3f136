"""How a chip is written: ideally, with verification, or by pulses. Part of a chip file.

Pulsed cells are in units of the weight range: w in [-1, 1], dw_min the mean step of one pulse at
w = 0 (docs/laws.md; the models and numbers of aihwkit 4545f11 and MLP_NeuroSim V3.0).
"""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Le
from pydantic import Field, model_validator

from analogsim.config.base import Count, NonNegative, Positive, Section, Share

Nonlinearity = Annotated[float, Ge(-9), Le(9)]


class IdealWrite(Section):
    """Every cell reaches its target, or the end of its range, in one write."""

    mode: Literal["ideal"]


class VerifyWrite(Section):
    """Cells that change by more than a threshold are reprogrammed: G = target + σ_prog(target) ξ.

    Each try draws ξ anew until |G - target| ≤ tolerance_uS or the tries are used up.
    """

    mode: Literal["verify"]
    threshold_uS: NonNegative = Field(
        default=0.0, description="a smaller change of the target leaves the cell as it is"
    )
    tolerance_uS: Positive | None = Field(default=None, description="accepted error; left out: the first try is kept")
    max_tries: Count = Field(default=1, description="of one write of a cell")


class _PulsedCell(Section):
    dw_min: Positive = Field(description="mean (lognormal: median) change of w by one pulse, at w = 0")
    dw_min_d2d: NonNegative = Field(default=0.0, description="its relative spread from cell to cell")
    dw_min_lognormal: bool = Field(default=False, description="that spread is lognormal, in place of normal")
    c2c: NonNegative = Field(default=0.0, description="relative spread of a step from pulse to pulse")
    up_down: float = Field(
        default=0.0, description="asymmetry: above 0 steps down are dw_min (1 - up_down), below 0 steps up so"
    )
    up_down_d2d: NonNegative = Field(default=0.0, description="its spread, opposite in the two directions")
    w_max: Positive = Field(default=1.0, description="mean upper bound of w")
    w_max_d2d: NonNegative = Field(default=0.0, description="its relative spread from cell to cell")
    w_min: Annotated[float, Field(lt=0)] = Field(default=-1.0, description="mean lower bound of w")
    w_min_d2d: NonNegative = Field(default=0.0, description="its relative spread from cell to cell")
    write_noise: NonNegative = Field(default=0.0, description="spread of what is read about what is held, in dw_min")
    stuck: Share = Field(default=0.0, description="share of cells held at one random value")
    stuck_range: NonNegative | None = Field(
        default=None, description="the largest |w| of such a value; left out: anywhere between the cell's bounds"
    )
    lifetime_updates: Positive | None = Field(default=None, description="updates in which w leaks to 1/e")
    lifetime_d2d: NonNegative = Field(default=0.0, description="its relative spread from cell to cell")


class _SlopedCell(_PulsedCell):
    c2c_additive: bool = Field(
        default=False, description="the spread is c2c dw_d at every w, in place of c2c times the step"
    )


class ConstantPulses(_PulsedCell):
    """Δw = ± dw_d (1 + σ_c2c ξ), whatever w."""

    model: Literal["constant"]


class LinearPulses(_SlopedCell):
    """Δw = ± dw_d (1 - γ_d w / w_d) (1 + σ_c2c ξ), w_d the mean bound w_max or w_min: steps shrink on the way."""

    model: Literal["linear"]
    gamma_up: NonNegative = Field(description="share by which a step up is smaller at w_max than at 0")
    gamma_down: NonNegative = Field(description="share by which a step down is smaller at w_min than at 0")
    gamma_up_d2d: NonNegative = Field(default=0.0, description="spread of gamma_up from cell to cell")
    gamma_down_d2d: NonNegative = Field(default=0.0, description="spread of gamma_down from cell to cell")


class SoftBoundsPulses(_SlopedCell):
    """Δw = ± dw_d (1 - w / b_d) (1 + σ_c2c ξ), b_d the cell's own bound: steps end there."""

    model: Literal["soft_bounds"]
    at_symmetry_point: bool = Field(
        default=False, description="w counts from where the cell's steps up and down are equal (a reference cell)"
    )
    reference_error: NonNegative = Field(default=0.0, description="spread of that reference, in w")


class ExponentialPulses(_PulsedCell):
    """Δw = ± dw_d max(1 - A_d e^(d γ z), 0) (1 + σ_c2c ξ), z = 2 a w / (b_max - b_min) + b."""

    model: Literal["exponential"]
    a_up: float = Field(description="A_up")
    a_down: float = Field(description="A_down")
    gamma: Positive = Field(description="γ")
    a: float = Field(description="a, the slope of z")
    b: float = Field(description="b, the offset of z")


class NeuroSimPulses(Section):
    """G_LTP = B (1 - e^(-P/A)) + G_min over P = 0 .. states - 1, and its mirror for LTD."""

    model: Literal["neurosim"]
    states: Annotated[int, Field(ge=2)] = Field(description="levels from end to end")
    nonlinearity_up: Nonlinearity = Field(description="above 0: steps up shrink upwards")
    nonlinearity_down: Nonlinearity = Field(description="below 0: steps down shrink downwards, as NeuroSim signs it")
    c2c: NonNegative = Field(default=0.0, description="spread of a step, as a share of the full range")


PulsedCell = Annotated[
    ConstantPulses | LinearPulses | SoftBoundsPulses | ExponentialPulses | NeuroSimPulses, Field(discriminator="model")
]


class PulsedWrite(Section):
    """Cells move by pulses. A digital optimiser's changes gather in a shadow until they make whole
    pulses; `optimizer: on_chip` sends pulse trains of at most `train_length` from the rule's factors."""

    mode: Literal["pulsed"]
    cell: PulsedCell = Field(description="how a cell answers to a pulse")
    train_length: Count = Field(default=31, description="most pulses one input or error sends an update")
    max_pulses: Count = Field(default=100, description="most pulses a cell gets a dense update")


Write = Annotated[IdealWrite | VerifyWrite | PulsedWrite, Field(discriminator="mode")]


class Costs(Section):
    """What one event costs; energy_J and latency_s columns appear where any is given."""

    read_J: NonNegative = Field(default=0.0, description="one vector through one tile, converters apart")
    read_s: NonNegative = Field(default=0.0, description="its time")
    conversion_J: NonNegative = Field(default=0.0, description="one DAC or ADC conversion")
    conversion_s: NonNegative = Field(default=0.0, description="its time")
    pulse_J: NonNegative = Field(default=0.0, description="one pulse on, or one programming try of, one cell")
    pulse_s: NonNegative = Field(default=0.0, description="its time")


class Faults(Section):
    """Shares of cells that hold one conductance whatever is written."""

    stuck_low: Share = Field(default=0.0, description="at g_min")
    stuck_high: Share = Field(default=0.0, description="at g_max")
    stuck_random: Share = Field(default=0.0, description="anywhere between, evenly")

    @model_validator(mode="after")
    def _sum(self) -> Faults:
        if self.stuck_low + self.stuck_high + self.stuck_random > 1:
            raise ValueError("stuck_random", "shares that sum to 1 or less")
        return self
