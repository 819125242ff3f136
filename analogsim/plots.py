"""The right pictures for what a results folder holds; nothing here trains.

a run folder                       curves, loss
a sweep over one numeric axis      sweep (final and best figures against it), curves
over two or more                   heatmap, curves
over names alone (chips, rules)    sweep (points), curves
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

from analogsim.errors import ArgumentError
from analogsim.experiment.tables import Results, load_results
from analogsim.pictures import style
from analogsim.pictures.against_axis import draw_against_axis
from analogsim.pictures.bands import check_band
from analogsim.pictures.curves import draw_curves
from analogsim.pictures.groups import LABELS, axes_of, grouped, kind_of, told
from analogsim.pictures.heatmap import draw_heatmap
from analogsim.pictures.parts import MOST_PANELS, Parts, best, parted
from analogsim.pictures.style import Table

ALONG = ("epoch", "step", "reads", "writes", "seconds")  # what a learning curve can be drawn against
MOST_TWICE = 4  # panels of curves, over which they are drawn against epochs alone


def plot_curves(folder: Path) -> Path:
    """plots/curves.png of a run folder, and its other pictures."""
    return plot(load_results(folder))[0]


def plot(
    results: Results,
    out: str | Path | None = None,
    x: str | None = None,
    y: str | None = None,
    hue: str | None = None,
    col: str | None = None,
    band: str = "minmax",
) -> list[Path]:
    """Draw a folder's results; the paths of the pictures.

    out: one picture, to this file, its format told by its ending; left out: all that fit, as PNG in plots/.
    x, y, hue, col: columns of the tables, one picture of your own with panels over `col`; an axis may go by its
    last parts (`adc.bits`). y may be another axis: a heat map. band: minmax, ci95 or std.
    Raises ArgumentError for a column that is not there.
    """
    check_band(band)
    if out is not None:
        style.check_format(Path(out))
    named = dict(zip(results.axes, told(results).axes))
    x, y, hue, col = (named.get(name or "", name) for name in (x, y, hue, col))
    results = told(results)
    if x or y or hue or col:
        return [style.write_figure(_own(results, x, y, hue, col, band), Path(out or results.folder / "plots/own.png"))]
    pictures = fitting(results, band)
    if out is not None:
        return [style.write_figure(next(iter(pictures.values()))(), Path(out))]
    folder = results.folder / "plots"
    return [style.write_figure(draw(), folder / f"{name}.png") for name, draw in pictures.items()]


def fitting(results: Results, band: str = "minmax") -> dict[str, Callable[[], Figure]]:
    """The pictures that fit, by name, the most telling first."""
    results = told(results)
    numeric, names = axes_of(results)
    kind = kind_of(results)
    figures = (f"final_test_{kind}", f"best_test_{kind}")
    pictures: dict[str, Callable[[], Figure]] = {}
    if len(numeric) > 1:
        trials, curves, group = grouped(results, ["run", *names, *numeric[2:]])
        trials, _, note = best(results, trials, curves, MOST_PANELS)
        shown = figures[:1] if group else figures
        pictures["heatmap"] = lambda: draw_heatmap(trials, numeric[0], numeric[1], shown, group, note)
    elif numeric or names:
        x = [*numeric, *names][0]
        sweep = parted(results, [name for name in ("run", *names) if name != x])
        ends = figures[:1] if sweep.col else figures
        pictures["sweep"] = lambda: draw_against_axis(sweep.trials, x, ends, sweep.hue, sweep.col, band, sweep.note)
    parts = _curves(results, numeric, names)
    if parts is not None:
        panels = parts.curves[parts.col].nunique() if parts.col else 1
        along = ("epoch", "reads") if panels <= MOST_TWICE else ("epoch",)

        def draw(figure: str) -> Figure:
            return draw_curves(parts.curves, figure, along, parts.hue, parts.col, band, note=parts.note)

        pictures["curves"] = lambda: draw(f"test_{kind}")
        if kind == "accuracy" and not numeric:
            pictures["loss"] = lambda: draw("test_loss")
    return pictures


def _curves(results: Results, numeric: list[str], names: list[str]) -> Parts | None:
    """What learning curves are drawn of: a line a value of the first numeric axis; None where panels would be many."""
    if not numeric:
        return parted(results, ["run", *names])
    trials, curves, group = grouped(results, ["run", *names, *numeric[2:]])
    if len(numeric) == 1:
        trials, curves, note = best(results, trials, curves, MOST_PANELS)
        return Parts(trials, curves, numeric[0], group, note)
    if len(numeric) == 2 and group is None and curves[numeric[1]].nunique() <= MOST_PANELS:
        return Parts(trials, curves, numeric[0], numeric[1])
    return None


def _own(results: Results, x: str | None, y: str | None, hue: str | None, col: str | None, band: str) -> Figure:
    """The picture that the options ask for."""
    options = {"x": x, "y": y, "hue": hue, "col": col}
    x, y, hue, col = (_column(results, option, name) for option, name in options.items())
    numeric, names = axes_of(results)
    kind = kind_of(results)
    rest = [name for name in ("run", *names, *numeric) if name not in (x, y, hue, col)]
    if y in (*numeric, *names, *LABELS):
        other = x or next((name for name in (*numeric, *names, *LABELS) if name != y), "seed")
        return draw_heatmap(results.trials, other, y, (hue or f"final_test_{kind}",), col)
    if x in ALONG or (x is None and (y in results.curves or not (numeric or names))):
        trials, curves, group = grouped(results, rest)
        y = y or f"test_{kind}"
        _figure("y", y, curves)
        return draw_curves(curves, y, (x,) if x else ("epoch", "reads"), hue or group, col, band)
    x = x or [*numeric, *names][0]
    figures = (y,) if y else (f"final_test_{kind}", f"best_test_{kind}")
    trials, _, group = grouped(results, [name for name in rest if name != x])
    for figure in figures:
        _figure("y", figure, trials)
    return draw_against_axis(trials, x, figures, hue or group, col, band)


def _figure(option: str, name: str, table: Table) -> None:
    """Refuse what is no number."""
    if name not in table or not style.is_number(table[name]):
        numbers = [column for column in table if style.is_number(table[column])]
        raise ArgumentError(f"--{option}", name, f"a column of numbers: {', '.join(numbers)}")


def _column(results: Results, option: str, name: str | None) -> str | None:
    """A column by its name or by its last dotted parts."""
    if name is None:
        return None
    known = list(dict.fromkeys([*results.trials.columns, *results.curves.columns]))
    short = {"accuracy": "test_accuracy", "loss": "test_loss"}.get(name, name)
    if short in known:
        return short
    ending = [column for column in known if column.endswith(f".{name}")]
    if len(ending) != 1:
        raise ArgumentError(f"--{option}", name, f"one of the columns {', '.join(known)}")
    return ending[0]
