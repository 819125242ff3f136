"""The chip library in words: `analogsim devices` and `analogsim devices show`."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from analogsim.config.chip import Cell, ChipDescription
from analogsim.config.loader import bundled, load_chip
from analogsim.config.writing import Faults, PulsedWrite
from analogsim.config.yaml_tree import dump

COLUMNS = ("name", "technology", "cells", "noise", "converters", "write", "paper")
NARROWEST = 220  # columns of a table that goes to a pipe or a file


def shipped() -> Iterator[ChipDescription]:
    """Every chip of devices/, by name."""
    for name in sorted(path.stem for path in bundled("devices").glob("*.yaml")):
        yield load_chip(name)


def to_yaml(chip: ChipDescription) -> str:
    """The chip with every default written out; as a file, it loads as an equal chip."""
    return dump(chip.model_dump(mode="json"))


def row(chip: ChipDescription) -> tuple[str, ...]:
    """One line of the table, a text for each of COLUMNS."""
    cells = "exact" if chip.cell is None else _cells(chip.cell)
    return chip.name, chip.technology, cells, _noise(chip), _converters(chip), _write(chip), chip.paper


def print_table(console: Console) -> None:
    """All shipped chips, one a row."""
    if not console.is_terminal:
        console.width = max(console.width, NARROWEST)
    table = Table(*COLUMNS, box=None, pad_edge=False, header_style="bold")
    table.columns[0].no_wrap = True
    for chip in shipped():
        table.add_row(*row(chip))
    console.print(table, soft_wrap=False)


def _cells(cell: Cell) -> str:
    text = f"{cell.g_min_uS:.3g}-{cell.g_max_uS:.4g} µS, {cell.mapping}"
    return text if cell.slices is None else f"{text}, {cell.slices.cells} x {cell.slices.bits} bit"


def _noise(chip: ChipDescription) -> str:
    """What makes a read differ from the weights, or from the next read; errors of pulses are under write."""
    cell, node = chip.cell, chip.node_noise
    pulsed = chip.write.cell if isinstance(chip.write, PulsedWrite) else None
    present = {
        "programming": cell and cell.programming,
        "white": cell and cell.read_noise,
        "1/f": cell and cell.flicker,
        "telegraph": (cell and cell.telegraph) or node.telegraph,
        "drift": cell and cell.drift and cell.drift.law != "retention",
        "retention": cell and cell.drift and cell.drift.law == "retention",
        "stuck": (cell and cell.faults != Faults()) or getattr(pulsed, "stuck", 0),
        "leak": getattr(pulsed, "lifetime_updates", None),
        "node": node.sigma,
        "DAC": chip.dac and chip.dac.noise,
        "ADC": chip.adc and chip.adc.noise,
    }
    return ", ".join(name for name, found in present.items() if found) or "none"


def _converters(chip: ChipDescription) -> str:
    parts = []
    if chip.dac is not None:
        serial = chip.dac.bit_serial
        parts.append(f"DAC {chip.dac.bits}" + (f" in {serial.slice_bits}s" if serial else ""))
    if chip.adc is not None:
        bound = chip.adc.bound if isinstance(chip.adc.bound, str) else f"±{chip.adc.bound:g}"
        parts.append(f"ADC {chip.adc.bits}, {bound}")
    return "; ".join(parts) or "none"


def _write(chip: ChipDescription) -> str:
    return (
        f"pulsed, {chip.write.cell.model.replace('_', ' ')}" if isinstance(chip.write, PulsedWrite) else chip.write.mode
    )
