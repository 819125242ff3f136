"""Tables out of folders: one tidy file of all curves or trials, and several sweeps in one folder."""

from __future__ import annotations

import io
import json
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analogsim.atomic import write_atomic, write_text
from analogsim.config.axes import label, named
from analogsim.config.yaml_tree import read_tree
from analogsim.errors import AnalogsimError, ArgumentError, RunFolderError
from analogsim.experiment.results import RUN_COLUMNS, TRIAL_FIGURES, csv_text, held
from analogsim.experiment.tables import DONE, LABELS, load_results, read_table

FORMATS = ("csv", "parquet", "json")
WHOLE = ("epochs", "reads", "writes", "best_epoch")


def export(folder: str | Path, file: str | Path, form: str = "csv", what: str = "curves") -> tuple[str, ...]:
    """Write the curves or trials of a run or sweep folder as one table; returns what could not be read.

    form: csv, parquet or json (a list of rows). Of the curves all but `seconds` is written, so that the
    same sweep gives the same bytes wherever and however it ran. Raises AnalogsimError.
    """
    if form not in FORMATS:
        raise ArgumentError("--format", form, ", ".join(FORMATS))
    if what not in ("curves", "trials"):
        raise ArgumentError("--what", what, "curves or trials")
    with warnings.catch_warnings(action="ignore"):
        results = load_results(folder)
    table = results.trials if what == "trials" else results.curves.drop(columns="seconds")
    table = table.astype({name: "Int64" for name in WHOLE if name in table})
    if form == "csv":
        truths = {name: table[name].astype(str).str.lower() for name in table.select_dtypes("bool")}
        write_text(Path(file), table.assign(**truths).to_csv(index=False, lineterminator="\n"))
    elif form == "json":
        rows = table.astype(object).where(table.notna(), None).to_dict("records")
        write_text(Path(file), json.dumps(rows, indent=0, ensure_ascii=False) + "\n")
    else:
        write_atomic(Path(file), lambda opened: opened.write(_parquet(table)))
    return results.problems


def _parquet(table: pd.DataFrame) -> bytes:
    stream = io.BytesIO()
    try:
        table.to_parquet(stream, index=False)
    except ImportError:
        allowed = "csv or json; parquet needs pyarrow: pip install analogsim-danp[parquet]"
        raise ArgumentError("--format", "parquet", allowed) from None
    return stream.getvalue()


def combine(folders: Sequence[str | Path], out: str | Path) -> tuple[int, tuple[str, ...]]:
    """Merge sweeps into a new folder of their tables and trials; returns how many, and what could not be read.

    A trial in several of them stands once, a finished one before one that is not. Axes that only some
    of them have are read off the other trials' own configurations. Raises AnalogsimError.
    """
    problems: list[str] = []
    axes: dict[str, None] = {}
    rows: dict[str, dict[str, str]] = {}
    homes: dict[str, Path] = {}
    for folder in map(Path, folders):
        if not (folder / "trials.csv").is_file():
            raise RunFolderError(f"{folder}: no sweep here, it has no trials.csv")
        header, read = read_table(folder / "trials.csv", problems.append)
        axes |= dict.fromkeys(header[len(LABELS) : len(header) - len(TRIAL_FIGURES)])
        for row in read:
            name = row["trial"]
            known = rows.get(name)
            better = known is None or (known["status"] not in DONE and row["status"] in DONE)
            first, second = (row, known or {}) if better else (known or {}, row)
            rows[name] = first | {key: value for key, value in second.items() if not first.get(key)}
            if better:
                homes[name] = folder / "trials" / name
    out = Path(out)
    with held(out, lambda: _empty(out)):
        for name, home in homes.items():
            if home.is_dir():
                try:
                    shutil.copytree(home, out / "trials" / name, ignore=shutil.ignore_patterns(".*"))
                except (OSError, shutil.Error) as error:
                    problems.append(f"{home}: cannot be copied: {getattr(error, 'strerror', None) or error}")
            for key in axes:
                if not rows[name].get(key) and not named(key):
                    rows[name][key] = _configured(home, key)
        columns = ("trial", *RUN_COLUMNS, *axes, *TRIAL_FIGURES)
        write_text(out / "trials.csv", csv_text(columns, rows.values()))
    return len(rows), tuple(problems)


def _configured(home: Path, key: str) -> str:
    """What a trial's own configuration says of a dotted key; empty where it has none."""
    try:
        value: Any = read_tree(home / "config.yaml").get(tuple(key.split(".")))
    except AnalogsimError:
        return ""
    return "" if value is None else label(value)


def _empty(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(path.name != ".lock" for path in out.iterdir())):
        raise RunFolderError(f"{out}: not empty; give another -o")
