"""IR drop: the nodal solver against hand-solved arrays and a dense solve of the same network, written anew
by stamping one resistor after another; the first-order model against the solver as R goes to 0.

    1 x 1    G / (1 + 2 R G)
    R -> R/2 divides the error of first order by 4, and leaves G itself at R = 0
"""

import numpy as np
import pytest
import torch

from analogsim.physics.wires import NodalSolver, drops, exact, first_order

SIZES = [(1, 1), (1, 2), (2, 1), (2, 2), (1, 7), (7, 1), (3, 5), (5, 3), (11, 13)]


def conductances(outputs, inputs, seed=0):
    return np.random.default_rng((seed, outputs, inputs)).uniform(0.1, 25, (outputs, inputs))


def dense(g, ohm):
    """G_eff by one resistor at a time: a dict of named nodes, a dense matrix, np.linalg.solve."""
    outputs, inputs = g.shape
    resistors = []
    for i in range(outputs):
        for j in range(inputs):
            here = ("row", i, j), ("column", i, j)
            resistors.append((*here, g[i, j] * 1e-6))
            resistors.append((here[0], ("row", i - 1, j) if i > 0 else ("driver", j), 1 / ohm))
            resistors.append((here[1], ("column", i, j + 1) if j + 1 < inputs else ("ground", i), 1 / ohm))
    number = {}
    for one, other, _ in resistors:
        for node in (one, other):
            if node[0] in ("row", "column"):
                number.setdefault(node, len(number))
    matrix, source = np.zeros((len(number),) * 2), np.zeros((len(number), inputs))
    for one, other, siemens in resistors:
        for node, far in ((one, other), (other, one)):
            if node in number:
                matrix[number[node], number[node]] += siemens
                if far in number:
                    matrix[number[node], number[far]] -= siemens
                elif far[0] == "driver":
                    source[number[node], far[1]] += siemens
    voltage = np.linalg.solve(matrix, source)
    return np.array([voltage[number["column", i, inputs - 1]] for i in range(outputs)]) / ohm * 1e6


# --- by hand: G in S times R, so that 1 S · 1 Ω stands for 1e6 µS · 1 Ω ------------------------------


def one_by_two(g, ohm):
    """One output, two inputs: c = cell and its row wire in series, s = the first of these and a column wire."""
    c1, c2 = g[0] / (1 + ohm * g[0])
    s = c1 / (1 + ohm * c1)
    return np.array([[s, c2]]) / (1 + ohm * (c2 + s))


def two_by_one(g, ohm):
    """Two outputs, one input: c = cell and its column wire, s = the second of these and a row wire."""
    c1, c2 = g[:, 0] / (1 + ohm * g[:, 0])
    s = c2 / (1 + ohm * c2)
    return np.array([[c1], [s]]) / (1 + ohm * (c1 + s))


def diagonal(g, ohm):
    """Two cells on wires of their own: three segments each, to the first output's first input and the last's last."""
    return np.diag(np.diag(g) / (1 + 3 * ohm * np.diag(g)))


def antidiagonal(g, ohm):
    """The cell nearest to driver and amplifier has two segments, the farthest four."""
    near, far = g[0, 1], g[1, 0]
    return np.array([[0, near / (1 + 2 * ohm * near)], [far / (1 + 4 * ohm * far), 0]])


HAND = {
    "1 x 1": ([[2.0]], 0.5, [[2 / 3]]),
    "1 x 2": ([[3.0, 0.7]], 0.4, one_by_two),
    "2 x 1": ([[3.0], [0.7]], 0.4, two_by_one),
    "2 x 2, diagonal": ([[3.0, 0], [0, 0.7]], 0.4, diagonal),
    "2 x 2, antidiagonal": ([[0, 3.0], [0.7, 0]], 0.4, antidiagonal),
    "2 x 2, all alike": ([[1.0, 1], [1, 1]], 1.0, [[7 / 44, 10 / 44], [6 / 44, 7 / 44]]),
    "2 x 2, in fractions": ([[1.0, 2], [3, 4]], 1.0, [[322 / 2191, 588 / 2191], [335 / 2191, 394 / 2191]]),
}


def check_hand(solved):
    for g, ohm, expected in HAND.values():
        g = np.array(g)
        if callable(expected):
            expected = expected(g, ohm)
        np.testing.assert_allclose(solved(g * 1e6, ohm), np.array(expected) * 1e6, rtol=1e-12, atol=1e-6)


