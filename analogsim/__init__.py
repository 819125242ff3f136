"""analogsim: neural-network training on noisy analog chips whose noise cannot be read out."""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analogsim.chip.crossbar import Crossbar
    from analogsim.config.loader import load_chip, load_plan
    from analogsim.errors import AnalogsimError
    from analogsim.estimators import AnalogClassifier, AnalogRegressor
    from analogsim.experiment.call import train
    from analogsim.experiment.sweep import sweep
    from analogsim.experiment.tables import load_results
    from analogsim.training.build import build_trainer
    from analogsim.training.data import load_data

# torch and its OpenMP read both of these as they load, so they are set here, ahead of them.
if "OMP_WAIT_POLICY" not in os.environ:
    # GNU OpenMP lets a thread spin for a millisecond or more after each product, on the core that the noise of
    # that product is to be made on.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
# Tensors of 2 MB or more in pages of 2 MB, where Linux grants them: a step asks for fresh memory at every product,
# and pays for each new page of it.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

__version__ = "0.1.0"
__all__ = [
    "AnalogClassifier",
    "AnalogRegressor",
    "AnalogsimError",
    "Crossbar",
    "build_trainer",
    "load_chip",
    "load_data",
    "load_plan",
    "load_results",
    "sweep",
    "train",
]

_HOMES = {
    "AnalogClassifier": "estimators",
    "AnalogRegressor": "estimators",
    "AnalogsimError": "errors",
    "Crossbar": "chip.crossbar",
    "build_trainer": "training.build",
    "load_chip": "config.loader",
    "load_data": "training.data",
    "load_plan": "config.loader",
    "load_results": "experiment.tables",
    "sweep": "experiment.sweep",
    "train": "experiment.call",
}


def __getattr__(name: str) -> Any:
    # Lazily, so that `analogsim --help` does not wait for torch.
    if name not in _HOMES:
        raise AttributeError(f"module 'analogsim' has no attribute {name!r}")
    return getattr(import_module(f"analogsim.{_HOMES[name]}"), name)
