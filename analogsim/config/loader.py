"""From a file or a name to a validated chip or experiment, or to all its problems at once.

`chip:` is a NAME of devices/, a FILE, or a mapping that may start from one with `base:`.
`optimizer: NAME` is short for `optimizer: {name: NAME}`.
Later sayings win, key by key: the chip's file, the experiment, a variant's overrides, the command
line's. A mapping changes the keys it names and no others; one with a `law`, or a `mode`, is given whole.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from analogsim.config.base import Section
from analogsim.config.chip import ChipDescription
from analogsim.config.findings import collected, validate
from analogsim.config.schema import Experiment
from analogsim.config.yaml_tree import Key, Tree, dotted, dump, parse_value, read_tree, show
from analogsim.errors import ConfigError, Problem

VARIANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+=-]{0,59}(?<![. ])")  # a variant's name becomes a folder's
Model = TypeVar("Model", ChipDescription, Experiment)
Change = tuple[str, Tree]  # a dotted key, and its new value with its places
_BESIDES: dict[Key, str] = {(): "variants", ("chip",): "base"}


@dataclass(frozen=True)
class Override:
    """One dotted key given a value outside the file, as by `--set` or `--chip`."""

    key: str
    value: Any
    where: str


@dataclass(frozen=True)
class Plan:
    """What one command trains: named variants of one experiment, each over its seeds."""

    variants: dict[str, Experiment]

    def to_yaml(self) -> str:
        """The fully resolved experiment; reading it again gives the same plan."""
        base, *_ = trees = [experiment.model_dump(mode="json") for experiment in self.variants.values()]
        first = dict(leaves_of(base))
        variants = {
            name: {dotted(path): value for path, value in leaves_of(tree) if path not in first or value != first[path]}
            for name, tree in zip(self.variants, trees)
        }
        return dump(base | {"variants": variants})


def bundled(kind: str) -> Path:
    """The folder of shipped `devices` or `examples`: in the wheel, or beside the sources."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "bundled" / kind
    return inside if inside.is_dir() else package.parent / kind


def find(source: str, kind: str, beside: Path | None = None) -> Path:
    """The file of that path (in `beside` first), or the shipped one of that name. Raises ConfigError."""
    if source.endswith((".yaml", ".yml")):
        for path in (beside or Path()) / source, Path(source):
            if os.path.isfile(path):
                return path
    shipped = bundled(kind) / f"{source}.yaml"
    if Path(source).name == source and os.path.isfile(shipped):
        return shipped
    names = sorted(path.stem for path in bundled(kind).glob("*.yaml"))
    close = difflib.get_close_matches(source, names, 1)
    hint = f"; did you mean {close[0]}?" if close else ""
    what = "is a folder" if os.path.isdir(source) else "does not exist"
    allowed = f"a .yaml file, or one of the {kind} shipped: {', '.join(names)}"
    raise ConfigError([Problem(source, "", source, f"{what}; allowed: {allowed}{hint}")])


def load_chip(source: str | Path) -> ChipDescription:
    """A chip description by NAME or FILE. Raises ConfigError listing all problems."""
    return validate(ChipDescription, _read_chip(find(str(source), "devices")))


def load_plan(source: str | Path | Mapping[str, Any], overrides: Sequence[Override] = ()) -> Plan:
    """An experiment with its variants by NAME, FILE or mapping. Raises ConfigError listing all problems."""
    base = read_experiment(source)
    problems = list(base.problems)
    if "axes" in base.value:
        message = "an experiment with axes is a sweep; run it with `analogsim sweep`"
        raise ConfigError([base.problem(("axes",), None, message, key=True)])
    options = options_of(overrides)
    variants = read_variants(base, problems)
    plans: dict[str, Experiment] = {}
    for name, changes in variants.items():
        try:
            experiment = _experiment(base, [*changes, *options])
        except ConfigError as error:
            problems += error.problems
            continue
        same = next((other for other in plans if plans[other] == experiment), None)
        if same is None:
            plans[name or experiment.learner.rule] = experiment
        elif _same(base, changes, variants[same]):  # else the options made it so: train it once
            message = f"the same experiment as variant {same}; change one, or take it out"
            problems.append(base.problem(("variants", name), name, message, key=True))
    if problems:
        raise collected(problems, base.name)
    if len(plans) == 1 < len(variants):  # the options undid what told the variants apart
        plans = {experiment.learner.rule: experiment for experiment in plans.values()}
    return Plan(plans)


