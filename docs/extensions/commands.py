"""```{commands}``` : every subcommand of `analogsim`, its arguments and options, read off the program."""

from collections.abc import Iterator
from typing import Any

from docstrings import as_rest, inline
from docutils import nodes
from keys import rest
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from typer.main import get_command

from analogsim.cli import app as program


def commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    """(words, command) of a command and all below it."""
    inner = getattr(command, "commands", {})
    if not inner or getattr(command, "invoke_without_command", False):
        yield path, command
    for name, one in inner.items():
        yield from commands(one, f"{path} {name}")


def usage(path: str, command: Any) -> str:
    arguments = [_argument(one) for one in command.params if one.param_type_name == "argument"]
    return " ".join([path, *arguments, "[OPTIONS]"])


def _argument(one: Any) -> str:
    name = one.metavar or one.name.upper()
    return name if one.required else f"[{name}]"


def option(one: Any) -> str:
    names = ", ".join(one.opts)
    if getattr(one, "is_flag", False):
        return names
    return f"{names} {one.metavar or one.name.upper()}"


def rows(command: Any) -> Iterator[tuple[str, str]]:
    for one in command.params:
        if one.name == "help":
            continue
        words = one.help or ""
        if one.required and one.param_type_name == "option":
            words = f"Required. {words}".strip()
        if one.default not in (None, False, [], ()) and not one.required and not callable(one.default):
            words = f"{words} Default: {one.default}.".strip()
        yield (option(one) if one.param_type_name == "option" else _argument(one)), words


class Commands(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        out: list[nodes.Node] = []
        for path, command in commands(get_command(program), "analogsim"):
            section = nodes.section(ids=[nodes.make_id(path)], names=[path])
            section += nodes.title(path, path)
            lines = [*as_rest((command.help or "").splitlines()), ".. code-block:: none", ""]
            lines += [f"   {usage(path, command)}", ""]
            told = list(rows(command))
            if told:
                lines += [".. list-table::", "   :widths: 40 60", ""]
            for name, words in told:
                lines += [f"   * - ``{name}``", f"     - {inline(words)}"]
            section += rest(self, lines)
            out.append(section)
        return out


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("commands", Commands)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
