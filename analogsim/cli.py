"""The command line: subcommands, nothing else. Heavy imports wait until a command needs them."""

from __future__ import annotations

import os
import shlex
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from analogsim.devices.commands import devices

if TYPE_CHECKING:
    from analogsim.config.loader import Override, Plan
    from analogsim.training.distributed import Team

app = typer.Typer(
    name="analogsim",
    help="Simulate neural-network training on noisy analog chips whose noise cannot be read out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.add_typer(devices)

Source = Annotated[str, typer.Argument(metavar="EXPERIMENT", help="An experiment file, or the name of a shipped one.")]
ChipOption = Annotated[str | None, typer.Option("--chip", metavar="NAME|FILE", help="Train on this chip instead.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one dotted key, as in learner.samples=10."),
]
OutOption = Annotated[Path, typer.Option("-o", "--out", help="The folder or file to write.")]
LogOption = Annotated[str | None, typer.Option("--log", metavar="tensorboard", help="Write event files as well.")]
BandOption = Annotated[str, typer.Option("--band", metavar="minmax|ci95|std", help="What is shown over seeds.")]
SeedOption = Annotated[int | None, typer.Option("--seed", min=0, help="Train this one seed.")]


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
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Run folder; runs/NAME if left out.")] = None,
    resume: Annotated[Path | None, typer.Option("--resume", metavar="DIR", help="Go on with this run folder.")] = None,
    backend: Annotated[str | None, typer.Option(help="auto, numpy, numba, torch or triton.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda.")] = None,
    seed: SeedOption = None,
    log: LogOption = None,
) -> None:
    """Train every variant and seed of an experiment; write curves, a picture and checkpoints."""
    from analogsim.config.loader import load_plan
    from analogsim.errors import ArgumentError
    from analogsim.experiment.results import claimed, fresh_folder

    if (experiment is None) == (resume is None):
        raise ArgumentError("EXPERIMENT", experiment, "an experiment, or --resume DIR and no experiment")
    if resume is not None and (chip or settings or out or backend or device or seed is not None):
        raise ArgumentError("--resume", str(resume), "no other options: a run folder keeps its own settings")
    with ExitStack() as stack:
        team = stack.enter_context(_team())
        with team.in_turn() if team else nullcontext():
            folder = resume or out or fresh_folder(Path(str(experiment)).stem)
            new = None if resume else load_plan(str(experiment), _overrides(chip, settings, seed))
            if team is None or team.leads:
                stack.enter_context(claimed(folder, resume is not None))
            plan = new or load_plan(folder / "config.yaml")
        if (backend or "auto") in ("auto", "numba") and (device or "cpu") == "cpu":
            threading.Thread(target=_compile_kernels).start()
        sys.exit(_train(plan, folder, backend or "auto", device or "cpu", resume is not None, log, team))


def _compile_kernels() -> None:
    """In a thread of its own while torch is imported, which takes about as long."""
    with suppress(Exception):  # met again, and told, where the kernels are called
        from analogsim.backends.kernels import compile_all

        compile_all()


