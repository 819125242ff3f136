"""What to know before training: whether a chip lets a rule learn a network, and what that will cost.

Sees the truth as the oracle does; nothing a learner uses imports it.

    signal to noise of δL = rms(δL_s) / rms(δL - δL_s)                       (over samples and pairs of passes)

δL = L̃ - L, a number a sample, is the difference of the losses of two passes that the rule compares, as the chip
gives it. δL_s is the same difference, of the same passes with the same noise, as the rule could use all of it:

    anp        through ADCs of 16 bits               (δa records all noise that propagates, so noise is signal)
    np, inp    so, and with the hidden noise off     (they know of their own ε alone)

so δL - δL_s is what hides it: rounding, and for np and inp the chip's noise (for np with a noisy baseline and
`difference: second` also the first pass's ε, which it disregards). Both are measured, to all orders.
np needs about 1 + 1/ratio² times the samples. For anp that is a worst case: rounding that δa shows is a perturbation
too. Slow noise cancels between passes: of a 1/f noise of correlation ρ (physics/flicker.py) only 1 - ρ of the
variance tells them apart, here and in `LayerFindings.noise`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from analogsim.backends.torch import full_precision
from analogsim.chip.chip import SimulatedChip
from analogsim.chip.passes import passes_at_once
from analogsim.config.schema import Experiment
from analogsim.contracts import Factors, Probe
from analogsim.physics.converters import largest_code
from analogsim.physics.flicker import correlation
from analogsim.streams import Stream
from analogsim.training import oracle
from analogsim.training.build import build_trainer
from analogsim.training.data import Dataset
from analogsim.training.loop import Trainer

ROWS = 200  # of the training data, looked at
FINE_BITS = 16
STEPS, ENOUGH_S = 10, 2.0  # timed: at most so many, no more after so long
LEAST_STEPS = 0.5  # of the ADC: noise of σ steps leaves a bias of e^(-2π²σ²)/π: 0.2 % of a step here, 9 % at half of it
LEAST_RATIO = 0.5
MOST_AT_END = 0.01  # share of weights clipped, or of conversions saturated
MOST_STUCK = 0.01  # share of cells
MOST_SHARED = 0.5  # ρ
MOST_ERROR = 0.5  # rms(W_read - W) / rms(W)
MOST_UPDATES = 10  # one way, until a cell moves


@dataclass(frozen=True)
class LayerFindings:
    """noise: σ of what tells two passes apart at an output, the chip's fresh noise and the learner's own ε, in
    pre-activation units. adc_step: √(Σ f² lsb²) over the conversions of an output (chip/crossbar.py), in the same
    units, 0 without an ADC. after_adc: the part of `noise` added to the digital sum of several conversions, which
    they do not round; what the next layer's make of it, the signal to noise of δL tells. clipped_share: of weights
    at the end of what cells span. saturated_share: of conversions beyond the ADC's bound. weight_error: of a read
    without noise at the start, rms(W_read - W) / rms(W), W the initial weights: errors of writing, faults, early
    drift, wires. least_change: of a weight that a write makes, a pulse or the threshold of verification; 0: any.
    update: what the first step asks of a weight, rms; None if its cells are written ideally. stuck_share: of cells
    that hold one value whatever is written; clipped_share leaves out those of pulsed cells."""

    noise: float
    adc_step: float
    clipped_share: float
    saturated_share: float
    weight_error: float
    least_change: float = 0.0
    update: float | None = None
    stuck_share: float = 0.0
    after_adc: float = 0.0

    @property
    def updates_a_write(self) -> float | None:
        """least_change / update: how many updates one way until a cell moves; None where each moves it."""
        return self.least_change / self.update if self.update and self.least_change else None

    @property
    def adc_steps(self) -> float | None:
        """noise / adc_step; None without an ADC, and where all noise comes after it."""
        ahead = math.sqrt(max(self.noise**2 - self.after_adc**2, 0.0))
        return ahead / self.adc_step if self.adc_step and (ahead or not self.after_adc) else None


@dataclass(frozen=True)
class Diagnosis:
    """What was found, and what to do about it in plain words, a line each.

    delta_loss, hidden: rms of δL_s and of δL - δL_s; None for a rule that compares no passes.
    correlation: ρ of the cells' 1/f noise between two passes of a sample; None without such noise.
    memory_bytes: an estimate, by what takes it. seconds: of one whole run; None if not timed.
    """

    chip: str
    rule: str
    layers: tuple[LayerFindings, ...]
    delta_loss: float | None
    hidden: float | None
    correlation: float | None
    memory_bytes: dict[str, int]
    seconds: float | None
    advice: tuple[str, ...] = ()

    @property
    def signal_to_noise(self) -> float | None:
        """rms(δL_s) / rms(δL - δL_s); infinite where nothing hides δL, 0 where nothing tells the passes apart."""
        if self.delta_loss is None or self.hidden is None:
            return None
        if self.delta_loss == 0:
            return 0.0
        return self.delta_loss / self.hidden if self.hidden else math.inf


def diagnose(
    experiment: Experiment, data: Dataset, seed: int, backend: str = "auto", device: str = "cpu", timed: bool = False
) -> Diagnosis:
    """Look at an untrained network on its chip, as a run of that seed would begin.

    timed: train a few steps of it besides, to say how long a run takes here. Leaves no trace in a run: all chips
    are built anew. Raises what build_trainer raises.
    """
    trainer = build_trainer(experiment, data, seed, backend, device)
    assert isinstance(trainer.chip, SimulatedChip)
    x, y = trainer.data.batch("train", slice(0, ROWS))
    with torch.no_grad(), full_precision():
        asked = trainer.chip.network.initial_weights(Stream.from_seed(seed).child("initial weights"))  # as build.py
        besides = math.hypot(_own_sigma(experiment), _telegraph_sigma(experiment, trainer.chip))
        layers = _layers(trainer.chip, asked, x, besides)
        delta_loss, hidden = _delta_loss(experiment, data, seed, backend, device, trainer, x, y)
        if any(trainer.chip.least_changes):
            layers = tuple(replace(a, update=b) for a, b in zip(layers, _first_update(trainer, x, y)))
    found = Diagnosis(
        chip=experiment.chip.name,
        rule=experiment.learner.rule,
        layers=layers,
        delta_loss=delta_loss,
        hidden=hidden,
        correlation=_correlation(experiment, trainer.chip),
        memory_bytes=memory_bytes(experiment, trainer),
        seconds=_seconds(experiment, data, seed, backend, device) if timed else None,
    )
    return replace(found, advice=tuple(_advice(experiment, data, found)))


def diagnose_plan(variants: Mapping[str, Experiment], data: Mapping[str, Dataset]) -> dict[str, Diagnosis]:
    """Each variant with its first seed, timed. data: by the name the experiments give."""
    return {name: diagnose(e, data[e.data], e.seeds[0], timed=True) for name, e in variants.items()}


def _own_sigma(experiment: Experiment) -> float:
    sigma = experiment.learner.perturbation
    return 0.0 if isinstance(sigma, str) or experiment.learner.base_rule == "bp" else float(sigma)


def _telegraph_sigma(experiment: Experiment, chip: SimulatedChip) -> float:
    """a √(1 - ρ) of a two-state source at the nodes, ρ = (1 - 2 p)^n for two passes n reads apart."""
    source = experiment.chip.node_noise.telegraph
    if source is None:
        return 0.0
    apart = experiment.training.batch * max(layer.positions for layer in chip.network.layers)
    reads = 1 if experiment.chip.pass_schedule == "interleaved" else apart
    return source.amplitude * math.sqrt(1 - (1 - 2 * source.flip_probability) ** reads)


def _layers(chip: SimulatedChip, asked: list[Tensor], x: Tensor, besides: float) -> tuple[LayerFindings, ...]:
    noise_and_steps = chip.view("doctor").noise_and_steps(x, besides)
    saturated = chip.view("doctor", noisy=False).saturated_shares(x)
    errors = [float((read.cpu() - w).norm() / w.norm()) for read, w in zip(chip.weights, asked)]
    shares = zip(noise_and_steps, chip.clipped_shares, saturated, errors, chip.least_changes, chip.stuck_shares)
    return tuple(
        LayerFindings(math.hypot(ahead, after), step, *rest, stuck_share=stuck, after_adc=after)
        for (ahead, after, step), *rest, stuck in shares
    )


def _first_update(trainer: Trainer, x: Tensor, y: Tensor) -> list[float]:
    """rms of the change that each layer's weights are asked for; nothing is written."""
    passes = trainer._passes(x, y, trainer.learner.ask(0, len(x)))
    update = trainer.optimizer.step(trainer.learner.tell(*zip(*passes)))
    changes = (layer.weight.dense() if isinstance(layer.weight, Factors) else layer.weight for layer in update.layers)
    return [0.0 if change is None else _rms(change) for change in changes]


