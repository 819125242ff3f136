"""Train on a chip of your own: anything that answers to the four names of the Chip contract.

    python examples/own_chip.py

`Board` stands for a lab's driver. It keeps its cells and its noise to itself; the learner sees
what the contract shows. Replace the body of `_read` by the calls that drive your hardware.
"""

from itertools import pairwise

import numpy as np
import torch

import analogsim
from analogsim.contracts import Activities, Capabilities, Factors, Probe, WeightUpdate
from analogsim.errors import CapabilityError


class Ledger:
    reads = conversions = writes = 0


class Board:
    """Two crossbars on a bench: 64 -> 128 -> 10, read noise of 1e-3, no way to inject anything."""

    capabilities = Capabilities(injection_port=False, noise_free=False)

    def __init__(self, sizes=(64, 128, 10), seed=0):
        self.ledger = Ledger()
        self._bench = np.random.default_rng(seed)  # the world's randomness; nobody can ask for it
        self._cells = [self._bench.normal(0, np.sqrt(2 / i), (o, i)).astype(np.float32) for i, o in pairwise(sizes)]
        self._biases = [np.zeros(o, np.float32) for o in sizes[1:]]
        self._decorrelation = [None] * len(self._cells)  # digital, ahead of each crossbar

    def _read(self, layer, x):
        y = x @ self._cells[layer].T
        self.ledger.reads += len(x)
        return y + self._bench.normal(0, 1e-3, y.shape).astype(np.float32)

    def run(self, x: torch.Tensor, probe: Probe) -> Activities:
        if probe.perturbation is not None:
            raise CapabilityError("this board has no injection port")
        inputs, pre_activations = [], []
        for layer, matrix in enumerate(self._decorrelation):
            vectors = x.clone() if matrix is None else x @ matrix.T
            a = torch.from_numpy(self._read(layer, vectors.numpy()) + self._biases[layer])
            inputs.append(vectors)
            pre_activations.append(a)
            x = torch.nn.functional.leaky_relu(a, 0.2)
        return Activities(tuple(inputs), tuple(pre_activations), a.clone())

    def update(self, update: WeightUpdate) -> None:
        for layer, change in enumerate(update.layers):
            if change.weight is not None:
                dense = change.weight.dense() if isinstance(change.weight, Factors) else change.weight
                self._cells[layer] -= dense.numpy()
                self.ledger.writes += dense.numel()
            if change.bias is not None:
                self._biases[layer] -= change.bias.numpy()
            if change.decorrelation is not None:
                self._decorrelation[layer] = change.decorrelation


def main(epochs: int = 10) -> float:
    plan = analogsim.load_plan("quickstart")
    experiment = plan.variants["gaussian-node"]  # its data, network, rule and optimiser; not its chip
    experiment = experiment.replace(**{"training.epochs": epochs})
    trainer = analogsim.build_trainer(experiment, analogsim.load_data(experiment.data), seed=0, chip=Board())
    trainer.run(after_epoch=lambda: print(_line(trainer.progress.rows[-1])))
    return trainer.progress.rows[-1]["test_accuracy"]


def _line(row):
    return f"epoch {row['epoch']:2d}  reads {row['reads']:6d}  test accuracy {row['test_accuracy']:.1%}"


if __name__ == "__main__":
    main()
