"""A simulated chip: one crossbar a layer, digital biases, activations and decorrelation.

It answers to the four names of `contracts.Chip`. Which noise a pass gets is the chip's own
business: it counts steps (one an update) and passes within a step, and no caller can turn the
count back.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from analogsim.backends import Backend, get_backend
from analogsim.chip.clock import Clock
from analogsim.chip.crossbar import Crossbar
from analogsim.chip.ledger import CountingLedger
from analogsim.chip.margins import noise_and_step, saturated_share
from analogsim.chip.passes import Pass, PassRunner, passes_at_once
from analogsim.config.chip import ChipDescription, NodeNoise
from analogsim.contracts import Activities, Capabilities, Factors, LayerUpdate, Probe, Share, WeightUpdate
from analogsim.errors import ArgumentError, CapabilityError
from analogsim.network import Layer, Network
from analogsim.streams import Address, HeldStep, Stream


class SimulatedChip:
    """A network on a chip.

    description: what the chip is like. network, weights: what is programmed into it; biases
    start at 0. stream: the chip's own randomness. backend: auto, numpy, numba, torch or triton. batch: samples a
    pass, which say how far apart the passes of a sample are (`pass_schedule: whole_batch`). share: where the rows
    of every pass stand in a batch, and the passes in a step, that other processes have parts of; None: all is here.
    passes: of a step, which a chip that reads them interleaved has to know ahead.
    """

    def __init__(
        self,
        description: ChipDescription,
        network: Network,
        weights: Sequence[Tensor],
        stream: Stream,
        backend: str = "auto",
        device: str | torch.device = "cpu",
        batch: int = 1,
        share: Share | None = None,
        passes: int = 2,
    ):
        shapes = [(layer.units, layer.inputs) for layer in network.layers]
        if [tuple(weight.shape) for weight in weights] != shapes:
            raise ArgumentError("weights", [tuple(weight.shape) for weight in weights], f"the shapes {shapes}")
        kernels = get_backend(backend, device)
        self.description, self.network = description, network
        self.ledger = CountingLedger(costs=description.costs)
        positions = max(layer.positions for layer in network.layers)
        self.clock = Clock(description.clock, positions, description.pass_schedule == "interleaved")
        self._lag_s, self._passes = self.clock.lag_s(batch), passes
        self._stream, self._share = stream, share
        self._crossbars = [
            self._crossbar(weight.to(device), description, stream.child("noise", index), kernels)
            for index, weight in enumerate(weights)
        ]
        self._mixers: dict[int, Crossbar] = {}  # decorrelation matrices, where they are on crossbars
        self._mixed: dict[int, Tensor] = {}  # the matrices last asked of them, where they move by pulses
        self._biases = [torch.zeros(layer.units, device=device) for layer in network.layers]
        self._decorrelation: list[Tensor | None] = [None for _ in network.layers]
        self._step, self._pass, self._rows = 0, -1, 0
        self._runner = self._make_runner(kernels)

    def _make_runner(self, kernels: Backend) -> PassRunner:
        return PassRunner(self.network, self._crossbars, self._biases, self._decorrelation, kernels, self._mixers)

    def _crossbar(self, weight: Tensor, description: ChipDescription, stream: Stream, kernels: Backend) -> Crossbar:
        crossbar = Crossbar(weight, description, stream, kernels, self.ledger, self.clock, self._passes)
        crossbar.lag_s = self._lag_s
        return crossbar

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(self.description.injection_port, self.description.noise_free)

    def run(self, x: Tensor, probe: Probe) -> Activities:
        """One pass, or the next part of one: x (batch, ...) float32 -> its activities.

        Raises CapabilityError for a perturbation without an injection port, ArgumentError for
        shapes that do not fit or a `first_sample` that is not the next row of the pass.
        """
        return next(self.passes(x, (probe,)))

    def passes(self, x: Tensor, probes: Sequence[Probe]) -> Iterator[Activities]:
        """The passes asked for, in order, as `run` gives them one by one; run side by side while
        they fit STACKED_BYTES (passes.py), the next ones when they are come to."""
        x = self._checked(x)
        size = passes_at_once(self.network, len(x))
        untold = sum(not probe.inputs for probe in probes)
        for start in range(0, len(probes), size):
            asked = [self._asked(x, probe) for probe in probes[start : start + size]]
            done = self._runner.run(x, asked, untold, more=start + size < len(probes))
            done.reverse()
            while done:
                yield done.pop()

    def skip(self, passes: int) -> None:
        """Let passes of this step go by that another process runs: their numbers, and their time."""
        assert self._share is not None
        self._pass += passes
        self.clock.count(passes * self._share.whole)

    def update(self, update: WeightUpdate) -> None:
        """Write the change of every layer; the next pass opens a new step.

        Cells that move by pulses are handed a gradient's factors as they are; all others its matrix.

        Raises ArgumentError for a number of layers or a shape that does not fit.
        """
        if len(update.layers) != len(self._crossbars):
            raise ArgumentError("update", f"{len(update.layers)} layers", f"{len(self._crossbars)} layers")
        checked = [self._checked_update(layer, change) for layer, change in zip(self.network.layers, update.layers)]
        for _, crossbar in self._named_crossbars():
            crossbar.end_step(self._step)
        for index, change in enumerate(checked):  # none is written unless all fit
            if change.weight is not None:
                self._crossbars[index].write(change.weight)
            if change.bias is not None:
                self._biases[index].sub_(change.bias)
            if change.decorrelation is not None:
                self._decorrelation[index] = change.decorrelation
                if self.description.decorrelation == "on_chip":
                    self._mix(index, change.decorrelation)
        self.clock.close_step()
        self._step, self._pass, self._rows = self._step + 1, -1, 0

    # --- steps that are recorded and played again (training/captured.py) ----------------------------

    @property
    def step(self) -> int | None:
        """The number of the step that the next pass opens; None within one."""
        return self._step if self._pass < 0 else None

    def hold_step(self, held: Tensor) -> None:
        """Let kernels read this step's number in `held`; the next one is a plain number again."""
        self._step = HeldStep(self._step, held)

    def played_again(self, counts: Sequence[int], samples: int) -> None:
        """A recorded step was done on the device alone: count what it cost. samples: rows of all its passes."""
        self.ledger.load([done + more for done, more in zip(self.ledger.counts(), counts)])
        self.clock.count(samples)
        self.clock.close_step()
        self._step += 1

    def view(self, purpose: str, noisy: bool = True) -> SimulatedChip:
        """The same cells under another stream and ledger, or noise-free; for evaluation alone."""
        other = object.__new__(SimulatedChip)
        other.__dict__.update(self.__dict__)
        other.ledger, other.clock = CountingLedger(costs=self.description.costs), self.clock.copy()
        other._stream = self._stream.child(purpose)
        other._crossbars = [
            crossbar.view(other._stream.child("noise", index), other.ledger, noisy, other.clock)
            for index, crossbar in enumerate(self._crossbars)
        ]
        other._mixers = {
            index: mixer.view(other._stream.child("decorrelation", index), other.ledger, noisy, other.clock)
            for index, mixer in self._mixers.items()
        }
        other._runner = other._make_runner(self._runner.backend)
        other._pass, other._rows = -1, 0
        return other

    def noise_and_steps(self, x: Tensor, besides: float = 0.0) -> list[tuple[float, float, float]]:
        """(σ ahead of the ADCs, σ added after, ADC step) of each layer on this batch; for warnings alone."""
        return [noise_and_step(crossbar, vectors, besides) for crossbar, vectors in self._vectors_read(x)]

    def saturated_shares(self, x: Tensor) -> list[float]:
        """Share of each layer's ADC conversions that are cut off on this batch; for warnings alone."""
        return [saturated_share(crossbar, vectors) for crossbar, vectors in self._vectors_read(x)]

    def _vectors_read(self, x: Tensor) -> list[tuple[Crossbar, Tensor]]:
        """Each crossbar with the vectors (batch, positions, inputs) of a pass on x."""
        inputs = self.run(x, Probe()).inputs
        return [(crossbar, v.view(len(v), -1, v.shape[-1])) for crossbar, v in zip(self._crossbars, inputs)]

    @property
    def weights(self) -> list[Tensor]:
        """The matrices that a read without noise multiplies by; for the oracle, never for a learner."""
        return [crossbar.effective_weight for crossbar in self._crossbars]

    @property
    def targets(self) -> list[Tensor]:
        """The weights asked of the cells; of cells that move by pulses, what they hold. To program another chip."""
        return [crossbar.weight for crossbar in self._crossbars]

    @property
    def biases(self) -> list[Tensor]:
        """The digital biases."""
        return self._biases

    @property
    def clipped_shares(self) -> list[float]:
        """Share of each layer's weights at the end of what its cells span; for warnings alone."""
        return [crossbar.cells.clipped_share for crossbar in self._crossbars]

    @property
    def stuck_shares(self) -> list[float]:
        """Share of each layer's cells that hold one value whatever is written; for warnings alone."""
        return [crossbar.cells.stuck_share for crossbar in self._crossbars]

    @property
    def least_changes(self) -> list[float]:
        """The smallest change of a weight that a write makes in each layer, 0: any; for warnings alone."""
        return [crossbar.cells.least_change for crossbar in self._crossbars]

    def age(self, seconds: float) -> None:
        """Let time pass over the cells, without reads."""
        self.clock.move_to(self.clock.now_s + seconds)

    def state(self) -> dict[str, Tensor]:
        """Everything a resumed run needs, by reference; the decorrelation matrices are the learner's."""
        tensors = {
            "step": torch.tensor(self._step),
            "counts": self.ledger.state(),
            "clock": torch.tensor(self.clock.opened_s, dtype=torch.float64),
        }
        tensors |= {f"bias{index}": bias for index, bias in enumerate(self._biases)}
        tensors |= {f"mixer{index}.asked": matrix for index, matrix in self._mixed.items()}
        for name, crossbar in self._named_crossbars():
            held = crossbar.state()
            tensors[name] = held.pop("weight")
            tensors |= {f"{name}.{key}": tensor for key, tensor in held.items()}
        return tensors

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Put a saved state back."""
        self.clock.move_to(float(state["clock"]))
        for index, bias in enumerate(self._biases):
            bias.copy_(state[f"bias{index}"])
        for key in state:
            if re.fullmatch(r"mixer\d+", key):
                self._mixer(int(key.removeprefix("mixer")), state[key])
        self._mixed = {
            index: state[f"mixer{index}.asked"].to(self.biases[0].device, copy=True)
            for index in self._mixers
            if self._in_pulses
        }
        for name, crossbar in self._named_crossbars():
            held = {key.removeprefix(f"{name}."): t for key, t in state.items() if key.startswith(f"{name}.")}
            crossbar.load(held | {"weight": state[name]})
        self._step = int(state["step"])
        self.ledger.load(state["counts"])
        self._pass, self._rows = -1, 0

    def _named_crossbars(self) -> Iterator[tuple[str, Crossbar]]:
        """Every crossbar there is, with the name that its state is saved by."""
        yield from ((f"weight{index}", crossbar) for index, crossbar in enumerate(self._crossbars))
        yield from ((f"mixer{index}", mixer) for index, mixer in self._mixers.items())

    @property
    def _in_pulses(self) -> bool:
        return self.description.write.mode == "pulsed"

    def _mix(self, index: int, matrix: Tensor) -> None:
        """Write a decorrelation matrix: of cells that move by pulses, its change since the last one asked for.

        What such cells hold is known to nobody, and the learner changes its matrix in place: hence a copy.
        """
        mixer = self._mixer(index, matrix)
        mixer.write((self._mixed.get(index, matrix) if self._in_pulses else mixer.weight) - matrix)
        if self._in_pulses:
            self._mixed[index] = matrix.clone()

    def _mixer(self, index: int, matrix: Tensor) -> Crossbar:
        """The crossbar of a decorrelation matrix, like those of the layers but that it has no nodes."""
        if index not in self._mixers:
            bare = self.description.model_copy(update={"node_noise": NodeNoise()})
            stream, kernels = self._stream.child("decorrelation", index), self._crossbars[index].backend
            self._mixers[index] = self._crossbar(matrix, bare, stream, kernels)
        return self._mixers[index]

    def _checked(self, x: Tensor) -> Tensor:
        size = self.network.layers[0].size
        if x.dtype != torch.float32 or x.ndim < 2 or math.prod(x.shape[1:]) != size:
            raise ArgumentError("x", f"{x.dtype} {tuple(x.shape)}", f"torch.float32 (batch, {size})")
        return x.detach() if x.requires_grad else x

    def _checked_update(self, layer: Layer, change: LayerUpdate) -> LayerUpdate:
        """The same and plain; dense but for cells that move by pulses."""
        weight = change.weight
        if isinstance(weight, Factors) and self._in_pulses:
            return replace(
                self._checked_update(layer, replace(change, weight=None)), weight=_plain_factors(weight, layer)
            )
        weight = weight.dense() if isinstance(weight, Factors) else weight
        shapes = {"weight": (layer.units, layer.inputs), "bias": (layer.units,), "decorrelation": (layer.inputs,) * 2}
        parts = zip(shapes, (weight, change.bias, change.decorrelation))
        return LayerUpdate(**{name: None if p is None else _plain(name, p, shapes[name]) for name, p in parts})

    def _advance(self, rows: int, probe: Probe) -> Address:
        first = probe.first_sample  # read once, and of int's own type: what it compares to is then settled
        if type(first) is not int or (first != 0 and (first != self._rows or self._pass < 0)):
            raise ArgumentError("first_sample", first, f"0 (a new pass) or {self._rows} (its next row)")
        if first == 0:
            if self._pass == 0 and self._share is not None:
                self.skip(self._share.skipped)
            self._pass, self._rows = self._pass + 1, 0
            self.clock.open(self._pass)
        self._rows += rows
        if self._share is None:
            self.clock.count(rows)
            return Address(self._step, self._pass, first)
        if first == 0:
            self.clock.count(self._share.whole)  # the others' rows take their time as well
        return Address(self._step, self._pass, self._share.first + first)

    def _asked(self, x: Tensor, probe: Probe) -> Pass:
        injected = self._injected(probe.perturbation, len(x))
        return Pass(self._advance(len(x), probe), injected, bool(probe.inputs))

    def _injected(self, given: Sequence[Tensor | None] | None, batch: int) -> Callable[[int], Tensor | None]:
        """ε of a layer, looked at once, when its turn comes."""
        layers = self.network.layers
        if given is None:
            return lambda index: None
        if not self.description.injection_port:
            raise CapabilityError(f"chip {self.description.name} has no injection port: it cannot add a perturbation")
        if len(given) != len(layers):
            raise ArgumentError("perturbation", f"{len(given)} layers", f"{len(layers)} layers")

        def injected(index: int) -> Tensor | None:
            epsilon = given[index]
            return None if epsilon is None else _plain("perturbation", epsilon, (batch, *layers[index].output_shape))

        return injected


def _plain_factors(factors: Factors, layer: Layer) -> Factors:
    """The same as matrices outside any graph, (samples and positions, units) and (…, inputs)."""
    errors, inputs = (part.flatten(0, -2) for part in (factors.errors, factors.inputs))
    return Factors(
        _plain("errors", errors, (len(inputs), layer.units)), _plain("inputs", inputs, (len(inputs), layer.inputs))
    )


def _plain(name: str, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The same numbers outside any graph. From here on nothing of the caller's sees what they meet:
    a subclass would be handed the noise-free product, and a graph would keep the weights."""
    if type(tensor) is not Tensor:
        raise ArgumentError(name, type(tensor).__name__, "a plain torch.Tensor")
    if tensor.shape != shape:
        raise ArgumentError(name, tuple(tensor.shape), f"the shape {tuple(shape)}")
    return tensor.detach()
