"""What tells the trials of a folder apart: the axes along which something changes, and names for groups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from analogsim.config.yaml_tree import read_tree
from analogsim.errors import AnalogsimError
from analogsim.experiment.tables import Results
from analogsim.pictures.style import GROUP, Table, in_order, is_number, written

LABELS = ("run", "chip", "rule", "baseline", "seed")


def told(results: Results) -> Results:
    """The same, each named axis called by the key it is put in where that is one: its unit is then known."""
    try:
        sweep = read_tree(results.folder / "sweep.yaml").value
    except AnalogsimError:  # a run, or sweeps combined
        return results
    keys: dict[str, set[str]] = {axis: set() for axis in results.axes if "." not in axis}
    for path, value in _leaves(sweep):
        if isinstance(value, str) and value.startswith("$") and value[1:] in keys:
            keys[value[1:]].add(".".join(path[2:] if path[0] == "variants" else path))
    names = {
        axis: key for axis, found in keys.items() for key in found if len(found) == 1 and key not in results.trials
    }
    trials, curves = (table.rename(columns=names) for table in (results.trials, results.curves))
    axes = tuple(names.get(axis, axis) for axis in results.axes)
    return replace(results, axes=axes, trials=trials, curves=curves)


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, (*path, key))
    else:
        yield path, value


def kind_of(results: Results) -> str:
    """accuracy, or loss where nothing has an accuracy."""
    figures = pd.concat([results.trials.filter(like="final_test_"), results.curves.filter(like="test_")])
    shares = figures.filter(like="accuracy").notna().any(axis=None)
    return "loss" if figures.filter(like="loss").notna().any(axis=None) and not shares else "accuracy"


def axes_of(results: Results) -> tuple[list[str], list[str]]:
    """The axes along which something changes, numeric ones and those of names; of zipped ones the first."""
    numeric: list[str] = []
    names: list[str] = []
    trials = results.trials
    for axis in results.axes:
        column = trials[axis]
        kin = numeric if is_number(column) else names
        together = [len(trials[[axis, other]].drop_duplicates()) == column.nunique(dropna=False) for other in kin]
        if len(in_order(column)) > 1 and not any(together):
            kin.append(axis)
    return numeric, names


def grouped(results: Results, columns: Sequence[str]) -> tuple[Table, Table, str | None]:
    """Both tables with a column that names each trial's group, and its name (None: there is but one group).

    columns: of these, the ones that tell trials apart make the name. A reference makes no group of its own.
    """
    names = telling(results, columns)
    trials, curves = (table.assign(**{GROUP: labels(table, names)}) for table in (results.trials, results.curves))
    return trials, curves, GROUP if names else None


def telling(results: Results, columns: Sequence[str]) -> list[str]:
    """Those of the columns that tell trials apart, references left out."""
    swept: Table = results.trials
    for axis in results.axes:
        whole = swept[swept[axis].notna() & (swept[axis] != "")]
        swept = whole if len(whole) else swept
    names: list[str] = []
    groups = 1
    for name in columns:
        finer = len(swept[[*names, name]].drop_duplicates())
        if finer > groups:
            names, groups = [*names, name], finer
    return names


def labels(table: Table, columns: list[str]) -> list[str]:
    """`danp · gaussian-node · adc.bits 4`, row by row; a reference that has none of these goes by its run."""
    if not columns:
        return [""] * len(table)
    rows = zip(*(table[name] for name in columns))
    return [" · ".join(filter(None, map(_said, columns, row))) or run for run, row in zip(table["run"], rows)]


def _said(name: str, value: object) -> str:
    if value == "" or value != value:
        return ""
    said = written(value)
    return said if name in (*LABELS, "learner.rule") else f"{name.removeprefix('chip.')} {said}"
