"""Learning curves draw what the table holds, whatever became of the trials."""

import math

import numpy as np
import pytest

from analogsim.pictures.curves import draw_curves
from analogsim.pictures.style import COLOURS


def line(axis, index):
    return axis.lines[index].get_xdata().tolist(), axis.lines[index].get_ydata().tolist()


def one(results, trial, **labels):
    return results(trial(0.9, epochs=4, **labels)).curves


def test_accuracy_stands_against_epochs_and_against_reads(results, trial, drawn, legend):
    curves = one(results, trial)
    figure = draw_curves(curves, "test_accuracy")
    epochs, reads = drawn(figure)
    shares = (100 * curves["test_accuracy"]).tolist()
    assert line(epochs, 1) == ([0, 1, 2, 3, 4], pytest.approx(shares))
    assert line(reads, 1) == ([0, 1000, 2000, 3000, 4000], pytest.approx(shares))
    assert [axis.get_xlabel() for axis in (epochs, reads)] == ["epoch", "chip reads (vectors)"]
    assert {axis.get_ylabel() for axis in (epochs, reads)} == {"accuracy (%)"}
    assert [epochs.lines[index].get_linestyle() for index in (0, 1)] == [":", "-"]
    assert legend(figure) == ["test, on the chip", "training"]
    assert epochs.get_ylim() == reads.get_ylim()


def test_seeds_are_drawn_as_mean_and_band(results, trial, drawn):
    curves = results(trial(final, seed=seed, epochs=2) for seed, final in enumerate((0.5, 0.6, 0.9))).curves
    figure = draw_curves(curves, "test_accuracy")
    axis, _ = drawn(figure)
    last = curves[curves["epoch"] == 2]["test_accuracy"] * 100
    assert line(axis, 1)[1][2] == pytest.approx(last.mean())
    corners = {(round(x), round(y, 6)) for x, y in axis.collections[-1].get_paths()[0].vertices}
    assert {(2, round(last.min(), 6)), (2, round(last.max(), 6))} <= corners
    assert figure.get_suptitle() == "mean and range of 3 seeds"


def test_groups_differ_in_colour_and_marker(results, trial, drawn, legend):
    names = ["z", "a", "m", *(f"run {index}" for index in range(9))]
    figure = draw_curves(results(trial(run=name) for name in names).curves, "test_accuracy", hue="run")
    axis, _ = drawn(figure)
    assert legend(figure) == names  # in their order; no training lines among so many
    assert len({(each.get_color(), each.get_marker()) for each in axis.lines}) == len(names)


def test_an_ordered_hue_is_shaded_from_dark_to_light(results, trial, drawn, legend):
    figure = draw_curves(results(trial(s=s) for s in (1e-3, 0.1, 1e-2)).curves, "test_accuracy", hue="s")
    axis, _ = drawn(figure)
    light = [np.dot(each.get_color()[:3], [0.3, 0.6, 0.1]) for each in axis.lines[1::2]]
    assert light == sorted(light)
    assert legend(figure)[:3] == ["1e-3", "0.01", "0.1"]


def test_many_ordered_values_get_a_colour_bar(results, trial, drawn, legend):
    figure = draw_curves(results(trial(s=float(s)) for s in range(12)).curves, "test_accuracy", hue="s")
    *_, bar = drawn(figure)
    assert [text.get_text() for text in bar.get_yticklabels()] == [str(s) for s in range(12)]
    assert legend(figure) == []


@pytest.mark.parametrize("panels", [1, 4, 5, 7])
def test_each_x_begins_a_row_of_panels(results, trial, drawn, panels):
    curves = results(trial(chip=f"chip {index}", s=s) for index in range(panels) for s in (1.0, 2.0)).curves
    axes = drawn(draw_curves(curves, "test_accuracy", hue="s", col="chip"))
    assert [axis.get_xlabel() for axis in axes] == ["epoch"] * panels + ["chip reads (vectors)"] * panels
    assert [axis.get_title() for axis in axes] == 2 * [f"chip {index}" for index in range(panels)]
    rows = [axis.get_subplotspec().rowspan.start for axis in axes]
    assert rows[panels] == rows[panels - 1] + 1


def test_a_reference_stands_in_every_panel_in_black(results, trial, drawn, legend):
    swept = [trial(run=run, rule=run, s=s) for run in ("danp", "dnp") for s in (1.0, 2.0)]
    curves = results(swept, trial(0.95, run="danp clean")).curves
    figure = draw_curves(curves, "test_accuracy", ("epoch",), hue="s", col="rule")
    axes = drawn(figure)
    assert [axis.get_title() for axis in axes] == ["danp", "dnp"]
    assert [[each.get_color() for each in axis.lines].count("black") for axis in axes] == [1, 1]
    assert "danp clean" in legend(figure)


