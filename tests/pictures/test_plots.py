"""`analogsim plot` draws the right pictures for what a folder holds."""

import dataclasses
import shutil
from pathlib import Path

import pytest
from matplotlib import image as images

from analogsim import plots
from analogsim.errors import ArgumentError, RunFolderError
from analogsim.experiment.tables import load_results
from analogsim.pictures.groups import axes_of, grouped, told

STARTS = {"png": b"\x89PNG\r\n\x1a\n", "svg": b"<?xml", "pdf": b"%PDF"}


@pytest.fixture
def figure(drawn, monkeypatch):
    """figure(results, **options) -> the one figure those options make, not written."""
    kept = []
    monkeypatch.setattr(plots.style, "write_figure", lambda figure, path: kept.append(figure) or path)

    def figure(found, **options):
        kept.clear()
        assert len(plots.plot(found, **options)) == 1
        drawn(kept[0])
        return kept[0]

    return figure


def names(found):
    return list(plots.fitting(found))


# Which pictures fit


def test_a_run_gets_its_curves_and_losses(results, trial, tmp_path):
    found = results(trial(run=run, seed=seed) for run in ("a", "b") for seed in range(2))
    paths = plots.plot(found)
    assert paths == [tmp_path / "plots" / "curves.png", tmp_path / "plots" / "loss.png"]
    image = images.imread(paths[0])
    assert image.shape[0] > 300
    assert image.std() > 0.05
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == ["curves.png", "loss.png"]


def test_without_classes_the_curves_are_losses(results, trial, drawn):
    found = results(trial(classes=False, seed=seed) for seed in range(2))
    assert names(found) == ["curves"]
    axis, _ = drawn(plots.fitting(found)["curves"]())
    assert axis.get_ylabel() == "loss"


def test_one_numeric_axis_gets_figures_against_it(results, trial, drawn, legend):
    found = results(
        trial(run=run, s=s, seed=k) for run in ("danp", "dnp") for s in (1e-3, 1e-2, 1e-1) for k in range(2)
    )
    assert names(found) == ["sweep", "curves"]
    sweep, curves = (draw() for draw in plots.fitting(found).values())
    assert [axis.get_xlabel() for axis in drawn(sweep)] == ["s", "s"]
    assert legend(sweep)[:2] == ["danp", "dnp"]
    assert [axis.get_title() for axis in drawn(curves)] == ["danp", "dnp"] * 2
    assert legend(curves)[:3] == ["1e-3", "0.01", "0.1"]


def test_two_numeric_axes_get_a_heat_map(results, trial, drawn):
    found = results(trial(bits=b, n=n, seed=k) for b in (2, 4) for n in (0.1, 0.2) for k in range(2))
    assert names(found) == ["heatmap", "curves"]
    final, best, *_ = drawn(plots.fitting(found)["heatmap"]())
    assert (final.get_title(), best.get_title()) == ("final test accuracy (%)", "best test accuracy (%)")


def test_two_axes_and_several_runs_get_a_panel_each(results, trial, drawn):
    found = results(trial(run=run, bits=b, n=n) for run in ("a", "b", "c") for b in (2, 4) for n in (0.1, 0.2))
    assert names(found) == ["heatmap"]
    assert [axis.get_title() for axis in drawn(plots.fitting(found)["heatmap"]())[:3]] == ["a", "b", "c"]


def test_a_third_axis_makes_panels(results, trial, drawn):
    found = results(trial(a=a, b=b, c=c) for a in (1, 2) for b in (1, 2) for c in (1, 2))
    titles = [axis.get_title() for axis in drawn(plots.fitting(found)["heatmap"]())[:2]]
    assert titles == ["c 1", "c 2"]


def test_names_alone_get_points(results, trial, drawn, legend):
    found = results(
        trial(chip=chip, **{"learner.rule": rule}, rule=rule) for chip in ("x", "y") for rule in ("np", "bp")
    )
    assert names(found) == ["sweep", "curves", "loss"]
    sweep = plots.fitting(found)["sweep"]()
    assert drawn(sweep)[0].get_xlabel() == "chip"
    assert legend(sweep) == ["np", "bp"]
    assert legend(plots.fitting(found)["curves"]())[:4] == ["x · np", "x · bp", "y · np", "y · bp"]


