"""```{keys} MODULE:MODEL``` : the keys a section of a file may have, read off the schema itself.

A row a key: what is allowed, in the words of the error messages; the default; the unit its name ends
in and what the schema says of it. Sections within it follow, each with a heading of its own.
"""

from collections.abc import Iterator
from importlib import import_module
from inspect import cleandoc
from typing import Any, ClassVar, Literal, get_args, get_origin

from docstrings import as_rest, inline
from docutils import nodes
from docutils.statemachine import StringList
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from analogsim.config.findings import _kinds, _words

UNITS = {"uS": "µS", "ohm": "Ω", "s": "s", "J": "J", "lsb": "steps of the ADC"}


def models(field: FieldInfo) -> list[type[BaseModel]]:
    """The sections a field may hold."""
    kinds = (kind for kind, _ in _kinds(field.annotation, field.metadata))
    found: list[type[BaseModel]] = []
    for kind in kinds:
        inner = get_args(kind)[0] if get_origin(kind) is tuple else kind
        for one, _ in _kinds(inner, []):
            if isinstance(one, type) and issubclass(one, BaseModel) and one not in found:
                found.append(one)
    return found


def tag(model: type[BaseModel]) -> tuple[str, str] | None:
    """(key, name) of what tells a section from its alternatives: law: power."""
    for key, field in model.model_fields.items():
        if get_origin(field.annotation) is Literal and field.is_required() and len(get_args(field.annotation)) == 1:
            return key, str(get_args(field.annotation)[0])
    return None


def allowed(field: FieldInfo) -> str:
    within = models(field)
    if not within:
        return _words(list(_kinds(field.annotation, field.metadata)))
    if all(tag(model) for model in within):
        key = tag(within[0])[0]
        return f"a mapping, {key}: " + ", ".join(tag(model)[1] for model in within)
    listed = any(get_origin(kind) is tuple for kind, _ in _kinds(field.annotation, []))
    return "a list of mappings" if listed else "a mapping"


def default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.default
    if value is None or value == "":
        return "left out"
    if isinstance(value, BaseModel):
        chosen = tag(type(value))
        return f"{chosen[0]}: {chosen[1]}" if chosen else "its defaults"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(map(str, value)) + "]"
    return str(value)


def _opening(field: FieldInfo) -> str:
    """What the one section that a field holds says it is."""
    within = models(field)
    return (within[0].__doc__ or "").split(".")[0] if len(within) == 1 else ""


def unit(key: str) -> str:
    last = key.rsplit("_", 1)[-1]
    if key == "k_sqrt_uS":
        return "√µS"
    return UNITS.get(last, "") if "_" in key else ""


def sections(model: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    """(heading, model) of a section and all within it, a law wherever it is first used."""
    seen: set[type[BaseModel]] = set()

    def walk(model: type[BaseModel], path: str) -> Iterator[tuple[str, type[BaseModel]]]:
        if model in seen:
            return
        seen.add(model)
        yield path, model
        for key, field in model.model_fields.items():
            for inner in models(field):
                chosen = tag(inner)
                name = f"{path}.{key}" if path else key
                yield from walk(inner, f"{name}: {chosen[1]}" if chosen else name)

    yield from walk(model, "")


class Keys(SphinxDirective):
    """except: dotted paths whose sections another page shows."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {"except": str}

    def run(self) -> list[nodes.Node]:
        module, _, name = self.arguments[0].partition(":")
        left_out = self.options.get("except", "").split()
        out: list[nodes.Node] = []
        for path, model in sections(getattr(import_module(module), name)):
            if any(path == each or path.startswith(f"{each}.") for each in left_out):
                continue
            out += self._section(path, model) if path else self._body(model)
        return out

    def _section(self, path: str, model: type[BaseModel]) -> list[nodes.Node]:
        section = nodes.section(ids=[nodes.make_id(f"{self.arguments[0]}-{path}")], names=[path])
        section += nodes.title(path, "", nodes.literal(path, path))
        section += self._body(model)
        return [section]

    def _body(self, model: type[BaseModel]) -> list[nodes.Node]:
        own = model.__doc__ if "__doc__" in vars(model) else None
        lines = as_rest(cleandoc(own or "").splitlines())
        chosen = tag(model)
        rows = [(key, field) for key, field in model.model_fields.items() if not chosen or key != chosen[0]]
        if rows:
            lines += [".. list-table::", "   :header-rows: 1", "   :widths: 22 30 14 34", "   :class: keys", ""]
            lines += _row("key", "allowed", "default", "unit, meaning", code=False)
            for key, field in rows:
                meaning = ", ".join(filter(None, (unit(key), field.description or _opening(field))))
                lines += _row(key, allowed(field), default(field), meaning)
        return rest(self, lines)


def _row(key: str, *cells: str, code: bool = True) -> list[str]:
    return [f"   * - ``{key}``" if code else f"   * - {key}", *(f"     - {inline(cell)}" for cell in cells)]


def rest(directive: SphinxDirective, lines: list[str]) -> list[nodes.Node]:
    """Nodes of some reStructuredText, whatever the page is written in."""
    from myst_parser.mocking import MockState

    holder = nodes.container()
    if isinstance(directive.state, MockState):
        block = ["```{eval-rst}", *lines, "```"]
        directive.state.nested_parse(StringList(block, source="schema"), 0, holder)
    else:
        directive.state.nested_parse(StringList(lines, source="schema"), 0, holder)
    return holder.children


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("keys", Keys)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