def check_dense(solved):
    for shape in SIZES:
        g = conductances(*shape)
        for ohm in (0.47, 10.0, 1e4):
            np.testing.assert_allclose(solved(g, ohm), dense(g, ohm), rtol=1e-9, err_msg=f"{shape} {ohm} Ω")


def check_first_order(model, shape=(9, 14)):
    """The error at R, R/2, R/4, …: halving R divides it by 4, and its share of the drop goes to 0."""
    g = conductances(*shape)
    errors = [np.abs(model(torch.tensor(g), ohm).numpy() - exact(g, ohm)).max() for ohm in (8.0, 4.0, 2.0, 1.0)]
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert ((orders > 1.9) & (orders < 2.1)).all(), f"orders in R: {orders}"


def linear(g, ohm):
    return g * (1 - drops(g, ohm))


@pytest.mark.parametrize("name", HAND)
def test_hand_solved_arrays(name):
    g, ohm, expected = HAND[name]
    g = np.array(g)
    expected = expected(g, ohm) if callable(expected) else expected
    np.testing.assert_allclose(exact(g * 1e6, ohm), np.array(expected) * 1e6, rtol=1e-12, atol=1e-6)


def test_the_solver_is_the_dense_solve():
    check_dense(exact)


@pytest.mark.parametrize("model", [first_order, linear])
@pytest.mark.parametrize("shape", [(2, 2), (9, 14), (16, 3)])
def test_first_order_errs_by_R_squared(model, shape):
    check_first_order(model, shape)


def test_first_order_is_exact_for_one_cell():
    g = torch.tensor([[12.5]], dtype=torch.float64)
    np.testing.assert_allclose(first_order(g, 1e4), exact(g.numpy(), 1e4), rtol=1e-12)


def test_drops_by_their_sums():
    """δ by the double sums of the docstring, one term after another."""
    g, ohm = conductances(4, 3), 2.5
    outputs, inputs = g.shape
    expected = np.zeros_like(g)
    for i in range(outputs):
        for j in range(inputs):
            a = sum((min(i, m) + 1) * g[m, j] for m in range(outputs))
            b = sum((inputs - max(j, n)) * g[i, n] for n in range(inputs))
            expected[i, j] = ohm * 1e-6 * (a + b)
    np.testing.assert_allclose(drops(torch.tensor(g), ohm), expected, rtol=1e-12)


@pytest.mark.parametrize("shape", SIZES)
def test_without_resistance_the_matrix_is_the_conductances(shape):
    g = conductances(*shape)
    np.testing.assert_array_equal(exact(g, 0.0), g)
    np.testing.assert_array_equal(first_order(torch.tensor(g), 0.0), g)
    np.testing.assert_allclose(exact(g, 1e-9), g, rtol=1e-9)


def check_read(read, shape=(7, 7)):
    """One vector, and several at once, as the dense solve has them."""
    g = conductances(*shape)
    solver, x = NodalSolver(g, 3.0), np.random.default_rng(2).normal(size=(4, shape[1]))
    expected = x @ dense(g, 3.0).T
    np.testing.assert_allclose(read(solver, x), expected, rtol=1e-9)
    np.testing.assert_allclose(read(solver, x[0]), expected[0], rtol=1e-9)


@pytest.mark.parametrize("shape", [(6, 5), (5, 6), (7, 7), (1, 4)])
def test_a_read_is_the_dense_solve(shape):
    check_read(NodalSolver.read, shape)


READ_BUGS = {
    "wires: read the wrong way through": lambda solver, x: x @ solver.effective,
    "wires: read without wires": lambda solver, x: x @ solver._g.T,
}


@pytest.mark.parametrize("bug", READ_BUGS)
def test_the_read_test_catches(bug):
    with pytest.raises(AssertionError):
        check_read(READ_BUGS[bug])


def test_what_cells_carry_arrives():
    g = conductances(6, 5)
    solver, x = NodalSolver(g, 3.0), np.random.default_rng(2).normal(size=5)
    u, v = solver.node_voltages(x)
    np.testing.assert_allclose(((u - v) * g).sum(1), solver.read(x), rtol=1e-10)


def test_many_right_hand_sides_in_parts():
    """More outputs and inputs than are solved together, from the side of fewer inputs and of fewer outputs."""
    for shape in ((37, 50), (50, 37)):
        g = conductances(*shape)
        solver = NodalSolver(g, 5.0)
        for j in (0, 31, 32, shape[1] - 1):
            sensed = solver.node_voltages(np.eye(shape[1])[j])[1][:, -1] / 5e-6
            np.testing.assert_allclose(solver.effective[:, j], sensed, rtol=1e-9)