def read_experiment(source: str | Path | Mapping[str, Any]) -> Tree:
    """The tree of an experiment or sweep by NAME, FILE or mapping, not validated yet."""
    if isinstance(source, Mapping):
        return Tree.said(_plain(source), "experiment", "")
    return read_tree(find(str(source), "examples"))


def options_of(overrides: Sequence[Override]) -> list[Change]:
    """What overrides change, each with its place."""
    return [(option.key, Tree.said(_plain(option.value), option.where, option.key)) for option in overrides]


def parse_set(text: str) -> Override:
    """`key=value` of a `--set` option. A key that a chip has and an experiment has not is the chip's: `adc.bits=6`."""
    key, _, value = text.partition("=")
    key, where = key.strip(), "--set " + " ".join(text.split())
    if not key or not value.strip():
        raise ConfigError([Problem(where, "", text, "must look like dotted.key=value; null stands for none")])
    if key.split(".")[0] in ChipDescription.model_fields.keys() - Experiment.model_fields.keys():
        key = f"chip.{key}"
    return Override(key, parse_value(value, where, key), where)


def replace(model: Model, changes: Mapping[str, Any]) -> Model:
    """A copy of a chip or an experiment with dotted keys changed."""
    where = f"{'chip' if isinstance(model, ChipDescription) else 'experiment'}.replace"
    tree = Tree.said(_plain(model), where, "")
    said = [(key, Tree.said(_plain(value), where, key)) for key, value in changes.items()]
    if isinstance(model, Experiment):
        return _experiment(tree, said)
    for key, value in said:
        _change(tree, key, value)
    return validate(type(model), tree)


def _plain(value: Any) -> Any:
    """What a Python caller gives, as YAML would have it: mappings, lists, numbers, text."""
    if isinstance(value, Section):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value.tolist() if hasattr(value, "tolist") else value  # NumPy's numbers and arrays


def read_variants(base: Tree, problems: list[Problem]) -> dict[str, list[Change]]:
    """The changes each variant makes; one nameless variant without any if the file has none."""
    variants = base.value.get("variants") or {}
    found: dict[str, list[Change]] = {}
    if not isinstance(variants, dict):
        message = (
            f"{show(variants)} is not allowed; allowed: names with overrides, as in {{few: {{learner.samples: 1}}}}"
        )
        problems.append(base.problem(("variants",), variants, message))
        variants = {}
    for name, changes in variants.items():
        path = ("variants", name)
        if not VARIANT.fullmatch(name):
            message = (
                f"{show(name)} is not a variant's name; allowed: 1 to 60 letters, digits, spaces and . _ - + =, "
                "a letter or digit first, and neither . nor a space last"
            )
            problems.append(base.problem(path, name, message, key=True))
        elif name.lower() in (other.lower() for other in found):
            message = "differs from another variant's name in capitals only"
            problems.append(base.problem(path, name, message, key=True))
        elif not isinstance(changes, dict):
            message = (
                f"{show(changes)} is not allowed; allowed: overrides, as in {{learner.rule: np}}, or {{}} for none"
            )
            problems.append(base.problem(path, changes, message))
        else:
            found[name] = [(key, base.at((*path, key))) for key in changes]
    return found or {"": []}


def _same(base: Tree, one: list[Change], other: list[Change]) -> bool:
    try:
        return _experiment(base, one) == _experiment(base, other)
    except ConfigError:
        return False


def _experiment(base: Tree, changes: Sequence[Change]) -> Experiment:
    return validated(assembled(base, changes)).resolved()


def validated(tree: Tree) -> Experiment:
    """An assembled tree as an experiment, `auto` still in it. Raises ConfigError listing all problems."""
    return validate(Experiment, tree, _BESIDES)


