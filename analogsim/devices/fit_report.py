"""What `analogsim devices fit` hands back: a chip file, a table and a picture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table
from scipy.stats import chi2

from analogsim.atomic import write_atomic, write_text
from analogsim.config.chip import ChipDescription
from analogsim.config.findings import validate
from analogsim.config.yaml_tree import dump, parse_tree
from analogsim.devices.fit import DeviceFit, FittedDrift, FittedSigma
from analogsim.physics.drift import DRIFT_LAWS
from analogsim.pictures.style import COLOURS

BINS = 12
LEVEL = 0.95  # of the bars: the interval of a spread, from χ²


def chip_text(fit: DeviceFit, name: str) -> str:
    """The fit as a chip file that trains: fitted cells behind aihwkit's training converters."""
    data = fit.measurements
    targets = data.target_uS
    valid = [float(targets.min()), float(targets.max())]
    lines = [
        f"# Fitted by `analogsim devices fit` to {Path(data.name).name}. A law's standard errors stand behind it.",
        dump(
            {
                "name": name,
                "description": f"Fitted to {Path(data.name).name}",
                "technology": "measured",
                "source": f"{len(data.read_uS)} reads of {len(targets)} programmings to "
                f"{len(set(targets))} targets, {data.time_s.min():g} to {data.time_s.max():g} s after the write",
            }
        ).rstrip(),
        "cell:",
        f"  g_min_uS: {valid[0]}  # the targets measured; a wider range is refused",
        f"  g_max_uS: {valid[1]}",
        "  mapping: differential",
        "  weight_max: auto",
        *_sigma_lines("programming", fit.programming, valid),
        *(
            _sigma_lines("read_noise", fit.read_noise, valid)
            if fit.read_noise
            else ["  # no read noise: no repeated reads"]
        ),
        *_drift_lines(fit.drift, valid),
        "clock:",
        f"  t_first_read_s: {float(data.time_s.min())}",
        "write: {mode: verify}",
        "# Not measured: aihwkit's training presets (reference: devices/pcm-nandakumar.yaml).",
        "dac: {bits: 7, bound: per_vector}",
        "adc: {bits: 9, bound: 20.0, noise: 0.1}",
        "tile: {rows: 512, columns: 512}",
    ]
    return "\n".join(lines) + "\n"


def _sigma_lines(key: str, sigma: FittedSigma, valid: list[float]) -> Iterator[str]:
    yield f"  {key}:"
    yield f"    law: {sigma.law}"
    for keyword, value in sigma.keywords.items():
        error = sigma.errors.get(keyword)
        shown = f"  # ± {_short(error)}" if error is not None else ""
        yield f"    {keyword}: {_rounded(value)}{shown}"
    yield f"    valid_uS: {valid}"


def _drift_lines(drift: FittedDrift | None, valid: list[float]) -> Iterator[str]:
    if drift is None:
        yield "  # no drift: fewer than three programmings were read at two times or more"
        return
    if drift.nu <= 0:
        yield f"  # no drift: conductances grew, nu = {drift.nu:.3g}, and a chip's only fall"
        return
    yield "  drift:  # G(t) = G (t / t0)^-nu, nu = |mu + s xi|, the same law at every G"
    yield "    law: power"
    yield f"    t0_s: {drift.t0_s}"
    yield f"    unit_uS: {valid[1]}"
    for key, exact, error in (("exponent", drift.nu, drift.nu_error), ("spread", drift.spread, drift.spread_error)):
        value = _rounded(exact)
        yield f"    {key}: {{law: log, slope: 0.0, intercept: {value}, min: {value}, max: {value}}}  # ± {error:.2g}"
    yield f"    valid_uS: {valid}"
    yield f"    valid_s: [{drift.t0_s}, {drift.last_s}]"


def _rounded(value: Any) -> Any:
    """To six digits, finer than any standard error here."""
    return [_rounded(item) for item in value] if isinstance(value, list) else float(f"{value:.6g}")


def _short(value: Any) -> str:
    return ", ".join(_short(item) for item in value) if isinstance(value, list) else f"{value:.2g}"


def write_chip(fit: DeviceFit, path: Path) -> ChipDescription:
    """Write the chip file, once it is known to load; returns the chip."""
    text = chip_text(fit, path.stem)
    chip = validate(ChipDescription, parse_tree(text, str(path)))
    write_text(path, text)
    return chip


def table(fit: DeviceFit) -> Table:
    """Every fitted number with its standard error."""
    found = Table("fitted", "value", "standard error", box=None, pad_edge=False, header_style="bold")
    for what, sigma in (("programming", fit.programming), ("read_noise", fit.read_noise)):
        for key, value in sigma.keywords.items() if sigma else ():
            error = sigma.errors.get(key) if sigma else None
            if isinstance(value, list) and isinstance(error, list):
                for k, (c, e) in enumerate(zip(value, error)):
                    found.add_row(f"{what}.{key}[{k}]", f"{c:.5g}", f"{e:.2g}")
            elif error is not None:
                found.add_row(f"{what}.{key}", f"{value:.5g}", f"{error:.2g}")
    if fit.drift is not None:
        found.add_row("drift.exponent (nu)", f"{fit.drift.nu:.5g}", f"{fit.drift.nu_error:.2g}")
        found.add_row("drift.spread (s)", f"{fit.drift.spread:.5g}", f"{fit.drift.spread_error:.2g}")
    found.add_row(
        "mean error of a write, µS (part of programming)", f"{fit.mean_error_uS:.4g}", f"{fit.mean_error_error_uS:.2g}"
    )
    return found


