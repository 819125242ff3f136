"""The `axes` of a sweep file: what is varied, over which values, and which keys advance together.

    axes:
      learner.rule: [danp, dnp]                          # any dotted key: a list,
      optimizer.lr: {logspace: [1.0e-4, 1.0e-2, 5]}      # or n points from a to b, both included,
      training.batch: {linspace: [100, 500, 5]}          # evenly spaced, in the exponent or in the value
      chip: [ideal, mine.yaml, {base: ideal, name: three-bit, adc: {bits: 3, bound: 10.0}}]
      noise: {logspace: [1.0e-5, 1.0, 13]}               # no key of an experiment: a name, put where $noise stands
      zip:                                               # keys that advance together; several such groups in a list
        learner.samples: [1, 2, 4]
        training.epochs: [40, 20, 10]

linspace   v_i = a + (b - a) i / (n - 1)        logspace   v_i = a (b / a)^(i / (n - 1)),    i = 0 … n - 1

rounded to 12 digits, and whole numbers where a, b and all points between are.
"""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from analogsim.config.schema import Experiment
from analogsim.config.yaml_tree import Key, Tree, show
from analogsim.errors import Problem

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")
REFERENCE = re.compile(r"\$(.*)", re.DOTALL)
MOST_POINTS = 10_000
_SPACED = ("linspace", "logspace")
_VALUES = "a list of values, {linspace: [a, b, n]} or {logspace: [a, b, n]}"
_ZIP = "a mapping of keys that advance together, or a list of such mappings"
_TAKEN = ("trial", "run", "rule", "baseline", "seed", "status", "epochs", "reads", "writes", "error", "best_epoch",
          "epoch", "step", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "test_accuracy_ideal",
          "angle_deg", "seconds")  # fmt: skip


@dataclass(frozen=True)
class Axis:
    """Keys that advance together (one, unless zipped). points: a value for each key, with its place."""

    keys: tuple[str, ...]
    points: tuple[tuple[Tree, ...], ...]


def named(key: str) -> bool:
    """Whether an axis key is a name of the sweep's own, for `$name`, and no key of an experiment."""
    return key.split(".")[0] not in Experiment.model_fields


def read_axes(base: Tree, problems: list[Problem]) -> list[Axis]:
    """The axes of a sweep file in its order, zipped ones last."""
    said = base.value.get("axes")
    if not isinstance(said, dict) or not said:
        allowed = "dotted keys with their values, as in {learner.samples: [1, 10]}"
        message = "is missing: a sweep needs axes" if said is None else f"{show(said)} is not allowed"
        problems.append(base.problem(("axes",), said, f"{message}; allowed: {allowed}", key=said is None))
        return []
    axes: list[Axis] = []
    seen: set[str] = set()
    for key in sorted(said, key=lambda key: key == "zip"):
        groups: list[tuple[Key, Any]] = [(("axes",), {key: said[key]})]
        if key == "zip":
            groups = list(_groups(base, said[key], problems))
        for at, group in groups:
            axis = _axis(base, at, group, seen, problems)
            if axis is not None:
                axes.append(axis)
    return axes


def _groups(base: Tree, said: Any, problems: list[Problem]) -> Iterator[tuple[Key, dict[str, Any]]]:
    at: Key = ("axes", "zip")
    whole = isinstance(said, list)
    for index, group in enumerate(said if whole and said else [said]):
        path = (*at, index) if whole else at
        if isinstance(group, dict) and group:
            yield path, group
        else:
            problems.append(base.problem(path, group, f"{show(group)} is not allowed; allowed: {_ZIP}"))


