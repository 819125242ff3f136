"""More groups than a panel can hold are shared out over panels, or the best shown and the rest told of."""

from itertools import product

import pytest

from analogsim import plots
from analogsim.pictures.parts import MOST_LINES, MOST_PANELS, best, parted
from analogsim.pictures.style import GROUP, PANEL

RUNS = [f"rule{index:02d}" for index in range(100)]


def lines_of(parts):
    """Panel -> its lines."""
    if parts.col is None:
        return {None: sorted(set(parts.trials[GROUP]))}
    return {panel: sorted(set(rows[GROUP])) for panel, rows in parts.trials.groupby(parts.col, sort=False)}


def test_few_groups_stay_in_one_panel(results, trial):
    parts = parted(results(trial(run=run, epochs=1) for run in RUNS[:MOST_LINES]), ["run"])
    assert (parts.hue, parts.col, parts.note) == (GROUP, None, "")
    assert lines_of(parts) == {None: RUNS[:MOST_LINES]}


def test_two_names_make_lines_and_panels(results, trial):
    found = results(trial(run=run, how=how, epochs=1) for run, how in product(RUNS[:12], "abc"))
    parts = parted(found, ["run", "how"])
    assert (parts.hue, parts.col, parts.note) == (GROUP, PANEL, "")
    assert lines_of(parts) == {run: ["how a", "how b", "how c"] for run in RUNS[:12]}
    assert set(parts.curves[PANEL]) == set(RUNS[:12])


@pytest.mark.parametrize(("count", "sizes"), [(9, [5, 4]), (12, [6, 6]), (48, [8] * 6)])
def test_one_name_is_shared_out_in_order(results, trial, count, sizes):
    parts = parted(results(trial(run=run, epochs=1) for run in RUNS[:count]), ["run"])
    panels = lines_of(parts)
    assert [len(lines) for lines in panels.values()] == sizes
    assert [run for lines in panels.values() for run in lines] == RUNS[:count]
    assert next(iter(panels)) == f"{RUNS[0]} … {RUNS[sizes[0] - 1]}"


@pytest.mark.parametrize("classes", [True, False])
def test_of_too_many_the_best_are_shown_and_that_is_said(results, trial, drawn, classes):
    found = results(trial(index / 100, run=run, epochs=1, classes=classes) for index, run in enumerate(RUNS))
    parts = parted(found, ["run"])
    assert lines_of(parts) == {None: RUNS[-8:]}
    assert set(parts.curves[GROUP]) == set(RUNS[-8:])
    figure = plots.fitting(found)["curves"]()
    drawn(figure)
    kind = "accuracy" if classes else "loss"
    assert figure.get_suptitle() == f"the 8 best of 100 by final test {kind}; others by --x, --hue, --col"


def test_references_are_kept(results, trial):
    found = results(
        (trial(index / 20, run=run, s=s) for index, run in enumerate(RUNS[:20]) for s in (1.0, 2.0)),
        trial(0.01, run="clean"),
    )
    trials, curves, note = best(found, *parted_tables(found), 3)
    assert set(trials["run"]) == set(curves["run"]) == {*RUNS[17:20], "clean"}
    assert note.startswith("the 3 best of 20")


def parted_tables(found):
    trials, curves, _ = plots.grouped(found, ["run"])
    return trials, curves


@pytest.mark.parametrize("axes", [0, 1, 2, 3])
@pytest.mark.parametrize("names", [0, 1])
@pytest.mark.parametrize("runs", [1, 9])
def test_no_picture_is_cluttered_and_none_is_missing(results, trial, drawn, axes, names, runs):
    """At most 8 lines a panel but on a colour bar, at most 12 panels of a figure, its width at most 20 inches."""
    numeric = [[(f"n{axis}", value) for value in (1.0, 2.0)] for axis in range(axes)]
    called = [[("how", value) for value in "abc"]] * names
    found = results(
        trial(0.5 + value / 10, run=run, epochs=1, **dict(point))
        for value, run in enumerate(RUNS[:runs])
        for point in product(*numeric, *called)
    )
    pictures = plots.fitting(found)
    first = "heatmap" if axes > 1 else "sweep" if axes + names else "curves"
    assert next(iter(pictures)) == first
    assert ("curves" in pictures) == (axes < 2 or (axes, names, runs) == (2, 0, 1))
    for draw in pictures.values():
        figure = draw()
        panels = drawn(figure)
        assert len(panels) <= 2 * MOST_PANELS
        assert max(len([line for line in axis.lines if line.get_marker() != "None"]) for axis in panels) <= MOST_LINES
        assert figure.get_size_inches()[0] <= 20


def test_a_legend_stays_within_its_figure(results, trial, drawn):
    found = results(trial(run=run, s=s, epochs=1) for run in RUNS[:12] for s in (1.0, 2.0))
    figure = plots.fitting(found)["sweep"]()
    drawn(figure)
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1
