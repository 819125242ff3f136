"""From a sweep file to its trials: variants × axes × seeds, each a validated experiment.

The identity of a trial is SHA-256 of its resolved experiment and seed as canonical JSON, without what
changes no result: names, descriptions and sources, how often checkpoints are written, and how processes split a step.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from analogsim.config.axes import Axis, label, named, put, read_axes
from analogsim.config.findings import collected
from analogsim.config.loader import (
    Change,
    Override,
    assembled,
    leaves_of,
    options_of,
    read_experiment,
    read_variants,
    validated,
    written_out,
)
from analogsim.config.schema import Experiment, anchored_data
from analogsim.config.yaml_tree import Tree, dotted, dump, show
from analogsim.errors import ConfigError, Problem

MOST_TRIALS = 100_000
MOST_PROBLEMS = 100
BATCHED = ("auto", "off")  # the default first
_NAMES = {
    "chip": {"name", "description", "technology", "paper", "source"},
    "seeds": True,
    "training": {"capture", "checkpoint_s", "split"},
}


@dataclass(frozen=True)
class Trial:
    """One variant at one point of the axes with one seed.

    point: what its tables say of each axis column; an axis its variant does not use is left out.
    """

    run: str
    seed: int
    experiment: Experiment  # resolved, with this one seed
    point: dict[str, str]

    @cached_property
    def identity(self) -> str:
        return identity(self.experiment, self.seed)

    @property
    def name(self) -> str:
        """The trial's name in tables and its folder's: the first 16 digits of its identity."""
        return self.identity[:16]

    @property
    def labels(self) -> dict[str, Any]:
        """The first columns of the trial's row."""
        learner = self.experiment.learner
        names = {"run": self.run, "chip": self.experiment.chip.name, "rule": learner.rule}
        return {"trial": self.name} | names | {"baseline": learner.baseline, "seed": self.seed} | self.point


@dataclass(frozen=True)
class Sweep:
    """columns: of the axes in the tables. text: sweep.yaml, which reads back to the same trials.

    repeated: how many points of the axes came to a trial that is there already. batched_seeds: seeds of
    one configuration may be trained together; it changes no result, and is no part of a trial's identity.
    """

    columns: tuple[str, ...]
    trials: tuple[Trial, ...]
    text: str
    repeated: int = 0
    batched_seeds: bool = True


