"""Per-sample losses against their formulas, written out in NumPy float64."""

import numpy as np
import pytest
import torch

from analogsim.training.losses import LOSSES, cross_entropy, mean_squared_error

RNG = np.random.default_rng(3)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0, 1e4])
def test_cross_entropy(scale):
    """log Σ_k exp a_k - a_y, to float64's rounding, for logits of any size."""
    outputs = (RNG.standard_normal((50, 7)) * scale).astype(np.float32)
    targets = RNG.integers(0, 7, 50)
    losses = cross_entropy(torch.from_numpy(outputs), torch.from_numpy(targets))
    a = outputs.astype(np.float64)
    top = a.max(1)
    expected = top + np.log(np.exp(a - top[:, None]).sum(1)) - a[np.arange(50), targets]
    assert losses.dtype == torch.float64
    np.testing.assert_allclose(losses, expected, rtol=1e-13, atol=1e-15 * scale + 1e-15)


def test_cross_entropy_of_equal_logits_is_the_log_of_the_classes():
    losses = cross_entropy(torch.full((3, 10), -2.5), torch.tensor([0, 4, 9]))
    np.testing.assert_allclose(losses, np.log(10), rtol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("units", [1, 7])
def test_mean_squared_error(dtype, units):
    """Σ_k (a_k - y_k)² / N_L: the mean over units and no half."""
    outputs = torch.from_numpy(RNG.standard_normal((50, units)).astype(np.float32))
    targets = torch.from_numpy(RNG.standard_normal((50, units))).to(dtype)
    losses = mean_squared_error(outputs, targets)
    expected = ((outputs.numpy().astype(np.float64) - targets.numpy().astype(np.float64)) ** 2).sum(1) / units
    assert losses.dtype == torch.float64
    np.testing.assert_allclose(losses, expected, rtol=1e-14)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_sample_has_a_loss_of_its_own(loss):
    """(batch,), each from its own row alone."""
    outputs = torch.from_numpy(RNG.standard_normal((6, 4)).astype(np.float32))
    targets = torch.arange(6) % 4 if loss == "cross_entropy" else torch.ones(6, 4)
    together = LOSSES[loss](outputs, targets)
    assert together.shape == (6,)
    for row in range(6):
        assert float(LOSSES[loss](outputs[row : row + 1], targets[row : row + 1])) == float(together[row])


@pytest.mark.parametrize("loss", LOSSES)
def test_a_difference_keeps_its_digits(loss):
    """δL of a 1e-6 change to 1 %: a float32 loss near 7 comes in steps of 5e-7."""
    outputs, targets = torch.tensor([[3.0, -4.0]]), torch.tensor([1])
    if loss == "mse":
        targets = torch.tensor([[0.0, 0.0]])
    moved = outputs + torch.tensor([[1e-6, 0.0]])
    change = float(moved[0, 0].double() - outputs[0, 0].double())
    slope = 3.0 if loss == "mse" else 1 / (1 + np.exp(-7.0))
    measured = float(LOSSES[loss](moved, targets) - LOSSES[loss](outputs, targets))
    assert measured == pytest.approx(slope * change, rel=1e-2)


def test_gradients_reach_the_outputs():
    """BP starts at ∂L/∂a: softmax - onehot, and 2 (a - y) / N_L, in float32."""
    outputs = torch.from_numpy(RNG.standard_normal((6, 4)).astype(np.float32)).requires_grad_()
    labels, values = torch.arange(6) % 4, torch.ones(6, 4)
    (gradient,) = torch.autograd.grad(cross_entropy(outputs, labels).sum(), outputs)
    a = outputs.detach().double()
    expected = a.exp() / a.exp().sum(1, keepdim=True) - torch.nn.functional.one_hot(labels, 4)
    torch.testing.assert_close(gradient, expected.float())
    (gradient,) = torch.autograd.grad(mean_squared_error(outputs, values).sum(), outputs)
    torch.testing.assert_close(gradient, (2 * (a - values) / 4).float())
