"""The one place that reads YAML: a plain tree of values, and where in the file each one stands.

The safe loader, with duplicate keys, anchors, aliases and tags refused, and `1e-3` read as the
number it is (PyYAML alone takes it for a string).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from analogsim.errors import ConfigError, Problem

Key = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own class attribute
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(("float", "timestamp"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:(?:\d+\.\d*|\.\d+)(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.(?:inf|Inf|INF))$|^\.(?:nan|NaN|NAN)$"),
    list("-+0123456789."),
)


@dataclass
class Tree:
    """A value tree and, for each path in it, where it was said ("file:line:column")."""

    value: Any
    where: dict[Key, str]
    name: str

    def place(self, path: Key) -> str:
        """Where `path` was said, or the nearest thing above it."""
        while path and path not in self.where:
            path = path[:-1]
        return self.where.get(path, self.name)

    def set(self, path: Key, value: Any, where: str) -> None:
        """Put a value at a path, making mappings on the way."""
        node = self.value
        for part in path[:-1]:
            if not isinstance(node.get(part), dict):
                node[part] = {}
            node = node[part]
        node[path[-1]] = value
        for key in [key for key in self.where if key[: len(path)] == path]:
            del self.where[key]
        self.where[path] = where

    def graft(self, path: Key, other: Tree) -> None:
        """Put another tree, with its places, at a path."""
        self.set(path, other.value, other.name)
        self.where.update({path + key: where for key, where in other.where.items()})


def read_tree(path: Path, name: str | None = None) -> Tree:
    """Read one YAML file. Raises ConfigError with every problem of the file's form."""
    name = name or str(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError([Problem(name, "", None, f"cannot be read: {reason}")]) from None
    return parse_tree(text, name)


def parse_tree(text: str, name: str) -> Tree:
    """The same for a text; `name` stands in for the file's name."""
    loader = _Loader(text)
    where: dict[Key, str] = {}
    problems: list[Problem] = []
    try:
        for event in yaml.parse(text, Loader=_Loader):
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                return _refuse(name, event.start_mark, "anchors and aliases (& and *) are not allowed; write it out")
        node = loader.get_single_node()
        value = _build(loader, node, (), where, problems, name) if node is not None else {}
    except yaml.MarkedYAMLError as error:
        return _refuse(name, error.problem_mark, f"not valid YAML: {error.problem or error}")
    except yaml.YAMLError as error:
        return _refuse(name, None, f"not valid YAML: {str(error).splitlines()[0]}")
    except RecursionError:
        return _refuse(name, None, "nested too deeply")
    finally:
        loader.dispose()
    if problems:
        raise ConfigError(problems)
    if not isinstance(value, dict):
        raise ConfigError([Problem(f"{name}:1:1", "", value, "must be a mapping of keys to values")])
    return Tree(value, where, name)


def parse_value(text: str, where: str) -> Any:
    """One value as YAML reads it, for `--set key=value`."""
    try:
        return parse_tree("value: " + text, where).value["value"]
    except ConfigError:
        raise ConfigError([Problem(where, "", text, f"{text!r} is not a YAML value")]) from None


def dump(value: Any) -> str:
    """The YAML text of a plain tree, in the order given."""
    return yaml.dump(value, Dumper=yaml.SafeDumper, sort_keys=False, allow_unicode=True, width=100)


def _refuse(name: str, mark: yaml.Mark | None, message: str) -> Tree:
    place = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
    raise ConfigError([Problem(place, "", None, message)])


def _build(
    loader: _Loader, node: yaml.Node, path: Key, where: dict[Key, str], problems: list[Problem], name: str
) -> Any:
    place = f"{name}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"
    where.setdefault(path, place)
    if isinstance(node, yaml.MappingNode):
        mapping: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value) if isinstance(key_node, yaml.ScalarNode) else "?"
            at = f"{name}:{key_node.start_mark.line + 1}:{key_node.start_mark.column + 1}"
            if key in mapping:
                problems.append(Problem(at, dotted((*path, key)), key, "given twice; keep one"))
            where[(*path, key)] = at
            mapping[key] = _build(loader, value_node, (*path, key), where, problems, name)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        return [_build(loader, item, (*path, i), where, problems, name) for i, item in enumerate(node.value)]
    if node.tag.startswith("!") or node.tag.startswith("tag:yaml.org,2002:python"):
        problems.append(Problem(place, dotted(path), node.tag, f"the tag {node.tag} is not allowed"))
        return None
    try:
        return loader.construct_object(node)
    except (yaml.YAMLError, ValueError):
        problems.append(Problem(place, dotted(path), node.value, f"{node.value!r} is not a value"))
        return None


def dotted(path: Key) -> str:
    return ".".join(str(part) for part in path)


def walk(value: Any, path: Key = ()) -> Iterator[tuple[Key, Any]]:
    """Every leaf of a plain tree with its path."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from walk(item, (*path, key))
    else:
        yield path, value
