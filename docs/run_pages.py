"""Runs what the pages say, and compares what comes out with what they show.

    python docs/run_pages.py [--write] [PAGE...]        README.md and docs/*.md if left out

A page is one sitting in an empty folder (with `examples` in it). From top to bottom: a block of yaml, text or
python whose first line is `# NAME.ext` is written to that file, and yaml is checked; other python is run; of a
block of console, each line after `$ ` is run and what follows is compared. `pip` lines are left to whoever
installs. A comment before a block says more: <!-- slow --> (the tests run it with `-m slow`),
<!-- figures vary -->, <!-- slow, figures vary -->, <!-- not run: WHY -->.

In what is shown, `...` stands for anything. Words must be the same, and whole numbers; figures with a decimal
point may differ by 5 % (two points of a percentage), since processors round products of matrices
differently and training carries that on; where figures vary (a paired test of three seeds) any number will
do. Times and sizes are not compared.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import runpy
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MARK = r"slow|figures vary|slow, figures vary|not run: [^>]*"
BLOCK = re.compile(rf"(?:<!-- (?P<mark>{MARK}) -->\n)?^```(?P<kind>\w+)\n(?P<body>.*?)^```$", re.M | re.S)
FILE = re.compile(r"# (\S+\.(?:yaml|csv|py))\n")
TIME = r"\d[\d.]*(?:e[-+]?\d+)? (?:ms|s|min|h|kB|MB|GB)\b"
FIGURE = r"(?<![\w.])[-±+]?(?:\d+\.\d+(?:e[-+]?\d+)?[%k]?|\d+(?:e[-+]?\d+|[%k]))(?![\w.]*\w)"
TOKEN = re.compile(rf"(?P<any>\.\.\.|…)|(?P<time>{TIME})|(?P<figure>{FIGURE})")

Told = Callable[[str], None]


@dataclass(frozen=True)
class Block:
    kind: str
    body: str
    mark: str

    @property
    def commands(self) -> list[tuple[str, str]]:
        """(command, what it prints) of a console block."""
        parts = re.split(r"^\$ ", self.body, flags=re.M)[1:]
        return [(command, shown.rstrip("\n")) for command, _, shown in (part.partition("\n") for part in parts)]


def blocks(text: str) -> list[Block]:
    return [Block(m["kind"], m["body"], m["mark"] or "") for m in BLOCK.finditer(text)]


class Differs(AssertionError):
    """A page shows what does not happen."""


def run_page(
    page: Path, folder: Path, slow: bool = False, write: bool = False, told: Callable[[str], None] = lambda text: None
) -> None:
    """Runs a page in `folder`. slow: with its slow blocks. write: put what comes out into the page.

    Raises Differs with the page, the command and both outputs.
    """
    text = new = page.read_text()
    (folder / "examples").symlink_to(ROOT / "examples")
    try:
        with contextlib.chdir(folder):
            for block in blocks(text):
                if not block.mark.startswith("not run") and (slow or "slow" not in block.mark):
                    new = new.replace(block.body, _run_block(page.name, block, write, told), 1)
    finally:
        if write and new != text:
            page.write_text(new)


def _run_block(page: str, block: Block, write: bool, told: Told) -> str:
    """The block's body, as it is or as it should be."""
    named, body = FILE.match(block.body), block.body
    if block.kind == "yaml":
        file = Path(named[1] if named else "block.yaml")
        file.write_text(body)
        _load(file)
    elif named and block.kind in ("text", "python"):
        Path(named[1]).write_text(body[named.end() :] if block.kind == "text" else body)
    elif block.kind == "python":
        exec(compile(body, page, "exec"), {"__name__": "page"})
    elif block.kind == "console":
        for command, shown in block.commands:
            began = time.perf_counter()
            got = run(command)
            told(f"{page}: {time.perf_counter() - began:5.1f} s  $ {command}")
            wrong = difference(shown, got, vary="vary" in block.mark)
            if wrong and not write:
                raise Differs(f"{page}: $ {command}\n{wrong}\n--- shown\n{shown}\n--- got\n{got}")
            if wrong:
                body = body.replace(f"$ {command}\n{shown}", f"$ {command}\n{got}" + "\n" * (not shown), 1)
    return body


def _load(file: Path) -> None:
    """A file of whatever kind it is, checked as the program checks it."""
    from analogsim.config.loader import load_chip, load_plan
    from analogsim.config.slurm import load_slurm
    from analogsim.config.sweeps import load_sweep

    keys = re.findall(r"^(\w+):", file.read_text(), re.M)
    load = (
        load_sweep if "axes" in keys else load_plan if "data" in keys else load_slurm if "jobs" in keys else load_chip
    )
    load(file)


def run(command: str) -> str:
    """What a command prints, as a terminal of 100 columns that keeps no colour would show it."""
    words = shlex.split(command, comments=True)
    if words[0] == "pip":
        return ""
    if words[0] == "analogsim":
        return _called(words)
    if words[0] == "python":
        return _printed(lambda: runpy.run_path(words[1], run_name="__main__"))
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    done = subprocess.run(
        ["bash", "-c", command],
        env={**os.environ, "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    return done.stdout.rstrip()


def _called(words: list[str]) -> str:
    from analogsim import cli

    before, sys.argv = sys.argv, words
    try:
        return _printed(cli.main)
    finally:
        sys.argv = before


def _printed(call) -> str:
    """In this process, whose libraries are loaded already."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown), contextlib.suppress(SystemExit):
        call()
    return "\n".join(line.rstrip() for line in shown.getvalue().strip("\n").splitlines())


def difference(shown: str, got: str, vary: bool = False) -> str:
    """What is wrong, '' if nothing is. vary: any number may stand in the place of another."""
    shown, got = (re.sub(r"[ \t]+", " ", re.sub("─+", "─", text)).strip() for text in (shown, got))
    if vary:
        shown, got = (re.sub(r"[-±+]?\d+(?:\.\d+)?", "1", text) for text in (shown, got))
    figures = [match[0] for match in TOKEN.finditer(shown) if match.lastgroup == "figure"]
    found = re.fullmatch("".join(_pattern(shown)), got, re.S)
    if found is None:
        return "the words differ"
    for figure, value in zip(figures, found.groups(), strict=True):
        if not _close(figure, value):
            return f"{figure} is shown, and {value} comes out"
    return ""


def _pattern(shown: str) -> Iterator[str]:
    at = 0
    for token in TOKEN.finditer(shown):
        yield re.escape(shown[at : token.start()])
        yield {"any": ".*?", "time": TIME, "figure": f"({FIGURE})"}[token.lastgroup or ""]
        at = token.end()
    yield re.escape(shown[at:])


def _close(shown: str, got: str) -> bool:
    if shown[-1] != got[-1] and "%" in shown + got:
        return False
    a, b = (float(text.strip("%k±+")) for text in (shown, got))
    return abs(a - b) <= (2.0 if "%" in shown else 0.05 * abs(a))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", type=Path)
    parser.add_argument("--write", action="store_true", help="put what comes out into the pages")
    parser.add_argument("--fast", action="store_true", help="without the slow blocks")
    options = parser.parse_args()
    for name, value in {"COLUMNS": "100", "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}.items():
        os.environ.setdefault(name, value)
    for page in options.pages or [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        with tempfile.TemporaryDirectory() as folder:
            run_page(
                page.resolve(), Path(folder), not options.fast, options.write, lambda text: print(text, flush=True)
            )


if __name__ == "__main__":
    main()