# --- signal to noise of δL --------------------------------------------------------------------------


def _delta_loss(
    experiment: Experiment, data: Dataset, seed: int, backend: str, device: str, trainer: Trainer, x: Tensor, y: Tensor
) -> tuple[float | None, float | None]:
    rule, fine = experiment.learner.base_rule, trainer
    if rule == "bp":
        return None, None
    if experiment.chip.adc is not None:
        fine = build_trainer(_finely_read(experiment), data, seed, backend, device)
    signal = _differences(experiment, fine, x, y, noisy=rule == "anp", known=True)
    return _rms(signal), _rms(_differences(experiment, trainer, x, y, noisy=True) - signal)


def _finely_read(experiment: Experiment) -> Experiment:
    """The same chip with the same noise through ADCs of 16 bits, their offsets as large as before."""
    chip = experiment.chip
    assert chip.adc is not None
    finer = largest_code(FINE_BITS) / largest_code(chip.adc.bits)
    adc = chip.adc.model_copy(
        update={"bits": FINE_BITS, "offset_sigma_lsb": chip.adc.offset_sigma_lsb * finer},
    )
    return experiment.model_copy(update={"chip": chip.model_copy(update={"adc": adc})})


def _differences(
    experiment: Experiment, trainer: Trainer, x: Tensor, y: Tensor, noisy: bool, known: bool = False
) -> Tensor:
    """(pairs, batch) δL of the passes that the rule would ask for. known: without an ε that the rule disregards."""
    chip, learner = trainer.chip, experiment.learner
    assert isinstance(chip, SimulatedChip)
    probes = list(trainer.learner.ask(0, len(x)))
    noisy_base = learner.baseline == "noisy"
    if known and noisy_base and learner.base_rule == "np" and learner.difference == "second":
        probes[0] = Probe()
    view = chip.view("doctor", noisy)
    losses = [trainer.loss(view.run(x, probe).outputs, y) for probe in probes]
    if learner.base_rule == "inp" and noisy_base:  # each perturbed pass has a twin of its own
        return torch.stack(losses[1::2]) - torch.stack(losses[::2])
    return torch.stack(losses[1:]) - losses[0]