@contextmanager
def _team() -> Iterator[Team | None]:
    """The processes that torchrun started, or None."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield None
        return
    from analogsim.training.distributed import joined

    with joined() as team:
        yield team


def _train(
    plan: Plan, folder: Path, backend: str, device: str, resume: bool, log: str | None, team: Team | None
) -> int:
    from rich.console import Console

    from analogsim.experiment.run import Reporter
    from analogsim.experiment.run import train as train_plan
    from analogsim.experiment.trials import reporter_for
    from analogsim.progress import Bar, Lines
    from analogsim.training.distributed import ALONE

    if team is not None and not team.leads:
        return 130 if train_plan(plan, folder, backend, device, resume, Reporter(), team=team).interrupted else 0
    console = Console()
    with Bar(console) if console.is_terminal else nullcontext(Lines()) as shown:
        reporter = reporter_for(log, folder, shown)
        outcome = train_plan(plan, folder, backend, device, resume, reporter, team=team or ALONE)
    if outcome.interrupted:
        print(f"stopped; go on with: analogsim train --resume {shlex.quote(str(folder))}")
        return 130
    from analogsim.plots import plot_curves  # matplotlib and pandas: a second that training need not wait for

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


@app.command()
def doctor(experiment: Source, chip: ChipOption = None, settings: SetOption = None) -> None:
    """Say what the chip does to the network and the rule, what to change, and what training will cost."""
    from analogsim.config.loader import load_plan

    variants = load_plan(experiment, _overrides(chip, settings)).variants
    from rich.console import Console

    from analogsim.doctor_tables import print_diagnoses
    from analogsim.training.build import check_data, check_plan
    from analogsim.training.data import load_data
    from analogsim.training.doctor import diagnose_plan

    check_plan(variants)
    data = {name: load_data(name) for name in dict.fromkeys(variant.data for variant in variants.values())}
    check_data(variants, data)
    print_diagnoses(
        Console(), diagnose_plan(variants, data), {name: len(each.seeds) for name, each in variants.items()}
    )


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder of `analogsim train`.")],
    chip: Annotated[str, typer.Option("--chip", metavar="NAME|FILE", help="The chip to program.")],
    at: Annotated[
        str | None,
        typer.Option(metavar="TIMES", help="Since programming, as in 1h,1d,30d; the first read if left out."),
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Programming draws, each another such chip.")] = 5,
    variant: Annotated[list[str] | None, typer.Option("--variant", metavar="NAME", help="Of the run; all.")] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="RUN/evaluations/CHIP if left out.")] = None,
    backend: Annotated[str, typer.Option(help="auto, numpy, numba, torch or triton.")] = "auto",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Read trained networks on another chip, over time and programming draws: a table, a CSV, a picture."""
    from analogsim.config.loader import load_chip
    from analogsim.errors import RunFolderError
    from analogsim.experiment.results import claimed

    description = load_chip(chip)
    if not (run / "config.yaml").is_file():
        raise RunFolderError(f"{run}: no run here, it has no config.yaml")
    from rich.console import Console

    from analogsim.doctor_tables import print_evaluation
    from analogsim.experiment.evaluate import evaluate as evaluate_run
    from analogsim.experiment.evaluate import times_s
    from analogsim.pictures.ageing import plot_evaluation

    times = times_s(at) if at is not None else ()
    with claimed(run, resume=True):
        found = evaluate_run(run, description, times, repeats, out, variant or (), backend, device, _to_stderr)
    print_evaluation(Console(), found)
    print(f"tables:  {found.folder}\npicture: {plot_evaluation(found)}")


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr)


@app.command()
def sweep(
    out: OutOption,
    experiment: Annotated[str | None, typer.Argument(metavar="SWEEP", help="A file, or a shipped name.")] = None,
    jobs: Annotated[int | None, typer.Option("-j", "--jobs", min=1, help="Trials at a time; else one a core.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run and how long; run nothing.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try failed trials again.")] = False,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stop at the first trial that fails.")] = False,
    settings: SetOption = None,
    chip: ChipOption = None,
    scheduler: Annotated[
        str | None, typer.Option("--scheduler", metavar="ADDRESS|FILE", help="A running dask cluster, or a Slurm file.")
    ] = None,
    backend: Annotated[str, typer.Option(help="auto, numpy, numba, torch or triton.")] = "auto",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="Threads of each worker.")] = 1,
    log: LogOption = None,
) -> None:
    """Run every trial of a sweep, or go on with it; SWEEP left out: with the one in the folder."""
    from rich.console import Console

    from analogsim.config.sweeps import load_sweep
    from analogsim.experiment.overview import dry_run as told
    from analogsim.experiment.overview import overview
    from analogsim.experiment.sweep import Options, available_workers, run_sweep
    from analogsim.progress import SweepBar, SweepLines

    plan = load_sweep(experiment or out / "sweep.yaml", _overrides(chip, settings))
    workers = jobs or available_workers(device)
    options = Options(workers, retry_failed, fail_fast, scheduler, backend, device, threads, log)
    if dry_run:
        print(told(plan, out, options))
        return
    console = Console()
    if console.is_terminal:
        with SweepBar(console) as bar:
            state = run_sweep(plan, out, options, bar)
    else:
        state = run_sweep(plan, out, options, SweepLines())
    if state.interrupted:
        print(f"stopped; go on with: analogsim sweep -o {shlex.quote(str(out))}")
        sys.exit(130)
    print(f"{overview(state.ended)}\ntrials: {out / 'trials.csv'}")
    sys.exit(1 if state.count("failed") else 0)