def identity(experiment: Experiment, seed: int) -> str:
    """SHA-256, in hex, of what a trial computes."""
    tree = experiment.model_dump(mode="json", exclude=_NAMES)
    text = json.dumps(tree | {"seed": seed}, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def load_sweep(
    source: str | Path | Mapping[str, Any],
    overrides: Sequence[Override] = (),
    axes: Mapping[str, Any] | None = None,
) -> Sweep:
    """A sweep by NAME, FILE or mapping. Raises ConfigError listing all problems.

    overrides: as for `load_plan`; one of `axes.KEY` replaces an axis. axes: in place of the file's.
    """
    base = read_experiment(source)
    problems = list(base.problems)
    if axes is not None:
        base.graft(("axes",), options_of([Override("axes", dict(axes), "axes")])[0][1])
    overrides = _grafted(base, overrides, problems)
    batched_seeds = _batched_seeds(base, problems)
    parsed = read_axes(base, problems)
    base.value.pop("axes", None)
    options = options_of(overrides)
    variants = read_variants(base, problems)
    _no_conflicts(base, parsed, variants, options, problems)
    if problems:
        raise collected(problems, base.name)
    builder = _Builder(base, parsed, options)
    for name, changes in variants.items():
        builder.add(name, changes)
    for key in sorted(builder.names - builder.used):
        builder.problems.append(
            base.problem(("axes", key), key, f"no key of the experiment is set to ${key}", key=True)
        )
    if builder.problems:
        raise collected(builder.problems, base.name)
    assert builder.first is not None  # without a problem there is a trial
    kept = {name: changes for name, changes in variants.items() if name in builder.kept}
    return Sweep(
        tuple(key for axis in parsed for key in axis.keys if key != "chip"),
        tuple(builder.trials.values()),
        _text(base, kept, parsed, options, builder.first) + f"batched_seeds: {batched_seeds}\n",
        builder.repeated,
        batched_seeds == BATCHED[0],
    )


class _Builder:
    """Collects the trials of one variant after the other, and their problems."""

    def __init__(self, base: Tree, axes: list[Axis], options: list[Change]):
        self.base, self.options = base, options
        self.names = {key for axis in axes for key in axis.keys if named(key)}
        self.keyed = [axis for axis in axes if not set(axis.keys) <= self.names]
        self.free = [axis for axis in axes if set(axis.keys) <= self.names]  # varied where a `$name` stands
        self.trials: dict[str, Trial] = {}
        self.problems: list[Problem] = []
        self.chips: dict[str, int] = {}  # a chip's name -> its place on the axis of chips
        self.used: set[str] = set()
        self.kept: set[str] = set()
        self.repeated = self.points = 0
        self.first: Experiment | None = None

    def add(self, variant: str, changes: list[Change]) -> None:
        if math.prod(len(axis.points) for axis in self.keyed) > MOST_TRIALS:
            self.points = MOST_TRIALS + 1
        for point in _points(self.keyed):
            if self.points > MOST_TRIALS:
                message = f"more than {MOST_TRIALS} trials; take fewer points"
                self.problems.append(self.base.problem(("axes",), None, message, key=True))
                return
            keyed = [(key, tree) for key, tree in point.items() if not named(key)]
            tree = assembled(self.base, [*changes, *keyed, *self.options])
            used = put(tree.at(()), {}, self.names)
            self.used |= used
            free = [axis for axis in self.free if used & set(axis.keys)]
            self.points += math.prod(len(axis.points) for axis in free)
            for more in _points(free) if self.points <= MOST_TRIALS else ():
                try:
                    self._add_point(variant, tree, point | more)
                except ConfigError as error:
                    self.problems += error.problems
                    if len(self.problems) > MOST_PROBLEMS:  # the same ones over and over
                        return

    def _add_point(self, variant: str, assembled: Tree, point: dict[str, Tree]) -> None:
        tree = assembled.at(())
        tree.problems = list(assembled.problems)
        put(tree, {key: value for key, value in point.items() if named(key)}, self.names)
        raw = validated(tree)
        self.first = self.first or raw
        experiment = raw.resolved().anchored()
        if "chip" in point:
            self._chip_named(point["chip"], experiment.chip.name)
        labels = {key: label(value.value) for key, value in point.items() if key != "chip"}
        for seed in experiment.seeds:
            alone = experiment.model_copy(update={"seeds": (seed,)})
            trial = Trial(variant or experiment.learner.rule, seed, alone, labels)
            if trial.identity in self.trials:
                self.repeated += 1
            else:
                self.trials[trial.identity] = trial
                self.kept.add(variant)

    def _chip_named(self, tree: Tree, name: str) -> None:
        if self.chips.setdefault(name, id(tree)) != id(tree):
            message = f"its chip is named {name} as another of this axis is; give it a `name:` of its own"
            self.problems.append(tree.problem((), name, message))


def _points(axes: list[Axis]) -> Iterator[dict[str, Tree]]:
    """The product of the axes, the last one fastest: key -> value."""
    for chosen in itertools.product(*(axis.points for axis in axes)):
        yield {key: tree for axis, point in zip(axes, chosen) for key, tree in zip(axis.keys, point)}


def _batched_seeds(base: Tree, problems: list[Problem]) -> str:
    """What the file says of `batched_seeds`, which is taken out of it."""
    said = base.value.get("batched_seeds", BATCHED[0])
    if said not in BATCHED:
        message = f"{show(said)} is not allowed; allowed: {' or '.join(BATCHED)}"
        problems.append(base.problem(("batched_seeds",), said, message))
    base.value.pop("batched_seeds", None)
    return said


def _grafted(base: Tree, overrides: Sequence[Override], problems: list[Problem]) -> list[Override]:
    """The overrides but those of what is the sweep's own, which are put in their place."""
    rest: list[Override] = []
    for override in overrides:
        head, _, key = override.key.partition(".")
        if head not in ("axes", "batched_seeds"):
            rest.append(override)
            continue
        said = options_of([override])[0][1]
        at = (head,) if not key else (head, key)
        base.graft(at, said)
        problems += said.problems
    return rest


def _no_conflicts(
    base: Tree, axes: list[Axis], variants: dict[str, list[Change]], options: list[Change], problems: list[Problem]
) -> None:
    keys = {key for axis in axes for key in axis.keys}
    for name, changes in variants.items():
        for key, _ in changes:
            if key in keys:
                problems.append(
                    base.problem(("variants", name, key), key, "is an axis too; take it out of one", key=True)
                )
    for key, change in options:
        if key in keys:
            message = f"{key} is an axis of this sweep; change its values with --set 'axes.{key}=[…]'"
            problems.append(change.problem((), change.value, message))


def _text(
    base: Tree, variants: dict[str, list[Change]], axes: list[Axis], options: list[Change], first: Experiment
) -> str:
    """sweep.yaml: the experiment with its defaults, chips written out, variants and all points of the axes."""
    tree = assembled(base, options).value
    told = {name: written_out([*changes, *options]) for name, changes in variants.items()}
    varied = {key for axis in axes for key in axis.keys} | {key for changes in told.values() for key in changes}
    for path, value in leaves_of(first.model_dump(mode="json", exclude={"chip"})):
        key = dotted(path)
        if not any(f"{key}.".startswith(f"{other}.") or other.startswith(f"{key}.") for other in varied):
            node = tree
            for part in path[:-1]:
                node = node.setdefault(part, {})
            node.setdefault(path[-1], value)
    text: dict[str, Any] = {name: tree[name] for name in Experiment.model_fields if name in tree}
    if any(variants):
        text["variants"] = told
    last = () if any(variants) else [option for option in options if option[0].startswith("chip.")]
    columns = [
        {key: [_value(key, point[i], last) for point in axis.points] for i, key in enumerate(axis.keys)}
        for axis in axes
    ]
    text["axes"] = {key: values for group in columns if len(group) == 1 for key, values in group.items()}
    zipped = [group for group in columns if len(group) > 1]
    if zipped:
        text["axes"]["zip"] = zipped
    return dump(_anchored(text))


def _value(key: str, tree: Tree, last: Sequence[Change]) -> Any:
    """One value of an axis; a chip by name or file is written out, with what options change of every chip."""
    if key != "chip":
        return tree.value
    value = written_out([(key, tree)]).get("chip", tree.value)
    for leaf, changed in written_out(last).items():
        node = value
        *path, end = leaf.split(".")[1:]
        for part in path:
            node[part] = node.get(part) or {}
            node = node[part]
        node[end] = changed
    return value


def _anchored(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _anchored(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_anchored(item) for item in value]
    return anchored_data(value) if isinstance(value, str) else value