# What went wrong is marked, never dropped


def test_a_diverged_accuracy_is_held_and_marked(results, trial, drawn, legend):
    trials = [trial(0.9, seed=0), trial(0.9, seed=1), trial(0.9, seed=2, status="diverged")]
    curves = results(trials).curves
    figure = draw_curves(curves, "test_accuracy")
    axis, _ = drawn(figure)
    whole = 100 * curves[(curves["seed"] == 0) & (curves["epoch"] == 10)]["test_accuracy"].item()
    assert line(axis, 1)[1][-1] == pytest.approx((2 * whole + 10) / 3)  # not the mean of the two that are left
    cross = axis.lines[-1]
    assert (cross.get_marker(), cross.get_xdata().tolist(), cross.get_ydata().tolist()) == ("x", [5], [10])
    assert "diverged" in legend(figure)


def test_a_diverged_loss_leaves_the_mean_and_is_marked_at_the_top(results, trial, drawn):
    trials = [trial(0.9, seed=0), trial(0.5, seed=1, status="diverged")]
    curves = results(trials).curves
    axis, _ = drawn(draw_curves(curves, "test_loss"))
    alone = curves[curves["seed"] == 0]["test_loss"].tolist()
    assert line(axis, 1)[1][5:] == pytest.approx(alone[5:])
    cross = axis.lines[-1]
    assert (cross.get_xdata().tolist(), cross.get_ydata().tolist()) == ([5], [axis.get_ylim()[1]])


def test_a_diverged_accuracy_that_is_none_is_marked_at_the_bottom(results, trial, drawn):
    curves = results(trial(0.9, seed=0), trial(0.9, seed=1, status="diverged")).curves
    curves.loc[curves["status"] == "diverged", "test_accuracy"] = math.nan
    axis, _ = drawn(draw_curves(curves, "test_accuracy"))
    assert (axis.lines[-1].get_marker(), axis.lines[-1].get_ydata().tolist()) == ("x", [axis.get_ylim()[0]])


def test_a_loss_that_is_none_but_at_first_is_marked_within_the_panel(results, trial, drawn):
    """The only figure that can be drawn is that of epoch 0: the × lies to its right."""
    curves = results(trial(0.9, seed=0, status="diverged")).curves
    curves.loc[curves["epoch"] > 0, ["test_loss", "train_loss"]] = math.nan
    for axis in drawn(draw_curves(curves, "test_loss")):
        (place,) = axis.lines[-1].get_xdata().tolist()
        assert place > 0
        assert axis.get_xlim()[0] < place <= axis.get_xlim()[1]


@pytest.mark.parametrize("loss", [math.inf, 1e300, math.nan])
def test_a_loss_that_went_off_does_not_squeeze_the_others(results, trial, drawn, loss):
    curves = results(trial(0.9, seed=0), trial(0.9, seed=1, status="diverged")).curves
    curves.loc[curves["status"] == "diverged", ["test_loss", "train_loss"]] = loss
    alone = curves[curves["seed"] == 0]["test_loss"].tolist()
    for axis in drawn(draw_curves(curves, "test_loss")):
        assert axis.get_ylim()[1] < 3
        assert axis.get_yscale() == "linear"
        assert line(axis, 1)[1][5:] == pytest.approx(alone[5:])


def test_where_all_diverged_each_is_marked(results, trial, drawn):
    curves = results(trial(seed=seed, status="diverged") for seed in range(3)).curves
    for y in ("test_accuracy", "test_loss"):
        axis, _ = drawn(draw_curves(curves, y))
        assert len(axis.lines[-1].get_xdata()) == 3


def test_untrained_alone_is_a_point(results, trial, drawn):
    axis, reads = drawn(draw_curves(results(trial(epochs=0)).curves, "test_accuracy"))
    assert line(axis, 1) == ([0], [pytest.approx(10)])
    assert axis.lines[1].get_marker() == "o"
    assert axis.get_xticks().tolist() == reads.get_xticks().tolist() == [0]
    low, high = axis.get_ylim()
    assert high - low >= 2


def test_nothing_at_all_is_said_so(results, drawn, legend):
    figure = draw_curves(results().curves, "test_accuracy")
    axes = drawn(figure)
    assert [axis.texts[0].get_text() for axis in axes] == ["nothing trained yet"] * 2
    assert legend(figure) == []


def test_losses_over_two_decades_are_logarithmic(results, trial, drawn):
    curves = results(trial(0.9)).curves
    assert drawn(draw_curves(curves, "test_loss"))[0].get_yscale() == "linear"
    curves["test_loss"] = 10.0 ** -curves["epoch"]
    assert drawn(draw_curves(curves, "test_loss"))[0].get_yscale() == "log"


def test_colours_are_okabe_and_ito_s():
    assert COLOURS[:7] == ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
