"""Pulse trains: counts of coincidences by their law, and the update they make on average.

one sample    count of cell (i, j) ~ Binomial(n, p_j q_i), p_j = min(1, c_x|x_j|), q_i = min(1, c_d|d_i|),
              independent between samples; two cells of one row share its pulses
a batch       E[(up - down) dw_min] = -η Σ_b d x where no probability is cut at 1; the variance is the samples' sum
"""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from analogsim.physics import pulse_trains as module
from analogsim.physics.pulse_trains import coincidences, dense_pulses, plan_trains, pulse_trains
from analogsim.streams import Address, Stream

LR, DW_MIN, LENGTH = 0.02, 0.001, 31
BATCH, INPUTS, OUTPUTS, REPEATS = 24, 9, 7, 2000
WIDE, SEEDS = 250, 200  # 5 · 10^4 independent counts


def factors(seed=0):
    """Samples of very different size, so that some want one pulse and some more than the train has."""
    numbers = np.random.default_rng(seed)
    size = 10 ** numbers.uniform(-1, 0.9, (BATCH, 1))
    x, d = numbers.normal(size=(BATCH, INPUTS)) * size, numbers.normal(size=(BATCH, OUTPUTS)) * 0.3
    x[3], d[5] = 0, 0  # nothing to send
    return torch.tensor(x, dtype=torch.float32), torch.tensor(d, dtype=torch.float32)


def uniforms(seed):
    """draw(factor, first, samples, numbers), from a generator, since it is fast."""

    def draw(factor, first, samples, numbers):
        rng = np.random.default_rng((seed, factor == "inputs", first))
        return torch.from_numpy(rng.random((samples, numbers), np.float32))

    return draw


def addressed(seed):
    """The same as a chip's stream gives them: a pure function of sample and place."""
    streams = {name: Stream.from_seed(seed).child(name) for name in ("inputs", "errors")}

    def draw(factor, first, samples, numbers):
        return torch.from_numpy(streams[factor].uniform(Address(first_sample=first), samples, numbers))

    return draw


def probabilities(x, d, length=LENGTH):
    """(n, p, q, c_x c_d uncut) of every sample, by the equations, in float64."""
    for x_b, d_b in zip(x.double().numpy(), d.double().numpy()):
        largest_x, largest_d = abs(x_b).max(), abs(d_b).max()
        n = min(max(math.ceil(LR * largest_x * largest_d / DW_MIN), 1), length) if largest_x * largest_d else 0
        gain = math.sqrt(LR / (n * DW_MIN)) if n else 0
        balance = math.sqrt(largest_d / largest_x) if n else 1
        yield n, np.minimum(1, gain * balance * abs(x_b)), np.minimum(1, gain / balance * abs(d_b))


# --- the law of the counts ---------------------------------------------------------------------------


def check_means(trains, batch_of=factors):
    """2000 runs of the batch as one: mean and variance of up and down counts of every cell, at 1e-6 in all."""
    x, d = batch_of()
    up, down = trains(x.repeat(REPEATS, 1), d.repeat(REPEATS, 1), LR, DW_MIN, LENGTH, uniforms(41))
    expected, variance = np.zeros((2, OUTPUTS, INPUTS)), np.zeros((2, OUTPUTS, INPUTS))
    for (n, p, q), x_b, d_b in zip(probabilities(x, d), x.numpy(), d.numpy()):
        upwards, both = np.outer(d_b, x_b) < 0, np.outer(q, p)
        for direction, here in enumerate((upwards, ~upwards)):
            expected[direction] += here * n * both
            variance[direction] += here * n * both * (1 - both)
    z = (torch.stack([up, down]).double().numpy() - REPEATS * expected) / np.sqrt(REPEATS * variance + 1e-9)
    assert np.abs(z).max() < stats.norm.isf(1e-6 / 2 / z.size), f"{np.abs(z).max():.1f} standard errors off"
    return x, d, up, down


