"""One matrix of cells: what is fixed in each of them, what was written, and what a read finds.

    written = clip(target + error) ,   G(t) = max(drift(written, t), 0) ,   stuck cells aside
    a read finds  G(t) + √ρ σ_f s  and draws afresh  N(0, σ_white² + a_telegraph² + (1 - ρ) σ_f²)

Ranges, faults and drift exponents are drawn once, at fixed addresses of the leg's own stream: a chip
built anew has the same, so no checkpoint holds them. What a write draws (its error, a drift's ξ, the
slow part s of 1/f noise) is at the address of that write, and is kept where cells are written one by one.
Targets lie within a cell's range; what a write leaves ends at 0, or with `programming_clip: range` at the ends of
that range. Drift, and noise at a read, are clipped at 0 alone. A law asked beyond the conductances it was
measured over (cells beyond the range) answers as at their nearer end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from analogsim.at_hand import Picked
from analogsim.backends import Backend
from analogsim.config.chip import ChipDescription
from analogsim.config.laws import Fitted, PowerDrift, Retention, Sigma, TableSigma, coefficients
from analogsim.config.writing import VerifyWrite
from analogsim.errors import ChipError
from analogsim.physics import flicker
from analogsim.physics.drift import DRIFT_LAWS
from analogsim.physics.faults import cell_ranges, stuck_cells
from analogsim.physics.programming import verified
from analogsim.physics.read_noise import SIGMA_LAWS, cell_variance
from analogsim.streams import Address, Stream


@dataclass(frozen=True)
class Found:
    """What a read finds: conductances in µS, and the variance of what it draws afresh, in µS²."""

    g: Tensor
    variance: Tensor | float | None

    def part(self, rows: slice, columns: slice) -> Found:
        """The same of some cells."""
        v = self.variance
        return Found(self.g[rows, columns], v[rows, columns] if isinstance(v, Tensor) else v)


class Leg:
    """Cells of one shape (columns, inputs). single: written one by one, so that each has a history of its own."""

    def __init__(
        self, shape: tuple[int, int], chip: ChipDescription, stream: Stream, backend: Backend, device: torch.device
    ):
        assert chip.cell is not None
        self.shape, self._chip, self._cell = shape, chip, chip.cell
        self._stream, self._backend, self._device = stream, backend, device
        self._verify = chip.write if isinstance(chip.write, VerifyWrite) else None
        self._timed = self._cell.drift is not None or self._cell.flicker is not None
        self._make()
        self.target = self.written = torch.empty(0, device=device)
        self._since: Tensor | float = 0.0
        self._oldest_s = 0.0  # no cell was written before
        self._xi: Tensor | None = self._normal("drift") if isinstance(self._cell.drift, PowerDrift) else None
        self._slow: Tensor | None = None

    def _make(self) -> None:
        """Draw what is fixed in every cell."""
        cell, faults = self._cell, self._cell.faults
        self._range: tuple[Tensor, Tensor] | None = None  # None: as designed
        if cell.g_max_d2d or cell.g_min_d2d_uS:
            self._range = cell_ranges(
                self._normal("g_min"),
                self._normal("g_max"),
                g_min_uS=cell.g_min_uS,
                g_max_uS=cell.g_max_uS,
                g_min_d2d_uS=cell.g_min_d2d_uS,
                g_max_d2d=cell.g_max_d2d,
            )
        self._stuck: tuple[Tensor, Tensor] | None = None
        if faults.stuck_low or faults.stuck_high or faults.stuck_random:
            u, where = self._uniform("stuck"), self._uniform("stuck where")
            low, high = self._range or (cell.g_min_uS, cell.g_max_uS)
            self._stuck = stuck_cells(u, where, low, high, **faults.model_dump())

    # --- write ----------------------------------------------------------------------------------

    @property
    def stuck_share(self) -> float:
        return 0.0 if self._stuck is None else float(self._stuck[0].float().mean())

    def place(self, target: Tensor, write: int, now_s: float, moved: Tensor | None = None) -> None:
        """All cells at their targets, (columns, inputs) in µS, by write number `write`: an ideal write.

        moved: cells whose age and history begin anew; None: all.
        """
        self.target = self.written = self._reachable(target)
        if moved is None:
            self._since = self._oldest_s = now_s
            self._draw_history(write)
        elif self._timed:
            picked = Picked.by(moved)
            if not isinstance(self._since, Tensor):
                self._since = torch.full(self.shape, self._since, dtype=torch.float64, device=self._device)
            picked.put(now_s, self._since)
            self._draw_history(write, picked)

    def program(self, target: Tensor, write: int, now_s: float) -> tuple[int | Tensor, int | Tensor]:
        """(cells written, tries): those whose target moved by more than the threshold, with verification."""
        assert self._verify is not None
        target, first = self._reachable(target), self.target.numel() == 0
        if first:
            self.target, self.written = target.clone(), torch.empty_like(target)
            self._since = torch.zeros(self.shape, dtype=torch.float64, device=self._device) if self._timed else now_s
            self._oldest_s = now_s
        threshold = -1.0 if first else self._verify.threshold_uS  # all of them
        due = Picked.by((target - self.target).abs() > threshold)
        if due.none:
            return 0, 0
        asked = due.of(target)
        law = self._cell.programming
        sigma = torch.zeros_like(asked) if law is None else sigma_of(law, asked)
        written, tries = verified(
            asked,
            sigma,
            lambda k: due.of(self._normal("programming", write, k)),
            self._verify.tolerance_uS,
            self._verify.max_tries if law is not None else 1,
        )
        if self._cell.programming_clip == "range":
            if self._range is None:
                written = written.clamp(self._cell.g_min_uS, self._cell.g_max_uS)
            else:
                written = written.clamp(due.of(self._range[0]), due.of(self._range[1]))
        due.put(asked, self.target)
        due.put(written, self.written)
        if isinstance(self._since, Tensor):
            due.put(now_s, self._since)
        self._draw_history(write, None if first else due)
        return due.count, due.total(tries)

    def _reachable(self, target: Tensor) -> Tensor:
        """The nearest a cell's own range allows."""
        if self._range is None:
            return target
        return torch.clamp(target, *self._range)

    def _draw_history(self, write: int, picked: Picked | None = None) -> None:
        """ξ of drift and s of 1/f noise begin anew in cells just written; None: all."""
        if self._cell.drift is not None and self._cell.drift.law == "log":
            self._xi = _renewed(self._xi, self._normal("drift", write), picked)
        if self._cell.flicker is not None:
            self._slow = _renewed(self._slow, self._normal("flicker", write), picked)

    def end_step(self, step: int, now_s: float, lag_s: float, step_s: float) -> None:
        """A step of step_s seconds passes over cells that stay as they are: the slow part moves on."""
        law = self._cell.flicker
        if law is None or self._slow is None:
            return
        age = self._age(now_s)
        rho = [flicker.correlation(tau, age, t_r_s=law.t_r_s) for tau in (lag_s, step_s)]
        xi = self._normal("wander", step)
        self._slow = flicker.next_slow(self._slow, xi, flicker.step_correlation(*rho))

    # --- read -----------------------------------------------------------------------------------

    def found(self, now_s: float, lag_s: float, noisy: bool) -> Found:
        """What a read at that time finds; passes of a sample follow each other by lag_s.

        Raises ChipError for a time outside what the drift law was measured over.
        """
        age = self._age(now_s)
        self._check_age(age, now_s)
        g = self._drifted(age)
        if self._stuck is not None:
            g = torch.where(self._stuck[0], self._stuck[1], g)
        if not noisy:
            return Found(g, None)
        cell, variance = self._cell, None
        for law in (cell.read_noise, cell.telegraph):
            if law is not None:
                variance = _sum(variance, cell_variance(within(g, law), law=law.law, **coefficients(law)))
        if cell.flicker is not None and self._slow is not None:
            rho = flicker.correlation(lag_s, age, t_r_s=cell.flicker.t_r_s)
            sigma = flicker.flicker_sigma(within(g, cell.flicker), age, **coefficients(cell.flicker))
            variance = _sum(variance, flicker.fast_variance(sigma, rho))
            g = g + flicker.slow_part(sigma, rho, self._slow)
        return Found(g, variance)

    def _age(self, now_s: float) -> Tensor | float:
        return self._chip.clock.t_first_read_s + (now_s - self._since)

    def _drifted(self, age: Tensor | float) -> Tensor:
        law, g = self._cell.drift, self.written
        if law is None:
            return g.clamp(min=0) if self._verify else g
        if isinstance(law, Retention):
            xi = self._programming_xi()
            g = (
                self.target
                if xi is None
                else DRIFT_LAWS[law.law](within(self.target, law), xi, age, **coefficients(law))
            )
        else:
            assert self._xi is not None
            g = g.clamp(min=0)
            measured = {"measured": within(g, law)} if isinstance(law, PowerDrift) else {}
            g = DRIFT_LAWS[law.law](g, self._xi, age, **coefficients(law), **measured)
        return g.clamp(min=0)

    def _programming_xi(self) -> Tensor | None:
        """ξ of the write, (G - G_target) / σ; an ideal write has none."""
        law = self._cell.programming
        if self._verify is None or law is None:
            return None
        sigma = sigma_of(law, self.target)
        return torch.where(sigma > 0, (self.written - self.target) / sigma, 0.0)

    def _check_age(self, age: Tensor | float, now_s: float) -> None:
        law = self._cell.drift
        valid, first_s = getattr(law, "valid_s", None), self._chip.clock.t_first_read_s
        if valid is None or (valid[0] <= first_s and first_s + (now_s - self._oldest_s) <= valid[1]):
            return  # whatever the ages are, they lie between these
        ends = (float(age.min()), float(age.max())) if isinstance(age, Tensor) else (age, age)
        for t in ends:
            if not valid[0] <= t <= valid[1]:
                raise ChipError(
                    f"chip {self._chip.name}: cell.drift, law {law.law}: t = {t:g} s since programming; "  # type: ignore[attr-defined]
                    f"allowed: {valid[0]:g} to {valid[1]:g} s, where it was measured"
                )

    # --- state ----------------------------------------------------------------------------------

    def state(self) -> dict[str, Tensor]:
        """What no address gives back, by reference."""
        held = {"slow": self._slow}
        if self._verify is not None:
            held |= {"target": self.target, "written": self.written}
        if self._chip.write.mode != "ideal" and self._cell.drift is not None and self._cell.drift.law == "log":
            held["xi"] = self._xi
        since = self._since
        held["since"] = since if isinstance(since, Tensor) else torch.tensor(since, dtype=torch.float64)
        return {name: tensor for name, tensor in held.items() if tensor is not None}

    def load(self, saved: Mapping[str, Tensor]) -> None:
        since = saved["since"].clone()
        self._since = since if since.ndim else float(since)
        self._oldest_s = float(since.min())
        if "slow" in saved:
            self._slow = saved["slow"].clone()
        if "xi" in saved:
            self._xi = saved["xi"].clone()
        if "target" in saved:
            self.target, self.written = saved["target"].clone(), saved["written"].clone()

    def _normal(self, name: str, step: int = 0, pass_index: int = 0) -> Tensor:
        return self._backend.normal(self._stream.child(name), Address(step, pass_index), *self.shape, self._device)

    def _uniform(self, name: str) -> Tensor:
        return torch.from_numpy(self._stream.child(name).uniform(Address(), *self.shape)).to(self._device)


def sigma_of(law: Sigma, g: Tensor) -> Tensor:
    """σ(G) in µS by a law of the chip file."""
    return SIGMA_LAWS[law.law](within(g, law), **coefficients(law))


def within(g: Tensor, law: Fitted) -> Tensor:
    """g moved into the range a law was fitted over: spread, error and drift may carry a cell out of it."""
    valid = (law.g_uS[0], law.g_uS[-1]) if isinstance(law, TableSigma) else law.valid_uS
    return g if valid is None else g.clamp(*valid)


def _renewed(held: Tensor | None, drawn: Tensor, picked: Picked | None) -> Tensor:
    if held is None or picked is None:
        return drawn
    picked.put(picked.of(drawn), held)
    return held


def _sum(one: Tensor | float | None, other: Tensor | float) -> Tensor | float:
    return other if one is None else one + other