def _axis(base: Tree, at: Key, group: dict[str, Any], seen: set[str], problems: list[Problem]) -> Axis | None:
    columns: dict[str, list[Tree]] = {}
    for key in group:
        path = (*at, key)
        message = _key_refused(key) or ("given twice; keep one" if key in seen else None)
        seen.add(key)
        if message:
            problems.append(base.problem(path, key, message, key=True))
            continue
        values = _values(base, path, problems)
        if values:
            columns[key] = values
    if len(columns) < len(group):
        return None
    lengths = {key: len(values) for key, values in columns.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{key} has {length}" for key, length in lengths.items())
        problems.append(base.problem(at, group, f"keys that advance together need as many values each; {told}"))
        return None
    points = tuple(zip(*columns.values()))
    told = [json.dumps([tree.value for tree in point], sort_keys=True) for point in points]
    for index, text in enumerate(told):
        if text in told[:index]:
            *_, key = group
            value = points[index][-1]
            problems.append(value.problem((), value.value, f"{show(value.value)} is given twice in {key}; keep one"))
            return None
    return Axis(tuple(columns), points)


def _key_refused(key: str) -> str | None:
    head = key.split(".")[0]
    if "" in key.split("."):
        return f"{show(key)} is not a dotted key, such as learner.rule"
    if key == "chip.base":
        return "is no axis; list the chips under `chip`"
    if head == "seeds":
        return "is no axis; write `seeds` beside `axes`: every trial is trained with each of them"
    if head in ("axes", "variants"):
        return "is no axis"
    if not named(key):
        return None
    if not NAME.fullmatch(key):
        keys = ", ".join(field for field in Experiment.model_fields if field != "seeds")
        return f"is neither a key of an experiment (they begin with {keys}) nor a name for `$name`"
    if key in _TAKEN or key.startswith(("final_", "best_")):
        return "is a column of the tables already; take another name"
    return None


def _values(base: Tree, path: Key, problems: list[Problem]) -> list[Tree]:
    value = base.get(path)
    if isinstance(value, list) and value:
        return [base.at((*path, index)) for index in range(len(value))]
    if isinstance(value, dict) and len(value) == 1 and (kind := next(iter(value))) in _SPACED:
        return _spaced(base, (*path, kind), kind, problems)
    problems.append(base.problem(path, value, f"{show(value)} is not allowed; allowed: {_VALUES}"))
    return []


def _spaced(base: Tree, path: Key, kind: str, problems: list[Problem]) -> list[Tree]:
    said = base.get(path)
    allowed = "[a, b, n]: two different numbers and how many points, 2 or more"
    if kind == "logspace":
        allowed = "[a, b, n]: two different numbers greater than 0 (the end points themselves, no exponents) and n >= 2"
    if not _is_spacing(said, kind):
        problems.append(base.problem(path, said, f"{show(said)} is not allowed; allowed: {allowed}"))
        return []
    points = []
    for value in spaced(kind, *said):
        tree = base.at(path)
        tree.value = value
        tree.where = {(): tree.where[()]}
        points.append(tree)
    return points


def _is_spacing(said: Any, kind: str) -> bool:
    if not isinstance(said, list) or len(said) != 3 or any(isinstance(part, bool) for part in said):
        return False
    a, b, n = said
    numbers = all(isinstance(part, int | float) and abs(part) < 1e300 for part in (a, b))
    counted = isinstance(n, int) and 2 <= n <= MOST_POINTS
    return numbers and counted and a != b and (kind == "linspace" or min(a, b) > 0)


def spaced(kind: str, a: float, b: float, n: int) -> list[float]:
    """n values from a to b, both included: evenly spaced, or (logspace) in a constant ratio."""
    shares = [i / (n - 1) for i in range(n)]
    if kind == "linspace":
        inner = [a + (b - a) * share for share in shares[1:-1]]
    else:
        inner = [math.exp(math.log(a) + math.log(b / a) * share) for share in shares[1:-1]]
    values = [a, *(float(f"{value:.12g}") for value in inner), b]
    whole = isinstance(a, int) and isinstance(b, int) and all(float(value).is_integer() for value in values)
    return [int(value) for value in values] if whole else [float(value) for value in values]


def label(value: Any) -> str:
    """An axis value as tables write it: text as it is, all else as JSON does."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def put(tree: Tree, values: dict[str, Tree], names: set[str]) -> set[str]:
    """Set every `$name` in a tree to the value of that axis; returns the names used.

    names: of all the axes; another one is a problem of the tree's.
    """
    used: set[str] = set()

    def walk(value: Any, path: Key) -> Any:
        if isinstance(value, dict):
            return {key: walk(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [walk(item, (*path, index)) for index, item in enumerate(value)]
        reference = REFERENCE.fullmatch(value) if isinstance(value, str) else None
        if reference is None:
            return value
        name = reference[1]
        if name not in names:
            known = ", ".join(f"${each}" for each in sorted(names)) or "none, no axis has a name of its own"
            tree.problems.append(tree.problem(path, value, f"{show(value)} names no axis; allowed: {known}"))
            return value
        used.add(name)
        if name not in values:
            return value
        tree.where = {key: place for key, place in tree.where.items() if key[: len(path)] != path}
        tree.where |= {path + key: place for key, place in values[name].where.items()}
        return copy.deepcopy(values[name].value)

    tree.value = walk(tree.value, ())
    return used
