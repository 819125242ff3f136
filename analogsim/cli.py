"""The command line: subcommands, nothing else. Heavy imports wait until a command needs them."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from analogsim.config.loader import Override

app = typer.Typer(
    name="analogsim",
    help="Simulate neural-network training on noisy analog chips whose noise cannot be read out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Source = Annotated[str, typer.Argument(metavar="EXPERIMENT", help="An experiment file, or the name of a shipped one.")]
ChipOption = Annotated[str | None, typer.Option("--chip", metavar="NAME|FILE", help="Train on this chip instead.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one dotted key, as in learner.samples=10."),
]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Train this one seed.")]


def _overrides(chip: str | None, settings: list[str] | None, seed: int | None = None) -> list[Override]:
    from analogsim.config.loader import Override, parse_set

    overrides = [] if chip is None else [Override("chip", chip, f"--chip {chip}")]
    overrides += [parse_set(text) for text in settings or []]
    return overrides if seed is None else [*overrides, Override("seeds", [seed], f"--seed {seed}")]


@app.command()
def train(
    experiment: Annotated[str | None, typer.Argument(metavar="EXPERIMENT", help="A file, or a shipped name.")] = None,
    chip: ChipOption = None,
    settings: SetOption = None,
    out: Annotated[Path | None, typer.Option("--out", help="Run folder; runs/NAME if left out.")] = None,
    resume: Annotated[Path | None, typer.Option("--resume", metavar="DIR", help="Go on with this run folder.")] = None,
    backend: Annotated[str, typer.Option(help="auto, numpy, numba or torch.")] = "auto",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    seed: SeedOption = None,
) -> None:
    """Train every variant and seed of an experiment; write curves, a picture and checkpoints."""
    from analogsim.config.loader import load_plan
    from analogsim.errors import ArgumentError
    from analogsim.experiment.results import claimed, fresh_folder

    if (experiment is None) == (resume is None):
        raise ArgumentError("EXPERIMENT", experiment, "an experiment, or --resume DIR and no experiment")
    if resume is not None and (chip or settings or out or seed is not None):
        raise ArgumentError("--resume", str(resume), "no other options: a run folder keeps its own settings")
    folder = resume or out or fresh_folder(Path(str(experiment)).stem)
    if resume is None:
        plan = load_plan(str(experiment), _overrides(chip, settings, seed))
    with claimed(folder, resume is not None):
        if resume is not None:
            plan = load_plan(folder / "config.yaml")
        sys.exit(_train(plan, folder, backend, device, resume is not None))


def _train(plan, folder: Path, backend: str, device: str, resume: bool) -> int:
    from rich.console import Console

    from analogsim.experiment.run import train as train_plan
    from analogsim.plots import plot_curves
    from analogsim.progress import Bar, Lines

    console = Console()
    if console.is_terminal:
        with Bar(console) as bar:
            outcome = train_plan(plan, folder, backend, device, resume, bar)
    else:
        outcome = train_plan(plan, folder, backend, device, resume, Lines())
    if outcome.interrupted:
        print(f"stopped; go on with: analogsim train --resume {shlex.quote(str(folder))}")
        return 130
    print(f"curves:  {folder / 'curves.csv'}\npicture: {plot_curves(folder)}")
    return 0


@app.command()
def validate(experiment: Source, chip: ChipOption = None, settings: SetOption = None) -> None:
    """Check an experiment file and say all that is wrong with it."""
    from analogsim.config.loader import load_plan

    plan = load_plan(experiment, _overrides(chip, settings))
    from analogsim.training.build import check_plan

    check_plan(plan.variants)
    runs = sum(len(variant.seeds) for variant in plan.variants.values())
    print(f"{experiment}: valid, {runs} run{'s' if runs != 1 else ''}: {', '.join(plan.variants)}")


@app.command()
def config(experiment: Source, chip: ChipOption = None, settings: SetOption = None, seed: SeedOption = None) -> None:
    """Print an experiment with every default, name and override resolved."""
    from analogsim.config.loader import load_plan

    print(load_plan(experiment, _overrides(chip, settings, seed)).to_yaml(), end="")


def main() -> None:
    """The `analogsim` command: an AnalogsimError is printed in a line, without a traceback."""
    from analogsim.errors import AnalogsimError

    try:
        app()
    except AnalogsimError as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:  # before typer is there to mind it
        sys.exit(130)
