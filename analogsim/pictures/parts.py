"""How many groups a picture can show: those that one panel cannot hold are shared out over panels.

At most MOST_LINES lines in a panel. More are told apart by panels of one of their names where that does (a rule a
panel, its chips as lines), else shared out in order; where there are still too many, the best are shown, and the
picture says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from analogsim.experiment.tables import Results
from analogsim.pictures.groups import grouped, kind_of, labels, telling
from analogsim.pictures.style import GROUP, PANEL, Table, in_order

MOST_LINES = 8
MOST_SHARED_OUT = 48  # lines; a legend of more is not read
MOST_PANELS = 12


@dataclass(frozen=True)
class Parts:
    """Both tables, and their columns that name lines and panels; None: there is but one.

    note: what of the groups is shown, where that is not all.
    """

    trials: Table
    curves: Table
    hue: str | None = None
    col: str | None = None
    note: str = ""


def parted(results: Results, columns: Sequence[str], lines: int = MOST_LINES, panels: int = MOST_PANELS) -> Parts:
    """Groups by these columns, at most so many lines in a panel and so many panels."""
    trials, curves, group = grouped(results, columns)
    if group is None:
        return Parts(trials, curves)
    swept = _swept(results, trials)
    shown = in_order(swept[GROUP])
    if len(shown) <= lines:
        return Parts(trials, curves, GROUP)
    names = telling(results, columns)
    splits = []
    for size in range(1, len(names)):
        for inner in combinations(names, size):
            outer = [name for name in names if name not in inner]
            counts = len(swept[list(inner)].drop_duplicates()), len(swept[outer].drop_duplicates())
            if counts[0] <= lines and 1 < counts[1] <= panels:
                splits.append((counts[0], list(inner), outer))
    if splits:
        _, inner, outer = max(splits, key=lambda split: split[0])
        trials, curves = (
            table.assign(**{GROUP: labels(table, inner), PANEL: labels(table, outer)}) for table in (trials, curves)
        )
        return Parts(trials, curves, GROUP, PANEL)
    if len(shown) > MOST_SHARED_OUT:
        trials, curves, note = best(results, trials, curves, lines)
        return Parts(trials, curves, GROUP, None, note)
    each = -(-len(shown) // -(-len(shown) // lines))  # as even as can be
    titles = {}
    for start in range(0, len(shown), each):
        part = shown[start : start + each]
        titles |= dict.fromkeys(part, f"{part[0]} … {part[-1]}" if len(part) > 1 else part[0])
    trials, curves = (table.assign(**{PANEL: table[GROUP].map(titles).fillna("")}) for table in (trials, curves))
    return Parts(trials, curves, GROUP, PANEL)


def best(results: Results, trials: Table, curves: Table, most: int) -> tuple[Table, Table, str]:
    """The tables of the best groups alone, references kept, and a word on it where some are left out."""
    kind = kind_of(results)
    swept = _swept(results, trials)
    groups = in_order(swept[GROUP])
    if len(groups) <= most:
        return trials, curves, ""
    means = swept.groupby(GROUP)[f"final_test_{kind}"].mean().sort_values(ascending=kind == "loss")
    kept = set(means.index[:most])
    references = set(trials["trial"]) - set(swept["trial"])
    trials, curves = (table[table[GROUP].isin(kept) | table["trial"].isin(references)] for table in (trials, curves))
    return trials, curves, f"the {most} best of {len(groups)} by final test {kind}; others by --x, --hue, --col"


def _swept(results: Results, trials: Table) -> Table:
    """Without references, which have no value on some axis."""
    for axis in results.axes:
        whole = trials[trials[axis].notna() & (trials[axis] != "")]
        trials = whole if len(whole) else trials
    return trials
