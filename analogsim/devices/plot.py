"""A chip's laws on one page: `analogsim devices plot`. Every curve is drawn by the functions of physics/."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from textwrap import fill

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from analogsim.atomic import write_atomic
from analogsim.config.chip import Adc, Cell, ChipDescription, NodeNoise
from analogsim.config.laws import LogDrift, PowerDrift, Retention, coefficients
from analogsim.config.writing import PulsedCell, PulsedWrite
from analogsim.errors import ArgumentError
from analogsim.physics.converters import largest_code, quantise
from analogsim.physics.drift import DRIFT_LAWS
from analogsim.physics.flicker import correlation, flicker_sigma
from analogsim.physics.pulsed_cells import MODELS, CellParameters
from analogsim.physics.read_noise import SIGMA_LAWS
from analogsim.physics.telegraph import fair_states, node_noise, node_states
from analogsim.physics.update import closed_form, pulse
from analogsim.pictures.style import COLOURS
from analogsim.streams import Address, Stream

FORMATS = ("png", "pdf", "svg")
POINTS = 400
LONGEST_S = 30 * 86400.0  # a month, where a law states no last time
TIMES = {1e-6: "1 µs", 1e-3: "1 ms", 1.0: "1 s", 60.0: "1 min", 3600.0: "1 h", 86400.0: "1 d", LONGEST_S: "30 d"}
CELLS = 5  # drawn one by one, beside the mean cell

Panel = Callable[[Axes], None]


def plot_chip(chip: ChipDescription, path: Path) -> Path:
    """Draw the panels that apply, written to `path`, whose ending names the format.

    Raises ArgumentError for another ending, or a chip without a law to draw.
    """
    if path.suffix[1:] not in FORMATS:
        raise ArgumentError("-o", str(path), f"a file that ends in {', '.join('.' + name for name in FORMATS)}")
    figure = chip_figure(chip)
    if figure is None:
        raise ArgumentError("chip", chip.name, "a chip with noise, drift, pulses or converters to draw")
    width = figure.get_figwidth()
    figure.suptitle(fill(f"{chip.name}: {chip.description}", int(10 * width)), fontsize=11, fontweight="bold")
    figure.supxlabel(fill(_origin(chip), int(16 * width)), fontsize=7, color="0.35")
    return write_atomic(path, lambda file: figure.savefig(file, dpi=130, format=path.suffix[1:]))


def chip_figure(chip: ChipDescription) -> Figure | None:
    """A panel for each law the chip has, without a title; None for a chip with none."""
    panels = list(_panels(chip))
    if not panels:
        return None
    columns = len(panels) if len(panels) < 4 else math.ceil(len(panels) / 2)
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(max(4.3 * columns, 6.5), 3.5 * rows + 1.1), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for axis, draw in zip(axes, panels):
        draw(axis)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in list(axes)[len(panels) :]:
        axis.set_visible(False)
    return figure


def _origin(chip: ChipDescription) -> str:
    return f"{chip.paper}. {chip.source}" if chip.paper not in ("", "none") else chip.source


def _panels(chip: ChipDescription) -> Iterator[Panel]:
    cell, node = chip.cell, chip.node_noise
    if cell is not None and cell.programming is not None:
        yield partial(_programming, cell=cell)
    if cell is not None and (cell.read_noise or cell.flicker or cell.telegraph):
        yield partial(_reads, cell=cell, chip=chip)
    if cell is not None and cell.drift is not None:
        yield partial(_drift, cell=cell)
    if isinstance(chip.write, PulsedWrite):
        yield partial(_pulses, pulsed=chip.write.cell)
    if node.sigma or node.telegraph:
        yield partial(_node, node=node)
    if chip.adc is not None:
        yield partial(_adc, adc=chip.adc)


def _range(cell: Cell) -> Tensor:
    return torch.linspace(cell.g_min_uS, cell.g_max_uS, POINTS)


def _normals(name: str, *shape: int) -> Tensor:
    """Numbers for the examples in a picture, always the same."""
    rows, outputs = (1, *shape)[-2:]
    return torch.from_numpy(Stream.from_seed(0).child("picture", name).normal(Address(), rows, outputs)).view(shape)


def _uniforms(name: str, *shape: int) -> Tensor:
    rows, outputs = (1, *shape)[-2:]
    return torch.from_numpy(Stream.from_seed(0).child("picture", name).uniform(Address(), rows, outputs)).view(shape)


# --- panels ----------------------------------------------------------------------------------------


def _programming(axis: Axes, cell: Cell) -> None:
    assert cell.programming is not None
    g, law = _range(cell), cell.programming
    axis.plot(g, SIGMA_LAWS[law.law](g, **coefficients(law)), color=COLOURS[0])
    axis.set(xlabel="target G (µS)", ylabel="σ (µS)", ylim=(0, None))
    axis.set_title("programming error, once a write", fontsize=10)
    share = 100 / (cell.g_max_uS - cell.g_min_uS)
    scales = partial(np.multiply, share), partial(np.multiply, 1 / share)
    relative = axis.secondary_yaxis("right", functions=scales)
    relative.set_ylabel("% of the range")


def _reads(axis: Axes, cell: Cell, chip: ChipDescription) -> None:
    g, title = _range(cell), "read noise"
    for name, law, colour in (("white", cell.read_noise, 0), ("telegraph", cell.telegraph, 3)):
        if law is not None:
            sigma = SIGMA_LAWS[law.law](g, **coefficients(law))
            axis.plot(g, sigma, color=COLOURS[colour], label=f"{name}, fresh each read")
    if cell.flicker is not None:
        first, keys = chip.clock.t_first_read_s, coefficients(cell.flicker)
        for dashes, t in zip(("-", "--", ":"), (first, *(t for t in (86400.0, LONGEST_S) if t > first))):
            label = f"1/f, {_time(t)} after the write"
            axis.plot(g, flicker_sigma(g, t, **keys), dashes, color=COLOURS[1], label=label)
        lag = chip.clock.t_read_s or cell.flicker.t_r_s
        rho = float(correlation(lag, first, t_r_s=cell.flicker.t_r_s))
        title += f"; 1/f: ρ({_time(lag)}) = {rho:.2f} at {_time(first)}"
    axis.set(xlabel="G (µS)", ylabel="σ (µS)", ylim=(0, None))
    axis.set_title(title, fontsize=10)
    axis.legend(frameon=False, fontsize=8)


def _drift(axis: Axes, cell: Cell) -> None:
    law = cell.drift
    assert law is not None
    start = law.t0_s if isinstance(law, PowerDrift) else law.times_s[0] if isinstance(law, Retention) else 1.0
    end = law.valid_s[1] if law.valid_s is not None else LONGEST_S
    t = torch.logspace(math.log10(start), math.log10(end), POINTS, dtype=torch.float64).clamp(max=end)
    draw = {PowerDrift: _decay, LogDrift: _relaxation, Retention: _retention}[type(law)]
    draw(axis, t, cell)
    ticks = [at for at in TIMES if start / 1.5 <= at <= end * 1.5]
    axis.set(xscale="log", xlabel="time since the write")
    axis.set_xticks(ticks, [TIMES[at] for at in ticks])
    axis.set_xticks([], minor=True)


def _drifted(cell: Cell, g: Tensor, xi: float, t: Tensor) -> Tensor:
    assert cell.drift is not None
    return DRIFT_LAWS[cell.drift.law](g, torch.full_like(g, xi), t, **coefficients(cell.drift))


def _levels(cell: Cell, like: Tensor) -> Iterator[tuple[str, Tensor]]:
    for colour, share in zip(COLOURS, (1.0, 0.75, 0.5, 0.25, 0.05)):
        yield colour, torch.full_like(like, cell.g_min_uS + share * (cell.g_max_uS - cell.g_min_uS))


def _decay(axis: Axes, t: Tensor, cell: Cell) -> None:
    for colour, g in _levels(cell, t):
        axis.plot(t, _drifted(cell, g, 0, t), color=colour)
        axis.fill_between(t, _drifted(cell, g, -1, t), _drifted(cell, g, 1, t), color=colour, alpha=0.2, linewidth=0)
    axis.set(ylabel="G (µS)")
    axis.set_title("drift: mean and ±1σ of cells", fontsize=10)


def _relaxation(axis: Axes, t: Tensor, cell: Cell) -> None:
    """The change does not depend on G."""
    g = torch.full_like(t, cell.g_max_uS)
    change = {xi: _drifted(cell, g, xi, t) - g for xi in (-1, 0, 1)}
    axis.plot(t, change[0], color=COLOURS[0])
    axis.fill_between(t, change[-1], change[1], color=COLOURS[0], alpha=0.2, linewidth=0)
    axis.set(ylabel="change of G (µS)")
    axis.set_title("drift at every G: mean and ±1σ of cells", fontsize=10)


def _retention(axis: Axes, t: Tensor, cell: Cell) -> None:
    assert isinstance(cell.drift, Retention)
    for colour, g in _levels(cell, t):
        axis.plot(t, _drifted(cell, g, 1, t) - g, color=colour, label=f"{float(g[0]):.3g} µS")
    for measured in cell.drift.times_s:
        axis.axvline(measured, color="0.8", linewidth=0.8, zorder=0)
    axis.set(ylabel="σ (µS)", ylim=(0, None))
    axis.set_title("retention: error since the write", fontsize=10)
    axis.legend(frameon=False, fontsize=8, ncols=2)


def _pulses(axis: Axes, pulsed: PulsedCell) -> None:
    """Pulses up from the lower end, then as many down: the mean cell's curve, and some cells of their own."""
    keys = pulsed.model_dump(exclude={"model"})
    make = partial(MODELS[pulsed.model], uniform=_uniform_cells, **keys)
    mean = MODELS[pulsed.model](
        (1, 1), lambda name: torch.zeros(1, 1), lambda name: torch.ones(1, 1), **(keys | _unstuck(keys))
    )
    count = _pulses_to_cross(mean)
    n = torch.arange(count + 1)
    rise = closed_form(mean.w_min[0], n, True, mean)[0]
    fall = closed_form(rise[-1:][None], n, False, mean)[0]
    cells = make((1, CELLS), lambda name: _normals(f"cell {name}", 1, CELLS))
    for trace in _traces(cells, count).T:
        axis.plot(trace, color="0.6", linewidth=0.7)
    axis.plot([], [], color="0.6", linewidth=0.7, label=f"{CELLS} cells, noise and all")
    axis.plot(torch.cat([rise, fall[1:]]), color=COLOURS[0], linewidth=2, label="mean cell, no noise")
    axis.axvline(count, color="0.8", linewidth=0.8, zorder=0)
    axis.set(xlabel=f"{count} pulses up, {count} down", ylabel="w (weight range)")
    axis.set_title(f"pulse response: {pulsed.model.replace('_', ' ')}", fontsize=10)
    axis.legend(frameon=False, fontsize=8)


