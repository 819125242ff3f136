"""What an experiment and a chip description may say. Everything is validated, frozen and strict.

Every field has a default but `data` and `chip`. NaN, infinities, unknown keys and values out of
range are refused; findings.py turns pydantic's findings into file:line:column messages, in the words
of the types below. A validator of a whole section raises ValueError(key at fault, what is allowed).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

RULES = ("bp", "np", "anp", "inp", "dbp", "dnp", "danp", "dinp")


@dataclass(frozen=True)
class Allowed:
    """What a message says is allowed, where the type and its bounds alone would not say it well."""

    words: str
    noun: str = "allowed"  # "0 is not …"


# Bounds are plain marks: pydantic before 2.11 lets a Field shared by two fields carry the default
# of one over to the other.
Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]
Count = Annotated[int, Ge(1)]
Bits = Annotated[int, Ge(2), Le(16)]
Seed = Annotated[int, Ge(0)]
Fraction = Annotated[float, Ge(0), Lt(1)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


# --- chip -----------------------------------------------------------------------------------------


class NodeNoise(Section):
    """Hidden noise at every node and read: a_l + N(0, sigma²), before the ADC."""

    sigma: NonNegative = Field(default=0.0, description="standard deviation, in pre-activation units")


class ConstantReadNoise(Section):
    """σ(G) = sigma_uS for every cell, whatever its conductance."""

    law: Literal["constant"]
    sigma_uS: NonNegative


class ProportionalReadNoise(Section):
    """σ(G) = k G."""

    law: Literal["proportional"]
    k: NonNegative


class SqrtReadNoise(Section):
    """σ(G) = k √G."""

    law: Literal["sqrt"]
    k_sqrt_uS: NonNegative = Field(description="in √µS, so that σ(G) comes out in µS")


ReadNoise = Annotated[ConstantReadNoise | ProportionalReadNoise | SqrtReadNoise, Field(discriminator="law")]


class Cell(Section):
    """A differential pair of conductances a weight: W = w_max (g_plus - g_minus) / (g_max - g_min)."""

    g_min_uS: NonNegative = 0.0
    g_max_uS: Positive = 25.0
    weight_max: Literal["auto"] | Positive = Field(
        default="auto",
        description="the weight at g_max: a number (larger weights are clipped), or max |W| at every write",
    )
    read_noise: ReadNoise | None = Field(default=None, description="white: drawn afresh for every cell at every read")

    @model_validator(mode="after")
    def _range(self) -> Cell:
        if self.g_min_uS >= self.g_max_uS:
            raise ValueError("g_min_uS", f"a number below g_max_uS = {self.g_max_uS}")
        return self


class Dac(Section):
    """Inputs become one of 2^bits - 1 levels in ±bound; what lies outside is clipped."""

    bits: Annotated[Bits, Allowed("2 to 16, or leave dac out for an ideal converter", "a number of bits")]
    bound: Literal["per_vector"] | Positive = Field(
        default="per_vector", description="in units of the inputs, or the largest |x| of each vector"
    )


class Adc(Section):
    """Outputs become one of 2^bits - 1 levels in ±bound; what lies outside is clipped."""

    bits: Annotated[Bits, Allowed("2 to 16, or leave adc out for an ideal converter", "a number of bits")]
    bound: Positive = Field(description="in units of one cell at g_max under a full-scale input")


class ChipDescription(Section):
    """One chip. Leaving a part out makes it ideal."""

    name: str = Field(default="chip", min_length=1)
    description: str = ""
    source: str = ""
    injection_port: bool = Field(default=False, description="known perturbations can be added to pre-activations")
    node_noise: NodeNoise = NodeNoise()
    cell: Cell | None = None
    dac: Dac | None = None
    adc: Adc | None = None

    @property
    def noise_free(self) -> bool:
        """No hidden noise anywhere: a clean pass exists."""
        read_noise = self.cell.read_noise if self.cell else None
        amplitudes = read_noise.model_dump(exclude={"law"}).values() if read_noise else ()
        return self.node_noise.sigma == 0 and not any(amplitudes)

    def replace(self, **changes: Any) -> ChipDescription:
        """A copy with dotted keys changed: `chip.replace(**{"node_noise.sigma": 1e-2})`.

        Raises ConfigError for an unknown key or a value out of range.
        """
        from analogsim.config.loader import replace

        return replace(self, changes)


# --- experiment -----------------------------------------------------------------------------------


class Convolution(Section):
    """A crossbar of (channels, kernel² · channels below), read once an output position."""

    channels: Count
    kernel: Count
    stride: Count = 1
    padding: Annotated[int, Ge(0)] = 0


class LayerSettings(Section):
    """One hidden layer: {conv: {channels: 16, kernel: 3, stride: 2}} or {dense: 1024}."""

    conv: Convolution | None = None
    dense: Count | None = None

    @model_validator(mode="after")
    def _one(self) -> LayerSettings:
        if (self.conv is None) == (self.dense is None):
            raise ValueError("dense", "one of conv and dense in a layer")
        return self


class Network(Section):
    """data -> hidden layers... -> outputs, leaky ReLU on every layer but the last, which is dense."""

    hidden: tuple[Count, ...] = Field(default=(), strict=False, description="units of each hidden layer, all dense")
    layers: tuple[LayerSettings, ...] = Field(
        default=(), strict=False, description="in place of hidden, where some layers are convolutions"
    )
    negative_slope: NonNegative = 0.2
    bias: bool = True

    @model_validator(mode="after")
    def _one_form(self) -> Network:
        if self.hidden and self.layers:
            raise ValueError("hidden", "hidden or layers, not both")
        return self


class LearnerSettings(Section):
    rule: Literal["bp", "np", "anp", "inp", "dbp", "dnp", "danp", "dinp"] = "danp"
    baseline: Literal["auto", "clean", "noisy"] = Field(
        default="auto", description="what the first pass is: noise-free, or as noisy as the others"
    )
    perturbation: Literal["auto", "intrinsic"] | Positive = Field(
        default="auto", description="sigma of the learner's own perturbation, or `intrinsic`: the chip's hidden noise"
    )
    samples: Count = Field(default=1, description="perturbed passes averaged an update, K")
    difference: Literal["second", "both"] = Field(
        default="second",
        description="np with a noisy baseline: use the second pass's perturbation, or the difference of both",
    )

    @property
    def decorrelated(self) -> bool:
        return self.rule.startswith("d")

    @property
    def base_rule(self) -> str:
        return self.rule.removeprefix("d")


class DecorrelationSettings(Section):
    rate: NonNegative = Field(default=1e-3, description="α in R <- R - α (C - diag C) R; used by dbp, dnp, danp, dinp")


class OptimizerSettings(Section):
    name: Literal["adam", "sgd"] = "adam"
    lr: Positive = 1e-3
    betas: Annotated[tuple[Fraction, Fraction], Allowed("two numbers, each 0 or more and less than 1")] = Field(
        default=(0.9, 0.999), strict=False
    )
    eps: Positive = 1e-7
    momentum: NonNegative = 0.0


class TrainingSettings(Section):
    epochs: int = Field(default=10, ge=0)
    batch: Count = 1000
    loss: Literal["auto", "cross_entropy", "mse"] = Field(
        default="auto", description="auto: cross-entropy for whole-number labels, mean squared error for others"
    )
    angle: bool = Field(
        default=False, description="record the angle to the BP update each epoch (the oracle's; costs a batch)"
    )
    checkpoint_s: NonNegative = Field(
        default=60.0, description="seconds between checkpoints within an epoch; one at each end"
    )


class Experiment(Section):
    """One network trained by one rule on one chip, over some seeds."""

    data: Annotated[str, Allowed("digits, mnist, fashion_mnist, cifar10, sarcos or npz:FILE", "a data set")] = Field(
        pattern=r"(?s)^(digits|mnist|fashion_mnist|cifar10|sarcos|npz:.+)$"
    )
    chip: Annotated[ChipDescription, Allowed("the name of a shipped chip, a .yaml file, or a mapping")]
    network: Network = Network()
    learner: LearnerSettings = LearnerSettings()
    decorrelation: DecorrelationSettings = DecorrelationSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    training: TrainingSettings = TrainingSettings()
    seeds: Annotated[tuple[Seed, ...], Allowed("a count from 1 to 10000, or a list of seeds, all different")] = Field(
        default=(0,), strict=False, min_length=1
    )

    @field_validator("seeds", mode="before")
    @classmethod
    def _count(cls, seeds: Any) -> Any:
        if isinstance(seeds, int) and not isinstance(seeds, bool):
            if not 1 <= seeds <= 10_000:
                raise ValueError
            return tuple(range(seeds))
        return seeds

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds):
            raise ValueError
        return seeds

    def replace(self, **changes: Any) -> Experiment:
        """A copy with dotted keys changed: `experiment.replace(**{"training.epochs": 3, "chip": "ideal"})`.

        chip: a name, a .yaml file, a ChipDescription, or a mapping of what to change in the one there is.
        The baseline and perturbation stay as they were chosen for the old chip unless they are changed too
        (`auto` chooses anew). Raises ConfigError for an unknown key or a value that is not allowed.
        """
        from analogsim.config.loader import replace

        return replace(self, changes)

    def anchored(self) -> Experiment:
        """The same with `npz:FILE` given from the root, so that it is found from elsewhere."""
        return self.model_copy(update={"data": anchored_data(self.data)})

    def resolved(self) -> Experiment:
        """The same with `auto` baseline and perturbation chosen to fit the chip."""
        learner, clean = self.learner, self.chip.noise_free
        update: dict[str, Any] = {}
        if learner.baseline == "auto":
            update["baseline"] = "clean" if clean else "noisy"
        if learner.perturbation == "auto":
            intrinsic = learner.base_rule == "anp" and not clean
            update["perturbation"] = "intrinsic" if intrinsic else 1e-3
        return self.model_copy(update={"learner": learner.model_copy(update=update)})


def anchored_data(data: str) -> str:
    """`npz:FILE` with the file given from the root; any other data set as it is."""
    kind, colon, file = data.partition(":")
    if kind != "npz" or file.startswith("~"):
        return data
    return kind + colon + str(Path(file).absolute())
