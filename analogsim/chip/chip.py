"""A simulated chip: one crossbar a layer, digital biases, activations and decorrelation.

It answers to the four names of `contracts.Chip`. Which noise a pass gets is the chip's own
business: it counts steps (one an update) and passes within a step, and no caller can turn the
count back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from analogsim.backends import get_backend
from analogsim.chip.crossbar import Crossbar
from analogsim.chip.ledger import CountingLedger
from analogsim.config.schema import ChipDescription
from analogsim.contracts import Activities, Capabilities, Factors, Probe, WeightUpdate
from analogsim.errors import ArgumentError, CapabilityError
from analogsim.network import Network
from analogsim.streams import Address, Stream


STREAMED_BYTES = 32 * 2**20  # of input vectors made at a time where nobody keeps them


class SimulatedChip:
    """A network on a chip.

    description: what the chip is like. network, weights: what is programmed into it; biases
    start at 0. stream: the chip's own randomness. backend: auto, numpy, numba or torch.
    """

    def __init__(
        self,
        description: ChipDescription,
        network: Network,
        weights: Sequence[Tensor],
        stream: Stream,
        backend: str = "auto",
        device: str | torch.device = "cpu",
    ):
        kernels = get_backend(backend, device)
        self.description, self.network = description, network
        self.ledger = CountingLedger()
        self._stream = stream
        self._crossbars = [
            Crossbar(weight.to(device), description, stream.child("noise", index), kernels, self.ledger)
            for index, weight in enumerate(weights)
        ]
        self._biases = [torch.zeros(layer.units, device=device) for layer in network.layers]
        self._decorrelation: list[Tensor | None] = [None for _ in network.layers]
        self._step, self._pass, self._rows = 0, -1, 0
        self._first_input: tuple[Tensor, int, Tensor] | None = None

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(self.description.injection_port, self.description.noise_free)

    def run(self, x: Tensor, probe: Probe) -> Activities:
        """One pass, or the next part of one: x (batch, ...) float32 -> its activities.

        Raises CapabilityError for a perturbation without an injection port, ArgumentError for
        shapes that do not fit or a `first_sample` that is not the next row of the pass.
        """
        layers = self.network.layers
        perturbations = self._perturbations(x, probe)
        address = self._advance(len(x), probe)
        inputs, pre_activations = [], []
        for index, layer in enumerate(layers):
            a, vectors = self._read(index, x, address, perturbations[index], probe.inputs)
            if vectors is not None:
                inputs.append(vectors.view(len(x), *layer.input_shape))
            if self.network.bias:
                a += self._biases[index]
            a = a.view(len(x), *layer.output_shape)
            pre_activations.append(a)
            x = self.network.activation(a) if index < len(layers) - 1 else a.clone()
        return Activities(tuple(inputs), tuple(pre_activations), x)

    def update(self, update: WeightUpdate) -> None:
        """Write the change of every layer; the next pass opens a new step."""
        for index, (layer, crossbar) in enumerate(zip(update.layers, self._crossbars)):
            if layer.weight is not None:
                dense = layer.weight.dense() if isinstance(layer.weight, Factors) else layer.weight
                crossbar.write(_plain("weight", dense))
            if layer.bias is not None:
                self._biases[index].sub_(_plain("bias", layer.bias))
            if layer.decorrelation is not None:
                self._decorrelation[index] = _plain("decorrelation", layer.decorrelation)
        self._first_input = None
        self._step, self._pass, self._rows = self._step + 1, -1, 0

    def view(self, purpose: str, noisy: bool = True) -> SimulatedChip:
        """The same cells under another stream and ledger, or noise-free; for evaluation alone."""
        other = object.__new__(SimulatedChip)
        other.__dict__.update(self.__dict__)
        other.ledger = CountingLedger()
        other._stream = self._stream.child(purpose)
        other._crossbars = [
            crossbar.view(other._stream.child("noise", index), other.ledger, noisy)
            for index, crossbar in enumerate(self._crossbars)
        ]
        other._pass, other._rows, other._first_input = -1, 0, None
        return other

    def noise_and_steps(self, x: Tensor) -> list[tuple[float, float]]:
        """(σ of the hidden noise, ADC step) of each layer on this batch; for warnings alone."""
        inputs = self.run(x, Probe()).inputs
        return [
            crossbar.noise_and_step(v.view(len(v), -1, v.shape[-1])) for crossbar, v in zip(self._crossbars, inputs)
        ]

    @property
    def weights(self) -> list[Tensor]:
        """The programmed weight matrices; for the oracle and for saving, never for a learner."""
        return [crossbar.weight for crossbar in self._crossbars]

    def state(self) -> dict[str, Tensor]:
        """Everything a resumed run needs, by reference; the decorrelation matrices are the learner's."""
        counts = [self._step, self.ledger.reads, self.ledger.conversions, self.ledger.writes]
        tensors = {"counts": torch.tensor(counts)}
        for index, (crossbar, bias) in enumerate(zip(self._crossbars, self._biases)):
            tensors |= {f"weight{index}": crossbar.weight, f"bias{index}": bias}
        return tensors

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Put a saved state back."""
        for index, (crossbar, bias) in enumerate(zip(self._crossbars, self._biases)):
            crossbar.load(state[f"weight{index}"])
            bias.copy_(state[f"bias{index}"])
        self._step, *counts = (int(count) for count in state["counts"])
        self.ledger.reads, self.ledger.conversions, self.ledger.writes = counts
        self._pass, self._rows, self._first_input = -1, 0, None

    def _advance(self, rows: int, probe: Probe) -> Address:
        first = probe.first_sample  # read once, and of int's own type: what it compares to is then settled
        if type(first) is not int or (first != 0 and (first != self._rows or self._pass < 0)):
            raise ArgumentError("first_sample", first, f"0 (a new pass) or {self._rows} (its next row)")
        if first == 0:
            self._pass, self._rows = self._pass + 1, 0
        self._rows += rows
        return Address(self._step, self._pass, first)

    def _perturbations(self, x: Tensor, probe: Probe) -> Sequence[Tensor | None]:
        layers, given = self.network.layers, probe.perturbation
        if given is None:
            return [None] * len(layers)
        if not self.description.injection_port:
            raise CapabilityError(f"chip {self.description.name} has no injection port: it cannot add a perturbation")
        plain = [None if epsilon is None else _plain("perturbation", epsilon) for epsilon in given]
        if len(plain) != len(layers):
            raise ArgumentError("perturbation", f"{len(plain)} layers", f"{len(layers)} layers")
        for layer, epsilon in zip(layers, plain):
            if epsilon is not None and epsilon.shape != (len(x), *layer.output_shape):
                raise ArgumentError("perturbation", tuple(epsilon.shape), str((len(x), *layer.output_shape)))
        return plain

    def _read(
        self, index: int, x: Tensor, address: Address, epsilon: Tensor | None, keep: bool
    ) -> tuple[Tensor, Tensor | None]:
        """(a without its bias, x* if it is to be kept) of one layer.

        Vectors nobody keeps are made, read and dropped a part of the batch at a time: those of a
        convolution are kernel² times the image, and its noise does not depend on the parts.
        """
        layer = self.network.layers[index]
        whole = keep or index == 0
        rows = len(x) if whole else STREAMED_BYTES // (4 * layer.positions * layer.inputs)
        vectors, pieces = None, []
        for start in range(0, max(len(x), 1), max(rows, 1)):
            part = slice(start, start + max(rows, 1))
            vectors = self._first_vectors(x, keep) if index == 0 else self._decorrelate(index, layer.vectors(x[part]))
            here = Address(address.step, address.pass_index, address.first_sample + start)
            injected = None if epsilon is None else epsilon[part]
            pieces.append(self._crossbars[index].read_vectors(vectors, here, injected))
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces), vectors if keep else None

    def _decorrelate(self, index: int, vectors: Tensor) -> Tensor:
        matrix = self._decorrelation[index]
        return vectors if matrix is None else self._crossbars[index].backend.product(vectors, matrix)

    def _first_vectors(self, x: Tensor, keep: bool) -> Tensor:
        """x*_0, computed once for all passes of a step on the same x; fresh memory where it is kept."""
        layer = self.network.layers[0]
        if self._decorrelation[0] is None:
            vectors = layer.vectors(x)
            return vectors.clone() if keep and vectors.data_ptr() == x.data_ptr() else vectors
        kept = self._first_input
        if kept is None or kept[0] is not x or kept[1] != x._version:
            kept = (x, x._version, self._decorrelate(0, layer.vectors(x)))
            self._first_input = kept
        return kept[2].clone() if keep else kept[2]


def _plain(name: str, tensor: Tensor) -> Tensor:
    """The same numbers outside any graph. From here on nothing of the caller's sees what they meet:
    a subclass would be handed the noise-free product, and a graph would keep the weights."""
    if type(tensor) is not Tensor:
        raise ArgumentError(name, type(tensor).__name__, "a plain torch.Tensor")
    return tensor.detach()
