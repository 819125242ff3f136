"""What the README and docs/ show is what comes out, and the pages are built without a warning."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from analogsim import cli

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def _runner():
    spec = importlib.util.spec_from_file_location("run_pages", ROOT / "docs" / "run_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


pages = _runner()


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")


@every_page
def test_what_a_page_shows_comes_out(page, tmp_path):
    pages.run_page(page, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if "<!-- slow" in page.read_text()], ids=lambda p: p.name)
def test_what_a_page_shows_comes_out_with_its_long_commands(page, tmp_path):
    pages.run_page(page, tmp_path, slow=True)


@every_page
def test_nothing_is_shown_that_nobody_runs(page):
    """bash is for `pip` alone: all else is console, or text that spells out a form."""
    for block in pages.blocks(page.read_text()):
        assert block.kind in ("console", "python", "yaml", "text", "bash", "mermaid"), block.body
        if block.kind == "bash":
            assert block.body.startswith("pip "), block.body
        if block.kind == "console":
            assert block.body.startswith("$ "), block.body
    assert page.read_text().count("```") == 2 * len(re.findall(r"^```[\w{]", page.read_text(), re.M))


def _commands(group):
    for name, command in group.commands.items():
        yield name, command
        yield from (
            ((f"{name} {inner}", one) for inner, one in _commands(command)) if hasattr(command, "commands") else ()
        )


@every_page
def test_forms_that_are_spelt_out_name_real_options(page):
    known = dict(_commands(typer.main.get_command(cli.app)))
    for block in pages.blocks(page.read_text()):
        for line in block.body.replace("\n   ", " ").splitlines() if block.kind == "text" else ():
            if line.startswith("analogsim "):
                words = line.split("#")[0].split()[1:]
                command = known.get(" ".join(words[:2])) or known[words[0]]
                options = {option for parameter in command.params for option in parameter.opts}
                assert set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", " ".join(words))) <= options, line


@every_page
def test_every_link_leads_somewhere(page):
    """As GitHub and Sphinx read them: a file from here, or a heading of a page."""
    for target, anchor in re.findall(r"\]\(([^)#:]*?)(?:#([^)]*))?\)", page.read_text()):
        found = page.parent / target if target else page
        assert found.exists() or found.with_suffix(".ipynb").exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", found.read_text(), re.M)
            assert anchor in {re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings}, anchor


SHOWN = "seed 0  epoch 4/4  loss 1.250 train 86.4% test 86.1%\n3 of 8 done, 4 s left\n-0.26348 ± 0.03"


@pytest.mark.parametrize(
    ("got", "wrong"),
    [
        (SHOWN, ""),
        (SHOWN.replace("1.250", "1.300"), ""),  # 4 %
        (SHOWN.replace("1.250", "1.330"), "1.250 is shown, and 1.330 comes out"),
        (SHOWN.replace("86.4%", "84.5%"), ""),
        (SHOWN.replace("86.4%", "84.3%"), "86.4% is shown, and 84.3% comes out"),
        (SHOWN.replace("4 s left", "1.2 min left"), ""),
        (SHOWN.replace("3 of 8", "3 of 9"), "the words differ"),
        (SHOWN.replace("4/4", "4/5"), "the words differ"),
        (SHOWN.replace("-0.26348", "0.26348"), "-0.26348 is shown, and 0.26348 comes out"),
        (SHOWN.replace("train", "trains"), "the words differ"),
        (SHOWN + "\nmore", "the words differ"),
        ("", "the words differ"),
    ],
)
def test_what_counts_as_the_same(got, wrong):
    assert pages.difference(SHOWN, got) == wrong


def test_where_figures_vary_words_do_not():
    shown = "danp  2.3 [2, 3]  20.1k  +0.5  0.38"
    assert pages.difference(shown, "danp  3 [3, 3]  25k  -1  0.0084", vary=True) == ""
    assert pages.difference(shown, "danp  3 [3, 3]  not reached  -1  0.0084", vary=True) == "the words differ"


def test_dots_stand_for_anything():
    assert pages.difference("a\n...\nz 1", "a\nb 7\nc\nz 1") == ""
    assert pages.difference("a\n...\nz 1", "a\nb 7\nc\nz 2") == "the words differ"


@pytest.mark.parametrize(
    "text",
    [
        "```console\n$ analogsim validate quickstart\nquickstart: valid, 7 runs: ...\n```\n",
        "```python\nassert False\n```\n",
        "```yaml\ndata: digits\nchip: ideal\nlearner: {rul: np}\n```\n",
    ],
)
def test_a_page_that_is_wrong_is_caught(text, tmp_path):
    (tmp_path / "page.md").write_text(text)
    (tmp_path / "in").mkdir()
    with pytest.raises(Exception, match=r"words differ|^$|unknown key; did you mean rule"):
        pages.run_page(tmp_path / "page.md", tmp_path / "in")


def test_the_pages_are_built_without_a_warning(tmp_path):
    """Every reference resolves, every formula is drawn, every docstring is read, no network asked for."""
    for name in ("sphinx", "furo", "myst_nb"):
        pytest.importorskip(name, reason=f"{name} is not installed: pip install analogsim-danp[docs]")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "docs", tmp_path / "docs/html"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, env={**os.environ, **QUIET})
    assert done.returncode == 0, done.stdout + done.stderr
    built = {path.stem: path.read_text() for path in (tmp_path / "docs/html").rglob("*.html")}
    assert "<math" in built["laws"]
    assert "analogsim devices fit" in built["commands"]
    assert "k_sqrt_uS" in built["chip-file"]
    assert "√µS" in built["chip-file"]
    assert "image/png" in built["analysis"] or "_images" in built["analysis"]
    for name, page in built.items():
        assert not re.search(r'<(?:script|link|img)[^>]*(?:src|href)="https?://', page), f"{name} fetches something"


QUIET = {
    "NUMBA_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "http_proxy": "http://127.0.0.1:9",
    "https_proxy": "http://127.0.0.1:9",
}
