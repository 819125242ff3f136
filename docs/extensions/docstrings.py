"""Docstrings as this package writes them, for autodoc: plain text with equations set in.

    an indented block         stays as it is, line by line (an equation, a table)
    >>> ...                   code
    `name`, *word*            code, stress
    name: text, name: text    at the start of a line: an argument, a line of its own

Everything else is text, in which no character has a meaning.
"""

import contextlib
import re
from collections.abc import Collection
from inspect import signature

from sphinx.application import Sphinx

ARGUMENT = re.compile(r"([a-z]\w*(?:, [a-z]\w*)*): ")
CODE = re.compile(r"`+([^`]+)`+")
STRESSED = re.compile(r"(?<!\w)\*(\w[\w -]*\w)\*(?!\w)")


def as_rest(lines: list[str], names: Collection[str] = ()) -> list[str]:
    """The docstring's lines as reStructuredText. names: arguments, which may follow one another in a line."""
    out: list[str] = []
    for block in _blocks(lines):
        if block[0].startswith(">>>"):
            out += ["", ".. code-block:: python", "", *(f"   {line}" for line in block)]
        elif block[0][:1] in (" ", "|"):
            indent = min(len(line) - len(line.lstrip()) for line in block if line.strip())
            out += ["", ".. code-block:: none", "", *(f"   {line[indent:]}" for line in block)]
        else:
            out += ["", *_paragraph(block, names)]
    return [*out, ""]


def _blocks(lines: list[str]) -> list[list[str]]:
    """Runs of lines of one kind; an indented one goes on over blank lines."""
    blocks: list[list[str]] = []
    blank = True
    for line in lines:
        if not line.strip():
            blank = True
            continue
        indented = line.startswith(" ")
        if not blank and blocks:
            blocks[-1].append(line)
        elif indented and blocks and blocks[-1][0].startswith(" "):
            blocks[-1] += ["", line]
        else:
            blocks.append([line])
        blank = False
    return blocks


def _paragraph(block: list[str], names: Collection[str]) -> list[str]:
    """Prose, then its arguments as a list. A continued line belongs to the one above."""
    items: list[str] = []
    indented = [line.startswith("    ") for line in block]
    if True in indented and not any(ARGUMENT.match(line) for line in block[: indented.index(True)]):
        start = indented.index(True)
        end = next((n for n in range(start, len(block)) if not indented[n]), len(block))
        parts = (block[:start], block[start:end], block[end:])
        return [line for part in parts if part for line in as_rest(part, names)]
    for line in block:
        if not items or ARGUMENT.match(line):
            items.append(line.strip())
        else:
            items[-1] += " " + line.strip()
    out: list[str] = []
    for item in (part for each in items for part in _parted(each, names)):
        named = ARGUMENT.match(item)
        if named:
            out += ["", f"- **{inline(named[1])}**: {inline(item[named.end() :])}"]
        else:
            out += ["", inline(item)]
    return out


def _parted(text: str, names: Collection[str]) -> list[str]:
    """A sentence that begins with `argument:`, or with Raises or Returns, begins a line of its own."""
    name = "|".join(map(re.escape, names)) or "(?!)"
    return re.split(rf"(?<=[.;)]) (?=(?:{name})(?:, (?:{name}))*: |(?:Raises|Returns) )", text)


def inline(text: str) -> str:
    """A line of prose as reStructuredText."""
    parts = CODE.split(text)
    for index in range(0, len(parts), 2):
        words = STRESSED.split(parts[index])
        words[::2] = [re.sub(r"([\\*_|<>])", r"\\\1", word) for word in words[::2]]
        words[1::2] = [f"\\ *{word}*\\ " for word in words[1::2]]
        parts[index] = "".join(words)
    for index in range(1, len(parts), 2):
        # an escaped space parts code from letters that follow it
        parts[index] = f"\\ ``{parts[index].strip()}``\\ "
    return "".join(parts)


def _process(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    names: Collection[str] = ()
    if callable(thing):
        with contextlib.suppress(TypeError, ValueError):
            names = signature(thing).parameters.keys()
    lines[:] = as_rest(lines, names)


def _signature(app: Sphinx, what: str, name: str, thing: object, options: object, arguments: str, returns: str):
    """Types without quotes; none for a protocol, which is not called."""
    if arguments is None:
        return None
    if arguments == "(*args, **kwargs)":
        return "", None
    return re.sub(r"""(?<=: )(['"])(.*?)\1(?=[,)]| =)""", r"\2", arguments), returns


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", _process)
    app.connect("autodoc-process-signature", _signature)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
