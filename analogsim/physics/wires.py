"""IR drop: the wires of a tile take part of the voltage that the cells should see.

Input j drives row wire j at the first column, output i is held at 0 V below the last row and takes up
the current of column wire i; every wire has R = segment_ohm from the driver to the first cell, from
one cell to the next, and from the last cell to the sense amplifier. At cell (i, j), with row voltage
u, column voltage v and 1-based positions on the wires,

    (u_ij - u_{i-1,j}) / R + (u_ij - u_{i+1,j}) / R + G_ij (u_ij - v_ij) = 0 ,   u_{0,j} = x_j
    (v_ij - v_{i,j-1}) / R + (v_ij - v_{i,j+1}) / R - G_ij (u_ij - v_ij) = 0 ,   v_{i,in+1} = 0

The network is linear, so a read is y = G_eff x, with one matrix for all inputs. With differential
pairs each leg has its own. Conductances in µS, (out, in); resistances in Ω.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

if TYPE_CHECKING:  # a fifth of a second of every start, and few chips need it
    from scipy import sparse

SIEMENS = 1e-6  # of a µS
LEAF = 16  # cells of a block that is not cut any further
AT_ONCE = 32  # right-hand sides solved together: 512² cells take 128 MiB


def first_order(g: Tensor, segment_ohm: float) -> Tensor:
    """G_eff to first order in R, without a solve: every cell in series with the drops it shares.

        G_eff_ij = G_ij / (1 + δ_ij)          δ: `drops`; the cost is two cumulative sums

    Equal to the linear G_ij (1 - δ_ij) to first order; the error is of order R² in both. The linear form
    turns negative where δ > 1 (256 rows of 25 µS at 3 Ω); this one stays between 0 and G, is exact
    for a single cell, and comes 3 to 13 times nearer to `exact` (examples/ir_drop.py).
    """
    g64 = g.double()
    return (g64 / (1 + drops(g64, segment_ohm))).to(g.dtype)


def drops(g: Tensor, segment_ohm: float) -> Tensor:
    """δ_ij, the share of G_ij lost to the wires, to first order in R.

        δ_ij = R (a_ij + b_ij)
        a_ij = Σ_m min(i, m) G_mj ,   b_ij = Σ_n (N + 1 - max(j, n)) G_in          (1-based, N inputs)

    Derivation: to zeroth order cell (m, j) carries G_mj x_j, cell (i, n) G_in x_n. Row wire j has
    min(i, m) segments in common to the ways to cells i and m, so u_ij = x_j (1 - R a_ij). Column wire i
    has N + 1 - max(j, n) in common to the ways from cells j and n, so v_ij = R Σ_n (N + 1 - max(j, n)) G_in x_n;
    then Σ_j G_ij v_ij = R Σ_n G_in b_in x_n, for what two cells share is the same for both.
    """
    row = _from_the_end(g, 0).cumsum(0)  # current beyond a segment, summed over the segments before a cell
    return segment_ohm * SIEMENS * (row + _along_columns(g))


def noise_share(g: Tensor, segment_ohm: float) -> Tensor:
    """What reaches output i of a small change dG_ij, to first order in R: dy_i = share_ij dG_ij x_j.

        share_ij = 1 / (1 + R (a_ij + 2 b_ij))          a, b: `drops`

    The column wire counts twice: it lifts v_ij by b_ij R of an input (of inputs that are all alike), and the
    cells beside take b_ij R of the current that the cell hands on.
    """
    g64 = g.double()
    return (1 / (1 + drops(g64, segment_ohm) + segment_ohm * SIEMENS * _along_columns(g64))).to(g.dtype)


def _along_columns(g: Tensor) -> Tensor:
    """b_ij of `drops`."""
    return _from_the_end(g.cumsum(1), 1)


def _from_the_end(values: Tensor, dim: int) -> Tensor:
    """Sum of each entry and all after it."""
    return values.flip(dim).cumsum(dim).flip(dim)


def exact(g: np.ndarray, segment_ohm: float) -> np.ndarray:
    """G_eff by nodal analysis, (out, in) µS, float64; G itself for segment_ohm = 0. See `NodalSolver`."""
    return np.array(g, np.float64) if segment_ohm == 0 else NodalSolver(g, segment_ohm).effective


class NodalSolver:
    """The network of one tile, factorised once.

    g: (out, in) µS. segment_ohm: R > 0. The nodes' equations above, times R, are A p = x at the
    drivers' nodes, with A = Laplacian + R G symmetric: G_eff = E_outᵀ A⁻¹ E_in / R takes one solve for each
    output or for each input, whichever are fewer, once a programming; every read after is one product with it.
    One core, 256 x 256: 0.3 s to factorise, 1.7 s for the 256 solves of `effective`, 0.1 ms a vector read.
    """

    def __init__(self, g: np.ndarray, segment_ohm: float):
        from scipy import sparse
        from scipy.sparse.linalg import splu

        self._g, self._ohm = np.array(g, np.float64), segment_ohm
        outputs, inputs = self._g.shape
        rows = sparse.kron(_wire(outputs, tied=0), sparse.eye_array(inputs))
        columns = sparse.kron(sparse.eye_array(outputs), _wire(inputs, tied=inputs - 1))
        cell = sparse.diags_array(self._g.ravel() * (segment_ohm * SIEMENS))
        network = sparse.block_array([[rows + cell, -cell], [-cell, columns + cell]]).tocsr()
        order = _dissection(outputs, inputs)
        self._place = np.argsort(order).reshape(2, outputs, inputs)  # of the nodes u and v in the factorised order
        self._driven, self._sensed = self._place[0, 0], self._place[1, :, -1]  # next to drivers and amplifiers
        self._factors = splu(
            network[order][:, order].tocsc(),
            permc_spec="NATURAL",
            diag_pivot_thresh=0.0,
            options={"SymmetricMode": True},
        )

    def node_voltages(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(u, v) at every cell, (out, in) each, for one input vector x (in,); units of x."""
        source = np.zeros(2 * self._g.size)
        source[self._driven] = x
        u, v = self._factors.solve(source)[self._place]
        return u, v

    def read(self, x: np.ndarray) -> np.ndarray:
        """y (..., out) for input vectors x (..., in): G_eff x, in µS times the unit of x."""
        return x @ self.effective.T

    @cached_property
    def effective(self) -> np.ndarray:
        """G_eff, (out, in) µS."""
        from_inputs = len(self._driven) <= len(self._sensed)
        starts, ends = (self._driven, self._sensed) if from_inputs else (self._sensed, self._driven)
        answers = np.empty((len(starts), len(ends)))
        for first in range(0, len(starts), AT_ONCE):
            nodes = starts[first : first + AT_ONCE]
            sources = np.zeros((2 * self._g.size, len(nodes)))
            sources[nodes, np.arange(len(nodes))] = 1
            answers[first : first + AT_ONCE] = self._factors.solve(sources)[ends].T
        return (answers.T if from_inputs else answers) / (self._ohm * SIEMENS)


