"""Tables for the terminal; nothing here trains or reads a chip."""

from __future__ import annotations

import math
from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from analogsim.experiment.evaluate import Evaluation, time_name
from analogsim.training.doctor import Diagnosis

NARROWEST = 120  # columns of a table that goes to a pipe or a file


def print_diagnoses(console: Console, found: Mapping[str, Diagnosis], seeds: Mapping[str, int]) -> None:
    """What the doctor found of every variant: layers, then δL and costs, then advice. seeds: how many each has."""
    _widen(console)
    layers = _table(
        "variant",
        "chip",
        "layer",
        "noise σ",
        "ADC step",
        "σ / step",
        "clipped",
        "saturated",
        "W error",
        "updates / pulse",
    )
    costs = _table("variant", "rule", "δL", "hidden", "signal/noise", "1/f ρ", "memory", "time a run")
    for name, one in found.items():
        for number, layer in enumerate(one.layers, start=1):
            first = (name, one.chip) if number == 1 else ("", "")
            step = _figure(layer.adc_step or None)
            shares = (f"{share:.1%}" for share in (layer.clipped_share, layer.saturated_share, layer.weight_error))
            sizes = (f"{layer.noise:.2g}", step, _figure(layer.adc_steps))
            layers.add_row(*first, str(number), *sizes, *shares, _figure(layer.updates_a_write))
        memory = f"{sum(one.memory_bytes.values()) / 1e6:.3g} MB"
        took = "-" if one.seconds is None else duration(one.seconds)
        ratios = (_figure(part) for part in (one.delta_loss, one.hidden, one.signal_to_noise, one.correlation))
        costs.add_row(name, one.rule, *ratios, memory, took)
    console.print(layers)
    console.print()
    console.print(costs)
    times = [seeds[name] * one.seconds for name, one in found.items() if one.seconds is not None]
    runs = sum(seeds.values())
    if runs > 1 and len(times) == len(found):
        console.print(f"{runs} runs, one after the other: about {duration(sum(times))}", highlight=False)
    console.print()
    advice = [f"{name}: {text}" for name, one in found.items() for text in one.advice]
    for line in advice or ["nothing to warn of"]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def print_evaluation(console: Console, found: Evaluation) -> None:
    """Mean and band over programming draws, a row a variant and time."""
    _widen(console)
    table = _table("variant", "chip", "time", "draws", f"test {found.figure}", "sd", "min", "max", "as trained")
    for row in found.table.to_dict("records"):
        figures = (_value(row[name], found.figure) for name in ("mean", "sd", "min", "max", "trained"))
        table.add_row(row["run"], row["chip"], time_name(row["time_s"]), str(row["draws"]), *figures)
    console.print(table)


def duration(seconds: float) -> str:
    """In words: 12 s, 3 min, 2.5 h."""
    if seconds < 100:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.2g} h"


def _value(value: float, figure: str) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.1%}" if figure == "accuracy" else f"{value:.3g}"


def _figure(value: float | None) -> str:
    if value is None:
        return "-"
    return "∞" if math.isinf(value) else f"{value:.2g}"


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < 2 else "right", no_wrap=True)
    return table


def _widen(console: Console) -> None:
    if not console.is_terminal:
        console.width = max(console.width, NARROWEST)
