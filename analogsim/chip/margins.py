"""How a crossbar's noise stands to its ADC's step, and what its ADCs cut off; for warnings alone.

    y = Σ_c f_c ADC(v_c + n_c) + n_after ,   σ² = Σ_c f_c² σ_c² ,   step² = Σ_c f_c² lsb_c²

over the conversions c of an output: rows of tiles, weight slices, input slices. step²/12 is the variance of the
sum's rounding, and of one conversion step is its lsb.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from analogsim.chip.crossbar import Crossbar
from analogsim.physics.converters import largest_code
from analogsim.streams import Address


def noise_and_step(crossbar: Crossbar, x: Tensor, besides: float = 0.0) -> tuple[float, float, float]:
    """(σ ahead of the ADCs, σ added after them, ADC step, 0 without one) of an output, rms over these vectors.

    x: (batch, positions, inputs). besides: σ of what comes to the nodes from elsewhere; like the nodes' own noise it is
    added after, where an output takes several conversions.
    """
    after = math.hypot(besides, crossbar.description.node_noise.sigma if crossbar._noisy else 0.0)
    ahead, after = (besides, 0.0) if crossbar._whole else (0.0, after)  # a whole tile draws its nodes' noise itself
    total = torch.zeros(2, crossbar.weight.shape[0], dtype=torch.float64, device=crossbar.weight.device)
    shares = total.new_tensor(crossbar.cells.planes).square()
    for tile, ones in zip(crossbar._tiles, crossbar._currents(x, Address())):
        for one in ones:
            squares = tile.squares(one).view(2, len(shares), -1) * one.share**2
            total[:, tile.columns] += torch.einsum("nkc,k->nc", squares, shares)
    variance, step = total.mean(1).tolist()
    return math.sqrt(variance + ahead**2), after, math.sqrt(step)


def saturated_share(crossbar: Crossbar, x: Tensor) -> float:
    """Share of ADC conversions of these vectors cut off by more than half a step, noise apart."""
    adc = crossbar.description.adc
    if adc is None or not len(x):
        return 0.0
    end, beyond, converted = largest_code(adc.bits) + 0.5, 0, 0
    for one in (one for ones in crossbar._currents(x, Address()) for one in ones):
        assert one.lsb is not None
        beyond += int((one.y.abs() > end * one.lsb[..., None]).sum())
        converted += one.y.numel()
    return beyond / converted
