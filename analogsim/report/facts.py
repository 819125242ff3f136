"""What the page says in words: settings, chips, versions and the commands that repeat it all.

Read off the folder's own files. One that is missing or damaged is named in `problems`; the rest is said.
"""

from __future__ import annotations

import base64
import io
import json
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl

from analogsim.config.loader import load_plan
from analogsim.config.schema import ChipDescription, Experiment
from analogsim.config.sweeps import load_sweep
from analogsim.devices.plot import chip_figure
from analogsim.errors import AnalogsimError
from analogsim.experiment.tables import Results
from analogsim.pictures.style import written

MOST_VALUES = 8  # that are listed one by one


@dataclass(frozen=True)
class Card:
    """One chip: its words, its numbers (key, value, whether it is varied), its laws as an image's address."""

    name: str
    description: str
    source: str
    numbers: list[tuple[str, str, bool]]
    picture: str | None
    pictured: str  # which of its variants is drawn, where there are several


@dataclass(frozen=True)
class Facts:
    settings: list[tuple[str, str, bool]]  # dotted key, value, whether it differs
    cards: list[Card]
    versions: list[tuple[str, str]]
    commands: list[tuple[str, str]]  # what it does, the command
    file: str  # the name of the configuration, and its text
    text: str
    problems: list[str]


def facts_of(results: Results) -> Facts:
    """All of them for a folder."""
    folder, problems = results.folder, []
    file = "config.yaml" if results.kind == "run" else "sweep.yaml"
    combined = results.kind == "sweep" and not (folder / file).is_file()
    experiments = _experiments(results, combined, problems)
    text = "" if combined else _text(folder / file, problems)
    environments = _environments(results, problems)
    plain = [experiment.model_dump(mode="json", exclude={"chip", "seeds"}) for experiment in experiments]
    seeds = sorted({seed for experiment in experiments for seed in experiment.seeds})
    settings = _merged(plain) + ([("seeds", ", ".join(map(str, seeds)), False)] if seeds else [])
    return Facts(
        settings,
        list(_cards(experiments)),
        _versions(environments),
        _commands(results, combined, environments),
        "" if combined else file,
        text,
        problems,
    )


def _experiments(results: Results, combined: bool, problems: list[str]) -> list[Experiment]:
    """The resolved experiments behind the trials, each once whatever its seed."""
    folder = results.folder
    try:
        if results.kind == "run":
            return list(load_plan(folder / "config.yaml").variants.values())
        if not combined:
            seeds: dict[str, set[int]] = {}
            kept: dict[str, Experiment] = {}
            for trial in load_sweep(folder / "sweep.yaml").trials:
                same = trial.experiment.model_copy(update={"seeds": (0,)}).model_dump_json()
                seeds.setdefault(same, set()).add(trial.seed)
                kept[same] = trial.experiment
            return [one.model_copy(update={"seeds": tuple(sorted(seeds[key]))}) for key, one in kept.items()]
    except AnalogsimError as error:
        problems.append(" ".join(str(error).split("\n")))
        return []
    found = []
    for trial in results.trials["trial"]:
        path = folder / "trials" / trial / "config.yaml"
        if path.is_file():
            try:
                found += load_plan(path).variants.values()
            except AnalogsimError as error:
                problems.append(" ".join(str(error).split("\n")))
    return found


def _text(path: Path, problems: list[str]) -> str:
    try:
        return path.read_bytes().decode("utf-8", "replace")
    except OSError as error:
        problems.append(f"{path}: cannot be read: {error.strerror}")
        return ""


def _environments(results: Results, problems: list[str]) -> list[dict[str, Any]]:
    """Each different environment.json, with `trials`: how many were trained so."""
    folder = results.folder
    homes = [folder] if results.kind == "run" else [folder / "trials" / name for name in results.trials["trial"]]
    found: dict[str, dict[str, Any]] = {}
    for home in homes:
        path = home / "environment.json"
        if results.kind == "sweep" and not path.is_file():  # not begun
            continue
        try:
            read = json.loads(path.read_text(encoding="utf-8"))
            flat = dict(_leaves(dict(read)))
        except (OSError, ValueError, TypeError) as error:
            problems.append(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}")
            continue
        found.setdefault(json.dumps(flat, sort_keys=True), flat | {"trials": 0})["trials"] += 1
    return list(found.values())


