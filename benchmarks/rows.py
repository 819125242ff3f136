"""A line of the bench: what was measured, against what, and what it should be; and the table of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

HEAD = ("work", "ratio", "all runs", "target", "floor", "ms", "bare ms", "note")


@dataclass(frozen=True)
class Row:
    """One figure: ratio = measured over bare, both taken in the same run.

    work: what was measured, in words; ratio: dimensionless; target: the ratio aimed at, or None where there is none;
    milliseconds: of the work, bare_ms: of what it is held against (0 where the figure is not a time, as for memory);
    note: what the ratio is made of, or what it leaves out; floor: the ratio that operations and bytes, counted, would
    take; at_least: the target is a least one; runs: the ratio of every run, where this row is the median of several.
    """

    work: str
    ratio: float
    target: float | None
    milliseconds: float
    bare_ms: float
    note: str = ""
    floor: float | None = None
    at_least: bool = False
    runs: tuple[float, ...] = ()

    @property
    def missed(self) -> bool:
        return self.target is not None and (self.ratio < self.target if self.at_least else self.ratio > self.target)


def median_rows(runs: Sequence[Sequence[Row]]) -> list[Row]:
    """Of every work the row of the run with the median ratio (of an even number, the upper), and all ratios."""
    found = []
    for same in zip(*runs, strict=True):
        middle = sorted(same, key=lambda row: row.ratio)[len(same) // 2]
        found.append(replace(middle, runs=tuple(row.ratio for row in same)))
    return found


def table(rows: Sequence[Row], markdown: bool = False) -> str:
    """Without the columns that no row has anything in."""
    columns = [column for column in zip(HEAD, *map(_cells, rows)) if any(column[1:])]
    missed = "* misses its target" if any(row.missed for row in rows) else ""
    if markdown:
        lines = [f"| {' | '.join(line)} |" for line in zip(*columns)]
        lines.insert(1, "|---" * len(columns) + "|")
        return "\n".join([*lines, *(["", "\\" + missed] if missed else [])])
    padded = []
    for column in columns:
        width = max(map(len, column))
        words = column[0] in ("work", "note")
        padded.append([cell.ljust(width) if words else cell.rjust(width) for cell in column])
    return "\n".join([*("  ".join(line).rstrip() for line in zip(*padded)), missed]).rstrip()


def _cells(row: Row) -> tuple[str, ...]:
    target = "" if row.target is None else f"{'≥ ' if row.at_least else ''}{row.target:.2f}"
    return (
        row.work,
        _short(row.ratio) + "*" * row.missed,
        f"{_short(min(row.runs))} … {_short(max(row.runs))}" if len(row.runs) > 1 else "",
        target,
        "" if row.floor is None else f"{row.floor:.2f}",
        f"{row.milliseconds:.1f}" if row.milliseconds else "",
        f"{row.bare_ms:.1f}" if row.bare_ms else "",
        row.note,
    )


def _short(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < 100 else f"{ratio:.0f}"
