"""The digital optimiser: what it says to subtract is what torch.optim takes off real parameters."""

import copy
import subprocess
import sys

import pytest
import torch

from analogsim.config.schema import OptimizerSettings
from analogsim.contracts import Factors, LayerUpdate, WeightUpdate
from analogsim.network import Network
from analogsim.training.optimizer import Optimizer

NETWORK = Network.dense(5, (6, 4), 3)
STEPS = 12
SETTINGS = {
    "adam": OptimizerSettings(name="adam", lr=3e-2),
    "adam, other betas": OptimizerSettings(name="adam", lr=1e-3, betas=(0.5, 0.9), eps=1e-3),
    "sgd": OptimizerSettings(name="sgd", lr=0.1),
    "sgd, momentum": OptimizerSettings(name="sgd", lr=0.1, momentum=0.9),
}
every_setting = pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)


def gradients(step, form="dense"):
    """A gradient that differs from step to step and layer to layer, of any size."""
    rng = torch.Generator().manual_seed(100 + step)
    layers = []
    for index, layer in enumerate(NETWORK.layers):
        lead = (8, 2) if form == "positions" else (8,)
        errors = torch.randn(*lead, layer.units, generator=rng) * 10.0 ** (-index)
        inputs = torch.randn(*lead, layer.inputs, generator=rng)
        weight = Factors(errors, inputs)
        layers.append(LayerUpdate(weight.dense() if form == "dense" else weight, errors.flatten(0, -2).sum(0)))
    return WeightUpdate(tuple(layers))


def dense(layer):
    return layer.weight.dense() if isinstance(layer.weight, Factors) else layer.weight


def real_parameters():
    rng = torch.Generator().manual_seed(1)
    shapes = [(layer.units, layer.inputs) for layer in NETWORK.layers] + [(layer.units,) for layer in NETWORK.layers]
    return [torch.randn(shape, generator=rng).double() for shape in shapes]


def parts(update):
    """Weights of all layers, then biases."""
    return [dense(layer) for layer in update.layers] + [layer.bias for layer in update.layers]


def assert_same(one, two):
    for a, b in zip(one, two, strict=True):
        assert torch.equal(a, b)


@every_setting
@pytest.mark.parametrize("form", ["dense", "factors", "positions"])
def test_changes_are_those_of_torch_on_real_parameters(settings, form):
    """W - change after every step = torch.optim in float64, to float32's rounding of the change."""
    reference = [parameter.requires_grad_() for parameter in real_parameters()]
    if settings.name == "adam":
        torch_optimizer = torch.optim.Adam(reference, settings.lr, settings.betas, settings.eps, foreach=False)
    else:
        torch_optimizer = torch.optim.SGD(reference, settings.lr, settings.momentum, foreach=False)
    mine, optimizer = real_parameters(), Optimizer(settings, NETWORK)
    for step in range(STEPS):
        before = [parameter.detach().clone() for parameter in reference]
        gradient = gradients(step, form)
        for parameter, part in zip(reference, parts(gradient)):
            parameter.grad = part.double()
        torch_optimizer.step()
        for parameter, change, old, new in zip(mine, parts(optimizer.step(gradient)), before, reference):
            parameter -= change
            taken_off = old - new.detach()
            assert float(taken_off.norm()) > 0
            assert float((change.double() - taken_off).norm() / taken_off.norm()) < 1e-5
            assert float((parameter - new.detach()).abs().max()) < 1e-5 * settings.lr * STEPS * 10


def test_sgd_takes_off_rate_times_gradient():
    gradient = gradients(0)
    for change, part in zip(parts(Optimizer(SETTINGS["sgd"], NETWORK).step(gradient)), parts(gradient)):
        torch.testing.assert_close(change, 0.1 * part)


def test_adams_first_step_is_the_rate_in_the_gradients_direction():
    """Both moments corrected, m̂/(√v̂ + ε) = sign(g) where |g| >> ε: the sign is that of descent."""
    gradient = gradients(0)
    for change, part in zip(parts(Optimizer(SETTINGS["adam"], NETWORK).step(gradient)), parts(gradient)):
        torch.testing.assert_close(change, 3e-2 * part / (part.abs() + 1e-7))


@every_setting
@pytest.mark.parametrize("saved_after", [0, 1, 5])
def test_a_loaded_optimiser_goes_on_bit_for_bit(settings, saved_after):
    whole = Optimizer(settings, NETWORK)
    for step in range(saved_after):
        whole.step(gradients(step))
    saved = copy.deepcopy(whole.state())
    kept = copy.deepcopy(saved)
    resumed = Optimizer(settings, NETWORK)
    resumed.load(saved)
    assert resumed.state().keys() == saved.keys()
    for step in range(saved_after, saved_after + 4):
        assert_same(parts(whole.step(gradients(step))), parts(resumed.step(gradients(step))))
    assert_same(saved.values(), kept.values())  # copied in, as every other `load` does


