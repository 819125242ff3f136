"""A chip's laws drawn by the functions of physics/, for its card: the figure, or None for an ideal chip."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analogsim.config.schema import Cell, ChipDescription
from analogsim.physics.converters import largest_code, quantise
from analogsim.physics.read_noise import LAWS
from analogsim.pictures.style import COLOURS

STEPS = 3.4  # of a converter's staircase, on each side of zero


def laws_figure(chip: ChipDescription) -> Figure | None:
    """One panel a law: node noise, read noise over the conductance, converters about zero."""
    panels: list[Callable[[Axes], None]] = []
    if chip.node_noise.sigma > 0:
        panels.append(partial(_node, sigma=chip.node_noise.sigma))
    if chip.cell is not None and chip.cell.read_noise is not None:
        panels.append(partial(_read_noise, cell=chip.cell))
    for name, converter in (("DAC", chip.dac), ("ADC", chip.adc)):
        if converter is not None:
            bound = converter.bound
            full = (1.0, " of the largest input") if isinstance(bound, str) else (float(bound), "")
            panels.append(partial(_converter, name=name, bits=converter.bits, bound=full[0], unit=full[1]))
    if not panels:
        return None
    figure = Figure(figsize=(3.1 * len(panels), 2.5), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)
    for axis, draw in zip(axes.flat, panels):
        draw(axis)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        axis.title.set_fontsize(9.5)
        axis.tick_params(labelsize=8)
        axis.xaxis.label.set_fontsize(8.5)
        axis.yaxis.label.set_fontsize(8.5)
    return figure


def _node(axis: Axes, sigma: float) -> None:
    at = torch.linspace(-4, 4, 201, dtype=torch.float64)
    density = (-at.square() / 2).exp() / math.sqrt(2 * math.pi)
    axis.plot(at * sigma, density / sigma, color=COLOURS[0])
    axis.ticklabel_format(style="sci", scilimits=(-2, 3))
    axis.set(title=f"hidden node noise, σ = {sigma:.3g}", xlabel="added to a pre-activation", ylabel="density")


def _read_noise(axis: Axes, cell: Cell) -> None:
    noise = cell.read_noise
    assert noise is not None
    (size,) = noise.model_dump(exclude={"law"}).values()
    g = torch.linspace(cell.g_min_uS, cell.g_max_uS, 201, dtype=torch.float64)
    variance = torch.as_tensor(LAWS[noise.law](size, g), dtype=torch.float64).expand_as(g)
    axis.plot(g, variance.sqrt(), color=COLOURS[1])
    axis.set_ylim(bottom=0)
    axis.set(title=f"read noise of a cell ({noise.law})", xlabel="conductance (µS)", ylabel="σ (µS)")


def _converter(axis: Axes, name: str, bits: int, bound: float, unit: str) -> None:
    m = largest_code(bits)
    step = bound / m
    reach = min(STEPS, 1.3 * m)
    v = torch.linspace(-reach * step, reach * step, 801, dtype=torch.float64)
    axis.plot(v, v, color="0.7", linewidth=1, linestyle="--")
    axis.plot(v, quantise(v, bits, bound), color=COLOURS[2])
    where = "" if reach < STEPS else ", about zero"
    axis.set(
        title=f"{name}: {bits} bits, ±{bound:g}{unit}{where}" if not unit else f"{name}: {bits} bits{where}",
        xlabel=f"in{' (1 = the largest of the vector)' if unit else ''}",
        ylabel="out",
    )
