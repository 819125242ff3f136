"""Weights as pairs of conductances.

    W = (G⁺ - G⁻) / s ,   s = (G_max - G_min) / w_max      [µS per unit of weight]
    G⁺ = G_min + s max(W, 0) ,   G⁻ = G_min + s max(-W, 0)

One leg carries the weight, the other idles at G_min; the idle leg's noise counts too.
"""

from __future__ import annotations

from torch import Tensor


def conductance_per_weight(weight_max: float, g_min_uS: float, g_max_uS: float) -> float:
    """s, in µS per unit of weight."""
    return (g_max_uS - g_min_uS) / weight_max


def differential_pair(weight: Tensor, weight_max: float, g_min_uS: float, g_max_uS: float) -> tuple[Tensor, Tensor]:
    """(G⁺, G⁻) in µS for a weight matrix within ±weight_max; same shape as `weight`."""
    scale = conductance_per_weight(weight_max, g_min_uS, g_max_uS)
    return weight.clamp(min=0) * scale + g_min_uS, weight.clamp(max=0) * -scale + g_min_uS