@every_setting
def test_loading_over_a_used_optimiser_forgets_what_it_knew(settings):
    whole, used = Optimizer(settings, NETWORK), Optimizer(settings, NETWORK)
    for step in range(3):
        whole.step(gradients(step))
        used.step(gradients(50 + step))
    used.load(copy.deepcopy(whole.state()))
    for step in range(3, 6):
        assert_same(parts(whole.step(gradients(step))), parts(used.step(gradients(step))))


def test_only_what_torch_needs_is_saved():
    """Adam: moments and step count of every W and b. SGD: momentum where there is one."""
    names = {}
    for name, settings in SETTINGS.items():
        optimizer = Optimizer(settings, NETWORK)
        optimizer.step(gradients(0))
        assert all(torch.is_tensor(tensor) for tensor in optimizer.state().values())
        names[name] = {key.partition("/")[2] for key in optimizer.state()}
    assert names["adam"] == {"step", "exp_avg", "exp_avg_sq"}
    assert names["sgd"] == set()
    assert names["sgd, momentum"] == {"momentum_buffer"}


@every_setting
def test_the_shadow_moves_with_the_chip(settings):
    """The same subtraction as the chip's: the copy equals the chip's weights bit for bit, in place."""
    rng = torch.Generator().manual_seed(2)
    shadow = [torch.randn(layer.units, layer.inputs, generator=rng) for layer in NETWORK.layers]
    chip, same = [weight.clone() for weight in shadow], list(shadow)
    optimizer = Optimizer(settings, NETWORK, shadow=shadow)
    for step in range(STEPS):
        for weight, layer in zip(chip, optimizer.step(gradients(step, "factors")).layers):
            weight.sub_(layer.weight)
        assert_same(shadow, chip)
    assert all(one is two for one, two in zip(shadow, same))


def test_a_gradient_is_left_as_it_was_and_decorrelation_passes_through():
    matrices = [torch.eye(layer.inputs) for layer in NETWORK.layers]
    layers = tuple(
        LayerUpdate(layer.weight, layer.bias, matrix) for layer, matrix in zip(gradients(0).layers, matrices)
    )
    update = Optimizer(SETTINGS["adam"], NETWORK).step(WeightUpdate(layers))
    for layer, matrix in zip(update.layers, matrices):
        assert layer.decorrelation is matrix
        assert torch.equal(matrix, torch.eye(len(matrix)))
    for one, two in zip(layers, gradients(0).layers):
        assert torch.equal(one.weight, two.weight)
        assert torch.equal(one.bias, two.bias)


@every_setting
def test_a_part_left_out_is_left_alone(settings):
    """`None` (contracts.LayerUpdate) changes nothing, whatever the step before was; other parts go on as ever."""
    optimizer, other = Optimizer(settings, NETWORK), Optimizer(settings, NETWORK)
    optimizer.step(gradients(0))
    other.step(gradients(0))
    whole = gradients(1)
    partial = (LayerUpdate(None, whole.layers[0].bias), LayerUpdate(whole.layers[1].weight, None), whole.layers[2])
    update, full = optimizer.step(WeightUpdate(partial)), other.step(whole)
    for change in (update.layers[0].weight, update.layers[1].bias):
        assert change is None or not bool(change.any())
    assert torch.equal(update.layers[0].bias, full.layers[0].bias)
    assert torch.equal(update.layers[1].weight, full.layers[1].weight)
    assert torch.equal(update.layers[2].weight, full.layers[2].weight)
    assert torch.equal(update.layers[2].bias, full.layers[2].bias)


def test_making_one_does_not_load_torchs_compiler():
    """A second of every start: what torch.optim's classes import as they are made."""
    code = (
        "import sys; from analogsim.network import Network\n"
        "from analogsim.config.schema import OptimizerSettings as S\n"
        "from analogsim.training.optimizer import Optimizer\n"
        "[Optimizer(S(name=name), Network.dense(5, (6, 4), 3)) for name in ('adam', 'sgd')]\n"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_state_of_more_layers_is_refused():
    optimizer = Optimizer(SETTINGS["adam"], NETWORK)
    with pytest.raises(KeyError, match="99/step"):
        optimizer.load({"99/step": torch.zeros(())})