def test_cells_that_do_not_conduct():
    """Half of all cells at 0, as in one leg of a differential pair; and none that conducts."""
    g = conductances(13, 11) * (np.random.default_rng(3).random((13, 11)) < 0.5)
    np.testing.assert_allclose(exact(g, 10.0), dense(g, 10.0), rtol=1e-8)
    assert not exact(g * 0, 10.0).any()


def test_wires_only_take():
    """At any R no G_eff is negative, and no input gives and no output gets more than without wires.

    (A single G_eff_ij may exceed G_ij: current finds ways around a cell that conducts little.)
    """
    g = conductances(20, 20)
    for ohm in (1e-3, 1.0, 1e3, 1e6):
        for effective in (exact(g, ohm), first_order(torch.tensor(g), ohm).numpy()):
            assert (effective > 0).all()
            assert (effective.sum(0) < g.sum(0)).all()
            assert (effective.sum(1) < g.sum(1)).all()


def test_float32_and_strided_conductances():
    g = torch.tensor(conductances(8, 6), dtype=torch.float32)
    assert first_order(g, 2.0).dtype == torch.float32
    np.testing.assert_allclose(first_order(g.T.contiguous().T, 2.0), first_order(g, 2.0))
    np.testing.assert_allclose(exact(np.asfortranarray(g.numpy()), 2.0), exact(g.numpy(), 2.0), rtol=1e-12)
    np.testing.assert_allclose(exact(g.numpy()[::-1, ::2], 2.0), exact(g.numpy()[::-1, ::2].copy(), 2.0), rtol=1e-12)


# --- planted bugs ---------------------------------------------------------------------------------


SOLVER_BUGS = {
    "wires: counted twice": lambda g, ohm: exact(g, 2 * ohm),
    "wires: S for µS": lambda g, ohm: exact(g * 1e6, ohm) / 1e6,
    "wires: driven from the last column": lambda g, ohm: exact(g[::-1], ohm)[::-1],
    "wires: sensed above the first row": lambda g, ohm: exact(g[:, ::-1], ohm)[:, ::-1],
    "wires: rows and columns swapped": lambda g, ohm: exact(g.T, ohm).T,
    "wires: every input by itself": lambda g, ohm: np.hstack([exact(g[:, [j]], ohm) for j in range(g.shape[1])]),
    "wires: every output by itself": lambda g, ohm: np.vstack([exact(g[[i]], ohm) for i in range(g.shape[0])]),
    "wires: first order for exact": lambda g, ohm: first_order(torch.tensor(g), ohm).numpy(),
}


@pytest.mark.parametrize("bug", SOLVER_BUGS)
@pytest.mark.parametrize("check", [check_hand, check_dense])
def test_the_solver_tests_catch(bug, check):
    with pytest.raises(AssertionError):
        check(SOLVER_BUGS[bug])


def from_sums(sums):
    """First order with other sums for a and b."""
    return lambda g, ohm: g / (1 + ohm * 1e-6 * sums(g))


def row(g):
    return g.flip(0).cumsum(0).flip(0).cumsum(0)


def column(g):
    return g.cumsum(1).flip(1).cumsum(1).flip(1)


FIRST_ORDER_BUGS = {
    "first order: row wire forgotten": from_sums(column),
    "first order: column wire forgotten": from_sums(row),
    "first order: wires counted twice": from_sums(lambda g: 2 * (row(g) + column(g))),
    "first order: own cell not counted": from_sums(lambda g: row(g) + column(g) - g),
    "first order: driven from the last column": from_sums(lambda g: row(g.flip(0)).flip(0) + column(g)),
    "first order: sensed above the first row": from_sums(lambda g: row(g) + column(g.flip(1)).flip(1)),
    "first order: last wire segment forgotten": from_sums(lambda g: row(g) + column(g) - g.sum(1, keepdim=True)),
    "first order: drops added": lambda g, ohm: g * (1 + drops(g, ohm)),
}


@pytest.mark.parametrize("bug", FIRST_ORDER_BUGS)
def test_the_first_order_test_catches(bug):
    check_first_order(from_sums(lambda g: row(g) + column(g)))
    with pytest.raises(AssertionError):
        check_first_order(FIRST_ORDER_BUGS[bug])
