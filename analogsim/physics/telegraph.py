"""Random telegraph noise: a state that jumps between two values.

A cell:   G ± a(G), each sign as likely, drawn afresh at every read

    y_i = Σ_j (G_ij + s_ij a_ij) x_j ,   mean G x ,  variance Σ_j a_ij² x_j²        (these two exact)

drawn as the Gaussian of that mean and variance, which it tends to with many cells: its excess
kurtosis is -2 Σ (a x)⁴ / (Σ (a x)²)², so -2/n over n like cells. a(G) is a law of physics/read_noise.py,
and its `cell_variance` is a²: it adds to the white read noise's.

A node:   v_k = mean + s_k a ,   s_k = ±1 ,   P(s_k ≠ s_{k-1}) = p

the two-state chain itself (exact), sample after sample: cor(v_i, v_{i+k}) = (1 - 2p)^k, and states
last a geometric number of samples, 1/p on average. Source of the node's:
stochastic magnetic tunnel junctions, arXiv 2412.12783 (p = 0.0809).
"""

from __future__ import annotations

import torch
from torch import Tensor


def fair_states(u: Tensor) -> Tensor:
    """±1, each as likely, from uniforms in [0, 1): of nodes before the first sample, or of cells at one read."""
    return torch.where(u < 0.5, 1.0, -1.0).to(u.dtype)


def node_states(before: Tensor, u: Tensor, flip_probability: float) -> Tensor:
    """States ±1 of every node at every sample, (samples, nodes): s_k = s_{k-1} (1 - 2 [u_k < p]).

    before: (nodes,) states before the first of these samples, the last row of the samples before;
    u: (samples, nodes) uniforms in [0, 1), samples in the order in which they are read.
    """
    flips = (u < flip_probability).cumsum(0, dtype=torch.int32)
    return before * (1 - 2 * (flips % 2)).to(u.dtype)


def node_noise(states: Tensor, *, amplitude: float, mean: float = 0.0) -> Tensor:
    """mean + s a, in pre-activation units."""
    return states * amplitude + mean