def _versions(environments: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Each fact, or where they differ each of its values with how many trials had it."""
    rows = []
    for key in dict.fromkeys(key for one in environments for key in one if key != "trials"):
        counts: dict[str, int] = {}
        for one in environments:
            value = one.get(key)
            said = "not known" if value in (None, "") else str(value)
            counts[said] = counts.get(said, 0) + one["trials"]
        told = next(iter(counts)) if len(counts) == 1 else "; ".join(f"{v} ({n} trials)" for v, n in counts.items())
        rows.append((key.removeprefix("versions.").replace("_", " "), told))
    return rows


def _merged(trees: Iterable[dict[str, Any]]) -> list[tuple[str, str, bool]]:
    """The leaves of several trees but those always empty: key, value or all its values, whether they differ."""
    found: dict[str, list[Any]] = {}
    for tree in trees:
        for key, value in _leaves(tree):
            values = found.setdefault(key, [])
            if value not in values:
                values.append(value)
    told = {key: values for key, values in found.items() if any(value not in (None, {}, []) for value in values)}
    return [(key, _listed(values), len(values) > 1) for key, values in told.items()]


def _leaves(tree: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield above + key, value


def _listed(values: list[Any]) -> str:
    if len(values) <= MOST_VALUES:
        return ", ".join(map(_said, values))
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return f"{_said(min(values))} … {_said(max(values))} ({len(values)} values)"
    return f"{', '.join(map(_said, values[:MOST_VALUES]))} … ({len(values)} values)"


def _said(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_said(item)}" for key, item in value.items())
    if isinstance(value, list):
        return f"[{', '.join(map(_said, value))}]"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return written(value)


def _cards(experiments: list[Experiment]) -> Iterator[Card]:
    chips: dict[str, list[ChipDescription]] = {}
    for experiment in experiments:
        known = chips.setdefault(experiment.chip.name, [])
        if experiment.chip not in known:
            known.append(experiment.chip)
    for name, variants in chips.items():
        middle = variants[len(variants) // 2]
        numbers = _merged(chip.model_dump(mode="json", exclude={"name", "description", "source"}) for chip in variants)
        tree = dict(_leaves(middle.model_dump(mode="json")))
        drawn = [f"{key} = {_said(tree.get(key))}" for key, _, varied in numbers if varied]
        yield Card(name, middle.description, middle.source, numbers, _picture(middle), ", ".join(drawn))


def _picture(chip: ChipDescription) -> str | None:
    """The laws as an image in the page itself."""
    with mpl.rc_context({"svg.hashsalt": "analogsim"}):  # so that the same chip gives the same bytes
        figure = chip_figure(chip)
        if figure is None:
            return None
        file = io.BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _commands(results: Results, combined: bool, environments: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """From an empty environment to the same numbers, in the folder that holds the results."""
    known = environments[0] if environments else {}
    wanted = ("analogsim-danp", "numpy", "numba", "torch", "scipy", "scikit-learn")
    found = {
        name: str(known.get(f"versions.{name}") or "").partition("+")[0] for name in wanted
    }  # 2.4.0+cpu: no index has it
    pins = [shlex.quote(f"{name}=={version}") for name, version in found.items() if version]
    commands = [("the same versions", f"pip install {' '.join(pins)}")] if pins else []
    if known.get("git_commit"):
        dirty = ", and changes that were not committed" if str(known["git_commit"]).endswith("-dirty") else ""
        commit = shlex.quote(str(known["git_commit"]).removesuffix("-dirty"))
        commands.append((f"or, from a checkout of the sources, the same commit{dirty}", f"git checkout {commit}"))
    options = "".join(f" --{name} {shlex.quote(str(known[name]))}" for name in ("backend", "device") if known.get(name))
    threads = shlex.quote(str(known.get("threads", 1)))
    limits = f"OMP_NUM_THREADS={threads} NUMBA_NUM_THREADS={threads}"  # a sweep's worker keeps to them both
    each = f"{limits} analogsim train trials/TRIAL/config.yaml{options} --out repeated-TRIAL"
    if results.kind == "run":
        commands.append(("the run", f"OMP_NUM_THREADS={threads} analogsim train config.yaml{options} --out repeated"))
    elif combined:
        commands.append(("each trial, by its name in the tables", each))
    else:
        commands.append(("the sweep", f"analogsim sweep sweep.yaml{options} --threads {threads} -o repeated"))
        commands.append(("one trial, by its name in the tables", each))
    commands.append(("this page", "analogsim report . -o report.html"))
    return commands