@app.command()
def status(folder: Annotated[Path, typer.Argument(metavar="DIR", help="A sweep's folder.")]) -> None:
    """Say how far a sweep is: trials done, failed, begun and left."""
    from analogsim.experiment.overview import status as told

    print(told(folder))


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A run folder or a sweep's.")],
    out: OutOption,
    form: Annotated[str, typer.Option("--format", metavar="csv|parquet|json")] = "csv",
    what: Annotated[str, typer.Option("--what", metavar="curves|trials")] = "curves",
) -> None:
    """Write all curves, or all trials, of a folder as one tidy table."""
    from analogsim.experiment.export import export as write

    _end(write(folder, out, form, what))


@app.command()
def combine(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Sweeps' folders.")],
    out: OutOption,
) -> None:
    """Merge sweeps into one folder of their tables and trials."""
    from analogsim.experiment.export import combine as merge

    count, problems = merge(folders, out)
    print(f"{count} trials: {out / 'trials.csv'}")
    _end(problems)


@app.command()
def plot(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A run folder or a sweep's.")],
    x: Annotated[str | None, typer.Option("--x", metavar="COLUMN", help="What to draw against.")] = None,
    y: Annotated[str | None, typer.Option("--y", metavar="COLUMN", help="What to draw; an axis: a heat map.")] = None,
    hue: Annotated[str | None, typer.Option("--hue", metavar="COLUMN", help="A line for each of its values.")] = None,
    col: Annotated[str | None, typer.Option("--col", metavar="COLUMN", help="A panel for each of its values.")] = None,
    band: BandOption = "minmax",
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FIG.png|svg|pdf", help="One picture, here.")
    ] = None,
) -> None:
    """Draw what a folder holds: learning curves, figures against a sweep's axis, heat maps; or one of your own."""
    from analogsim.experiment.tables import load_results
    from analogsim.plots import plot as draw

    results = load_results(folder)
    for path in draw(results, out, x, y, hue, col, band):
        print(f"picture: {path}")
    _end(results.problems)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A run folder or a sweep's.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE.html", help="The page; DIR/report.html if left out.")
    ] = None,
    band: BandOption = "minmax",
) -> None:
    """Write one page that needs no network: pictures to play with, tables, chips, versions, commands."""
    from analogsim.report.page import write_report

    page, problems = write_report(folder, out, band)
    print(f"report: {page}")
    _end(problems)


@app.command()
def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run folders or sweeps'; the first is the yardstick.")
    ],
    at: Annotated[str, typer.Option("--at", metavar="LIST", help="Accuracies to be reached, as in 0.8,0.9.")] = "",
    band: BandOption = "minmax",
    test: Annotated[str, typer.Option(metavar="t|wilcoxon", help="The paired test over common seeds.")] = "t",
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FIG.png|svg|pdf")] = Path("compare.png"),
) -> None:
    """Put runs side by side: final, best, epochs and reads to given accuracies, a paired test, an overlay."""
    from rich.console import Console

    from analogsim.compare import compare as put
    from analogsim.compare import draw, levels, sheets
    from analogsim.pictures.style import check_format, write_figure

    check_format(out)
    comparison = put(runs, levels(at), band, test)
    console = Console()
    for shown in sheets(comparison):
        if not console.is_terminal:  # whole lines for files and pipes
            console = Console(width=Console(width=10_000).measure(shown).maximum)
        console.print(shown)
    print(f"picture: {write_figure(draw(comparison), out)}")


def _end(problems: Sequence[str]) -> None:
    """Name what could not be read; the rest is written by now."""
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        sys.exit(1)


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
