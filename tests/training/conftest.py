"""What stands in for a CUDA graph on a CPU, operations written down and done again on the same memory; and trainings.

As on a GPU, recording leaves the device as it was, a play runs no Python of the step, and what asks the device for a
number, or brings one there, cannot be recorded.
"""

import json
import os
import sys
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from analogsim.config.loader import load_plan
from analogsim.training.build import build_trainer
from analogsim.training.data import load_data

if not torch.cuda.is_available():  # Triton's kernels run in its interpreter; it looks once, when it is imported
    os.environ.setdefault("TRITON_INTERPRET", "1")
REFUSED = ("_local_scalar_dense", "lift_fresh", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2")


def tensors_of(tree):
    if isinstance(tree, torch.Tensor):
        return [tree]
    parts = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list | tuple) else ()
    return [tensor for part in parts for tensor in tensors_of(part)]


def place(tensor):
    return tensor.untyped_storage().data_ptr()


def written(function, args, kwargs):
    """The tensors that an operation writes to, by its schema."""
    given = dict(zip((one.name for one in function._schema.arguments), args)) | kwargs
    names = [one.name for one in function._schema.arguments if one.alias_info is not None and one.alias_info.is_write]
    return tensors_of([given.get(name) for name in names])


class Operations(TorchDispatchMode):
    """Does operations and writes them down. before: memory from outside, as it was ahead of its first change."""

    def __init__(self):
        super().__init__()
        self.calls, self.made, self.before, self.read = [], set(), {}, {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function.name().removeprefix("aten::").split(".")[0] in REFUSED:
            raise RuntimeError(f"{function.name()}: operation not permitted when stream is capturing")
        given, targets = tensors_of((args, kwargs)), written(function, args, kwargs)
        for tensor in given:
            if place(tensor) not in self.made:
                self.read[place(tensor)] = tensor
        for tensor in targets:
            if place(tensor) not in self.made and place(tensor) not in self.before:
                storage = tensor.untyped_storage()
                self.before[place(tensor)] = (storage, storage.clone())
        out = function(*args, **kwargs)
        fresh = [t for t in tensors_of(out) if place(t) not in {place(one) for one in given}]
        self.made |= {place(tensor) for tensor in fresh}
        if fresh or targets:  # a view shows what its memory comes to
            self.calls.append((function, args, kwargs, fresh))
        return out

    def put_back(self):
        for storage, held in self.before.values():
            storage.copy_(held)

    def play(self):
        with torch.no_grad():
            for function, args, kwargs, fresh in self.calls:
                again = function(*args, **kwargs)
                for tensor, new in zip(fresh, tensors_of(again) if fresh else ()):
                    tensor.copy_(new)


class Replays:
    """A recorder. plays: how often anything recorded was played."""

    def __init__(self):
        self.recorded, self.plays, self.operations = 0, 0, None

    def aside(self, work):
        work()

    def record(self, work):
        self.recorded += 1
        self.operations = operations = Operations()
        try:
            with operations, self._launches(operations):
                work()
        finally:
            operations.put_back()

        def play():
            self.plays += 1
            operations.play()

        return play

    def _launches(self, operations):
        return Launches(sys.modules.get("analogsim.backends.triton"), operations)


class Launches:
    """Kernels that Triton's interpreter runs are no torch operations: written down where they are launched."""

    def __init__(self, module, operations):
        self.module, self.operations = module, operations

    def __enter__(self):
        if self.module is not None:
            self.plain = self.module._launch
            self.module._launch = self.launch

    def launch(self, *args, **constants):
        with _disable_current_modes():
            self.plain(*args, **constants)
        self.operations.calls.append((self.plain, args, constants, []))

    def __exit__(self, *error):
        if self.module is not None:
            self.module._launch = self.plain


@pytest.fixture
def replays():
    """The class: a recorder a trainer."""
    return Replays


# Trainings to record


@pytest.fixture(scope="session")
def trainer_of():
    """trainer_of(recorder, backend, device, **changes): two epochs of five full batches and one of 5 rows."""
    data = load_data("digits")

    def build(recorder=None, backend="torch", device="cpu", rows=130, **changes):
        few = {"x_train": data.x_train[:rows], "y_train": data.y_train[:rows]}
        few |= {"x_test": data.x_test[: rows // 4], "y_test": data.y_test[: rows // 4]}
        base = {"data": "digits", "chip": "gaussian-node", "network": {"hidden": [12, 9]}}
        base |= {"training": {"epochs": 2, "batch": 25}, "variants": {"one": changes}}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("analogsim.training.build.recorder_of", lambda device: recorder)
            return build_trainer(load_plan(base).variants["one"], replace(data, **few), 1, backend, device)

    return build


@pytest.fixture(scope="session")
def run():
    """run(trainer): trains to the end; everything that the run then is, but the time it took."""

    def end(trainer, **options):
        trainer.run(**options)
        saved = trainer.checkpoint()
        tensors = {name: tensor.cpu().numpy().tobytes() for name, tensor in saved.tensors.items()}
        for row in saved.record["rows"]:
            del row["seconds"]
        return tensors, json.dumps(saved.record | {"seconds": 0.0})

    return end


@pytest.fixture(scope="session")
def plain(trainer_of, run):
    """plain(**changes): the end of the training whose steps are plain ones, trained once."""
    ends = {}

    def end(**changes):
        key = json.dumps(changes, sort_keys=True)
        if key not in ends:
            ends[key] = run(trainer_of(**changes))
        return ends[key]

    return end
