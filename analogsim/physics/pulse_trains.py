"""Pulses sent to a crossbar: trains from an outer product's factors, or whole pulses of a dense update.

    P(pulse of input j in a slot) = min(1, c_x |x_j|) ,   P(pulse of error i) = min(1, c_d |d_i|)
    c_x c_d = η / (n dw_min) ,   c_x max|x| = c_d max|d| ,   n = clip(⌈η max|x| max|d| / dw_min⌉, 1, BL)

for each sample, over n slots. Where both pulses meet, cell (i, j) gets one pulse, up if d_i x_j < 0, so that
E[Σ pulses] dw_min = -η Σ_b d x as long as no probability is cut at 1. Rows and columns fire independently
of one another; the cells of a row share its pulses, and their counts correlate, as on the chip. Exact.
Source: Gokmen & Vlasov 2016 (the trains); Gokmen et al. 2017 (balanced gains, n by need), as in aihwkit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from analogsim.at_hand import at_hand

CHUNK_NUMBERS = 2**24  # uniforms held at once


class Trains(NamedTuple):
    """How each sample's factors become pulses: gains c_x and c_d, and slots n, each (batch,)."""

    input_gain: Tensor
    error_gain: Tensor
    slots: Tensor


def plan_trains(inputs: Tensor, errors: Tensor, lr: float, dw_min: float, train_length: int) -> Trains:
    """c_x, c_d and n of every sample; n = 0 where a sample's inputs or errors are all 0.

    inputs: x (batch, in). errors: d (batch, out). lr: η > 0. train_length: BL, the most slots.
    """
    largest_x, largest_d = inputs.abs().amax(1), errors.abs().amax(1)
    wanted = lr / dw_min * largest_x.double() * largest_d.double()  # pulses of the cell that gets most
    slots = torch.where(wanted > 0, wanted.ceil().clamp(1, train_length), 0.0)
    common = (lr / dw_min / slots.clamp(min=1)).sqrt()
    balance = (largest_d.double() / largest_x.double()).sqrt().nan_to_num(0.0, 0.0)
    inverse = (largest_x.double() / largest_d.double()).sqrt().nan_to_num(0.0, 0.0)
    return Trains((common * balance).float(), (common * inverse).float(), slots.long())


def coincidences(
    inputs: Tensor, errors: Tensor, trains: Trains, input_uniforms: Tensor, error_uniforms: Tensor
) -> tuple[Tensor, Tensor]:
    """(up, down): the pulses every cell gets, (out, in) whole numbers, float32 (exact to 2^24).

    input_uniforms: (batch, slots, in) in [0, 1); error_uniforms: (batch, slots, out); slots ≥ max n.
    """
    slot = torch.arange(input_uniforms.shape[1], device=inputs.device)
    open_slot = (slot < trains.slots[:, None])[..., None]
    fires_x = (input_uniforms < (inputs.abs() * trains.input_gain[:, None])[:, None]) & open_slot
    fires_d = error_uniforms < (errors.abs() * trains.error_gain[:, None])[:, None]
    signed_x = (fires_x * inputs.sign()[:, None]).flatten(0, 1)
    signed_d = (fires_d * errors.sign()[:, None]).flatten(0, 1)
    all_pulses = signed_d.abs().T @ signed_x.abs()
    down_less_up = signed_d.T @ signed_x
    return (all_pulses - down_less_up) / 2, (all_pulses + down_less_up) / 2


def pulse_trains(
    inputs: Tensor,
    errors: Tensor,
    lr: float,
    dw_min: float,
    train_length: int,
    draw: Callable[[str, int, int, int], Tensor],
) -> tuple[Tensor, Tensor]:
    """(up, down) counts of one update W <- W - η Σ_b d_b x_bᵀ, (out, in) whole numbers, float32.

    draw: (factor, first, samples, numbers) -> (samples, numbers) uniforms in [0, 1), factor "inputs" or
    "errors": row i belongs to sample first + i, and the first numbers of a row are the same however
    many are asked for, so that cutting the batch changes nothing. Memory stays below about
    2^24 uniforms a chunk, whatever the batch.
    """
    trains = plan_trains(inputs, errors, lr, dw_min, train_length)
    up = errors.new_zeros(errors.shape[1], inputs.shape[1])
    down = torch.zeros_like(up)
    chunk = max(1, CHUNK_NUMBERS // (train_length * (inputs.shape[1] + errors.shape[1])))
    for first in range(0, len(inputs), chunk):
        part = slice(first, first + chunk)
        here = Trains(*(values[part] for values in trains))
        samples = len(here.slots)
        slots = int(here.slots.max()) if at_hand(up) else train_length
        if slots:
            uniforms = (
                draw(name, first, samples, slots * factor.shape[1]).view(samples, slots, factor.shape[1])
                for name, factor in (("inputs", inputs), ("errors", errors))
            )
            more_up, more_down = coincidences(inputs[part], errors[part], here, *uniforms)
            up += more_up
            down += more_down
    return up, down


def dense_pulses(change: Tensor, dw_min: float, shadow: Tensor, max_pulses: int) -> tuple[Tensor, Tensor]:
    """(pulses, new shadow) of a dense update: n = clip(trunc(χ / dw_min), ±max_pulses), χ <- χ - n dw_min.

    change: what is to be added to w. shadow: χ, what earlier changes left over, of the same shape; the
    new one holds both. pulses: whole numbers, float32, negative downwards. What exceeds max_pulses stays in
    the shadow. Deterministic; bias-free over time, since nothing is thrown away.
    """
    shadow = shadow + change
    pulses = torch.trunc(shadow / dw_min).clamp_(-max_pulses, max_pulses)
    return pulses, shadow - pulses * dw_min
