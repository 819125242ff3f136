"""What pydantic finds wrong, said as the user's file has it: place, path, value, what is allowed.

What is allowed is read off the schema's own types and bounds, so that no message can differ from
what is enforced.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from analogsim.config.base import Allowed
from analogsim.config.yaml_tree import Key, Tree, dotted, show
from analogsim.errors import ConfigError, Problem

Model = TypeVar("Model", bound=BaseModel)
Kind = tuple[Any, list[Any]]  # one plain type and its constraints

_PLAIN = {float: "a number", int: "a whole number", str: "text", bool: "true or false", NoneType: "null"}
_BOUNDS = {
    "gt": " greater than {}",
    "ge": ", {} or more",
    "lt": " less than {}",
    "le": ", {} or less",
    "min_length": ", not empty",
}


def validate(model: type[Model], tree: Tree, besides: Mapping[Key, str] | None = None) -> Model:
    """The tree as a model. Raises ConfigError with all problems, those of its form included.

    besides: keys which a mapping of the file may hold although the model does not know them.
    """
    try:
        valid = model.model_validate(tree.value)
        if not tree.problems:
            return valid
        findings = []
    except ValidationError as error:
        findings = error.errors()
    raise collected([*tree.problems, *(_problem(tree, model, f, besides or {}) for f in findings)], tree.name)


def collected(problems: Iterable[Problem], first: str) -> ConfigError:
    """One error of all problems, one a place and path: file `first`, other files, then options."""

    def order(problem: Problem) -> tuple[Any, ...]:
        place = re.fullmatch(r"(.*):(\d+):(\d+)", problem.where, re.DOTALL)
        if place is None or problem.where.startswith("--"):
            return (2, "", 0, 0)
        return (place[1] != first, place[1], int(place[2]), int(place[3]))

    distinct: dict[tuple[str, str], Problem] = {}
    for problem in problems:
        distinct.setdefault((problem.where, problem.path), problem)
    return ConfigError(sorted(distinct.values(), key=order))


def _problem(tree: Tree, model: type[BaseModel], finding: Any, besides: Mapping[Key, str]) -> Problem:
    kind, location, context = finding["type"], finding["loc"], finding.get("ctx", {})
    said = ""
    if kind.startswith("union_tag"):
        location = (*location, context["discriminator"].strip("'"))
    elif kind == "missing" and isinstance(location[-1], int):  # the whole list is too short
        location = location[:-1]
    elif "error" in context:  # raised by the schema's own validators: [key at fault,] what is allowed
        *at, said = context["error"].args or ("",)
        location = (*location, *at)
    path, kinds = _followed(model, location)
    if kind == "extra_forbidden":
        return _unknown_key(tree, (*path, location[-1]), kinds, besides)
    value, parent, words = tree.get(path), tree.get(path[:-1]), said or _words(kinds)
    if kind == "finite_number":
        words = words.replace("a number", "a finite number")
    if said and isinstance(value, dict):
        message = said
    elif parent is None or (isinstance(parent, dict) and path[-1] not in parent):
        message = f"is {'left out' if said else 'missing and has no default'}; allowed: {words}"
    else:
        noun = next((mark.noun for _, marks in kinds for mark in marks if isinstance(mark, Allowed)), "allowed")
        message = f"{show(value)} is not {noun}; allowed: {words}"
        if kind == "int_type" and isinstance(value, float) and value.is_integer():
            message += f"; write {int(value)}"
    return tree.problem(path, value, message)


def _unknown_key(tree: Tree, path: Key, kinds: list[Kind], besides: Mapping[Key, str]) -> Problem:
    names = _names(kinds)
    if path[:-1] in besides and tree.place(path)[0].path == dotted(path) != besides[path[:-1]]:
        names.append(besides[path[:-1]])
    close = difflib.get_close_matches(str(path[-1]), names, 1)
    hint = f"did you mean {close[0]}? " if close else ""
    return tree.problem(path, path[-1], f"unknown key; {hint}allowed: {', '.join(names)}", key=True)


def _followed(model: type[BaseModel], location: Key) -> tuple[Key, list[Kind]]:
    """The path in the file, and the types allowed there; pydantic also names members of unions."""
    path: Key = ()
    kinds: list[Kind] = [(model, [])]
    for part in location:
        inner = [found for kind, _ in kinds for found in _inside(kind, part)]
        if inner:
            path, kinds = (*path, part), inner
        else:  # a member's name: keep the models with such a tag
            kinds = [(kind, marks) for kind, marks in kinds if part in _tags(kind)] or kinds
    return path, kinds


def _inside(kind: Any, part: str | int) -> Iterator[Kind]:
    fields = getattr(kind, "model_fields", {})
    if part in fields:
        yield from _kinds(fields[part].annotation, fields[part].metadata)
    elif get_origin(kind) is tuple and isinstance(part, int):
        yield from _kinds(get_args(kind)[0], [])


def _names(kinds: list[Kind]) -> list[str]:
    return list(dict.fromkeys(name for kind, _ in kinds for name in getattr(kind, "model_fields", ())))


def _tags(kind: Any) -> list[Any]:
    return [tag for info in getattr(kind, "model_fields", {}).values() for tag in get_args(info.annotation)]


def _kinds(annotation: Any, marks: list[Any]) -> Iterator[Kind]:
    """Each plain type of an annotation, with its constraints."""
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        yield from _kinds(inner, [*marks, *(each for mark in more for each in getattr(mark, "metadata", [mark]))])
    elif get_origin(annotation) in (Union, UnionType):
        for member in get_args(annotation):
            yield from _kinds(member, marks)
    else:
        yield annotation, marks


def _words(kinds: list[Kind]) -> str:
    """What is allowed, in words: `auto, or a number greater than 0`."""
    words: list[str] = []
    for kind, marks in kinds:
        given = [mark.words for mark in marks if isinstance(mark, Allowed)]
        if given:
            words += given
        elif get_origin(kind) is Literal:
            words += map(str, get_args(kind))
        elif get_origin(kind) is tuple:
            words.append(f"a list, each item {_words(list(_kinds(get_args(kind)[0], [])))}")
        elif not hasattr(kind, "model_fields"):
            words.append(_bounded(_PLAIN.get(kind, str(kind)), marks))
        else:
            keys = ", ".join(_names(kinds))
            words.append(f"a mapping (keys: {keys})")
    *some, last = dict.fromkeys(words)
    return f"{', '.join(some)} or {last}" if some else last


def _bounded(noun: str, marks: list[Any]) -> str:
    """`a whole number from 2 to 16`, `a number greater than 0`, `a number, 0 or more`."""
    bounds = {name: value for mark in marks for name in _BOUNDS if (value := getattr(mark, name, None)) is not None}
    if {"ge", "le"} <= bounds.keys():
        return f"{noun} from {bounds['ge']} to {bounds['le']}"
    return noun + " and".join(_BOUNDS[name].format(value) for name, value in bounds.items())