def _unstuck(keys: dict[str, object]) -> dict[str, object]:
    return {"stuck": 0.0} if "stuck" in keys else {}


def _uniform_cells(name: str) -> Tensor:
    return _uniforms(f"cell {name}", 1, CELLS)


def _pulses_to_cross(mean: CellParameters) -> int:
    """Pulses in which the mean cell goes up 95 % of its way, 10 at least."""
    count = 10
    span = float(mean.w_max - mean.w_min)
    while count < 20_000:
        at = closed_form(mean.w_min[0], torch.tensor(count), True, mean)
        if float(mean.w_max[0, 0] - at) <= 0.05 * span:
            break
        count = math.ceil(count * 1.2)
    return count


def _traces(cells: CellParameters, count: int) -> Tensor:
    """w of every cell before the first pulse and after each, (2 count + 1, cells)."""
    w = cells.w_min.clone()
    xi = _normals("pulse to pulse", 2 * count, w.numel())
    traces = [w]
    for number in range(2 * count):
        w = pulse(w, number < count, xi[None, number] if cells.noisy else None, cells)
        traces.append(w)
    return torch.cat(traces)


def _node(axis: Axes, node: NodeNoise, reads: int = 200) -> None:
    noise = _normals("node", reads, 1) * node.sigma
    title = "hidden noise of a node in successive reads"
    if node.telegraph is not None:
        source = node.telegraph
        before = fair_states(_uniforms("before", 1))
        states = node_states(before, _uniforms("flips", reads, 1), source.flip_probability)
        noise = noise + node_noise(states, amplitude=source.amplitude, mean=source.mean)
        title += f"\n± part: one read to the next ρ = {1 - 2 * source.flip_probability:.3f}"
    axis.plot(noise[:, 0], color=COLOURS[0], linewidth=0.9, drawstyle="steps-post")
    axis.set(xlabel="read", ylabel="noise (pre-activation units)")
    axis.set_title(title, fontsize=10)


def _adc(axis: Axes, adc: Adc, steps: float = 3.4) -> None:
    """What the middle of the converter makes of its input, in steps; the bound drops out."""
    bound = float(largest_code(adc.bits))
    v = torch.linspace(-steps, steps, 40 * POINTS)
    axis.plot(v, quantise(v, adc.bits, bound), color=COLOURS[0])
    title = f"ADC: {adc.bits} bits"
    if isinstance(adc.bound, str):
        title += f", bound: {adc.bound}"
    else:
        step = adc.bound / bound
        title += f", ±{adc.bound:g} cells, step {step:.3g}"
        if adc.noise:
            axis.axvspan(-adc.noise / step, adc.noise / step, color=COLOURS[1], alpha=0.2, linewidth=0)
            axis.text(
                0, 0.72 * steps, f"±1σ of the noise\nbefore it: {adc.noise / step:.2f} steps", ha="center", fontsize=8
            )
    axis.set(xlabel="in (steps)", ylabel="out (steps)")
    axis.set_title(title, fontsize=10)


def _time(seconds: float) -> str:
    """1e-3 -> 1 ms."""
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size and (unit not in ("h", "min") or seconds % size == 0):
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"
