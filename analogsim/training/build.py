"""From a configuration to a trainer: the one place that knows config, chip and learners."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import torch

from analogsim.backends import get_backend
from analogsim.chip.chip import SimulatedChip
from analogsim.config.schema import RULES, Convolution, Experiment, LayerSettings, LearnerSettings
from analogsim.contracts import Capabilities, Chip, Learner
from analogsim.errors import CapabilityError, DataError
from analogsim.learners.activity_perturbation import ActivityPerturbation
from analogsim.learners.backpropagation import BackPropagation
from analogsim.learners.decorrelation import Decorrelated
from analogsim.learners.iterative_perturbation import IterativePerturbation
from analogsim.learners.node_perturbation import NodePerturbation
from analogsim.learners.perturbation import Perturbation
from analogsim.network import ConvLayer, DenseLayer, Layer, Network
from analogsim.streams import Stream
from analogsim.training.captured import CapturedTrainer, recorder_of
from analogsim.training.data import Dataset
from analogsim.training.distributed import ALONE, Team, shared_out
from analogsim.training.loop import Trainer
from analogsim.training.losses import LOSSES
from analogsim.training.optimizer import Optimizer


def build_network(experiment: Experiment, data: Dataset) -> Network:
    """The experiment's layers on this data, a dense output layer last.

    Raises DataError for a convolution that does not fit, naming the layer.
    """
    settings = experiment.network
    hidden = settings.layers or tuple(LayerSettings(dense=units) for units in settings.hidden)
    layers: list[Layer] = []
    image, inputs = data.image_shape, data.inputs
    for index, layer in enumerate(hidden):
        if layer.dense is not None:
            layers.append(DenseLayer(inputs, layer.dense))
        elif layer.conv is not None:
            convolution = _convolution(layer.conv, image, f"network.layers.{index}.conv", data)
            layers.append(convolution)
            image = (*convolution.output_size, layer.conv.channels)
        inputs = math.prod(layers[-1].output_shape)
    return Network((*layers, DenseLayer(inputs, data.outputs)), settings.negative_slope, settings.bias)


def _convolution(settings: Convolution, image: tuple[int, int, int] | None, where: str, data: Dataset) -> ConvLayer:
    if image is None:
        reason = f"{data.name} has none; for images, give x as (rows, height, width[, channels])"
        raise DataError(f"{where}: needs images below it, and {reason}")
    height, width, channels = image
    layer = ConvLayer(channels, height, width, settings.channels, settings.kernel, settings.stride, settings.padding)
    if min(layer.output_size) < 1:
        size, doubt = f"{height} × {width}", data.channels_first
        raise DataError(
            f"{where}: kernel {settings.kernel} does not fit into {size} with padding {settings.padding}"
            + (f"; {doubt}" if doubt else "")
        )
    return layer


def check_plan(experiments: Mapping[str, Experiment]) -> None:
    """Refuse before any training what no seed could run: rules that need what the chip lacks."""
    for experiment in experiments.values():
        check_capabilities(experiment.learner, experiment.chip.name, _capabilities(experiment))


def check_data(experiments: Mapping[str, Experiment], data: Mapping[str, Dataset]) -> dict[str, Network]:
    """The network of each, by the same name. data: by what the experiments call it.

    Raises DataError before any training, with a line for every network and loss that does not fit its data.
    """
    networks: dict[str, Network] = {}
    misfits: list[str] = []
    for name, experiment in experiments.items():
        found = data[experiment.data]
        try:
            networks[name] = build_network(experiment, found)
        except DataError as error:
            misfits.append(f"{name}: {error}")
        try:
            _loss_name(experiment, found)
        except DataError as error:
            misfits.append(f"{name}: {error}")
    if misfits:
        raise DataError("\n".join(misfits))
    return networks


def build_trainer(
    experiment: Experiment,
    data: Dataset,
    seed: int,
    backend: str = "auto",
    device: str = "cpu",
    chip: Chip | None = None,
    learner: Learner | None = None,
    team: Team = ALONE,
) -> Trainer:
    """A trainer ready to run. chip, learner: your own, in place of what the experiment names, where
    one process trains. team: the processes that do.

    Chip, learner, initial weights and shuffling each get a stream of their own; none leads to
    another. Raises CapabilityError where the rule needs what the chip lacks, DataError where loss
    and targets do not fit.
    """
    settings = experiment.learner
    root = Stream.from_seed(seed)
    network = build_network(experiment, data)
    team = shared_out(team, experiment, data, len(network.layers))
    weights = network.initial_weights(root.child("initial weights"))
    if learner is None:
        name, can = (
            (experiment.chip.name, _capabilities(experiment))
            if chip is None
            else (type(chip).__name__, chip.capabilities)
        )
        check_capabilities(settings, name, can, weights_known=chip is None)
    get_backend(backend, device)  # refuses what does not go together, before anything is put on the device
    shadow: list[torch.Tensor] = []
    cell = experiment.chip.cell
    bound = math.inf if cell is None or cell.weight_max == "auto" else cell.weight_max
    if learner is None:
        within = [weight.to(device).clamp(-bound, bound) for weight in weights]
        learner = build_learner(experiment, network, within, root.child("learner"), backend, device, team)
        shadow = within if settings.base_rule == "bp" else []
    if chip is None:
        batch, stream = experiment.training.batch, root.child("chip")
        passes = len(learner.ask(0, 1)) if experiment.chip.pass_schedule == "interleaved" else 1
        chip = SimulatedChip(experiment.chip, network, weights, stream, backend, device, batch, team.share, passes)
    recorder = recorder_of(device) if experiment.training.capture == "auto" else None
    kind = Trainer if recorder is None else partial(CapturedTrainer, recorder=recorder)
    return kind(
        chip=chip,
        learner=learner,
        optimizer=Optimizer(experiment.optimizer, network, device, shadow, bound, experiment.training.tf32),
        data=data.to(device),
        loss=LOSSES[_loss_name(experiment, data)],
        shuffle=root.child("shuffle"),
        batch=experiment.training.batch,
        epochs=experiment.training.epochs,
        angle=experiment.training.angle,
        team=team,
    )


def build_learner(
    experiment: Experiment,
    network: Network,
    weights: list[torch.Tensor],
    stream: Stream,
    backend: str = "auto",
    device: str = "cpu",
    team: Team = ALONE,
) -> Learner:
    """The rule, wrapped in decorrelation where its name begins with d. It never sees a chip.

    weights: BP's own copy to start from; the other rules do not use it. team: the processes that train, of which
    this one's rule averages its own samples.
    """
    settings = experiment.learner
    samples = team.samples_of(settings.samples)
    matrices = [torch.eye(layer.inputs, device=device) for layer in network.layers] if settings.decorrelated else None
    sigma = settings.perturbation
    own = None
    if isinstance(sigma, float | int):
        own = Perturbation(sigma, network, stream, get_backend(backend, device), torch.device(device), team.share)
    noisy = settings.baseline == "noisy"
    rule: Learner
    if settings.base_rule == "bp":
        rule = BackPropagation(network, weights, matrices)
    elif settings.base_rule == "anp":
        rule = ActivityPerturbation(network, own, noisy, samples)
    else:
        assert own is not None, "check_capabilities refuses np and inp without a perturbation of their own"
        if settings.base_rule == "np":
            rule = NodePerturbation(network, own, noisy, samples, settings.difference)
        else:
            rule = IterativePerturbation(network, own, noisy, samples)
    return (
        rule
        if matrices is None
        else Decorrelated(
            rule,
            matrices,
            experiment.decorrelation.rate,
            experiment.decorrelation.samples,
            _positions(experiment.decorrelation.positions, network, device),
            team.share_of_rows,
            experiment.training.tf32,
            experiment.decorrelation.every,
        )
    )


def _positions(count: int | None, network: Network, device: str) -> list[torch.Tensor | None] | None:
    """Those that decorrelation looks at, of the layers that have more."""
    if count is None:
        return None
    return [
        torch.tensor(layer.spread(count), device=device)
        if isinstance(layer, ConvLayer) and layer.positions > count
        else None
        for layer in network.layers
    ]


def check_capabilities(settings: LearnerSettings, chip: str, can: Capabilities, weights_known: bool = True) -> None:
    """Refuse a rule that needs what the chip lacks, naming rule, chip, reason and what would work.

    weights_known: False for a chip of your own, of whose weights BP could have no copy to begin with.
    """
    reason = _lacking(settings, can, weights_known)
    if reason is None:
        return
    ways: dict[str, str] = {}
    for rule in RULES:
        for baseline in ("clean", "noisy"):
            for perturbation in ("intrinsic", 1e-3):
                other = LearnerSettings(rule=rule, baseline=baseline, perturbation=perturbation)
                if _lacking(other, can, weights_known) is None:
                    how = "" if other.base_rule == "bp" else f" (baseline: {baseline}, perturbation: {perturbation})"
                    ways.setdefault(rule, rule + how)
    works = ", ".join(ways.values())
    raise CapabilityError(f"rule {settings.rule} cannot run on chip {chip}: {reason}; what works on it: {works}")


def _lacking(settings: LearnerSettings, can: Capabilities, weights_known: bool) -> str | None:
    if settings.base_rule == "bp":
        return None if weights_known else "it must know the weights, and a chip of your own does not hand them out"
    intrinsic = settings.perturbation == "intrinsic"
    if intrinsic and settings.base_rule in ("np", "inp"):
        return f"{settings.base_rule} needs a perturbation it knows, and the chip's own noise is hidden"
    if not intrinsic and not can.injection_port:
        return "it has no injection port to add a known perturbation"
    if intrinsic and can.noise_free:
        return "it has no noise of its own to serve as the perturbation"
    if settings.baseline == "clean" and not can.noise_free:
        return "it is always noisy, so there is no clean baseline pass"
    return None


def _capabilities(experiment: Experiment) -> Capabilities:
    return Capabilities(experiment.chip.injection_port, experiment.chip.noise_free)


def _loss_name(experiment: Experiment, data: Dataset) -> str:
    name = experiment.training.loss
    if name == "auto":
        return "cross_entropy" if data.classification else "mse"
    if (name == "cross_entropy") != data.classification:
        held = "class numbers" if data.classification else "real numbers"
        raise DataError(f"training.loss: {name} does not fit {data.name}, whose targets are {held}")
    return name