def _rms(differences: Tensor) -> float:
    return math.sqrt(float(differences.square().mean()))


def _correlation(experiment: Experiment, chip: SimulatedChip) -> float | None:
    description = experiment.chip
    law = description.cell.flicker if description.cell else None
    if law is None:
        return None
    lag_s = chip.clock.lag_s(experiment.training.batch)
    return float(correlation(lag_s, description.clock.t_first_read_s, t_r_s=law.t_r_s))


# --- costs ------------------------------------------------------------------------------------------


def memory_bytes(experiment: Experiment, trainer: Trainer) -> dict[str, int]:
    """Of one run while it trains, but for the interpreter, its libraries (about 0.2 GB) and short-lived copies.

    weights: cells, what reads find of them, the learner's matrices and copies. activities: of the passes held side
    by side, and the errors. optimizer: changes, gradients and moments. data: as stored. Peaks measured
    beside it were 0.8 to 0.9 of this on 3 × 1024 units, 1.2 to 1.3 on the paper's ConvNet (batch 1000).
    """
    chip, settings = trainer.chip, experiment.optimizer
    assert isinstance(chip, SimulatedChip)
    layers = chip.network.layers
    matrices = 4 * sum(layer.units * layer.inputs for layer in layers)
    parameters = matrices + 4 * sum(layer.units for layer in layers)
    held = sum(_bytes(tensor) for part in (chip.state(), trainer.learner.state()) for tensor in part.values())
    cell = chip.description.cell
    if cell is not None:
        held += 4 * matrices  # two legs as found, their difference, its variance
        if cell.drift is not None or cell.flicker is not None:  # worked out anew for every pass, in float64
            held += 48 * max(layer.units * layer.inputs for layer in layers)
    if experiment.learner.decorrelated:  # C and its product with R
        held += 8 * max(layer.inputs for layer in layers) ** 2
    if experiment.learner.base_rule == "bp":
        held += matrices
    moments = {"adam": 2, "sgd": int(settings.momentum > 0)}.get(settings.name, 0)
    batch = min(experiment.training.batch, len(trainer.data.x_train))
    passes = min(len(trainer.learner.ask(0, 1)), passes_at_once(chip.network, batch))
    outputs = sum(math.prod(layer.output_shape) for layer in layers)
    inputs = sum(math.prod(layer.input_shape) for layer in layers)
    data = trainer.data
    return {
        "weights": held,
        "activities": 4 * batch * (layers[0].size + inputs + (2 * passes + 1) * outputs),
        "optimizer": (2 + moments) * parameters,
        "data": sum(_bytes(tensor) for tensor in (data.x_train, data.y_train, data.x_test, data.y_test)),
    }


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _seconds(experiment: Experiment, data: Dataset, seed: int, backend: str, device: str) -> float | None:
    """steps · (mean time of some, the first apart) + rows evaluated · (time a row), checkpoints not counted;
    None if the loss is not finite."""
    size = min(experiment.training.batch, len(data.x_train))
    rows = torch.arange(STEPS * size) % len(data.x_train)
    few = replace(data, x_train=data.x_train[rows], y_train=data.y_train[rows])
    few = replace(few, x_test=data.x_test[: oracle.CHUNK], y_test=data.y_test[: oracle.CHUNK])
    trainer = build_trainer(experiment, few, seed, backend, device)
    trainer.batch, trainer.epochs, trainer.angle = size, 1, False
    ticks: list[float] = []

    def go_on() -> None:
        trainer.progress.untrained_loss = math.inf  # a diverging run takes as long a step

    def enough() -> bool:
        return len(ticks) > 1 and ticks[-1] - ticks[0] > ENOUGH_S

    trainer.run(enough, lambda: ticks.append(time.perf_counter()), go_on)
    if len(ticks) < 2:
        return None
    a_step = (ticks[-1] - ticks[0]) / (len(ticks) - 1)
    began = time.perf_counter()
    with torch.no_grad(), full_precision():
        view = oracle.evaluation_view(trainer.chip)
        oracle.evaluate(view, lambda part: trainer.data.batch("test", part), len(few.x_test), trainer.loss)
    a_row = (time.perf_counter() - began) / len(few.x_test)
    epochs, looks = experiment.training.epochs, 1 if experiment.chip.noise_free else 2
    evaluated = len(data.x_train) + (1 + epochs) * looks * len(data.x_test)
    return epochs * -(-len(data.x_train) // size) * a_step + evaluated * a_row


# --- in words ---------------------------------------------------------------------------------------


def _advice(experiment: Experiment, data: Dataset, found: Diagnosis) -> list[str]:
    chip, learner = experiment.chip, experiment.learner
    lines = [f"{key} has no effect here; it is for {user}" for key, user in experiment.idle().items()]
    if data.channels_first and any(layer.conv for layer in experiment.network.layers):
        lines.append(data.channels_first)
    own = learner.perturbation != "intrinsic"
    what = "the perturbation, the chip's noise included," if own else "the chip's noise"
    remedy = " or ".join(["learner.perturbation"] * own + ["adc.bits"] * (chip.adc is not None))
    for number, layer in enumerate(found.layers, start=1):
        steps = layer.adc_steps
        if steps is not None and steps < LEAST_STEPS and not layer.after_adc and learner.base_rule != "bp":
            lines.append(
                f"layer {number}: {what} is {steps:.2g} of an ADC step, and below about {LEAST_STEPS} a converter "
                f"hides it; raise {remedy}, or lower adc.bound"
            )
        if layer.saturated_share > MOST_AT_END and chip.adc is not None:
            share = f"layer {number}: {layer.saturated_share:.1%} of the ADC's conversions end at its bound"
            lines.append(f"{share}; raise adc.bound (now {chip.adc.bound})")
        if layer.clipped_share > MOST_AT_END and chip.cell is not None:
            auto = chip.cell.weight_max == "auto"
            key, value = (
                ("weight_headroom", chip.cell.weight_headroom) if auto else ("weight_max", chip.cell.weight_max)
            )
            share = f"layer {number}: {layer.clipped_share:.1%} of the weights are at the end of what the cells span"
            lines.append(f"{share}; raise cell.{key} (now {value:g})")
        if layer.stuck_share > MOST_STUCK:
            lines.append(f"layer {number}: {layer.stuck_share:.1%} of the cells are stuck, whatever is written to them")
        if layer.weight_error > MOST_ERROR:
            lines.append(
                f"layer {number}: after their first write the cells miss the weights asked of them by "
                f"{layer.weight_error:.0%} (rms)"
            )
        updates = layer.updates_a_write
        if updates is not None and updates > MOST_UPDATES:
            lines.append(
                f"layer {number}: the first update asks a weight to change by {layer.update:.2g} (rms), the least that "
                f"a write moves it by is {layer.least_change:.2g}: {updates:.0f} updates one way until a cell moves; "
                "raise optimizer.lr, or train for longer"
            )
    ratio = found.signal_to_noise
    if ratio is not None and ratio < LEAST_RATIO:
        ways = f"{remedy}, or learner.samples" if remedy else "learner.samples"
        hides = "rounding" if learner.base_rule == "anp" else "rounding and noise that the rule does not know"
        lines.append(
            f"what tells two passes apart changes the loss by {found.delta_loss:.2g} (rms), and what hides that, "
            f"{hides}, by {found.hidden:.2g}: signal to noise {ratio:.2g}; raise {ways}"
        )
    rho = found.correlation
    if rho is not None and rho > MOST_SHARED and not own:
        longer = "pass_schedule: whole_batch" if chip.pass_schedule == "interleaved" else "a larger training.batch"
        lines.append(
            f"{rho:.0%} of the variance of the cells' 1/f noise is the same in both passes and cancels, {1 - rho:.0%} "
            f"is left to learn from; more time between the passes leaves more: {longer}"
        )
    return lines
