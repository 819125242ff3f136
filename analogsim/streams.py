"""Random numbers as pure functions of their address, the NumPy reference.

    word(key, counter) = Philox4x32-10                                  (Salmon et al., SC 2011)
    counter = (64-output block and lane, sample, step, pass),  key = SHA-256 of the stream's name
    z = sqrt(-2 ln u1) (cos 2π u2, sin 2π u2)                                       (Box-Muller)

The transform uses float32 + − × and a correctly rounded square root alone, in a fixed order, so
that NumPy, Numba, torch and a GPU give the same bits. No generator keeps state: any part of a
stream can be drawn by anyone, in any order. Outputs go in blocks of 64: output j takes word
(j mod 64) // 16 of lane j mod 16, so that 16 lanes fill four contiguous vectors.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from analogsim.errors import ArgumentError

if TYPE_CHECKING:
    from torch import Tensor

LANES = 16  # counters a block; each gives four words, so a block is 64 outputs
BLOCK = 4 * LANES

# Philox4x32: round multipliers and key increments (Salmon et al. 2011, section 4.2).
M0, M1 = 0xD2511F53, 0xCD9E8D57
W0, W1 = 0x9E3779B9, 0xBB67AE85
ROUNDS = 10

# ln(1+t), |t| ≤ 0.42, sin and cos on ±π/4: the minimax polynomials of Cephes (Moshier),
# single precision, highest power first.
f32 = np.float32
LOG_POLYNOMIAL = tuple(
    f32(c)
    for c in (
        7.0376836292e-2,
        -1.1514610310e-1,
        1.1676998740e-1,
        -1.2420140846e-1,
        1.4249322787e-1,
        -1.6668057665e-1,
        2.0000714765e-1,
        -2.4999993993e-1,
        3.3333331174e-1,
    )
)
SIN_POLYNOMIAL = (f32(-1.9515295891e-4), f32(8.3321608736e-3), f32(-1.6666654611e-1))
COS_POLYNOMIAL = (f32(2.443315711809948e-5), f32(-1.388731625493765e-3), f32(4.166664568298827e-2))
LN2 = f32(0.6931471805599453)
ANGLE = f32(2 * np.pi / 2**32)
SQRT_HALF_BITS = 0x3F3504F3  # float32 bits of sqrt(1/2): mantissas are taken in [sqrt(1/2), sqrt(2))


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


class HeldStep(int):
    """A step number that lies in a device's memory as well, where torch and Triton kernels read it.

    held: one int64, the same number. Work that was recorded is played again with another number there
    (training/captured.py). What is computed from a HeldStep is a plain int, of which kernels see the value alone.
    """

    held: Tensor

    def __new__(cls, number: int, held: Tensor) -> HeldStep:
        step = super().__new__(cls, number)
        step.held = held
        return step


@dataclass(frozen=True)
class Address:
    """Where in a stream a pass's numbers begin: step, pass within the step, first sample."""

    step: int = 0
    pass_index: int = 0
    first_sample: int = 0

    def __post_init__(self) -> None:
        for name in ("step", "pass_index", "first_sample"):
            value = getattr(self, name)
            if not _is_whole(value) or not 0 <= value < 2**32:
                raise ArgumentError(name, value, "a whole number, 0 to 4294967295")


