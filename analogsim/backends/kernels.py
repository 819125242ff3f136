"""Numba kernels of one sample's row and of many: noise, ADC and clipping in one pass over a crossbar's output.

Strict floating point (no fastmath, so no fused multiply-add) keeps every bit equal to the NumPy reference, and the 16
lanes of a block vectorise. A number depends on its address alone, whatever rows a call is given. Of NumPy arrays, and
without torch, so that they can be compiled while torch is imported (`compile_all`).
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import float32, int32, types, uint32, uint64
from numba.extending import intrinsic

from analogsim import streams
from analogsim.streams import BLOCK, LANES

P0, P1, P2, P3, P4, P5, P6, P7, P8 = streams.LOG_POLYNOMIAL
S0, S1, S2 = streams.SIN_POLYNOMIAL
C0, C1, C2 = streams.COS_POLYNOMIAL
LN2, ANGLE = streams.LN2, streams.ANGLE
HALF, ONE, MINUS_TWO = np.float32(0.5), np.float32(1), np.float32(-2)
M0, M1 = np.uint64(streams.M0), np.uint64(streams.M1)
W0, W1 = np.uint32(streams.W0), np.uint32(streams.W1)
SQRT_HALF_BITS = np.int32(streams.SQRT_HALF_BITS)
HIGH, LOW, EIGHT, LAST_BIT = np.uint64(32), np.uint64(0xFFFFFFFF), np.uint32(8), np.float32(2**-24)
EIGHTH, QUARTER, SIGN = np.uint32(1 << 29), np.uint32(1 << 30), np.uint32(1 << 31)  # of a turn; a float's sign
IN_QUADRANT = np.uint32(QUARTER - 1)

inlined: Any = numba.njit(inline="always", error_model="numpy")
compiled_once: Any = numba.njit(cache=True, nogil=True, error_model="numpy")


def _bitcast(to: Any, source: Any) -> Any:
    @intrinsic
    def cast(typingctx: Any, x: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.bitcast(args[0], context.get_value_type(to))

        return to(source), codegen

    return cast


as_int32, as_float32 = _bitcast(types.int32, types.float32), _bitcast(types.float32, types.int32)


@inlined
def _normal_pair(first, second):
    """`streams.normal_pair`, bit by bit; quadrant and signs are taken where they stand in the word."""
    bits = as_int32(float32(uint32(first | uint32(1))))
    exponent = int32(int32(bits - SQRT_HALF_BITS) >> int32(23))
    t = as_float32(int32(bits - int32(exponent << int32(23)))) - ONE
    p = P0
    p = p * t + P1
    p = p * t + P2
    p = p * t + P3
    p = p * t + P4
    p = p * t + P5
    p = p * t + P6
    p = p * t + P7
    p = p * t + P8
    t2 = t * t
    log_u = (t + (t * t2 * p - HALF * t2)) + float32(int32(exponent - int32(32))) * LN2
    radius = np.sqrt(MINUS_TWO * log_u)

    turned = uint32(second + EIGHTH)  # the quadrant in the two highest bits
    angle = float32(int32(int32(turned & IN_QUADRANT) - int32(EIGHTH))) * ANGLE
    z = angle * angle
    s = ((S0 * z + S1) * z + S2) * z * angle + angle
    c = ((C0 * z + C1) * z + C2) * (z * z) - HALF * z + ONE
    odd = uint32(turned & QUARTER) != uint32(0)
    cosine = as_int32(s if odd else c) ^ int32(uint32(turned + QUARTER) & SIGN)
    sine = as_int32(c if odd else s) ^ int32(turned & SIGN)
    return radius * as_float32(int32(cosine)), radius * as_float32(int32(sine))


@inlined
def _words(counter, sample, step, pass_index, key0, key1):
    """`streams.philox`. Words stay in 64 bits, whatever is above the lower 32: a vector multiplies only these."""
    c0, c1, c2, c3 = uint64(counter), uint64(sample), uint64(step), uint64(pass_index)
    k0, k1 = key0, key1
    for _ in range(streams.ROUNDS):
        p0, p1 = (c0 & LOW) * M0, (c2 & LOW) * M1
        c0, c1, c2, c3 = (p1 >> HIGH) ^ c1 ^ uint64(k0), p1, (p0 >> HIGH) ^ c3 ^ uint64(k1), p0
        k0, k1 = uint32(k0 + W0), uint32(k1 + W1)
    return uint32(c0), uint32(c1), uint32(c2), uint32(c3)


@compiled_once
def _normal_row(z, sample, step, pass_index, key0, key1):
    """Fill z, a whole number of blocks long, with the normals of one sample."""
    for block in range(len(z) // BLOCK):
        for lane in range(LANES):
            c0, c1, c2, c3 = _words(uint32(block * LANES + lane), sample, step, pass_index, key0, key1)
            z0, z1 = _normal_pair(c0, c1)
            z2, z3 = _normal_pair(c2, c3)
            at = block * BLOCK + lane
            z[at], z[at + LANES], z[at + 2 * LANES], z[at + 3 * LANES] = z0, z1, z2, z3


@compiled_once
def _uniform_row(u, sample, step, pass_index, key0, key1):
    """Fill u, a whole number of blocks long, with the uniforms of one sample."""
    for block in range(len(u) // BLOCK):
        for lane in range(LANES):
            w0, w1, w2, w3 = _words(uint32(block * LANES + lane), sample, step, pass_index, key0, key1)
            at = block * BLOCK + lane
            u[at] = float32(int32(w0 >> EIGHT)) * LAST_BIT
            u[at + LANES] = float32(int32(w1 >> EIGHT)) * LAST_BIT
            u[at + 2 * LANES] = float32(int32(w2 >> EIGHT)) * LAST_BIT
            u[at + 3 * LANES] = float32(int32(w3 >> EIGHT)) * LAST_BIT


@compiled_once
def _output_row(row, y, z, sigma, variance, lsb, levels):
    """The output stage of one sample, from its normals z."""
    for position in range(y.shape[1]):
        out = y[row, position]
        units = len(out)
        noise = z[position * units : (position + 1) * units]  # z[at + j], signed, would be gathered
        std = sigma[row, position] if sigma.size > 0 else float32(0)
        if variance.size > 0:
            v = variance[row, position]
            for j in range(units):
                out[j] += np.sqrt(std * std + v[j]) * noise[j]
        elif sigma.size > 0:
            for j in range(units):
                out[j] += std * noise[j]
        if lsb.size > 0:
            size = lsb[row, position]
            for j in range(units):
                out[j] = min(max(np.rint(out[j] / size), -levels), levels) * size


@compiled_once
def normal_rows(first, last, out, first_sample, step, pass_index, key0, key1):
    outputs = out.shape[1]
    z = np.empty(-(-outputs // BLOCK) * BLOCK, np.float32)
    for row in range(first, last):
        _normal_row(z, uint32(first_sample + uint64(row)), step, pass_index, key0, key1)
        for j in range(outputs):
            out[row, j] = z[j]


@compiled_once
def uniform_rows(first, last, out, first_sample, step, pass_index, key0, key1):
    outputs = out.shape[1]
    u = np.empty(-(-outputs // BLOCK) * BLOCK, np.float32)
    for row in range(first, last):
        _uniform_row(u, uint32(first_sample + uint64(row)), step, pass_index, key0, key1)
        for j in range(outputs):
            out[row, j] = u[j]


@compiled_once
def output_rows(first, last, y, sigma, variance, lsb, levels, first_sample, step, pass_index, key0, key1):
    """In place; an empty sigma, variance or lsb means there is none."""
    noisy = sigma.size > 0 or variance.size > 0
    z = np.empty(-(-y.shape[1] * y.shape[2] // BLOCK) * BLOCK if noisy else 0, np.float32)
    for row in range(first, last):
        if noisy:
            _normal_row(z, uint32(first_sample + uint64(row)), step, pass_index, key0, key1)
        _output_row(row, y, z, sigma, variance, lsb, levels)


def compile_all() -> None:
    """Compile what a training calls, or fetch it from Numba's cache."""
    row, rows, words = types.float32[:, ::1], types.float32[:, :, ::1], (uint64, uint32, uint32, uint32, uint32)
    output_rows.compile((types.int64, types.int64, rows, row, rows, row, float32, *words))
    normal_rows.compile((types.int64, types.int64, row, *words))