def test_axes_that_advance_together_are_one(results, trial):
    found = results(trial(a=a, b=10 * a, seed=k) for a in (1, 2, 3) for k in range(2))
    assert found.axes == ("a", "b")
    assert axes_of(found) == (["a"], [])
    assert names(found) == ["sweep", "curves"]


def test_an_axis_of_one_value_is_none(results, trial):
    assert names(results(trial(s=1.0, seed=k) for k in range(2))) == ["curves", "loss"]


def test_a_reference_makes_no_group(results, trial):
    found = results([trial(s=s) for s in (1.0, 2.0)], trial(run="clean"))
    assert grouped(found, ["run"])[2] is None
    assert grouped(found, ["run", "s"])[0][plots.style.GROUP].tolist() == ["s 1", "s 2", "clean"]


@pytest.mark.parametrize("status", ["pending", "failed", "diverged"])
@pytest.mark.parametrize("axes", [("s",), ("s", "t"), ()])
def test_whatever_became_of_the_trials_there_is_a_picture(results, trial, drawn, status, axes):
    points = [dict(zip(axes, (a, b))) for a in (1.0, 2.0) for b in (1.0, 2.0)]
    found = results(
        trial(status=status, seed=k, run=f"r{i // 2}" if not axes else "r", **p)
        for i, p in enumerate(points)
        for k in range(2)
    )
    pictures = plots.fitting(found)
    assert pictures
    for draw in pictures.values():
        drawn(draw())


def test_a_folder_of_nothing_is_a_picture(results, drawn):
    for draw in plots.fitting(results()).values():
        drawn(draw())


# Your own


def sweep(results, trial):
    return results(
        trial(0.5 + 0.1 * k, run=run, seed=k, **{"chip.adc.bits": b, "chip.node_noise.sigma": s})
        for run in ("danp", "dnp") for b in (2, 4) for s in (1e-4, 1e-2, 1.0) for k in range(2)
    )  # fmt: skip


def test_x_may_be_an_axis_by_its_last_parts(results, trial, figure, legend):
    drawn = figure(sweep(results, trial), x="node_noise.sigma", col="adc.bits")
    assert drawn.axes[0].get_xlabel() == "node noise σ (pre-activation units)"
    assert [axis.get_title() for axis in drawn.axes] == ["ADC resolution (bits): 2", "ADC resolution (bits): 4"] * 2
    assert legend(drawn)[:2] == ["danp", "dnp"]


def test_x_may_be_what_a_curve_is_drawn_against(results, trial, figure):
    drawn = figure(sweep(results, trial), x="writes", y="loss", hue="run", col="chip.adc.bits")
    assert [axis.get_xlabel() for axis in drawn.axes] == ["cells written"] * 2
    assert drawn.axes[0].get_ylabel() == "loss"


def test_y_may_be_an_axis_for_a_heat_map(results, trial, figure):
    drawn = figure(sweep(results, trial), x="adc.bits", y="node_noise.sigma", hue="best_test_loss", col="run")
    assert drawn.axes[0].images
    assert drawn.axes[-1].get_ylabel() == "best test loss"


def test_y_may_be_any_figure_of_the_trials(results, trial, figure):
    drawn = figure(sweep(results, trial), y="best_epoch")
    assert drawn.axes[0].get_xlabel() == "ADC resolution (bits)"
    assert drawn.axes[0].get_ylabel() == "best epoch"


def test_a_figure_that_was_not_recorded_is_said_so(results, trial, figure):
    drawn = figure(results(trial()), y="angle_deg")
    assert [axis.texts[0].get_text() for axis in drawn.axes] == ["angle_deg was not recorded"] * 2


def test_the_band_is_the_one_asked_for(results, trial, figure):
    found = results(trial(0.5 + 0.1 * k, seed=k) for k in range(3))
    assert figure(found, y="accuracy", band="ci95").get_suptitle() == "mean and 95 % confidence interval of 3 seeds"


def test_columns_that_are_not_there_are_refused(results, trial):
    found = sweep(results, trial)
    for option, value, words in (
        ("x", "sigm", r"--x: 'sigm' is not allowed; allowed: one of the columns trial, run, chip"),
        ("y", "status", r"--y: 'status' is not allowed; allowed: a column of numbers: "),
        ("band", "sem", r"band: 'sem' is not allowed"),
        ("out", "x.gif", r"-o: 'x.gif' is not allowed; allowed: a name ending in \.png, \.svg, \.pdf"),
    ):
        with pytest.raises(ArgumentError, match=words):
            plots.plot(found, **{option: value})


