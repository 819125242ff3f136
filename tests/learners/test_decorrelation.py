"""The decorrelation update: R <- R - α (C - diag C) R, C = ⟨x* x*ᵀ⟩ of the first pass."""

from dataclasses import replace

import pytest
import torch

from analogsim.contracts import Activities, LayerUpdate, Probe, WeightUpdate
from analogsim.learners.activity_perturbation import ActivityPerturbation
from analogsim.learners.decorrelation import Decorrelated, decorrelate


def normal(*shape, seed=11):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Silent:
    """A rule that asks nothing of its passes."""

    def ask(self, step, batch):
        return (Probe(),)

    def tell(self, activities, losses):
        (first,) = activities
        return WeightUpdate((LayerUpdate(),) * len(first.inputs))


def by_hand(matrix, x, rate):
    """In float64, one vector at a time."""
    r, c = matrix.double(), torch.zeros(matrix.shape, dtype=torch.float64)
    vectors = x.double().reshape(-1, x.shape[-1])
    for v in vectors:
        c += torch.outer(v, v) / len(vectors)
    return r - rate * (c - torch.diag(c.diagonal())) @ r


@pytest.mark.parametrize(
    "shape",
    [(1, 20), (7, 20), (19, 20), (20, 20), (21, 20), (200, 20), (3, 5, 20), (4, 5, 20), (30, 4, 20), (1, 1), (5, 1)],
    ids=str,
)
def test_one_step(shape):
    """The cheap form (fewer vectors than inputs) and the plain one, over batch and positions: float32's rounding."""
    d = shape[-1]
    matrix, x = torch.eye(d) + normal(d, d) * 0.3, normal(*shape, seed=12)
    expected, kept = by_hand(matrix, x, 0.05), x.clone()
    result = matrix.clone()
    decorrelate(result, x, 0.05)
    assert float((result.double() - expected).norm() / expected.norm()) < 5e-7
    assert torch.equal(x, kept)
    step = (matrix.double() - expected).norm()
    if d > 1:
        assert float((result.double() - expected).norm() / step) < 1e-4  # of the step itself too
    else:
        assert torch.equal(result, matrix)  # nothing off the diagonal


@pytest.mark.parametrize("count", [6, 200], ids=["cheap form", "plain form"])
def test_the_fixed_point_has_no_correlation(count):
    """Iterated on one set of vectors, every off-diagonal of C goes to 0 (learning.md, check 6).

    With fewer vectors than inputs too: C is singular then, but its off-diagonals still vanish.
    """
    x = normal(count, 8) @ (torch.eye(8) + normal(8, 8, seed=13) * 0.4)
    matrix = torch.eye(8)

    def off_diagonal():
        c = (x @ matrix.T).T @ (x @ matrix.T) / count
        return float((c - torch.diag(c.diagonal())).abs().max() / c.diagonal().max())

    before = off_diagonal()
    for _ in range(20_000):
        decorrelate(matrix, x @ matrix.T, 0.05)
    assert before > 0.2
    assert off_diagonal() < 1e-5
    assert float((x @ matrix.T).abs().max()) > 0.1  # not by R -> 0


@pytest.mark.parametrize("noisy", [False, True], ids=["clean", "noisy"])
def test_one_update_a_step_from_the_first_pass(mini_batch, noisy):
    """K = 3 passes, every layer (the first included), with the R that made x*; the rule's gradient untouched."""
    matrices = [matrix.clone() for matrix in mini_batch.matrices]
    rule = ActivityPerturbation(mini_batch.network, mini_batch.perturbation(), noisy, 3)
    learner = Decorrelated(rule, matrices, 0.1)
    step = mini_batch.one_step(learner, rows=40)
    alone = rule.tell(step.activities, step.losses)
    for index, (layer, before) in enumerate(zip(step.update.layers, mini_batch.matrices)):
        assert layer.decorrelation is matrices[index]
        expected = by_hand(before, step.activities[0].inputs[index], 0.1)
        torch.testing.assert_close(matrices[index].double(), expected, rtol=1e-5, atol=1e-6)
        assert torch.equal(layer.weight.errors, alone.layers[index].weight.errors)
        assert torch.equal(layer.weight.inputs, step.activities[0].inputs[index])
        assert torch.equal(layer.bias, alone.layers[index].bias)


def test_rate_zero_leaves_the_matrices(mini_batch):
    matrices = [matrix.clone() for matrix in mini_batch.matrices]
    rule = ActivityPerturbation(mini_batch.network, mini_batch.perturbation())
    mini_batch.one_step(Decorrelated(rule, matrices, 0.0), rows=40)
    assert all(torch.equal(one, two) for one, two in zip(matrices, mini_batch.matrices))


