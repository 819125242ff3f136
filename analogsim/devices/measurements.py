"""Measurements of cells, read from a CSV file for `analogsim devices fit`.

    target_uS,read_uS,time_s[,programming]

A row is one read: what the cell was to hold, what it was found to hold, and the time since its write.
`programming` numbers the writes; rows that share it follow one write. Without that column rows follow one
write as long as the target stays and the time rises; two such rows at one time are refused, since
they could as well be two cells. Other columns are ignored.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from analogsim.config.yaml_tree import show
from analogsim.errors import DataError

COLUMNS = ("target_uS", "read_uS", "time_s")
FEWEST = 10  # programmings; a spread of fewer is hardly known
MOST_PROBLEMS = 20


@dataclass(frozen=True)
class Measurements:
    """One array entry a read, those of one programming together and in order of time.

    programming: 0, 1, ... of every read; target_uS: (programmings,). line: of the file.
    """

    name: str
    target_uS: NDArray[np.float64]
    programming: NDArray[np.intp]
    read_uS: NDArray[np.float64]
    time_s: NDArray[np.float64]
    line: NDArray[np.intp]


def read_measurements(path: Path) -> Measurements:
    """The file's reads. Raises DataError naming every wrong line, twenty at most."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: is not a CSV file in UTF-8") from None
    lines = csv.reader(text.splitlines())
    header = [name.strip() for name in next(lines, [])]
    missing = [name for name in COLUMNS if header.count(name) != 1]
    if missing or header.count("programming") > 1:
        wanted = "target_uS, read_uS, time_s once each, and programming, which may be left out"
        raise DataError(f"{path}:1: columns: {show(header)} is not allowed; allowed: {wanted}")
    problems: list[str] = []
    rows = list(_rows(lines, header, str(path), problems))
    if problems:
        more = len(problems) - MOST_PROBLEMS
        raise DataError("\n".join([*problems[:MOST_PROBLEMS], *([f"{path}: and {more} more"] if more > 0 else [])]))
    return _grouped(rows, str(path))


@dataclass(frozen=True)
class _Row:
    line: int
    target_uS: float
    read_uS: float
    time_s: float
    programming: str


def _rows(lines: Iterator[list[str]], header: list[str], path: str, problems: list[str]) -> Iterator[_Row]:
    for number, fields in enumerate(lines, 2):
        if not any(field.strip() for field in fields):
            continue
        if len(fields) != len(header):
            problems.append(f"{path}:{number}: {len(fields)} fields; allowed: {len(header)}, as the first line has")
            continue
        values = dict(zip(header, (field.strip() for field in fields)))
        numbers = {name: _number(values[name]) for name in COLUMNS}
        allowed = {
            "target_uS": (numbers["target_uS"] >= 0, "a number of µS, 0 or more"),
            "read_uS": (math.isfinite(numbers["read_uS"]), "a number of µS"),
            "time_s": (numbers["time_s"] > 0, "seconds since the write, more than 0"),
        }
        wrong = [(name, words) for name, (fits, words) in allowed.items() if not fits]
        problems += [f"{path}:{number}: {name}: {show(values[name])} is not allowed; allowed: {w}" for name, w in wrong]
        if not wrong:
            yield _Row(number, **numbers, programming=values.get("programming", ""))


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def _grouped(rows: list[_Row], path: str) -> Measurements:
    if any(row.programming for row in rows):
        groups: dict[object, list[_Row]] = {}
        for row in rows:
            first = groups.setdefault(row.programming, [row])[0]
            if row.target_uS != first.target_uS:
                raise DataError(
                    f"{path}:{row.line}: target_uS: {row.target_uS:g} is not allowed; allowed: {first.target_uS:g}, "
                    f"that of programming {show(row.programming)} in line {first.line}"
                )
            if row is not first:
                groups[row.programming].append(row)
        found = [sorted(group, key=lambda row: row.time_s) for group in groups.values()]
    else:
        found = list(_in_order(rows, path))
    if len(found) < FEWEST or len({group[0].target_uS for group in found}) < 2:
        targets = len({group[0].target_uS for group in found})
        raise DataError(
            f"{path}: {len(found)} programmings to {targets} target(s); allowed: {FEWEST} or more, to 2 targets or more"
        )
    return Measurements(
        path,
        np.array([group[0].target_uS for group in found]),
        np.repeat(np.arange(len(found)), [len(group) for group in found]),
        np.array([row.read_uS for group in found for row in group]),
        np.array([row.time_s for group in found for row in group]),
        np.array([row.line for group in found for row in group]),
    )


def _in_order(rows: list[_Row], path: str) -> Iterator[list[_Row]]:
    group: list[_Row] = []
    for row in rows:
        if group and row.target_uS == group[-1].target_uS and row.time_s == group[-1].time_s:
            raise DataError(
                f"{path}:{row.line}: time_s: {row.time_s:g} again, as in line {group[-1].line}; allowed: a later time, "
                "or a column `programming` that numbers the writes"
            )
        if group and (row.target_uS != group[-1].target_uS or row.time_s < group[-1].time_s):
            yield group
            group = []
        group.append(row)
    if group:
        yield group
