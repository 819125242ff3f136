"""Figures over two axes of a sweep."""

import numpy as np
import pytest

from analogsim.pictures.heatmap import draw_heatmap


def grid(trial, status=lambda b, n, seed: "ok", seeds=2, **more):
    return [
        trial(0.4 + 0.05 * b - n, seed=seed, bits=b, n=n, status=status(b, n, seed), **more)
        for b in (2, 4, 8)
        for n in (0.01, 0.1)
        for seed in range(seeds)
    ]


def words(axis):
    return [text.get_text() for text in axis.texts if text.get_text()]


def test_a_cell_is_the_mean_at_its_pair_of_values(results, trial, drawn):
    found = results(grid(trial)).trials
    figure = draw_heatmap(found, "bits", "n")
    axis, bar = drawn(figure)
    cells = axis.images[0].get_array()
    assert cells.shape == (2, 3)
    pair = found[(found["bits"] == 8) & (found["n"] == 0.1)]
    assert cells[1, 2] == pytest.approx(100 * pair["final_test_accuracy"].mean())
    assert f"{cells[1, 2]:.1f}" in words(axis)
    assert [text.get_text() for text in axis.get_xticklabels()] == ["2", "4", "8"]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["0.01", "0.1"]
    assert bar.get_ylabel() == "final test accuracy (%)"
    assert figure.get_suptitle() == "mean of 2 seeds"


def test_diverged_trials_are_counted_in_their_cell(results, trial, drawn):
    status = lambda b, n, seed: "diverged" if b == 2 and (n == 0.1 or seed == 0) else "ok"  # noqa: E731
    axis, _ = drawn(draw_heatmap(results(grid(trial, status)).trials, "bits", "n"))
    marked = [text for text in words(axis) if "×" in text]
    assert sorted(text.split("\n")[1] for text in marked) == ["×", "×2"]


def test_where_no_trial_has_finished_is_a_hatch(results, trial, drawn):
    status = lambda b, n, seed: "failed" if b == 8 and n == 0.1 else "ok"  # noqa: E731
    figure = draw_heatmap(
        results(
            grid(trial, status),
        ).trials,
        "bits",
        "n",
    )
    axis, _ = drawn(figure)
    assert [patch.get_xy() for patch in axis.patches if patch.get_hatch()] == [(1.5, 0.5)]
    assert np.isnan(axis.images[0].get_array().filled(np.nan)[1, 2])
    assert figure.get_suptitle() == "mean of 2 seeds; not shown: 2 failed"


def test_a_reference_is_named_above(results, trial, drawn):
    axis, _ = drawn(draw_heatmap(results(grid(trial), trial(0.9, run="clean", epochs=999)).trials, "bits", "n"))
    assert axis.get_title() == "clean: 88.5 %"


def test_panels_share_one_scale(results, trial, drawn):
    found = results(grid(trial, run="a"), grid(trial, run="b"), [trial(1.0, run="b", bits=8, n=0.01, seed=9)])
    one, two, _ = drawn(draw_heatmap(found.trials, "bits", "n", col="run"))
    assert (one.get_title(), two.get_title()) == ("a", "b")
    assert one.images[0].get_clim() == two.images[0].get_clim()


@pytest.mark.parametrize("status", ["pending", "diverged"])
def test_nothing_finished_or_all_diverged_is_a_picture(results, trial, drawn, status):
    axis, _ = drawn(draw_heatmap(results(grid(trial, lambda *_: status)).trials, "bits", "n"))
    assert ("no finished trial yet" in words(axis)) == (status == "pending")
    assert (len([text for text in words(axis) if "×2" in text]) == 6) == (status == "diverged")
