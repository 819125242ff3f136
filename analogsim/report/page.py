"""One page of a run or a sweep that needs nothing else: plotly, data, tables and pictures in one HTML file.

Nothing is loaded from anywhere, and the page's own Content-Security-Policy sees to it: it lets no request
out and runs no script but those written here, told by their SHA-256. All text of the folder goes through
the template's escaping. The same folder gives the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from analogsim.atomic import write_text
from analogsim.experiment.tables import load_results
from analogsim.pictures.bands import BANDS, check_band
from analogsim.report.drawn import drawn
from analogsim.report.facts import facts_of
from analogsim.report.summary import headline, overview, troubles
from analogsim.report.tables import configurations, trials_table

HERE = Path(__file__).parent
SCRIPTS = ("numbers.js", "curves.js", "sweep.js", "page.js")


def write_report(folder: str | Path, out: str | Path | None = None, band: str = "minmax") -> tuple[Path, Sequence[str]]:
    """Write the page of a run or sweep folder; its path, and a line for all that could not be read.

    out: the file, `report.html` in the folder if left out. band: minmax, ci95 or std, what the tables say
    and the pictures begin with. Raises RunFolderError, ArgumentError.
    """
    check_band(band)
    folder = Path(folder)
    with warnings.catch_warnings(action="ignore"):
        results = load_results(folder)
    facts = facts_of(results)
    problems = (*results.problems, *facts.problems)
    scripts = [get_plotlyjs(), "\n".join((HERE / name).read_text(encoding="utf-8") for name in SCRIPTS)]
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    page = environment.get_template("page.html").render(
        name=folder.resolve().name,
        kind=results.kind,
        facts=facts,
        problems=problems,
        headline=headline(results),
        overview=overview(results, facts.settings),
        configurations=configurations(results, band),
        trials=trials_table(results),
        troubles=troubles(results),
        band=band,
        bands=BANDS,
        data=_json(drawn(results, band)),
        style=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        scripts=[Markup(script) for script in scripts],
        hashes=" ".join(f"'sha256-{_sha256(script)}'" for script in scripts),
    )
    return write_text(Path(out) if out else folder / "report.html", page), problems


def _json(value: Any) -> Markup:
    """As the content of a script element: no < that could end it."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))


def _sha256(script: str) -> str:
    """Of a script as a browser reads it, with bare line feeds."""
    plain = script.replace("\r\n", "\n").replace("\r", "\n")
    return base64.b64encode(hashlib.sha256(plain.encode()).digest()).decode("ascii")
