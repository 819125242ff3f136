"""Pictures draw what the table holds, whatever became of the runs."""

import math
import warnings

import numpy as np
import pytest
from matplotlib import image as images

from analogsim import plots
from analogsim.errors import RunFolderError
from analogsim.experiment.results import write_curves

PNG = b"\x89PNG\r\n\x1a\n"


def rows(run="a", seed=0, loss=(2.0, 1.0, 0.5), accuracy=(0.1, 0.5, 0.9), diverged=False):
    """One run's epochs; its training figures are twice the loss and half the accuracy of the test."""
    last = len(loss) - 1
    for epoch, (one, share) in enumerate(zip(loss, accuracy or [None] * len(loss))):
        yield {
            "run": run,
            "seed": seed,
            "epoch": epoch,
            "train_loss": 2 * one,
            "test_loss": one,
            "train_accuracy": None if share is None else share / 2,
            "test_accuracy": share,
            "status": "diverged" if diverged and epoch == last else "ok",
        }


@pytest.fixture
def draw(tmp_path, monkeypatch):
    """draw(runs…) -> the axes, after a look at the file; any warning is an error."""
    figures = []

    class Kept(plots.Figure):
        def __init__(self, *arguments, **settings):
            super().__init__(*arguments, **settings)
            figures.append(self)

    monkeypatch.setattr(plots, "Figure", Kept)

    def drawn(*runs):
        write_curves(tmp_path, [row for run in runs for row in run])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            path = plots.plot_curves(tmp_path)
        assert path == tmp_path / "plots" / "curves.png"
        picture = path.read_bytes()
        assert picture.startswith(PNG)
        assert len(picture) > 5_000
        assert [part.name for part in path.parent.iterdir()] == ["curves.png"]
        return figures[-1].axes

    return drawn


def line(axis, index):
    return axis.lines[index].get_xdata().tolist(), axis.lines[index].get_ydata().tolist()


def legend(axis):
    return [text.get_text() for text in axis.get_legend().get_texts()]


def test_one_run_is_four_lines_in_two_panels(draw, tmp_path):
    accuracy, loss = draw(rows())
    image = images.imread(tmp_path / "plots" / "curves.png")
    assert image.shape[0] > 300
    assert image.std() > 0.05
    assert line(accuracy, 0) == ([0, 1, 2], pytest.approx([10, 50, 90]))
    assert line(accuracy, 1) == ([0, 1, 2], pytest.approx([5, 25, 45]))
    assert line(loss, 0) == ([0, 1, 2], [2, 1, 0.5])
    assert line(loss, 1) == ([0, 1, 2], [4, 2, 1])
    assert [axis.lines[0].get_linestyle() for axis in (accuracy, loss)] == ["-", "-"]
    assert [axis.lines[1].get_linestyle() for axis in (accuracy, loss)] == [":", ":"]
    assert (accuracy.get_ylabel(), loss.get_ylabel(), loss.get_xlabel()) == ("accuracy (%)", "loss", "epoch")
    assert legend(accuracy) == ["a"]
    assert legend(loss) == ["test, on the chip", "train"]


def test_seeds_are_drawn_as_mean_and_range(draw):
    accuracy, loss = draw(rows(seed=0, loss=(2, 1, 3)), rows(seed=1, loss=(4, 2, 2)), rows(seed=5, loss=(3, 6, 1)))
    assert line(loss, 0) == ([0, 1, 2], [3, 3, 2])
    (band, _) = loss.collections
    corners = band.get_paths()[0].vertices
    assert {tuple(corner) for corner in corners} >= {(0, 2), (0, 4), (1, 1), (1, 6), (2, 1), (2, 3)}
    assert accuracy.figure.get_suptitle() == "mean and range of 3 seeds"
    assert len(accuracy.lines) == 2


def test_one_epoch_is_a_point(draw):
    accuracy, loss = draw(rows(loss=(2.0,), accuracy=(0.1,)))
    assert line(loss, 0) == ([0], [2])
    assert accuracy.lines[0].get_marker() != "None"


def test_runs_differ_in_colour_and_marker_and_keep_their_order(draw):
    names = ["z", "a", "m", *(f"run {index}" for index in range(9))]
    accuracy, _ = draw(*(rows(name) for name in names))
    assert legend(accuracy) == names
    looks = [(one.get_color(), one.get_marker()) for one in accuracy.lines[::2]]
    assert len(set(looks)) == len(names)


@pytest.mark.parametrize("name", ["NA", "nan", "1.0", "True"])
def test_a_run_may_be_called_anything(draw, name):
    accuracy, loss = draw(rows(name), rows("other"))
    assert legend(accuracy) == [name, "other"]
    assert line(loss, 0)[1] == [2, 1, 0.5]


def test_without_accuracies_there_is_one_panel_with_both_legends(draw):
    (loss,) = draw(rows(accuracy=None), rows("b", accuracy=None))
    assert loss.get_ylabel() == "loss"
    assert legend(loss) == ["a", "b", "test, on the chip", "train"]


def test_runs_with_and_without_accuracies_stand_side_by_side(draw):
    accuracy, loss = draw(rows("classes"), rows("reals", accuracy=None))
    assert np.isnan(line(accuracy, 2)[1]).all()
    assert line(loss, 2)[1] == [2, 1, 0.5]


@pytest.mark.parametrize(
    ("end", "accuracy"), [(math.nan, (0.1, 0.2)), (math.inf, (0.1, 0.2)), (1e300, None), (math.nan, None)]
)
def test_a_diverged_run_is_named_so_and_drawn_as_far_as_it_came(draw, end, accuracy):
    axes = draw(rows("bad", loss=(2.0, end), accuracy=accuracy, diverged=True), rows("good"))
    assert legend(axes[0])[:2] == ["bad (diverged)", "good"]
    assert line(axes[-1], 0)[1][0] == 2
    assert len(line(axes[-1], 2)[1]) == 3


@pytest.mark.parametrize(("loss", "accuracy"), [(math.nan, (0.1, 0.1)), (math.inf, None)])
def test_nothing_but_nan_is_still_a_picture(draw, loss, accuracy):
    axes = draw(rows(loss=(loss, loss), accuracy=accuracy, diverged=True))
    assert len(axes) == (1 if accuracy is None else 2)


def test_seeds_that_diverged_leave_the_mean_of_the_others(draw):
    _, loss = draw(rows(seed=0, loss=(2.0, math.nan), diverged=True), rows(seed=1, loss=(4.0, 3.0, 1.0)))
    assert line(loss, 0) == ([0, 1, 2], [3, 3, 1])


def test_a_picture_that_cannot_be_written_is_a_named_error(tmp_path):
    write_curves(tmp_path, list(rows()))
    (tmp_path / "plots").touch()
    with pytest.raises(RunFolderError, match=r"plots/curves\.png: cannot be written"):
        plots.plot_curves(tmp_path)
