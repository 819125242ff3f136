"""Programming error: what a cell holds after a write is not what was asked for.

    G = G_target + σ(G_target) ξ ,   ξ ~ N(0, 1), one a write and cell                    (exact)

With verification a cell is written and checked again and again, at most n times, until

    |G - G_target| ≤ T

so G is normal cut off at ±T with probability 1 - q^n, and normal outside ±T, the last try kept, with
probability q^n; q = 2 Φ(-T/σ) is one try's chance to miss. The number of tries is geometric,
P(k tries) = q^(k-1) (1 - q) for k < n, and n with what is left.   (exact: the tries are drawn)

Clipping to what a cell can hold is the caller's, since every cell has a range of its own.
Source of the laws σ(G): the chip files name it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from analogsim.at_hand import at_hand


def programmed(target: Tensor, sigma: Tensor | float, xi: Tensor) -> Tensor:
    """G = target + σ ξ in µS, not clipped; xi in the shape of target, sigma of that shape or one number."""
    return target + sigma * xi


def verified(
    target: Tensor,
    sigma: Tensor | float,
    draw: Callable[[int], Tensor],
    tolerance_uS: float | None = None,
    max_tries: int = 1,
) -> tuple[Tensor, Tensor]:
    """(G in µS, not clipped; tries of every cell, int32).

    draw(k): the normals of try k = 0, 1, …, in the shape of target; called max_tries times, on the host only
    until all cells are accepted. tolerance_uS: T; None accepts the first try.
    """
    g = programmed(target, sigma, draw(0))
    tries = torch.ones_like(target, dtype=torch.int32)
    if tolerance_uS is None:
        return g, tries
    for k in range(1, max_tries):
        missed = (g - target).abs_() > tolerance_uS
        if at_hand(missed) and not bool(missed.any()):
            break
        g = torch.where(missed, programmed(target, sigma, draw(k)), g)
        tries += missed
    return g, tries
