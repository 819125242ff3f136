"""scikit-learn estimators that train on a noisy analog chip and predict by reading it.

    AnalogClassifier(chip="crossbar-generic", rule="danp").fit(X, y).predict(X)

A network of dense layers is programmed into a fresh chip, trained there by the rule, and read there
for every prediction: what comes back is as noisy as the chip is. Inputs are taken as they are; put a
StandardScaler or MinMaxScaler before. Real targets are too: for others than of order 1 wrap the
regressor in a TransformedTargetRegressor.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, check_random_state, validate_data

from analogsim.backends.torch import full_precision
from analogsim.config.loader import Override, load_plan
from analogsim.config.schema import ChipDescription, Experiment
from analogsim.contracts import Probe
from analogsim.errors import ArgumentError
from analogsim.training import oracle
from analogsim.training.build import build_trainer
from analogsim.training.data import Dataset
from analogsim.training.doctor import diagnose

KEYS = {  # parameter -> what an experiment calls it
    "chip": "chip",
    "rule": "learner.rule",
    "hidden": "network.hidden",
    "epochs": "training.epochs",
    "batch": "training.batch",
    "lr": "optimizer.lr",
    "optimizer": "optimizer.name",
    "decorrelation_rate": "decorrelation.rate",
    "baseline": "learner.baseline",
    "perturbation": "learner.perturbation",
    "samples": "learner.samples",
}
HELD_OUT = {"test_loss": "validation_loss", "test_accuracy": "validation_accuracy"}
HELD_OUT["test_accuracy_ideal"] = "validation_accuracy_ideal"


class _AnalogEstimator(BaseEstimator):
    """What both share: from parameters to a trainer, training, and reading."""

    def __init__(
        self,
        chip: str | os.PathLike[str] | Mapping[str, Any] | ChipDescription = "gaussian-node",
        rule: str = "danp",
        *,
        hidden: Sequence[int] = (100,),
        epochs: int = 50,
        batch: int = 20,
        lr: float = 3e-3,
        optimizer: str = "adam",
        decorrelation_rate: float = 1e-2,
        baseline: str = "auto",
        perturbation: str | float = "auto",
        samples: int = 1,
        validation_fraction: float = 0.0,
        random_state: Any = 0,
        backend: str = "auto",
        device: str = "cpu",
    ):
        """chip: a shipped name, a .yaml file, a ChipDescription, or a mapping such as {"base": "ideal"}.
        rule: bp, np, anp, inp, or decorrelated: dbp, dnp, danp, dinp.
        hidden: units of each hidden layer.
        epochs, batch: passes over the data by `fit` (`partial_fit` makes one), and rows an update.
        lr, optimizer: learning rate; adam or sgd.
        decorrelation_rate: of the rules whose name begins with d.
        baseline, perturbation, samples: as under `learner` in an experiment; `auto` fits the chip.
        validation_fraction: of the rows given to `fit`, held out and scored in `history_`; 0: none.
        random_state: whole number, RandomState or None: the seed of chip, weights, learner and order.
            The same number gives the same estimator and the same predictions, noise included.
        backend, device: auto, numpy, numba, torch or triton; cpu or cuda.
        """
        self.chip = chip
        self.rule = rule
        self.hidden = hidden
        self.epochs = epochs
        self.batch = batch
        self.lr = lr
        self.optimizer = optimizer
        self.decorrelation_rate = decorrelation_rate
        self.baseline = baseline
        self.perturbation = perturbation
        self.samples = samples
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.backend = backend
        self.device = device

    def _experiment(self) -> Experiment:
        """The parameters as an experiment. Raises ConfigError naming those that are wrong."""
        name = type(self).__name__
        given = [Override(key, getattr(self, own), f"{name}({own})") for own, key in KEYS.items()]
        seed = self.random_state
        if not isinstance(seed, int | np.integer):
            seed = check_random_state(seed).randint(2**31)
        given.append(Override("seeds", [int(seed)], f"{name}(random_state)"))
        plan = load_plan({"data": "npz:given to fit", "chip": "ideal"}, given)
        return next(iter(plan.variants.values()))

    def _begin(self, x: np.ndarray, y: np.ndarray, outputs: int, fraction: float) -> None:
        """A fresh chip and learner for these data; epoch 0 is recorded by the first run."""
        self.experiment_ = self._experiment()
        if not isinstance(fraction, float | int) or not 0 <= fraction < 1:
            raise ArgumentError("validation_fraction", fraction, "0 or more and less than 1")
        held_x, held_y = x[:1], y[:1]  # a trainer wants a test row; without a validation set nothing is made of it
        if fraction:
            seed, strata = self.experiment_.seeds[0] % 2**32, y if y.ndim == 1 else None
            parts: Any = train_test_split(x, y, test_size=fraction, random_state=seed, stratify=strata)
            x, held_x, y, held_y = parts
        self._validated = fraction > 0
        data = _dataset(x, y, held_x, held_y, outputs)
        self.trainer_ = build_trainer(self.experiment_, data, self.experiment_.seeds[0], self.backend, self.device)
        for text in diagnose(self.experiment_, data, self.experiment_.seeds[0], self.backend, self.device).advice:
            warnings.warn(f"{self.experiment_.chip.name}: {text}", UserWarning, stacklevel=3)

    def _continue(self, x: np.ndarray, y: np.ndarray) -> None:
        """One more epoch of the trainer, on these rows."""
        trainer = self.trainer_
        held = trainer.data.x_test.cpu(), trainer.data.y_test.cpu()
        trainer.data = _dataset(x, y, *held, trainer.data.outputs).to(self.device)
        trainer.epochs, trainer.progress.status = trainer.progress.epoch, "running"

    def _train(self) -> None:
        self.trainer_.run()
        history = pd.DataFrame(self.trainer_.progress.rows)
        history = history.rename(columns=HELD_OUT) if self._validated else history.drop(columns=list(HELD_OUT))
        self.history_ = history.dropna(axis="columns", how="all")
        if self.trainer_.progress.status == "diverged":
            epoch = history["epoch"].iloc[-1]
            text = f"{type(self).__name__} diverged in epoch {epoch}: rule {self.rule}; try a lower lr"
            warnings.warn(text, ConvergenceWarning, stacklevel=3)

    def _valid(self, *data: Any, **settings: Any) -> Any:
        """scikit-learn's own checks, X as float32; what is too large for it is refused as infinite."""
        with np.errstate(over="ignore"):
            return validate_data(self, *data, dtype=np.float32, **settings)

    def _outputs(self, X: Any) -> np.ndarray:
        """(rows, outputs) float64, as the chip reads them; the same rows in the same order give the same."""
        check_is_fitted(self, "trainer_")
        x = torch.from_numpy(np.array(self._valid(X, reset=False)))
        x, chip = x.to(self.device), oracle.evaluation_view(self.trainer_.chip)
        with torch.no_grad(), full_precision():
            parts = [
                chip.run(x[start : start + oracle.CHUNK], Probe(first_sample=start)).outputs
                for start in range(0, len(x), oracle.CHUNK)
            ]
        return torch.cat(parts).double().cpu().numpy()


