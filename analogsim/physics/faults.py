"""Cells that differ from what was designed: stuck ones, and ranges that spread from cell to cell.

    stuck:  P(at G_min) = p_low ,  P(at G_max) = p_high ,  P(at U(G_min, G_max)) = p_random
    range:  G_min,c = max(G_min + s ξ, 0) ,   G_max,c = max(G_max (1 + d ξ'), G_min,c + 0.01 (G_max - G_min))

independent over cells, drawn once when a chip is made (exact). The last maximum keeps every cell's
range open: one drawn with less than a hundredth of the nominal range gets that hundredth.
Stuck cells as in Gong & Rasch, IEDM 2022.
"""

from __future__ import annotations

import torch
from torch import Tensor

LEAST_RANGE = 0.01  # of the nominal range


def stuck_cells(
    u: Tensor,
    where: Tensor,
    g_min_uS: Tensor | float,
    g_max_uS: Tensor | float,
    *,
    stuck_low: float = 0.0,
    stuck_high: float = 0.0,
    stuck_random: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """(which cells are stuck, the conductance in µS those hold; of no meaning for the others).

    u: uniforms in [0, 1) that decide which; where: as many that place the stuck_random ones.
    g_min_uS, g_max_uS: the range, one for all or one a cell. All results in the shape of u.
    """
    held = torch.where(u < stuck_low + stuck_high, g_max_uS, g_min_uS + where * (g_max_uS - g_min_uS))
    held = torch.where(u < stuck_low, g_min_uS, held)
    return u < stuck_low + stuck_high + stuck_random, held


def cell_ranges(
    xi_min: Tensor,
    xi_max: Tensor,
    *,
    g_min_uS: float,
    g_max_uS: float,
    g_min_d2d_uS: float = 0.0,
    g_max_d2d: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """(G_min, G_max) of every cell in µS; xi_min, xi_max: standard normals, one a cell each."""
    low = (g_min_uS + g_min_d2d_uS * xi_min).clamp_(min=0)
    high = g_max_uS + g_max_uS * g_max_d2d * xi_max
    return low, torch.maximum(high, low + LEAST_RANGE * (g_max_uS - g_min_uS))
