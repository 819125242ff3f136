"""What an experiment and a chip description may say. Everything is validated, frozen and strict.

Every field has a default but `data` and `chip`. NaN, infinities, unknown keys and values out of
range are refused; findings.py turns pydantic's findings into file:line:column messages, in the words
of the types below. A validator of a whole section raises ValueError(keys to what is at fault, what is allowed).
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge
from pydantic import Field, ValidationInfo, field_validator, model_validator

from analogsim.config.base import Allowed, Count, Fraction, NonNegative, Positive, Section, Seed
from analogsim.config.chip import ChipDescription
from analogsim.convolution import output_size

DATA_SETS = "digits, mnist, fashion_mnist, cifar10, sarcos, npz:FILE or tiny_imagenet:FOLDER"
PATHS = ("npz", "tiny_imagenet")  # data sets that lie where the user says
# (height, width) of the images of data sets that are alike wherever they are loaded; None: no images.
IMAGE_SIZES = {"digits": (8, 8), "mnist": (28, 28), "fashion_mnist": (28, 28), "cifar10": (32, 32), "sarcos": None}
RULES = ("bp", "np", "anp", "inp", "dbp", "dnp", "danp", "dinp")


class Convolution(Section):
    """A crossbar of (channels, kernel² · channels below), read once an output position."""

    channels: Count = Field(description="outputs at every position")
    kernel: Count = Field(description="side of the patch read at once")
    stride: Count = Field(default=1, description="from one position to the next")
    padding: Annotated[int, Ge(0)] = Field(default=0, description="zeros around the image")


class LayerSettings(Section):
    """One hidden layer: {conv: {channels: 16, kernel: 3, stride: 2}} or {dense: 1024}."""

    conv: Convolution | None = None
    dense: Count | None = Field(default=None, description="units")

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
    negative_slope: NonNegative = Field(default=0.2, description="of the leaky ReLU below 0")
    bias: bool = Field(default=True, description="digital, trained, 0 at first")

    @model_validator(mode="after")
    def _one_form(self) -> Network:
        if self.hidden and self.layers:
            raise ValueError("hidden", "hidden or layers, not both")
        return self

    @model_validator(mode="after")
    def _convolutions_first(self) -> Network:
        for index, (below, layer) in enumerate(pairwise(self.layers), start=1):
            if below.conv is None and layer.conv is not None:
                said = "needs images below it, and a dense layer comes before it; allowed: convolutions first"
                raise ValueError("layers", index, "conv", said)
        return self


class LearnerSettings(Section):
    rule: Literal["bp", "np", "anp", "inp", "dbp", "dnp", "danp", "dinp"] = Field(
        default="danp", description="d: with decorrelation"
    )
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
    every: Count = Field(default=1, description="R moves in one step of so many, and stands still between")
    samples: Count | None = Field(default=None, description="of a batch that C is averaged over; left out: all")
    positions: Count | None = Field(default=None, description="of an image that C is averaged over; left out: all")


class OptimizerSettings(Section):
    name: Literal["adam", "sgd", "on_chip"] = Field(
        default="adam", description="on_chip: the rule's own outer products, times lr, go straight to the cells"
    )
    lr: Positive = Field(default=1e-3, description="η, the learning rate")
    betas: Annotated[tuple[Fraction, Fraction], Allowed("two numbers, each 0 or more and less than 1")] = Field(
        default=(0.9, 0.999), strict=False, description="of adam"
    )
    eps: Positive = Field(default=1e-7, description="of adam")
    momentum: NonNegative = Field(default=0.0, description="of sgd")


class TrainingSettings(Section):
    epochs: int = Field(default=10, ge=0, description="times through the training data")
    batch: Count = Field(default=1000, description="samples an update")
    loss: Literal["auto", "cross_entropy", "mse"] = Field(
        default="auto", description="auto: cross-entropy for whole-number labels, mean squared error for others"
    )
    angle: bool = Field(
        default=False, description="record the angle to the BP update each epoch (the oracle's; costs a batch)"
    )
    checkpoint_s: NonNegative = Field(
        default=60.0, description="seconds between checkpoints within an epoch; one at each end"
    )
    tf32: bool = Field(
        default=False,
        description="on a GPU, multiply weight gradients and R's update in TF32, passes never; a CPU goes on in full",
    )
    split: Literal["auto", "batch", "samples"] = Field(
        default="auto",
        description="what torchrun's processes share out: a batch's rows, or the K noisy passes; auto: rows if enough",
    )
    capture: Literal["auto", "off"] = Field(
        default="auto", description="on a GPU, record the step as a CUDA graph where that gives the same numbers"
    )


class Experiment(Section):
    """One network trained by one rule on one chip, over some seeds."""

    data: Annotated[str, Allowed(DATA_SETS, "a data set")] = Field(
        pattern=r"(?s)^(digits|mnist|fashion_mnist|cifar10|sarcos|npz:.+|tiny_imagenet:.+)$",
        description="by name from scikit-learn or OpenML, or of your own",
    )
    chip: Annotated[ChipDescription, Allowed("the name of a shipped chip, a .yaml file, or a mapping")]
    network: Network = Network()
    learner: LearnerSettings = LearnerSettings()
    decorrelation: DecorrelationSettings = DecorrelationSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    training: TrainingSettings = TrainingSettings()
    seeds: Annotated[tuple[Seed, ...], Allowed("a count from 1 to 10000, or a list of seeds, all different")] = Field(
        default=(0,), strict=False, min_length=1, description="each trains by itself: its own weights, chip and noise"
    )

    @field_validator("network")
    @classmethod
    def _kernels_fit(cls, network: Network, info: ValidationInfo) -> Network:
        """On data of your own, whose shape is not known before it is loaded, training/build.py refuses the same."""
        data = info.data.get("data")
        if data not in IMAGE_SIZES:
            return network
        size = IMAGE_SIZES[data]
        convolutions = [layer.conv for layer in network.layers if layer.conv is not None]
        for index, conv in enumerate(convolutions):
            if size is None:
                said = f"needs images below it, and {data} has none; allowed: dense layers"
                raise ValueError("layers", index, "conv", said)
            below = "{} × {}".format(*size)
            most = min(size) + 2 * conv.padding
            size = output_size(*size, conv.kernel, conv.stride, conv.padding)
            if min(size) < 1:
                said = f"{most} or less, to fit into the {below} below it with padding {conv.padding} ({data})"
                raise ValueError("layers", index, "conv", "kernel", said)
        return network

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

    def idle(self) -> dict[str, str]:
        """Keys that are not at their default and have no effect here, with what would use them.

        No error: a sweep, a variant or an option may set another rule or optimiser than the one they are for.
        """
        learner, optimizer = self.learner, self.optimizer
        users = {
            "learner.difference": (
                "np with a noisy baseline",
                learner.base_rule == "np" and learner.baseline == "noisy",
            ),
            "optimizer.betas": ("adam", optimizer.name == "adam"),
            "optimizer.eps": ("adam", optimizer.name == "adam"),
            "optimizer.momentum": ("sgd", optimizer.name == "sgd"),
        }
        found = {}
        for key, (user, used) in users.items():
            section, name = key.split(".")
            settings = getattr(self, section)
            default = type(settings).model_fields[name].default
            if not used and getattr(settings, name) != default:
                found[key] = user
        return found

    def anchored(self) -> Experiment:
        """The same with a file or folder of data given from the root, so that it is found from elsewhere."""
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
    """`npz:FILE` or `tiny_imagenet:FOLDER` with the path given from the root; any other data set as it is."""
    kind, colon, path = data.partition(":")
    if kind not in PATHS or not colon or path.startswith("~"):
        return data
    return kind + colon + str(Path(path).absolute())