def check_counts(check, trains, samples=1):
    """5 · 10^4 independent counts, of the cells (i, i) of a square: Binomial(samples n, p q), by χ² of all values.

    Cells (i, i) and (i, i + 1) of one row: covariance samples · n p² (q - q²), from the pulses of the row.
    """
    x, d = torch.full((samples, WIDE), 0.55), torch.full((samples, WIDE), -0.7)
    x[:, 0], d[:, 0] = 1.0, -1.0  # the largest: n = 20, p = 0.55, q = 0.7
    n, p, q = 20 * samples, 0.55, 0.7
    counts, beside = [], []
    for seed in range(SEEDS):
        up, down = trains(x, d, LR, DW_MIN, LENGTH, uniforms(100 + seed))
        assert not down.any()
        counts.append(np.diagonal(up.numpy())[1:])
        beside.append(np.diagonal(up.numpy(), 1)[1:])
    count, beside = np.concatenate([c[:-1] for c in counts]), np.concatenate(beside)
    values = np.arange(n + 1)
    pmf = stats.binom.pmf(values, n, p * q)
    common = pmf * count.size > 10
    seen = np.bincount(count.astype(int), minlength=n + 1)
    chi2 = ((seen[common] - pmf[common] * count.size) ** 2 / (pmf[common] * count.size)).sum()
    assert chi2 < stats.chi2.isf(check.alpha, common.sum() - 1), "not binomial"
    # within a seed two neighbours' products overlap in a column; every third pair is independent of the last
    product = ((count - n * p * q) * (beside - n * p * q))[::3]
    error = product.std() / math.sqrt(product.size)
    assert abs(product.mean() - n * p * p * (q - q * q)) < stats.norm.isf(check.alpha / 2) * error, "covariance"


def test_mean_and_variance_of_every_cell():
    x, d, up, down = check_means(pulse_trains)
    unsaturated = [float(p.max() * q.max()) < 1 for _, p, q in probabilities(x, d)]
    assert any(unsaturated)
    assert not all(unsaturated)  # both are in the batch
    assert (up + down).max() < 2**24


def test_the_mean_update_is_the_outer_product():
    """No saturation: E[(up - down) dw_min] = -η Σ_b d xᵀ, without the code's own gains."""
    x, d = factors()
    x = x * 0.1
    assert float((LR * x.abs().amax(1) * d.abs().amax(1)).max()) < LENGTH * DW_MIN
    repeats = 4000
    up, down = pulse_trains(x.repeat(repeats, 1), d.repeat(repeats, 1), LR, DW_MIN, LENGTH, uniforms(43))
    wanted = -LR * (d.double().T @ x.double()).numpy() * repeats
    error = DW_MIN * np.sqrt((up + down).double().numpy() + 1)  # a binomial's variance is below its mean
    z = ((up - down).double().numpy() * DW_MIN - wanted) / error
    assert np.abs(z).max() < stats.norm.isf(1e-6 / 2 / z.size)
    assert np.abs(wanted / error).max() > 100  # and that is to 1 % of the largest


@pytest.mark.parametrize("samples", [1, 2])
def test_counts_are_binomial_and_share_the_pulses_of_a_row(samples, check):
    check_counts(check, pulse_trains, samples)


def test_saturated_factors_pulse_in_every_slot():
    """Both factors far beyond the train: the largest cell gets exactly `train_length` pulses a sample."""
    x, d = torch.tensor([[40.0, 0.0, -40.0]]), torch.tensor([[-9.0, 9.0]])
    up, down = pulse_trains(x, d, LR, DW_MIN, LENGTH, uniforms(44))
    assert up.tolist() == [[31, 0, 0], [0, 0, 31]]
    assert down.tolist() == [[0, 0, 31], [31, 0, 0]]


def test_the_gains_are_balanced_and_the_train_no_longer_than_needed():
    x, d = factors()
    trains = plan_trains(x, d, LR, DW_MIN, LENGTH)
    for b, (n, p, q) in enumerate(probabilities(x, d)):
        assert int(trains.slots[b]) == n
        if n:
            assert min(1, float(trains.input_gain[b]) * float(x[b].abs().max())) == pytest.approx(p.max(), rel=1e-5)
            assert p.max() == pytest.approx(q.max(), rel=1e-5)
    assert trains.slots[3] == trains.slots[5] == 0
    assert torch.isfinite(trains.input_gain).all()
    assert torch.isfinite(trains.error_gain).all()
    assert {1, LENGTH} <= set(trains.slots.tolist())


