"""From a file or a name to a validated chip or experiment, or to all its problems at once.

`chip:` is a NAME of devices/, a FILE, or a mapping that may start from one with `base:`.
Later sayings win: the file, then a variant's overrides, then the command line's.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from analogsim.config.schema import ChipDescription, Experiment
from analogsim.config.yaml_tree import Key, Tree, dotted, dump, parse_value, read_tree
from analogsim.errors import ConfigError, Problem

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class Override:
    """One dotted key given a value outside the file: by `--set`, `--chip`, or a variant."""

    key: str
    value: Any
    where: str


@dataclass(frozen=True)
class Plan:
    """What one command trains: named variants of one experiment, each over its seeds."""

    variants: dict[str, Experiment]

    def to_yaml(self) -> str:
        """The fully resolved experiment; reading it again gives the same plan."""
        trees = {name: experiment.model_dump(mode="json") for name, experiment in self.variants.items()}
        base = next(iter(trees.values()))
        variants = {
            name: {section: tree[section] for section in tree if tree[section] != base[section]}
            for name, tree in trees.items()
        }
        return dump(base | {"variants": variants})


def bundled(kind: str) -> Path:
    """The folder of shipped `devices` or `examples`: in the wheel, or beside the sources."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "bundled" / kind
    return inside if inside.is_dir() else package.parent / kind


def find(source: str, kind: str) -> Path:
    """The file of that path, or the shipped one of that name. Raises ConfigError naming both."""
    path = Path(source)
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return path
    shipped = bundled(kind) / f"{source}.yaml"
    if path.name == source and shipped.is_file():
        return shipped
    names = sorted(p.stem for p in bundled(kind).glob("*.yaml"))
    close = difflib.get_close_matches(source, names, 1)
    hint = f"; did you mean {close[0]}?" if close else ""
    what = "no such file" if path.suffix in (".yaml", ".yml") else "no such name, and no .yaml file"
    raise ConfigError([Problem(source, "", source, f"{what}; {kind} shipped: {', '.join(names)}{hint}")])


def load_chip(source: str | Path) -> ChipDescription:
    """A chip description by NAME or FILE. Raises ConfigError listing all problems."""
    return _validate(ChipDescription, _chip_tree(str(source)))


def load_plan(source: str | Path, overrides: Sequence[Override] = ()) -> Plan:
    """An experiment with its variants by NAME or FILE. Raises ConfigError listing all problems."""
    tree = read_tree(find(str(source), "examples"))
    variants = tree.value.pop("variants", None)
    if variants is None:
        variants = {}
    if not isinstance(variants, dict) or not all(isinstance(changes, dict) for changes in variants.values()):
        message = "must map a name to its overrides, as in {noisy: {learner.baseline: noisy}}"
        raise ConfigError([Problem(tree.place(("variants",)), "variants", variants, message)])
    problems: list[Problem] = []
    plans: dict[str, Experiment] = {}
    for name, changes in (variants or {"": {}}).items():
        own = [Override(key, value, tree.place(("variants", name, key))) for key, value in changes.items()]
        try:
            experiment = _experiment(tree, [*own, *overrides])
        except ConfigError as error:
            problems += [problem for problem in error.problems if problem not in problems]
            continue
        if experiment not in plans.values():  # the command line may have made two the same
            plans[name or experiment.learner.rule] = experiment
    if problems:
        raise ConfigError(problems)
    return Plan(plans)


