"""Train with a learning rule of your own, in ask/tell form.

    python examples/own_learner.py

`SignPerturbation` is ANP with only the sign of the loss difference: all the chip's side has to
send back is one bit a sample. It holds no chip and cannot ask for the noise.
"""

import torch

import analogsim
from analogsim.contracts import Probe, WeightUpdate
from analogsim.learners.perturbation import gradient, per_sample, safe_ratio, squared_norm


class SignPerturbation:
    """ΔW_l = sign(δL) · δa_l / ‖δa‖ · x*_{l-1}ᵀ, from two passes of a noisy chip."""

    def ask(self, step, batch):
        return Probe(), Probe()

    def tell(self, activities, losses) -> WeightUpdate:
        (first, before), (second, after) = zip(activities, losses)
        delta = [b - a for a, b in zip(first.pre_activations, second.pre_activations)]
        factor = safe_ratio(torch.sign(after - before), squared_norm(delta).sqrt())
        return gradient([per_sample(factor, d) for d in delta], first.inputs)

    def state(self):
        return {}

    def load(self, state):
        pass


def main(epochs: int = 10) -> float:
    experiment = analogsim.load_plan("quickstart").variants["crossbar-generic"]
    experiment = experiment.replace(**{"training.epochs": epochs})
    data = analogsim.load_data(experiment.data)
    trainer = analogsim.build_trainer(experiment, data, seed=0, learner=SignPerturbation())
    trainer.run(after_epoch=lambda: print(_line(trainer.progress.rows[-1])))
    return trainer.progress.rows[-1]["test_accuracy"]


def _line(row):
    return f"epoch {row['epoch']:2d}  reads {row['reads']:6d}  test accuracy {row['test_accuracy']:.1%}"


if __name__ == "__main__":
    main()