def assembled(base: Tree, changes: Sequence[Change]) -> Tree:
    """A copy of the tree with its chip written out and the changes made: another chip first, then the rest."""
    tree = base.at(())
    tree.value.pop("variants", None)
    if isinstance(tree.value.get("optimizer"), str):
        _name_optimizer(tree, tree.at(("optimizer",)))
    for key, change in changes:
        if _names_chip(key, change.value):
            inline = key == "chip.base" and isinstance(tree.value.get("chip"), dict)
            tree.graft(("chip", "base") if inline else ("chip",), change)
    known = _expand_chip(tree)
    for key, change in changes:
        if not _names_chip(key, change.value) and (known or key.split(".")[0] != "chip"):
            _change(tree, key, change)
    return tree


def written_out(changes: Sequence[Change]) -> dict[str, Any]:
    """The same changes as dotted keys and plain values that need no file; the last saying of a key is kept.

    A chip by name or file becomes an inline one on `ideal`, the chip of the schema's defaults.
    """
    told: dict[str, Any] = {}
    for key, change in changes:
        if key == "chip" and _names_chip(key, change.value):
            tree = Tree({"chip": None}, {(): change.where[()]}, change.name)
            tree.graft(("chip",), change.at(()))
            _expand_chip(tree)
            said = {"name", "description", "technology", "paper", "source", "injection_port"}  # by `ideal`
            unsaid = ChipDescription().model_dump(mode="json", include=said)
            leaves = {key: {"base": "ideal"} | unsaid | tree.value["chip"]}
        elif _names_chip(key, change.value):
            leaves = {key: change.value}
        else:
            leaves = {dotted((*key.split("."), *path)): value for path, value in leaves_of(change.value)}
        for leaf, value in leaves.items():
            told.pop(leaf, None)  # so that it stands last
            told[leaf] = value
    return told


def _names_chip(key: str, value: Any) -> bool:
    """Whether a change starts from another chip, rather than changing parts of the one there is."""
    return key == "chip.base" or (key == "chip" and not (isinstance(value, dict) and "base" not in value))


def _expand_chip(tree: Tree) -> bool:
    """Put the description in place of the chip's name; False if there is none of that name."""
    chip = tree.value.get("chip")
    inline = isinstance(chip, dict) and "base" in chip
    if not inline and not isinstance(chip, str):
        return True
    at: Key = ("chip", "base") if inline else ("chip",)
    source, place = tree.get(at), tree.place(at)[0].value
    beside = Path(tree.name).parent if place.startswith(f"{tree.name}:") else None
    said = tree.at(("chip",))
    tree.value["chip"] = {}
    try:
        path = find(str(source), "devices", beside)
    except ConfigError as error:
        tree.problems.append(tree.problem(at, source, f"{show(source)} {error.problems[0].message}"))
        return False
    try:
        described = _read_chip(path)
    except ConfigError as error:
        tree.problems += error.problems
        return False
    for key in said.value if inline else ():
        if key != "base":
            _merge(described, (key,), said.at((key,)))
    tree.graft(("chip",), described)
    return True


def _read_chip(path: Path) -> Tree:
    return read_tree(path, f"devices/{path.name}" if path.parent == bundled("devices") else None)


def _name_optimizer(tree: Tree, name: Tree) -> None:
    """`optimizer: adam` is short for `optimizer: {name: adam}`."""
    if not isinstance(tree.value.get("optimizer"), dict):
        tree.value["optimizer"] = {}
    tree.graft(("optimizer", "name"), name)


def _change(tree: Tree, key: str, change: Tree) -> None:
    path: Key = tuple(key.split("."))
    if key == "optimizer" and isinstance(change.value, str):
        _name_optimizer(tree, change)
    elif "" in path:
        tree.problems.append(change.problem((), key, f"{show(key)} is not a dotted key, such as learner.rule"))
    else:
        _merge(tree, path, change)


def _merge(tree: Tree, path: Key, change: Tree) -> None:
    """Set the keys a change names at a path, and leave the others."""
    for leaf, value in leaves_of(change.value):
        at = tree.numbered((*path, *leaf))
        if value != {} or not isinstance(tree.get(at), dict):
            tree.graft(at, change.at(leaf))


def leaves_of(value: Any, path: Key = ()) -> Iterator[tuple[Key, Any]]:
    if isinstance(value, dict) and value and not {"law", "mode"} & value.keys():
        for key, item in value.items():
            yield from leaves_of(item, (*path, key))
    else:
        yield path, value