def _wire(cells: int, tied: int) -> sparse.sparray:
    """Laplacian of a wire of so many nodes, each segment 1, node `tied` with one more to a fixed voltage."""
    from scipy import sparse

    own = np.full(cells, 2.0)
    own[cells - 1 - tied] -= 1  # the open end
    links = sparse.diags_array(-np.ones(cells - 1), offsets=1, shape=(cells, cells))
    return sparse.diags_array(own) + links + links.T


def _dissection(outputs: int, inputs: int) -> np.ndarray:
    """An order of the 2 out in nodes that leaves few fill-ins: nested dissection of the rectangle of cells.

    Half by half, then the cut: only the row nodes on a line across the row wires, or the column nodes
    on one across the column wires, join its two sides. (Orders made from the matrix alone fill in up to
    four times more where many cells do not conduct.)
    """
    index = np.arange(2 * outputs * inputs).reshape(2, outputs, inputs)
    free, parts = np.ones_like(index, dtype=bool), []

    def take(block: tuple) -> np.ndarray:
        nodes = index[block][free[block]]
        free[block] = False
        return nodes

    def dissect(i0: int, i1: int, j0: int, j1: int) -> None:
        if (i1 - i0) * (j1 - j0) <= LEAF:
            parts.append(take(np.s_[:, i0:i1, j0:j1]))
            return
        if i1 - i0 >= j1 - j0:
            middle = (i0 + i1) // 2
            cut = take(np.s_[0, middle, j0:j1])
            halves = (i0, middle, j0, j1), (middle, i1, j0, j1)
        else:
            middle = (j0 + j1) // 2
            cut = take(np.s_[1, i0:i1, middle])
            halves = (i0, i1, j0, middle), (i0, i1, middle, j1)
        for half in halves:
            dissect(*half)
        parts.append(cut)

    dissect(0, outputs, 0, inputs)
    return np.concatenate(parts)
