"""The one place that reads YAML: a plain tree of values, and where in the file each one stands.

A small, strict YAML: duplicate keys, anchors, aliases, tags and `<<` are refused, keys stay text as
written, `1e-3` is the number it looks like, and yes, no, on, off, 010, 1:30 and dates stay text.
"""

from __future__ import annotations

import copy
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from analogsim.errors import ConfigError, Problem

Key = tuple[str | int, ...]

DEEPEST = 32
_TAG = "tag:yaml.org,2002:"
_FLOAT = r"[-+]?(?:(?:\d+\.\d*|\.\d+)(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.(?:inf|Inf|INF))$|^\.(?:nan|NaN|NAN)$"
_SCALARS = {
    "null": (r"(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    "bool": (r"(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    "int": (r"[-+]?(?:0|[1-9][0-9]{0,99})$", list("-+0123456789")),
    "float": (_FLOAT, list("-+.0123456789")),
}


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}  # noqa: RUF012 - PyYAML's own class attribute

    def __init__(self, text: str):
        super().__init__(text)
        self.refused: dict[int, str] = {}  # id of a node -> what is wrong with it
        self.depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()
        refused = None
        if isinstance(event, yaml.AliasEvent):
            self.get_event()
            node = yaml.ScalarNode(_TAG + "null", f"*{event.anchor}", event.start_mark, event.end_mark)
            self.refused[id(node)] = f"the alias *{event.anchor} is not allowed; write the value out"
            return node
        if event.anchor is not None:
            refused = f"the anchor &{event.anchor} is not allowed; write values out where they are needed"
        elif event.tag is not None:
            refused = f"the tag {event.tag.replace(_TAG, '!!')} is not allowed; leave it out"
        event.anchor = event.tag = None
        if self.depth == DEEPEST:
            raise yaml.MarkedYAMLError(problem=f"nested more than {DEEPEST} deep", problem_mark=event.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        if refused:
            self.refused[id(node)] = refused
        return node


class _Dumper(yaml.SafeDumper):
    """Quotes what this reader, or any other, would take for something else than text."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        # PyYAML's plain and single-quoted styles lose some of Unicode's line breaks.
        return self.represent_scalar(_TAG + "str", data, style=None if data.isprintable() else '"')


for _name, (_pattern, _first) in _SCALARS.items():
    _Loader.add_implicit_resolver(_TAG + _name, re.compile("^" + _pattern), _first)
_Dumper.add_representer(str, _Dumper.represent_str)
_Dumper.add_implicit_resolver(_TAG + "float", re.compile("^" + _FLOAT), _SCALARS["float"][1])


class Place(NamedTuple):
    """Where a key and its value were said, a file or an option, and their dotted path there."""

    key: str  # "chip.yaml:14:8", or "--set adc.bits=0"
    value: str  # "chip.yaml:14:14", or the same
    path: str  # "adc.bits"


@dataclass
class Tree:
    """A value tree, where each path in it was said, and what was wrong with its form."""

    value: Any
    where: dict[Key, Place]
    name: str
    problems: list[Problem] = field(default_factory=list)

    @classmethod
    def said(cls, value: Any, where: str, path: str) -> Tree:
        """A value that stands in no file."""
        return cls(copy.deepcopy(value), {(): Place(where, where, path)}, where)

    def get(self, path: Key) -> Any:
        """The value at a path, or None."""
        value = self.value
        for part in path:
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                return None
        return value

    def at(self, path: Key) -> Tree:
        """A copy of what stands at a path, with its places."""
        size = len(path)
        where = {key[size:]: place for key, place in self.where.items() if key[:size] == path}
        place, rest = self.place(path)
        where[()] = place._replace(path=dotted((place.path, *rest)))
        return Tree(copy.deepcopy(self.get(path)), where, self.name)

    def place(self, path: Key) -> tuple[Place, Key]:
        """Where `path` was said, or the nearest thing above it, and what is left of the path."""
        size = len(path)
        while size and path[:size] not in self.where:
            size -= 1
        return self.where[path[:size]], path[size:]

    def problem(self, path: Key, value: Any, message: str, key: bool = False) -> Problem:
        """Something wrong with the value at a path, or with its key, or with its being absent."""
        place, rest = self.place(path)
        return Problem(place.key if key or rest else place.value, dotted((place.path, *rest)), value, message)

    def numbered(self, path: Key) -> Key:
        """A path as dotted keys say it, with numbers for its steps into lists: network.layers.0.conv."""
        found: Key = ()
        for part in path:
            node = self.get(found)
            item = isinstance(node, list) and str(part) in map(str, range(len(node)))
            found = (*found, int(part) if item else part)
        return found

    def graft(self, path: Key, other: Tree) -> None:
        """Put another tree, with its places, at a path; make the mappings on the way."""
        self.problems += other.problems
        path = self.numbered(path)
        said, node = other.where[()], self.value
        refused = self._refused(path)
        if refused:
            self.problems.append(Problem(said.value, said.path, other.value, refused))
            return
        for depth, part in enumerate(path[:-1], 1):
            if self.get(path[:depth]) is None:
                node[part] = {}
                self.where[path[:depth]] = said._replace(path=said.path.rsplit(".", len(path) - depth)[0])
            node = node[part]
        node[path[-1]] = other.value
        kept = {key: place for key, place in self.where.items() if key[: len(path)] != path}
        self.where = kept | {path + key: place for key, place in other.where.items()}

    def _refused(self, path: Key) -> str | None:
        """What keeps a value from being put at a path: something on the way has no such key."""
        for depth, part in enumerate(path):
            node, above = self.get(path[:depth]), dotted(path[:depth])
            if isinstance(node, list) and node and part not in range(len(node)):
                allowed = f"0 to {len(node) - 1}" if len(node) > 1 else "0"
                return f"{above} has no item {dotted((part,))}; allowed: {allowed}"
            if node == [] or not (node is None or isinstance(node, dict | list)):
                return f"{above} is {show(node)}, which has no {'items' if node == [] else 'keys'} to set"
        return None


def read_tree(path: Path, name: str | None = None) -> Tree:
    """Read one YAML file. Raises ConfigError if it is no file, no YAML, or no mapping."""
    name = name or str(path)
    try:
        text = path.read_bytes().decode("utf-8-sig", "surrogateescape")
    except OSError as error:
        raise ConfigError([Problem(name, "", None, f"cannot be read: {error.strerror}")]) from None
    return parse_tree(text, name)


def parse_tree(text: str, name: str) -> Tree:
    """The same for a text; `name` stands in for the file's name."""
    tree = Tree(None, {}, name)
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is not None:
            tree.value = _build(tree, loader, node, ())
    except yaml.reader.ReaderError as error:
        line, start = text.count("\n", 0, error.position), text.rfind("\n", 0, error.position) + 1
        where, message = _at(name, line, error.position - start), "not UTF-8 text, or a control character"
    except yaml.MarkedYAMLError as error:
        where, message = _mark(name, error.problem_mark), f"not valid YAML: {error.problem}"
        if "\\t" in message:
            message = "a tab; indent with spaces"
        elif error.context_mark:
            message += f" ({error.context} from {_mark('', error.context_mark)[1:]})"
    else:
        if isinstance(tree.value, dict):
            return tree
        where = tree.where[()].value if node else f"{name}:1:1"
        what = f"{show(tree.value)} is not allowed" if node else "is empty"
        message = f"{what}; allowed: a mapping of keys to values"
    raise ConfigError([Problem(where, "", None, message)])


def parse_value(text: str, where: str, path: str) -> Any:
    """One value as YAML reads it, for `--set key=value`."""
    try:
        tree = parse_tree("value: " + text, where)
        if not tree.problems and tree.value.keys() == {"value"}:
            return tree.value["value"]
        reasons = [problem.message for problem in tree.problems] or ["more than one value"]
    except ConfigError as error:
        reasons = [problem.message.removeprefix("not valid YAML: ") for problem in error.problems]
    raise ConfigError([Problem(where, path, text, f"{show(text)} is not a YAML value: {'; '.join(reasons)}")])


def dump(value: Any) -> str:
    """The YAML text of a plain tree, in the order given."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def show(value: Any) -> str:
    """A value as a message quotes it: as JSON writes it, on one line, cut where it grows long."""
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= 60 else text[:57] + "..."


def dotted(path: Key) -> str:
    """A path as messages write it: adc.bits, network.hidden.0."""
    parts = [str(part) for part in path if part != ""]
    return ".".join(part if part.isprintable() else show(part) for part in parts)


def _at(name: str, line: int, column: int) -> str:
    return f"{name}:{line + 1}:{column + 1}"


def _mark(name: str, mark: Any) -> str:
    return _at(name, mark.line, mark.column)


def _build(tree: Tree, loader: _Loader, node: yaml.Node, path: Key, key: str = "") -> Any:
    """The plain value of a node; notes where it stands, and what is wrong with its form."""
    here = _mark(tree.name, node.start_mark)
    tree.where[path] = Place(key or here, here, dotted(path))
    if id(node) in loader.refused:
        tree.problems.append(Problem(here, dotted(path), None, loader.refused[id(node)]))
    if isinstance(node, yaml.SequenceNode):
        return [_build(tree, loader, item, (*path, i)) for i, item in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return loader.construct_object(node)
    mapping: dict[str, Any] = {}
    for key_node, value_node in node.value:
        at = _mark(tree.name, key_node.start_mark)
        if not isinstance(key_node, yaml.ScalarNode):
            tree.problems.append(Problem(at, dotted(path), None, "a key must be text, not a list or a mapping"))
            continue
        inner = (*path, key_node.value)
        refused = loader.refused.get(id(key_node))
        if key_node.value == "<<":
            refused = "the merge key << is not allowed; write the keys out"
        elif key_node.value in mapping:
            refused = "given twice; keep one"
        if refused:
            tree.problems.append(Problem(at, dotted(inner), key_node.value, refused))
        if key_node.value not in mapping:
            mapping[key_node.value] = _build(tree, loader, value_node, inner, at)
    return mapping