class AnalogClassifier(ClassifierMixin, _AnalogEstimator):
    """Classes by cross-entropy: a softmax of what the chip's last layer reads.

    history_: frame with a row an epoch, epoch 0 untrained: the columns of curves.csv that apply, with
        `validation_*` in place of `test_*`; status is `diverged` where training was given up.
    experiment_, trainer_: the experiment the parameters make, and what trained it.
    n_features_in_, feature_names_in_: as everywhere in scikit-learn.
    classes_: the labels, sorted; the columns of `predict_proba`.
    """

    def fit(self, X: Any, y: Any) -> AnalogClassifier:
        """Train afresh on X (rows, features) and labels y (rows,).

        Raises CapabilityError for a rule the chip cannot run, ConfigError for a parameter.
        """
        x, codes = self._labelled(X, y)
        self._begin(x, codes, len(self.classes_), self.validation_fraction)
        self._train()
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> AnalogClassifier:
        """One epoch on these rows, from where the last one ended. classes: all there are, at the first call."""
        fresh = not hasattr(self, "trainer_")
        x, codes = self._labelled(X, y, classes, reset=fresh)
        if fresh:
            self._begin(x, codes, len(self.classes_), 0.0)
            self.trainer_.epochs = 1
        else:
            self._continue(x, codes)
        self._train()
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """softmax of the outputs: (rows, classes)."""
        return torch.from_numpy(self._outputs(X)).softmax(1).numpy()

    def predict(self, X: Any) -> np.ndarray:
        """The label of the largest output of each row."""
        chosen = self._outputs(X).argmax(1)
        return self.classes_[chosen]

    def _labelled(self, X: Any, y: Any, classes: Any = None, reset: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """X as float32, y as codes into `classes_`, which are y's own where none are given."""
        X, y = self._valid(X, y, reset=reset)
        check_classification_targets(y)
        if reset:
            self.classes_ = np.unique(y if classes is None else classes)
        if len(self.classes_) < 2:
            raise ArgumentError("y", self.classes_.tolist(), "labels of 2 or more classes, not of 1 class")
        strange = np.setdiff1d(y, self.classes_)
        if len(strange):
            raise ArgumentError("y", strange.tolist()[0], f"one of the classes {self.classes_.tolist()}")
        return X, np.searchsorted(self.classes_, y)


class AnalogRegressor(RegressorMixin, _AnalogEstimator):
    """Real targets by mean squared error: what the chip's last layer reads.

    history_: frame with a row an epoch, epoch 0 untrained: the columns of curves.csv that apply, with
        `validation_*` in place of `test_*`; status is `diverged` where training was given up.
    experiment_, trainer_: the experiment the parameters make, and what trained it.
    n_features_in_, feature_names_in_: as everywhere in scikit-learn.
    """

    def fit(self, X: Any, y: Any) -> AnalogRegressor:
        """Train afresh on X (rows, features) and targets y (rows,) or (rows, outputs).

        Raises CapabilityError for a rule the chip cannot run, ConfigError for a parameter.
        """
        x, targets = self._targets(X, y)
        self._begin(x, targets, targets.shape[1], self.validation_fraction)
        self._train()
        return self

    def partial_fit(self, X: Any, y: Any) -> AnalogRegressor:
        """One epoch on these rows, from where the last one ended."""
        fresh = not hasattr(self, "trainer_")
        x, targets = self._targets(X, y, reset=fresh)
        if fresh:
            self._begin(x, targets, targets.shape[1], 0.0)
            self.trainer_.epochs = 1
        else:
            self._continue(x, targets)
        self._train()
        return self

    def predict(self, X: Any) -> np.ndarray:
        """(rows,) or (rows, outputs), as y was."""
        outputs = self._outputs(X)
        return outputs[:, 0] if self._flat else outputs

    def _targets(self, X: Any, y: Any, reset: bool = True) -> tuple[np.ndarray, np.ndarray]:
        X, y = self._valid(X, y, reset=reset, multi_output=True, y_numeric=True)
        with np.errstate(over="ignore"):
            y = np.asarray(y, np.float32)
        if not np.isfinite(y).all():
            raise ArgumentError("y", "a target too large for float32", "finite float32 numbers")
        if reset:
            self._flat = y.ndim == 1
        y = y.reshape(len(y), -1)
        if not reset and y.shape[1] != self.trainer_.data.outputs:
            raise ArgumentError("y", f"{y.shape[1]} outputs", f"{self.trainer_.data.outputs} outputs, as before")
        return X, y

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


def _dataset(x: Any, y: Any, held_x: Any, held_y: Any, outputs: int) -> Dataset:
    parts = (torch.tensor(np.asarray(part)) for part in (x, y, held_x, held_y))
    return Dataset("the data given to fit", *parts, scale=1.0, outputs=outputs)