def warnings(fit: DeviceFit) -> list[str]:
    """What the measurements do not settle, a line each."""
    lines = []
    for what, sigma in (("programming", fit.programming), ("read_noise", fit.read_noise)):
        if sigma is not None and sigma.unsettled:
            keys = ", ".join(f"{what}.{key}" for key in sigma.unsettled)
            lines.append(
                f"{keys}: the standard error is larger than the value, so the measurements do not tell it from 0; "
                "measure more cells, or take a simpler law"
            )
    drift = fit.drift
    if drift is not None and drift.nu_error > abs(drift.nu):
        lines.append("drift.exponent: the standard error is larger than the value; read the cells over a longer time")
    return lines


def plot_fit(fit: DeviceFit, path: Path) -> Path:
    """Data and fitted curves: error, read noise, drift, as far as they were fitted."""
    data = fit.measurements
    panels = [(_programming, True), (_reads, fit.read_noise is not None), (_drift, fit.drift is not None)]
    drawn = [draw for draw, applies in panels if applies]
    figure = Figure(figsize=(max(4.3 * len(drawn), 6), 3.9), layout="constrained")
    for axis, draw in zip(figure.subplots(1, len(drawn), squeeze=False)[0], drawn):
        draw(axis, fit)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{path.stem}: fitted to {Path(data.name).name}", fontsize=11, fontweight="bold")
    return write_atomic(path, lambda file: figure.savefig(file, dpi=130, format="png"))


def _spreads(axis: Axes, g: np.ndarray, square: np.ndarray, freedom: np.ndarray) -> None:
    """Root mean squares of groups of like conductance, with the 95 % interval of χ²."""
    for group in np.array_split(np.argsort(g, kind="stable"), min(BINS, len(set(g)))):
        n = freedom[group].sum()
        variance = square[group].sum() / n
        low, high = n * variance / chi2.ppf([(1 + LEVEL) / 2, (1 - LEVEL) / 2], n)
        at, sigma = float(np.mean(g[group])), variance**0.5
        axis.errorbar(at, sigma, [[sigma - low**0.5], [high**0.5 - sigma]], fmt="o", color="0.4", markersize=4)
    axis.errorbar([], [], [], fmt="o", color="0.4", markersize=4, label=f"measured, {LEVEL:.0%} interval")


def _programming(axis: Axes, fit: DeviceFit) -> None:
    data = fit.measurements
    ones = np.ones_like(fit.first_errors_uS)
    _spreads(axis, data.target_uS, fit.first_errors_uS**2, ones)
    g = np.linspace(data.target_uS.min(), data.target_uS.max(), 200)
    axis.plot(g, fit.programming(g), color=COLOURS[0], label=f"fit: {fit.programming.law}")
    if fit.read_noise is not None:
        axis.plot(g, np.hypot(fit.programming(g), fit.read_noise(g)), ":", color=COLOURS[0], label="with read noise")
    axis.set(xlabel="target G (µS)", ylabel="σ of the first read (µS)", ylim=(0, None))
    axis.set_title("programming error", fontsize=10)
    axis.legend(frameon=False, fontsize=8, loc="lower right")


def _reads(axis: Axes, fit: DeviceFit) -> None:
    assert fit.read_noise is not None
    _spreads(axis, fit.burst_level_uS, fit.burst_variance * fit.burst_freedom, fit.burst_freedom)
    g = np.linspace(0, fit.burst_level_uS.max(), 200)
    axis.plot(g, fit.read_noise(g), color=COLOURS[1], label=f"fit: {fit.read_noise.law}")
    axis.set(xlabel="G (µS)", ylabel="σ (µS)", ylim=(0, None))
    axis.set_title("read noise: reads close in time", fontsize=10)
    axis.legend(frameon=False, fontsize=8)


def _drift(axis: Axes, fit: DeviceFit) -> None:
    """Every read as a share of its cell's first ones; the fitted mean cell and the cells one s off it."""
    assert fit.drift is not None
    data, drift = fit.measurements, fit.drift
    first = (data.target_uS + fit.first_errors_uS)[data.programming]
    high = first > 0.25 * first.max()  # below it, read noise hides the rest
    axis.plot(data.time_s[high], data.read_uS[high] / first[high], ".", color="0.6", markersize=2, alpha=0.5)
    t = torch.logspace(np.log10(drift.t0_s), np.log10(drift.last_s), 200, dtype=torch.float64)
    flat = {key: {"law": "log", "slope": 0.0, "intercept": at, "min": at, "max": at} for key, at in _exponents(drift)}
    one = torch.ones_like(t)
    mean, low, upper = (
        DRIFT_LAWS["power"](one, one * xi, t, t0_s=drift.t0_s, unit_uS=1.0, **flat) for xi in (0, 1, -1)
    )
    axis.plot(t, mean, color=COLOURS[2], label=f"fit: ν = {drift.nu:.3g}, s = {drift.spread:.2g}")
    axis.fill_between(t, low, upper, color=COLOURS[2], alpha=0.3, linewidth=0, label="cells at ν ± s")
    axis.set(xscale="log", xlabel="time since the write (s)", ylabel="read / first reads")
    axis.set_title("drift, cells above a quarter of the range", fontsize=10)
    axis.legend(frameon=False, fontsize=8)


def _exponents(drift: FittedDrift) -> Iterator[tuple[str, float]]:
    yield "exponent", drift.nu
    yield "spread", drift.spread
