"""Weights as conductances, and back.

    pair     G⁺ = G_min + s max(W, 0) ,  G⁻ = G_min + s max(-W, 0) ,  W = (G⁺ - G⁻) / s ,  s = (G_max - G_min) / w_max
    single   G = G_mid + s W ,  W = (G - G_mid) / s ,  s = (G_max - G_min) / (2 w_max) ,  G_mid = (G_min + G_max) / 2

s in µS per unit of weight. In a pair one leg carries the weight and the other idles at G_min; the idle
leg's noise counts too. Single cells are read against a reference column of cells at G_mid, or G_mid Σ x
is taken off digitally. A conductance may be spelt over n cells of b bits, each in a column of its own:

    q = round((2^(b n) - 1) (G - G_min) / (G_max - G_min)) = Σ_k 2^(b k) q_k ,   k = 0 … n - 1
    G_k = G_min + (G_max - G_min) q_k / (2^b - 1) ,   G ≈ Σ_k f_k G_k ,   f_k = 2^(b k) (2^b - 1) / (2^(b n) - 1)

The shares f_k sum to 1: each column alone reads as a weight matrix of full range.
"""

from __future__ import annotations

import torch
from torch import Tensor


def conductance_per_weight(
    weight_max: Tensor | float, g_min_uS: float, g_max_uS: float, single: bool = False
) -> Tensor | float:
    """s, in µS per unit of weight, in the shape of weight_max."""
    return (g_max_uS - g_min_uS) / (weight_max * 2 if single else weight_max)


def differential_pair(
    weight: Tensor, weight_max: Tensor | float, g_min_uS: float, g_max_uS: float
) -> tuple[Tensor, Tensor]:
    """(G⁺, G⁻) in µS for a weight matrix within ±weight_max (which broadcasts); same shape as `weight`."""
    scale = conductance_per_weight(weight_max, g_min_uS, g_max_uS)
    return weight.clamp(min=0) * scale + g_min_uS, weight.clamp(max=0) * -scale + g_min_uS


def single_cells(weight: Tensor, weight_max: Tensor | float, g_min_uS: float, g_max_uS: float) -> Tensor:
    """G in µS for a weight matrix within ±weight_max (which broadcasts); same shape as `weight`."""
    scale = conductance_per_weight(weight_max, g_min_uS, g_max_uS, single=True)
    return weight * scale + (g_min_uS + g_max_uS) / 2


def spelt(g: Tensor, g_min_uS: float, g_max_uS: float, bits: int, cells: int) -> Tensor:
    """(n, *g.shape): G_k of every cell, least share first. g outside the range counts as its end."""
    fraction = (g.double() - g_min_uS) / (g_max_uS - g_min_uS)
    q = (fraction.clamp(0, 1) * (2 ** (bits * cells) - 1)).round().long()
    digits = torch.stack([q >> bits * k & 2**bits - 1 for k in range(cells)])
    return (digits.double() * ((g_max_uS - g_min_uS) / (2**bits - 1)) + g_min_uS).to(g.dtype)


def shares(bits: int, cells: int) -> tuple[float, ...]:
    """f_k, least first."""
    return tuple(2 ** (bits * k) * (2**bits - 1) / (2 ** (bits * cells) - 1) for k in range(cells))