def test_a_named_axis_has_the_unit_of_the_key_it_is_put_in(results, trial, figure, tmp_path):
    found = results(trial(run=run, noise=s, k=s) for run in ("a", "b") for s in (0.1, 0.2))
    (tmp_path / "sweep.yaml").write_text(
        "variants: {a: {chip.node_noise.sigma: $noise}, b: {chip: {node_noise: {sigma: $noise}}}}\n"
        "learner: {samples: $k}\ntraining: {batch: $k}\n"
    )
    assert (
        figure(found, x="noise", y="final_test_accuracy").axes[0].get_xlabel() == "node noise σ (pre-activation units)"
    )
    assert figure(found, x="k", y="final_test_accuracy").axes[0].get_xlabel() == "k"  # it stands for two things


# Files


@pytest.mark.parametrize("form", ["png", "svg", "pdf"])
def test_a_picture_is_written_in_the_format_of_its_name(results, trial, tmp_path, form):
    found = sweep(results, trial)
    (path,) = plots.plot(found, tmp_path / f"fig.{form}", x="node_noise.sigma")
    assert path.read_bytes().startswith(STARTS[form])
    again = path.read_bytes()
    plots.plot(found, path, x="node_noise.sigma")
    assert path.read_bytes() == again


def test_one_picture_is_the_most_telling(results, trial, tmp_path):
    found = sweep(results, trial)
    assert plots.plot(found, tmp_path / "fig.png") == [tmp_path / "fig.png"]
    assert not (tmp_path / "plots").exists()


def test_a_picture_that_cannot_be_written_is_a_named_error(results, trial, tmp_path):
    (tmp_path / "plots").touch()
    with pytest.raises(RunFolderError, match=r"plots/curves\.png: cannot be written"):
        plots.plot(results(trial()))


def test_from_the_command_line(call):
    """A run of digits is trained, drawn by `train`, and again by `plot`, from a folder moved meanwhile."""
    assert call("train", "small.yaml", "--set", "seeds=2", "--out", "run")[0] == 0
    shutil.rmtree("run/plots")
    shutil.move("run", "moved")
    code, out, err = call("plot", "moved")
    assert (code, out, err) == (0, "picture: moved/plots/curves.png\npicture: moved/plots/loss.png\n", "")
    code, out, _ = call("plot", "moved", "--x", "reads", "--y", "angle_deg", "-o", "fig.svg")
    assert (code, out) == (0, "picture: fig.svg\n")


def test_a_real_sweep_with_a_reference(call):
    """Two noises and a noise-free reference on digits, in this process."""
    Path("sweep.yaml").write_text(
        Path("small.yaml").read_text()
        + "axes: {noise: [1.0e-3, 1.0]}\nvariants: {noisy: {chip.node_noise.sigma: $noise}, clean: {chip: ideal}}\n"
    )
    assert call("sweep", "sweep.yaml", "-o", "out", "-j", 1)[0] == 0
    code, out, err = call("plot", "out")
    assert (code, out, err) == (0, "picture: out/plots/sweep.png\npicture: out/plots/curves.png\n", "")
    found = told(load_results("out"))
    assert found.axes == ("chip.node_noise.sigma",)
    code, out, _ = call("compare", "out")
    assert [name in out for name in ("  node_noise.sigma 1  ", "  node_noise.sigma 1e-3  ", "  clean  ")] == [True] * 3


def test_mistakes_on_the_command_line_are_a_line(call):
    call("train", "small.yaml", "--set", "training.epochs=0", "--out", "run")
    for arguments in (["nowhere"], ["run", "--x", "sigma"], ["run", "-o", "fig.gif"], ["run", "--band", "sem"]):
        code, out, err = call("plot", *arguments)
        assert (code, out, err.count("\n")) == (1, "", 1)


def test_a_damaged_line_is_named_and_the_rest_drawn(call):
    call("train", "small.yaml", "--out", "run")
    with open("run/curves.csv", "a") as file:
        file.write("danp,ga")
    code, out, err = call("plot", "run")
    assert code == 1
    assert out.count("picture: ") == 2
    assert "curves.csv: line 4: torn" in err


def test_results_may_be_drawn_elsewhere(results, trial, tmp_path):
    found = dataclasses.replace(results(trial()), folder=tmp_path / "gone")
    assert plots.plot(found, tmp_path / "fig.png") == [tmp_path / "fig.png"]