def parse_set(text: str) -> Override:
    """`key=value` of a `--set` option."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError([Problem(f"--set {text}", "", text, "must look like dotted.key=value")])
    where = f"--set {text}"
    return Override(key.strip(), parse_value(value, where), where)


def replace(chip: ChipDescription, changes: Mapping[str, Any]) -> ChipDescription:
    """A copy of a chip with dotted keys changed."""
    tree = Tree(chip.model_dump(mode="json"), {}, chip.name)
    _apply(tree, [Override(key, value, "replace") for key, value in changes.items()])
    return _validate(ChipDescription, tree)


def _experiment(base: Tree, overrides: Sequence[Override]) -> Experiment:
    tree = Tree(copy.deepcopy(base.value), dict(base.where), base.name)
    chips = [o for o in overrides if o.key == "chip"]
    if chips:
        tree.set(("chip",), chips[-1].value, chips[-1].where)
    chip = tree.value.get("chip")
    if isinstance(chip, str):
        tree.graft(("chip",), _chip_tree(chip, tree.place(("chip",))))
    elif isinstance(chip, dict) and isinstance(chip.get("base"), str):
        changes = [
            Override(dotted(path), value, tree.place(("chip", *path)))
            for path, value in _leaves({key: value for key, value in chip.items() if key != "base"})
        ]
        described = _chip_tree(chip["base"], tree.place(("chip", "base")))
        _apply(described, changes)
        tree.graft(("chip",), described)
    _apply(tree, [o for o in overrides if o.key != "chip"])
    return _validate(Experiment, tree).resolved()


def _leaves(value: Any, path: Key = ()) -> list[tuple[Key, Any]]:
    if isinstance(value, dict) and value:
        return [leaf for key, item in value.items() for leaf in _leaves(item, (*path, key))]
    return [(path, value)]


def _chip_tree(source: str, where: str | None = None) -> Tree:
    try:
        path = find(source, "devices")
    except ConfigError as error:
        if where is None:
            raise
        raise ConfigError([Problem(where, "chip", source, p.message) for p in error.problems]) from None
    shipped = path.parent == bundled("devices")
    return read_tree(path, f"devices/{path.name}" if shipped else None)


def _apply(tree: Tree, overrides: Sequence[Override]) -> None:
    for override in overrides:
        tree.set(tuple(override.key.split(".")), copy.deepcopy(override.value), override.where)


def _validate(model: type[Model], tree: Tree) -> Model:
    try:
        return model.model_validate(tree.value)
    except ValidationError as error:
        problems = [_problem(tree, model, finding) for finding in error.errors()]
    merged: dict[tuple[str, str], Problem] = {}
    for problem in problems:  # a union reports once a member: join what is allowed
        first = merged.get((problem.where, problem.path))
        if first is None:
            merged[problem.where, problem.path] = problem
        elif problem.message not in first.message:
            allowed = problem.message.split("allowed: ")[-1]
            merged[problem.where, problem.path] = Problem(
                first.where, first.path, first.value, f"{first.message}, or {allowed}"
            )
    raise ConfigError(list(merged.values()))


def _problem(tree: Tree, model: type[BaseModel], finding: Any) -> Problem:
    # pydantic adds the chosen member of a union to the path; keep what the file really holds.
    path: Key = ()
    value: Any = tree.value
    for part in finding["loc"]:
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        elif finding["type"] == "missing" and part == finding["loc"][-1]:
            pass
        else:
            continue
        path = (*path, part)
    kind, context = finding["type"], finding.get("ctx", {})
    if kind == "extra_forbidden":
        names = _fields(model, path[:-1], tree.value)
        close = difflib.get_close_matches(str(path[-1]), names, 1)
        hint = f"did you mean {close[0]}? " if close else ""
        message = f"unknown key; {hint}allowed: {', '.join(names)}"
    elif kind == "missing":
        message = "is missing and has no default"
    elif kind == "value_error":
        message = f"{value!r} is not allowed; allowed: {context['error']}" if value != {} else str(context["error"])
    elif kind in ("union_tag_invalid", "union_tag_not_found"):
        message = f"{value!r}: law must be one of {context.get('expected_tags', 'constant, proportional, sqrt')}"
    else:
        allowed = finding["msg"].removeprefix("Input should be ").removeprefix("a valid ")
        message = f"{value!r} is not allowed; allowed: {allowed}"
    return Problem(tree.place(path), dotted(path), value, message)


def _fields(model: type[BaseModel], path: Key, value: Any) -> list[str]:
    """The keys the model at `path` knows, seen through optional and tagged unions."""
    members: list[Any] = [model]
    for part in path:
        annotations = [m.model_fields[str(part)].annotation for m in members if str(part) in m.model_fields]
        members = [m for annotation in annotations for m in _models(annotation)]
        value = value.get(part, {}) if isinstance(value, dict) else {}
    if isinstance(value, dict) and "law" in value:
        chosen = [m for m in members if value["law"] in getattr(m.model_fields["law"].annotation, "__args__", ())]
        members = chosen or members
    return list(dict.fromkeys(name for member in members for name in member.model_fields))


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for argument in getattr(annotation, "__args__", ()) for m in _models(argument)]
