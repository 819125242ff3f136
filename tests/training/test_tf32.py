"""`training.tf32` reaches the products of the weight gradients and of R's update, and no other.

Held on a CPU, by reading a GPU's setting at every product that is made there.
"""

import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import analogsim
from analogsim.backends.torch import PER_DEVICE, full_precision, tf32_products
from analogsim.config.loader import load_plan
from analogsim.config.schema import RULES
from analogsim.learners.decorrelation import Decorrelated
from analogsim.training.build import build_trainer
from analogsim.training.data import load_data
from analogsim.training.distributed import ALONE, Team
from analogsim.training.optimizer import Optimizer

needs_a_setting_a_device = pytest.mark.skipif(not PER_DEVICE, reason="torch < 2.9 has one setting for all devices")
PACKAGE = str(Path(analogsim.__file__).parent)
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "dot", "vdot", "convolution", "convolution_overrideable")
STEPS, LAYERS = 2, 3
DENSE = {"network.hidden": [12, 9]}
CONVOLUTION = {"network.hidden": [], "network.layers": [{"conv": {"channels": 3, "kernel": 3}}, {"dense": 8}]}
GRADIENT, R_UPDATE = "_take", ("decorrelate", "decorrelate_together")  # where these products are made
IEEE = ("ieee",) * len(PER_DEVICE)
TF32 = ("tf32", *IEEE[1:])  # a GPU's products of matrices alone


class Products(TorchDispatchMode):
    """Counts products by (function of analogsim that makes it, setting of every device)."""

    def __init__(self):
        super().__init__()
        self.seen = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.name().removeprefix("aten::").split(".")[0].rstrip("_") in PRODUCTS:
            frame = sys._getframe()
            while not frame.f_code.co_filename.startswith(PACKAGE):
                frame = frame.f_back
            self.seen[frame.f_code.co_name, tuple(setting.fp32_precision for setting in PER_DEVICE)] += 1
        return function(*args, **kwargs or {})

    def at(self, setting):
        """Where the products are made that meet this setting, and how many."""
        return Counter({where: count for (where, found), count in self.seen.items() if found == setting})


def trainer_of(changes, tf32, team=ALONE):
    base = {"data": "digits", "chip": "ideal", "training": {"epochs": 1, "batch": 719, "tf32": tf32}}
    asked = load_plan(base | {"variants": {"one": changes}}).variants["one"]
    return build_trainer(asked, load_data("digits"), 1, "torch", team=team)


def products(changes, tf32, team=ALONE):
    """Those of some steps and of the looks ahead of them."""
    trainer, rows = trainer_of(changes, tf32, team), torch.arange(100 * STEPS).view(STEPS, -1)
    with full_precision(), Products() as seen:
        trainer._record_untrained()
        for step in range(STEPS):
            trainer._step(rows[step], with_angle=True)
    return seen


def check(changes, tf32, team=ALONE, gradient=GRADIENT):
    seen, decorrelated = products(changes, tf32, team), changes["learner.rule"].startswith("d")
    lowered, full = seen.at(TF32), seen.at(IEEE)
    assert lowered.total() + full.total() == seen.seen.total() > 0
    mine = lowered if tf32 else full
    assert mine[gradient] >= STEPS * LAYERS
    updates = sum(mine[name] for name in R_UPDATE)
    assert updates == (2 * STEPS * LAYERS if decorrelated else 0)
    assert lowered == (Counter({gradient: STEPS * LAYERS}) + Counter({n: mine[n] for n in R_UPDATE}) if tf32 else {})
    assert full.total() > STEPS * LAYERS  # the passes'


@needs_a_setting_a_device
@pytest.mark.parametrize("tf32", [True, False])
@pytest.mark.parametrize("network", [DENSE, CONVOLUTION], ids=["dense", "convolution"])
@pytest.mark.parametrize("rule", RULES)
def test_gradients_and_r_alone_may_be_in_tf32(rule, network, tf32):
    check(network | {"learner.rule": rule}, tf32)