def test_coincidences_by_hand():
    """Two samples, two slots, one of them closed for the second sample; every pulse counted by hand."""
    x, d = torch.tensor([[0.5, -0.5], [0.5, 0.5]]), torch.tensor([[0.5], [-0.5]])
    trains = module.Trains(torch.ones(2), torch.ones(2), torch.tensor([2, 1]))
    u_x = torch.tensor([[[0.1, 0.1], [0.9, 0.2]], [[0.1, 0.6], [0.0, 0.0]]])
    u_d = torch.tensor([[[0.4], [0.3]], [[0.2], [0.0]]])
    up, down = coincidences(x, d, trains, u_x, u_d)
    assert up.tolist() == [[1, 2]]
    assert down.tolist() == [[1, 0]]


def test_cutting_the_batch_changes_nothing(monkeypatch):
    x, d = factors()
    whole = pulse_trains(x, d, LR, DW_MIN, LENGTH, addressed(45))
    for numbers in (1, 3 * LENGTH * (INPUTS + OUTPUTS), 10**9):
        monkeypatch.setattr(module, "CHUNK_NUMBERS", numbers)
        for one, other in zip(whole, pulse_trains(x, d, LR, DW_MIN, LENGTH, addressed(45))):
            torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("samples", [0, 1])
def test_nothing_to_send(samples):
    x, d = torch.zeros(samples, 3), torch.ones(samples, 2)
    up, down = pulse_trains(x, d, LR, DW_MIN, LENGTH, None)
    assert up.shape == down.shape == (2, 3)
    assert not up.any()
    assert not down.any()


# --- dense updates --------------------------------------------------------------------------------


def check_dense(dense):
    """200 changes of a fraction of a step: pulses and shadow together are what was asked for, always."""
    numbers = np.random.default_rng(7)
    shadow, sent, asked = torch.zeros(6, 5), torch.zeros(6, 5), torch.zeros(6, 5, dtype=torch.float64)
    for step in range(200):
        change = torch.tensor(numbers.normal(0, 0.004, (6, 5)), dtype=torch.float32)
        pulses, shadow = dense(change * (20 if step == 50 else 1), 0.01, shadow, 5)
        sent, asked = sent + pulses, asked + change.double() * (20 if step == 50 else 1)
        assert torch.equal(pulses, pulses.round())
        assert pulses.abs().max() <= 5
        torch.testing.assert_close(sent.double() * 0.01 + shadow.double(), asked, atol=1e-5, rtol=0)
    assert shadow.abs().max() < 0.01 * (1 + 1e-4)  # what five pulses could not do has long been made up for
    assert sent.abs().max() > 3


def test_dense_changes_become_whole_pulses():
    check_dense(dense_pulses)


def test_dense_pulses_by_hand():
    change, shadow = torch.tensor([0.025, -0.025, 0.004, 0.9]), torch.tensor([0.008, 0.0, 0.007, 0.0])
    pulses, left = dense_pulses(change, 0.01, shadow, 10)
    assert pulses.tolist() == [3, -2, 1, 10]
    np.testing.assert_allclose(left, [0.003, -0.005, 0.001, 0.8], atol=1e-7)
    np.testing.assert_allclose(shadow, [0.008, 0, 0.007, 0])  # handed in, left alone


# --- planted bugs ---------------------------------------------------------------------------------


def planned(change):
    """pulse_trains whose plan is change(trains)."""

    def bugged(*arguments):
        plan = module.plan_trains
        module.plan_trains = lambda *given: change(plan(*given))
        try:
            return pulse_trains(*arguments)
        finally:
            module.plan_trains = plan

    return bugged


def drawing(change):
    """pulse_trains with other uniforms: change(draw, factor, first, samples, numbers)."""
    return lambda x, d, lr, dw, length, draw: pulse_trains(
        x, d, lr, dw, length, lambda *where: change(draw, *where).contiguous()
    )


