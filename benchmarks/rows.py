"""A line of the bench: what was measured, against what, and what it should be."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One figure: ratio = measured over bare, both taken in the same run.

    work: what was measured, in words; ratio: dimensionless; target: the ratio aimed at, or None where there is none;
    milliseconds: of the work, bare_ms: of what it is held against (0 where the figure is not a time, as for memory);
    note: what the ratio is made of, or what it leaves out.
    """

    work: str
    ratio: float
    target: float | None
    milliseconds: float
    bare_ms: float
    note: str = ""