@needs_a_setting_a_device
@pytest.mark.parametrize("network", [DENSE, CONVOLUTION], ids=["dense", "convolution"])
def test_passes_that_run_as_they_are_told_are_not(monkeypatch, network):
    """Too many to be held: the chip then runs inside of `tell`."""
    monkeypatch.setattr("analogsim.chip.passes.STACKED_BYTES", 1)
    check(network | {"learner.rule": "danp", "learner.samples": 3}, tf32=True)


class Lone(Team):
    """One of two processes, whose sums are what it has itself."""

    def _reduced(self, tensor, how):
        return tensor


@needs_a_setting_a_device
@pytest.mark.parametrize("split", ["batch", "samples"])
def test_nor_where_several_processes_train(split):
    changes = DENSE | {"learner.rule": "danp", "learner.samples": 2, "training.split": split}
    check(changes, True, Lone(0, 2), gradient="dense")


# --- planted bugs ---------------------------------------------------------------------------------


def all_of_tell(patch):
    sound = Decorrelated.tell

    def tell(self, activities, losses):
        with tf32_products(self.tf32):
            return sound(self, activities, losses)

    patch.setattr(Decorrelated, "tell", tell)


def never_put_back(patch):
    class Left:
        def __init__(self, allowed):
            self.allowed = allowed

        def __enter__(self):
            if self.allowed:
                torch.backends.cuda.matmul.fp32_precision = "tf32"

        def __exit__(self, *error):
            pass

    patch.setattr("analogsim.learners.decorrelation.tf32_products", Left)


def not_in_gradients(patch):
    patch.setattr("analogsim.training.optimizer.tf32_products", lambda allowed: tf32_products(False))


def not_in_r(patch):
    patch.setattr("analogsim.learners.decorrelation.tf32_products", lambda allowed: tf32_products(False))


def on_a_cpu_too(patch):
    def lowered(self, gradient, sound=Optimizer._take):
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"
        taken = sound(self, gradient)
        torch.backends.mkldnn.matmul.fp32_precision = "ieee"
        return taken

    patch.setattr(Optimizer, "_take", lowered)


TF32_BUGS = {
    "all that a learner multiplies in TF32": all_of_tell,
    "TF32 left on": never_put_back,
    "gradients never in TF32": not_in_gradients,
    "R never in TF32": not_in_r,
    "a CPU's products lowered too": on_a_cpu_too,
}


@needs_a_setting_a_device
@pytest.mark.parametrize("bug", TF32_BUGS)
def test_the_watch_catches(monkeypatch, bug):
    TF32_BUGS[bug](monkeypatch)
    with full_precision(), pytest.raises(AssertionError):
        check(DENSE | {"learner.rule": "dbp"}, tf32=True)


# --- what it does to a run ------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["danp", "bp"])
def test_on_a_cpu_it_changes_no_bit(rule):
    one, other = (trainer_of(DENSE | {"learner.rule": rule}, tf32) for tf32 in (False, True))
    for trainer in (one, other):
        trainer.run()
    found, expected = other.checkpoint().tensors, one.checkpoint().tensors
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def settings():
    return [setting.fp32_precision for setting in PER_DEVICE] or [torch.get_float32_matmul_precision()]


def test_an_error_leaves_the_setting_as_it_was(monkeypatch):
    before = settings()
    with pytest.raises(ZeroDivisionError), tf32_products(True):
        raise ZeroDivisionError
    assert settings() == before
    trainer = trainer_of(DENSE | {"learner.rule": "danp"}, tf32=True)

    def fail(*arguments):
        raise ZeroDivisionError

    monkeypatch.setattr("analogsim.learners.decorrelation.decorrelate", fail)
    with pytest.raises(ZeroDivisionError):
        trainer.run()
    assert settings() == before


@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0), reason="needs a GPU that has TF32"
)
def test_a_gpu_heeds_it():
    x = torch.linspace(-1, 1, 512 * 512, device="cuda").sin().view(512, 512)
    with full_precision():
        product = x @ x.T
        with tf32_products(False):
            assert torch.equal(x @ x.T, product)
        with tf32_products(True):
            assert 0 < (x @ x.T - product).abs().max() < 1e-2 * product.abs().max()
        assert torch.equal(x @ x.T, product)