def every_cell_by_itself(x, d, lr, dw_min, length, draw):
    """Counts as if each cell drew its own coincidences."""
    rng, up, down = np.random.default_rng(0), 0, 0
    for (n, p, q), x_b, d_b in zip(probabilities(x, d), x.numpy(), d.numpy()):
        count = rng.binomial(n, q[-1] * p[-1], (len(q), len(p)))
        upwards = np.outer(d_b, x_b) < 0
        up, down = up + count * upwards, down + count * ~upwards
    return torch.tensor(up).float(), torch.tensor(down).float()


MEAN_BUGS = {
    "trains: up and down swapped": lambda *given: pulse_trains(*given)[::-1],
    "trains: sign of the errors lost": lambda x, d, *rest: pulse_trains(x, d.abs(), *rest),
    "trains: gains not divided by n": planned(
        lambda t: t._replace(input_gain=t.input_gain * t.slots.clamp(min=1).sqrt())
    ),
    "trains: all slots open": planned(lambda t: t._replace(slots=torch.where(t.slots > 0, LENGTH, 0))),
    "trains: one slot short": planned(lambda t: t._replace(slots=(t.slots - 1).clamp(min=0))),
    "trains: gains swapped": planned(lambda t: t._replace(input_gain=t.error_gain, error_gain=t.input_gain)),
    "trains: probabilities + 1 %": drawing(
        lambda draw, factor, first, samples, numbers: draw(factor, first, samples, numbers) * 0.99
    ),
    "trains: mean over the batch": lambda x, d, *rest: tuple(count / len(x) for count in pulse_trains(x, d, *rest)),
    "trains: lr forgotten": lambda x, d, lr, *rest: pulse_trains(x, d, 1.0, *rest),
    "trains: uniforms of one sample for all": drawing(
        lambda draw, factor, first, samples, numbers: draw(factor, 0, 1, numbers).expand(samples, numbers)
    ),
}
COUNT_BUGS = {
    "trains: inputs and errors share their numbers": drawing(
        lambda draw, factor, first, samples, numbers: draw("inputs", first, samples, numbers)
    ),
    "trains: samples share their numbers": drawing(
        lambda draw, factor, first, samples, numbers: draw(factor, 0, 1, numbers).expand(samples, numbers)
    ),
    "trains: slots share their numbers": drawing(
        lambda draw, factor, first, samples, numbers: draw(factor, first, samples, WIDE).repeat(1, numbers // WIDE)
    ),
    "trains: every cell by itself": every_cell_by_itself,
}


def rounded(change, dw_min, shadow, max_pulses):
    pulses = torch.round((shadow + change) / dw_min).clamp(-max_pulses, max_pulses)
    return pulses, torch.zeros_like(shadow)


DENSE_BUGS = {
    "dense: no shadow": rounded,
    "dense: remainder beyond max_pulses lost": lambda c, dw, s, n: (dense_pulses(c, dw, s, n)[0], (s + c) % dw),
    "dense: shadow not paid": lambda c, dw, s, n: (dense_pulses(c, dw, s, n)[0], s + c),
    "dense: no limit": lambda c, dw, s, n: dense_pulses(c, dw, s, 10**6),
    "dense: sign": lambda c, dw, s, n: (-dense_pulses(c, dw, s, n)[0], dense_pulses(c, dw, s, n)[1]),
}


@pytest.mark.parametrize("bug", MEAN_BUGS)
def test_the_mean_test_catches(bug):
    with pytest.raises(AssertionError):
        check_means(MEAN_BUGS[bug])


@pytest.mark.parametrize("bug", COUNT_BUGS)
def test_the_count_test_catches(bug, check):
    with pytest.raises(AssertionError):
        check_counts(check, COUNT_BUGS[bug], samples=2)


@pytest.mark.parametrize("bug", DENSE_BUGS)
def test_the_dense_test_catches(bug):
    with pytest.raises(AssertionError):
        check_dense(DENSE_BUGS[bug])
