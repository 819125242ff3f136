"""Figures against one axis of a sweep."""

import numpy as np
import pytest

from analogsim.pictures.against_axis import draw_against_axis

NOISE = np.logspace(-5, 0, 6).tolist()


def swept(trial, runs=("danp",), values=NOISE, seeds=2, **more):
    return [
        trial(0.5 + 0.1 * seed, run=run, seed=seed, s=s, **more)
        for run in runs
        for s in values
        for seed in range(seeds)
    ]


def test_final_and_best_stand_against_a_logarithmic_axis(results, trial, drawn):
    trials = results(swept(trial)).trials
    figure = draw_against_axis(trials, "s")
    final, best = drawn(figure)
    assert (final.get_ylabel(), best.get_ylabel()) == ("final test accuracy (%)", "best test accuracy (%)")
    assert final.get_xscale() == "log"
    assert final.lines[0].get_xdata().tolist() == pytest.approx(NOISE)
    mean = 100 * trials["final_test_accuracy"].mean()
    assert final.lines[0].get_ydata().tolist() == pytest.approx([mean] * 6)
    assert figure.get_suptitle() == "mean and range of 2 seeds"
    assert final.get_ylim() == best.get_ylim()


def test_less_than_two_decades_are_linear_with_a_tick_each(results, trial, drawn):
    axis, _ = drawn(draw_against_axis(results(swept(trial, values=[2, 4, 8])).trials, "s"))
    assert axis.get_xscale() == "linear"
    assert [text.get_text() for text in axis.get_xticklabels()] == ["2", "4", "8"]


def test_zero_has_its_place_on_a_logarithmic_axis(results, trial, drawn):
    axis, _ = drawn(draw_against_axis(results(swept(trial, values=[0.0, 1e-4, 1e-2, 1.0])).trials, "s"))
    assert axis.get_xscale() == "symlog"
    assert axis.lines[0].get_xdata().tolist() == [0, 1e-4, 1e-2, 1]


def test_a_reference_is_a_level_line_in_its_rule_s_colour(results, trial, drawn, legend):
    reference = [trial(0.95, run="danp clean", seed=seed) for seed in range(2)]
    found = results(swept(trial, runs=("danp", "dnp")), reference)
    figure = draw_against_axis(found.trials, "s", hue="run")
    axis, _ = drawn(figure)
    level = axis.lines[-1]
    assert legend(figure) == ["danp", "dnp", "danp clean"]
    assert level.get_color() == axis.lines[0].get_color()
    assert level.get_ydata() == pytest.approx([100 * found.trials["final_test_accuracy"].iloc[-1]] * 2)
    assert len(axis.lines) == 3  # and no second kind of reference beside it


def test_without_a_reference_the_noise_free_reading_is_shown(results, trial, drawn, legend):
    figure = draw_against_axis(results(swept(trial)).trials, "s")
    axis, _ = drawn(figure)
    assert legend(figure) == ["same weights, read noise-free"]
    gap = np.array(axis.lines[1].get_ydata()) - axis.lines[0].get_ydata()
    assert gap.tolist() == pytest.approx([1.0] * 6)


def test_diverged_trials_count_and_are_marked(results, trial, drawn, legend):
    trials = [trial(0.9, seed=0, s=1.0), trial(0.9, seed=1, s=1.0, status="diverged"), trial(0.9, seed=0, s=2.0)]
    found = results(trials)
    figure = draw_against_axis(found.trials, "s")
    axis, _ = drawn(figure)
    whole = 100 * found.trials["final_test_accuracy"].iloc[0]
    assert axis.lines[0].get_ydata()[0] == pytest.approx((whole + 10) / 2)
    assert [(each.get_xdata()[0], each.get_ydata()[0]) for each in axis.lines if each.get_marker() == "x"] == [(1, 10)]
    assert "diverged" in legend(figure)


def test_a_diverged_loss_is_marked_at_the_edge_and_left_out(results, trial, drawn):
    trials = [
        trial(0.9, seed=k, s=s, classes=False, status="diverged" if s == 2 == k + 1 else "ok")
        for s in (1, 2)
        for k in range(2)
    ]
    figure = draw_against_axis(results(trials).trials, "s", ("final_test_loss", "best_test_loss"))
    axis, _ = drawn(figure)
    assert np.isfinite(axis.lines[0].get_ydata()).all()
    assert axis.lines[-1].get_ydata() == [axis.get_ylim()[1]]


def test_names_are_points_side_by_side(results, trial, drawn, legend):
    found = results(
        trial(run=run, chip=chip, seed=k, n=1) for run in ("a", "b") for chip in ("x", "y", "z") for k in range(2)
    )
    figure = draw_against_axis(found.trials, "chip", hue="run")
    axis, _ = drawn(figure)
    assert [text.get_text() for text in axis.get_xticklabels()] == ["x", "y", "z"]
    places = [each.get_xdata().tolist() for each in axis.lines]
    assert places[0] == pytest.approx([-0.125, 0.875, 1.875])
    assert places[1] == pytest.approx([0.125, 1.125, 2.125])
    assert {each.get_linestyle() for each in axis.lines} == {"None"}


def test_what_cannot_be_shown_is_counted(results, trial, drawn):
    trials = [*swept(trial), trial(status="failed", s=2.0), *(trial(status="pending", s=3.0, seed=k) for k in range(3))]
    figure = draw_against_axis(results(trials).trials, "s")
    drawn(figure)
    assert figure.get_suptitle() == "mean and range of 2 seeds; not shown: 1 failed, 3 pending"


def test_no_finished_trial_is_said_so(results, trial, drawn):
    figure = draw_against_axis(results(trial(status="pending", s=s) for s in (1.0, 2.0)).trials, "s")
    assert [axis.texts[0].get_text() for axis in drawn(figure)] == ["no finished trial yet"] * 2


def test_one_point_has_an_upright_band(results, trial, drawn):
    axis, _ = drawn(draw_against_axis(results(swept(trial, values=[1.0])).trials, "s"))
    (upright,) = axis.collections
    assert len(upright.get_segments()) == 1