@dataclass(frozen=True)
class Stream:
    """A named stream; `child` names a part of it. The way back up is one-way (SHA-256)."""

    digest: bytes = field(repr=False)

    @classmethod
    def from_seed(cls, seed: int) -> Stream:
        """seed: any whole number ≥ 0."""
        if not _is_whole(seed) or seed < 0:
            raise ArgumentError("seed", seed, "a whole number, 0 or more")
        return cls(hashlib.sha256(b"analogsim/" + str(seed).encode()).digest())

    def child(self, *names: str | int) -> Stream:
        """The stream of that name below this one, as in `chip.child("read noise", layer)`."""
        digest = self.digest
        for name in names:
            if not (isinstance(name, str) or _is_whole(name)):  # NumPy's 1 would name another stream than 1
                raise ArgumentError("name", name, "a text or a whole number")
            digest = hashlib.sha256(digest + f"/{type(name).__name__}:{name}".encode()).digest()
        return Stream(digest)

    @property
    def key(self) -> tuple[int, int]:
        """The two 32-bit words of the Philox key."""
        return int.from_bytes(self.digest[:4], "little"), int.from_bytes(self.digest[4:8], "little")

    def words(self, address: Address, rows: int, blocks: int) -> tuple[np.ndarray, ...]:
        """Four arrays (rows, blocks * 16) of uint32: the words of every counter of those rows."""
        lanes = np.arange(blocks * LANES, dtype=np.uint32)[None, :]
        samples = np.arange(address.first_sample, address.first_sample + rows, dtype=np.uint64)
        shape = (rows, blocks * LANES)
        counter = (
            np.broadcast_to(lanes, shape),
            np.broadcast_to(samples.astype(np.uint32)[:, None], shape),
            np.full(shape, address.step, np.uint32),
            np.full(shape, address.pass_index, np.uint32),
        )
        return philox(counter, self.key)

    def normal(self, address: Address, rows: int, outputs: int) -> np.ndarray:
        """(rows, outputs) float32 ~ N(0, 1): row i is sample first_sample + i."""
        blocks = -(-outputs // BLOCK)
        w0, w1, w2, w3 = self.words(address, rows, blocks)
        z = np.stack([*normal_pair(w0, w1), *normal_pair(w2, w3)], axis=1)  # (rows, word, lanes)
        z = z.reshape(rows, 4, blocks, LANES).transpose(0, 2, 1, 3).reshape(rows, blocks * BLOCK)
        return np.ascontiguousarray(z[:, :outputs])

    @property
    def of_uniforms(self) -> Stream:
        """The stream whose words `uniform` takes."""
        return Stream(hashlib.sha256(self.digest + b"#uniform").digest())

    def uniform(self, address: Address, rows: int, outputs: int) -> np.ndarray:
        """(rows, outputs) float32 ~ U[0, 1), multiples of 2^-24: row i is sample first_sample + i.

        From words of its own, so independent of `normal` at the same address; laid out alike.
        """
        blocks = -(-outputs // BLOCK)
        words = np.stack(self.of_uniforms.words(address, rows, blocks), axis=1)  # (rows, word, lanes)
        words = words.reshape(rows, 4, blocks, LANES).transpose(0, 2, 1, 3).reshape(rows, blocks * BLOCK)
        return (words[:, :outputs] >> np.uint32(8)).astype(np.float32) * f32(2**-24)

    def permutation(self, n: int, step: int = 0) -> np.ndarray:
        """A permutation of range(n): the order of n 64-bit words of this stream."""
        w0, w1, _, _ = self.words(Address(step), 1, -(-n // LANES))
        keys = (w0.astype(np.uint64) << np.uint64(32) | w1)[0, :n]
        return np.argsort(keys, kind="stable")


def philox(counter: tuple[np.ndarray, ...], key: tuple[int, int]) -> tuple[np.ndarray, ...]:
    """Philox4x32-10 of four uint32 counter arrays of one shape; returns four word arrays."""
    c0, c1, c2, c3 = (np.asarray(c, np.uint32) for c in counter)
    k0, k1 = key
    for _ in range(ROUNDS):
        p0, p1 = c0.astype(np.uint64) * np.uint64(M0), c2.astype(np.uint64) * np.uint64(M1)
        high0, low0 = (p0 >> np.uint64(32)).astype(np.uint32), p0.astype(np.uint32)
        high1, low1 = (p1 >> np.uint64(32)).astype(np.uint32), p1.astype(np.uint32)
        c0, c1, c2, c3 = high1 ^ c1 ^ np.uint32(k0), low1, high0 ^ c3 ^ np.uint32(k1), low0
        k0, k1 = (k0 + W0) & 0xFFFFFFFF, (k1 + W1) & 0xFFFFFFFF
    return c0, c1, c2, c3


def normal_pair(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two independent standard normals from two uint32 words, float32; |z| ≤ 6.7.

    Within 2.5e-7 sqrt(-2 ln u1) of the exact transform in float64 (tests/test_streams.py).
    """
    # u1 = (first | 1) / 2^32 in (0, 1], rounded to float32: small u1, the tails, lose nothing.
    bits = (first | np.uint32(1)).astype(np.float32).view(np.int32)
    exponent = (bits - np.int32(SQRT_HALF_BITS)) >> np.int32(23)
    t = (bits - (exponent << np.int32(23))).view(np.float32) - f32(1)
    p = np.full_like(t, LOG_POLYNOMIAL[0])
    for coefficient in LOG_POLYNOMIAL[1:]:
        p = p * t + coefficient
    t2 = t * t
    log_u = (t + (t * t2 * p - f32(0.5) * t2)) + (exponent - np.int32(32)).astype(np.float32) * LN2
    radius = np.sqrt(f32(-2) * log_u)

    quadrant = ((second + np.uint32(0x20000000)) >> np.uint32(30)).astype(np.uint32)
    angle = (second - (quadrant << np.uint32(30))).view(np.int32).astype(np.float32) * ANGLE
    z = angle * angle
    s = ((SIN_POLYNOMIAL[0] * z + SIN_POLYNOMIAL[1]) * z + SIN_POLYNOMIAL[2]) * z * angle + angle
    c = ((COS_POLYNOMIAL[0] * z + COS_POLYNOMIAL[1]) * z + COS_POLYNOMIAL[2]) * (z * z) - f32(0.5) * z + f32(1)
    odd = (quadrant & np.uint32(1)) != 0
    cosine, sine = np.where(odd, s, c), np.where(odd, c, s)
    cosine = np.where(((quadrant + np.uint32(1)) & np.uint32(2)) != 0, -cosine, cosine)
    sine = np.where((quadrant & np.uint32(2)) != 0, -sine, sine)
    return radius * cosine, radius * sine