def test_the_chip_reads_with_the_new_matrices(mini_batch):
    """After update(), x* = R_new x on every layer: no stale x*_0 is kept for a batch run again."""
    matrices = [matrix.clone() for matrix in mini_batch.matrices]
    chip = mini_batch.chip()
    learner = Decorrelated(ActivityPerturbation(mini_batch.network, mini_batch.perturbation()), matrices, 0.1)
    chip.update(learner.opening())
    x = mini_batch.x
    for step in range(3):
        activities = [chip.run(x, replace(probe, inputs=True)) for probe in learner.ask(step, len(x))]
        for activity in activities:
            torch.testing.assert_close(activity.inputs[0], x @ matrices[0].T)
        losses = [torch.zeros(len(x), dtype=torch.float64)] * len(activities)
        chip.update(learner.tell(activities, losses))


def test_r_moves_in_every_third_step_and_stands_still_between():
    """The steps of a run begun anew at step 2, as after a resume, are those of the whole run."""
    steps, d = range(8), 5
    inputs = [normal(6, d, seed=30 + step) for step in steps]

    def run(start, matrix):
        learner, moved = Decorrelated(Silent(), [matrix], 0.1, every=3), []
        for step in steps[start:]:
            before = matrix.clone()
            learner.ask(step, 6)
            first = Activities((inputs[step],), (), torch.empty(6, 0))
            (layer,) = learner.tell(iter([first]), iter([torch.zeros(6)])).layers
            moved.append(not torch.equal(before, matrix))
            if moved[-1]:
                torch.testing.assert_close(matrix.double(), by_hand(before, inputs[step], 0.1), rtol=1e-5, atol=1e-6)
                assert layer.decorrelation is matrix
            else:
                assert layer.decorrelation is None
        return moved

    whole, resumed = torch.eye(d), torch.eye(d)
    assert run(0, whole) == [step in (0, 3, 6) for step in steps]
    Decorrelated(Silent(), [resumed], 0.1).tell(iter([Activities((inputs[0],), (), torch.empty(6, 0))]), iter([]))
    assert run(2, resumed) == [step in (3, 6) for step in steps[2:]]
    assert torch.equal(whole, resumed)


@pytest.mark.parametrize("positions", [None, [3], [6, 0], [0, 2, 4, 6], [*range(7)]], ids=lambda p: f"positions {p}")
@pytest.mark.parametrize("samples", [None, 1, 3, 6, 9], ids=lambda s: f"{s} samples")
def test_a_subset_of_samples_and_positions(samples, positions):
    """C of the first samples and of some positions of the layers that have them, alone; x* is told whole."""
    batch, places, d = 6, 7, 5
    image, flat = normal(batch, places, d), normal(batch, d, seed=12)
    steps = range(7) if positions is None else positions
    rows = range(batch if samples is None else min(samples, batch))
    of_image = torch.stack([image[row, place] for row in rows for place in steps])
    before = [torch.eye(d) + normal(d, d, seed=20 + layer) * 0.3 for layer in range(2)]
    expected = [by_hand(before[0], of_image, 0.1), by_hand(before[1], flat[: len(rows)], 0.1)]
    matrices = [matrix.clone() for matrix in before]
    first = Activities((image, flat), (), torch.empty(batch, 0))
    kept = None if positions is None else [torch.tensor(positions), None]
    update = Decorrelated(Silent(), matrices, 0.1, samples, kept).tell(iter([first]), iter([torch.zeros(batch)]))
    for layer, matrix, exact, whole in zip(update.layers, matrices, expected, before):
        assert layer.decorrelation is matrix
        torch.testing.assert_close(matrix.double(), exact, rtol=1e-5, atol=1e-6)
        assert not torch.equal(matrix, whole)
    if len(of_image) < batch * places:
        assert not torch.allclose(matrices[0].double(), by_hand(before[0], image, 0.1), rtol=1e-3, atol=1e-3)


def test_opening_hands_over_the_matrices_alone(mini_batch):
    matrices = [matrix.clone() for matrix in mini_batch.matrices]
    rule = ActivityPerturbation(mini_batch.network, mini_batch.perturbation())
    for layer, matrix in zip(Decorrelated(rule, matrices, 0.1).opening().layers, matrices):
        assert layer.decorrelation is matrix
        assert layer.weight is None
        assert layer.bias is None


def test_positions_and_batch_are_averaged_alike():
    """The same vectors as (batch, positions) or as one long batch: the same R."""
    x = normal(6, 5, 9)
    one, two = torch.eye(9), torch.eye(9)
    decorrelate(one, x, 0.1)
    decorrelate(two, x.flatten(0, 1), 0.1)
    assert torch.equal(one, two)
