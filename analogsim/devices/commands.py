"""`analogsim devices`: its subcommands, nothing else. Heavy imports wait until a command needs them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

devices = typer.Typer(name="devices", invoke_without_command=True, help="The chips that come with analogsim: a table.")
ChipArgument = Annotated[str, typer.Argument(metavar="NAME|FILE", help="A shipped chip, or a chip file.")]


@devices.callback()
def devices_table(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        from rich.console import Console

        from analogsim.devices.table import print_table

        print_table(Console())


@devices.command("show")
def devices_show(chip: ChipArgument) -> None:
    """Print a chip with every default written out."""
    from analogsim.config.loader import load_chip
    from analogsim.devices.table import to_yaml

    print(to_yaml(load_chip(chip)), end="")


@devices.command("plot")
def devices_plot(
    chip: ChipArgument,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="A .png, .pdf or .svg; NAME.png if left out.")] = None,
) -> None:
    """Draw a chip's laws on one page: errors, noise, drift, pulses, converter."""
    from analogsim.config.loader import load_chip
    from analogsim.devices.plot import plot_chip

    description = load_chip(chip)
    print(f"picture: {plot_chip(description, out or Path(f'{Path(chip).stem}.png'))}")


@devices.command("fit")
def devices_fit(
    measurements: Annotated[
        Path, typer.Argument(metavar="FILE.csv", help="target_uS, read_uS, time_s[, programming].")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE.yaml", help="The chip file to write.")],
    law: Annotated[str, typer.Option(help="constant, proportional, sqrt, polynomial or exponential.")] = "polynomial",
    degree: Annotated[int, typer.Option(min=0, max=6, help="Of --law polynomial.")] = 2,
) -> None:
    """Fit programming error, read noise and drift to measured cells; write a chip that trains."""
    from analogsim.errors import ArgumentError

    picture = out.with_suffix(".png")
    if out.suffix not in (".yaml", ".yml") or out.exists() or picture.exists():
        raise ArgumentError("-o", str(out), "a new .yaml file, with no .png of that name beside it")
    from rich.console import Console

    from analogsim.devices.fit import fit_device
    from analogsim.devices.fit_report import plot_fit, table, warnings, write_chip
    from analogsim.devices.measurements import read_measurements

    fit = fit_device(read_measurements(measurements), law, degree)
    write_chip(fit, out)
    Console().print(table(fit))
    for line in warnings(fit):
        print(f"warning: {line}", file=sys.stderr)
    print(f"chip:    {out}\npicture: {plot_fit(fit, picture)}")
