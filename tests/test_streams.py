"""The random streams: known answers, the transform's accuracy, the law of the draws, what an address means.

Statistical tests run at fixed seeds and level 1e-6: they never flake, and planted bugs show what they catch.
"""

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analogsim.backends import get_backend
from analogsim.errors import AnalogsimError
from analogsim.streams import BLOCK, LANES, Address, Stream, normal_pair, philox

ALPHA = 1e-6
TAIL_DRAWS = 10 * 9766 * 1024  # 1.00004e8


# Checks: each raises AssertionError where the draws do not follow the law.


def check_standard_normal(z):
    """Mean, variance, skewness, kurtosis (Gaussian limits) and Kolmogorov-Smirnov, each at level ALPHA."""
    z = np.asarray(z, np.float64).ravel()
    limit = stats.norm.isf(ALPHA / 2)
    moments = {
        "mean": z.mean() * np.sqrt(z.size),
        "variance": (np.mean(z**2) - 1) * np.sqrt(z.size / 2),
        "skewness": stats.skew(z) * np.sqrt(z.size / 6),
        "kurtosis": stats.kurtosis(z) * np.sqrt(z.size / 24),
    }
    for name, deviation in moments.items():
        assert abs(deviation) < limit, f"{name} is {deviation:.1f} standard errors off"
    assert stats.kstest(z, "norm").pvalue > ALPHA


def check_tails(z, draws):
    """How many of `draws` values lie beyond 4 σ and beyond 5 σ: Poisson, each at level ALPHA."""
    for sigmas in (4, 5):
        expected = draws * 2 * stats.norm.sf(sigmas)
        low, high = stats.poisson.interval(1 - ALPHA, expected)
        count = np.count_nonzero(np.abs(z) > sigmas)
        assert low <= count <= high, f"{count} beyond {sigmas} σ, expected {expected:.1f}"


def check_uncorrelated(rows):
    """No pair of the k rows of (k, n) is correlated, nor are their squares: level ALPHA over all pairs."""
    pairs = np.triu_indices(len(rows), 1)
    limit = stats.norm.isf(ALPHA / 2 / len(pairs[0])) / np.sqrt(rows.shape[1])
    for values in (rows, rows**2):
        assert np.abs(np.corrcoef(values)[pairs]).max() < limit


# Philox and the transform


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_known_answers(counter, key, words):
    """Random123 1.09, kat_vectors, philox4x32 with 10 rounds."""
    assert tuple(int(word[0]) for word in philox(tuple(np.array([c]) for c in counter), key)) == words


def exact_pair(u1, second):
    radius, angle = np.sqrt(-2 * np.log(u1)), 2 * np.pi * (second / 2.0**32)
    return radius, np.stack([radius * np.cos(angle), radius * np.sin(angle)])


def transform_words():
    """2^20 random pairs, as many whose u1 is in the tail, and every pair of edge words."""
    rng = np.random.default_rng(1)
    first, second = rng.integers(0, 2**32, (2, 2**21), np.uint32)
    first[::2] >>= np.uint32(20)
    borders = [eighth * 2**29 + near for eighth in range(9) for near in (-129, -128, -127, -2, -1, 0, 1, 2, 128)]
    edges = np.unique(np.array(borders, np.int64) % 2**32).astype(np.uint32)
    grid = np.meshgrid(edges, edges)
    return tuple(np.concatenate([words, edge.ravel()]) for words, edge in zip((first, second), grid))


def test_the_transform_is_exact_to_float32():
    """Within 2.5e-7 of the radius, so 1.7e-6, of float64 on u1 as float32 rounds it.

    That rounding itself moves z by 2.5e-4 at most, and by 1e-5 where |z| > 0.01: the tails lose nothing.
    """
    first, second = transform_words()
    assert set(first) >= {0, 1, 2, 2**31, 2**32 - 1}
    z = np.stack(normal_pair(first, second))
    assert z.dtype == np.float32
    assert np.abs(z).max() <= 6.7
    odd = first | np.uint32(1)
    radius, exact = exact_pair(odd.astype(np.float32).astype(np.float64) / 2**32, second)
    assert np.all(np.abs(z - exact) <= 2.5e-7 * radius)
    error = np.abs(z - exact_pair(odd / 2.0**32, second)[1])
    assert error.max() < 2.5e-4
    assert error[np.abs(z) > 0.01].max() < 1e-5


@pytest.mark.parametrize("outputs", [1, 64, 200])
def test_outputs_lie_where_the_module_says(outputs):
    """Output j is word (j mod 64) // 16 of the counter (16 (j // 64) + j mod 16, sample, step, pass)."""
    stream, address = Stream.from_seed(5), Address(2, 7, 11)
    z = stream.normal(address, 3, outputs)
    for row in range(3):
        for j in range(outputs):
            counter = (LANES * (j // BLOCK) + j % LANES, address.first_sample + row, address.step, address.pass_index)
            words = philox(tuple(np.array([c]) for c in counter), stream.key)
            word = j % BLOCK // LANES
            assert z[row, j] == normal_pair(*words[word // 2 * 2 :][:2])[word % 2][0]


def test_the_draws_never_change():
    """A run resumed on a later version or another machine goes on with the same noise."""
    z = Stream.from_seed(0).child("read noise", 3).normal(Address(1, 2, 3), 50, 100)
    assert hashlib.sha256(z.tobytes()).hexdigest().startswith("f866ebebdf3fc5ef")


# The law


@pytest.mark.parametrize("seed", [0, 1, 2**70])
def test_draws_are_standard_normal(seed):
    """10^6 draws, moments and KS at α = 1e-6: detects a mean off by 0.5 % of σ or a σ off by 0.4 %."""
    check_standard_normal(Stream.from_seed(seed).normal(Address(), 1000, 1000))


@pytest.mark.parametrize("word", range(4))
def test_each_word_of_a_counter_is_standard_normal(word):
    """1.6·10^5 draws of one word, moments and KS at α = 1e-6: detects a wrong sign or half in the sine or cosine."""
    z = Stream.from_seed(3).normal(Address(), 1000, 10 * BLOCK)
    check_standard_normal(z.reshape(1000, 10, 4, LANES)[:, :, word])


@pytest.fixture(scope="module")
def far_pairs():
    """Of 10^8 draws by the Numba kernel, the Box-Muller pairs (n, 2) of radius above 4."""
    found = []
    for step in range(10):
        z = get_backend("numba").normal(Stream.from_seed(4), Address(step), 9766, 1024, torch.device("cpu"))
        pairs = z.view(-1, 2, 2, LANES)  # block and half, sine or cosine within the pair, lane
        found.append(pairs.movedim(2, -1)[pairs.square().sum(2) > 16])
    return torch.cat(found).numpy()


def test_tails_are_gaussian(far_pairs):
    """10^8 draws, Poisson at α = 1e-6: detects more than 99 or fewer than 25 values beyond 5 σ, where 57.3 belong."""
    check_tails(far_pairs, TAIL_DRAWS)


def neighbours():
    """Draws (13, 200000) that differ in one part of their address each."""
    stream = Stream.from_seed(6)
    one, most = stream.child("read noise", 0), 2**32 - 1
    others = [stream, Stream.from_seed(7), one.child(0), stream.child("read noise", 1), stream.child("write noise", 0)]
    addresses = [Address(), Address(step=1), Address(pass_index=1), Address(first_sample=1), Address(1, 1)]
    addresses += [Address(step=most), Address(pass_index=most), Address(first_sample=2**31)]
    draws = [one.normal(address, 200, 1000) for address in addresses]
    return np.stack(draws + [other.normal(Address(), 200, 1000) for other in others]).reshape(13, -1)


def test_streams_layers_steps_and_passes_are_uncorrelated():
    """78 pairs of 2·10^5 draws and of their squares, α = 1e-6 over all: detects a correlation above 1.3 %."""
    check_uncorrelated(neighbours())


@pytest.mark.parametrize("along", ["samples", "outputs"])
def test_samples_and_outputs_are_uncorrelated(along):
    """8128 pairs of 2·10^4 draws and of their squares, α = 1e-6 over all: detects a correlation above 5 %,
    such as a u1 shared by two Box-Muller pairs."""
    shape = (128, 20_000) if along == "samples" else (20_000, 128)
    z = Stream.from_seed(8).normal(Address(), *shape)
    check_uncorrelated(z if along == "samples" else z.T)


def test_permutations_are_equally_likely():
    """4800 permutations of 4, χ² over the 24 orders at α = 1e-6: detects an order off by 60 %."""
    stream = Stream.from_seed(9)
    orders = [tuple(stream.permutation(4, step)) for step in range(4800)]
    counts = [orders.count(order) for order in set(orders)]
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > ALPHA


# Uniforms


def check_uniform(u, z):
    """In [0, 1) in steps of 2^-24, even (KS, and the last eight bits by χ²), and apart from the normals z there."""
    assert u.dtype == np.float32
    assert u.min() >= 0
    assert u.max() < 1
    steps = u.ravel().astype(np.float64) * 2**24
    assert np.array_equal(steps, steps.round())
    assert stats.kstest(u.ravel(), "uniform").pvalue > ALPHA
    assert stats.chisquare(np.bincount(steps.astype(np.int64) % 256, minlength=256)).pvalue > ALPHA
    scores = np.sqrt(12) * (u.astype(np.float64) - 0.5)
    for other in (z.astype(np.float64), (z.astype(np.float64) ** 2 - 1) / np.sqrt(2)):
        assert abs(np.mean(scores * other)) * np.sqrt(u.size) < stats.norm.isf(ALPHA / 2), "correlated"


@pytest.fixture(scope="module")
def uniforms_and_normals():
    stream = Stream.from_seed(14).child("uniform")
    return stream.uniform(Address(1), 1000, 1000), stream.normal(Address(1), 1000, 1000)


def test_uniforms_are_even_and_apart_from_normals(uniforms_and_normals):
    """10^6 draws at α = 1e-6: KS refuses a distribution function off by 0.27 %, χ² last bits that are
    not even, the rest a correlation of 0.5 % with the normals or their squares."""
    check_uniform(*uniforms_and_normals)


@pytest.mark.parametrize("outputs", [1, 64, 200])
def test_uniforms_lie_as_normals_do(outputs):
    """Output j is the upper 24 bits of word (j mod 64) // 16 of the counter (16 (j // 64) + j mod 16, …)."""
    stream, address = Stream.from_seed(5), Address(2, 7, 11)
    own = Stream(hashlib.sha256(stream.digest + b"#uniform").digest())
    u = stream.uniform(address, 3, outputs)
    for row in range(3):
        for j in range(outputs):
            counter = (LANES * (j // BLOCK) + j % LANES, address.first_sample + row, address.step, address.pass_index)
            word = philox(tuple(np.array([c]) for c in counter), own.key)[j % BLOCK // LANES][0]
            assert u[row, j] == int(word) // 2**8 / 2**24


def test_the_uniforms_never_change():
    u = Stream.from_seed(0).child("read noise", 3).uniform(Address(1, 2, 3), 50, 100)
    assert hashlib.sha256(u.tobytes()).hexdigest().startswith("8f5322fcf8f1dd6e")
    assert Stream.from_seed(0).uniform(Address(), 0, 5).shape == (0, 5)
    assert Stream.from_seed(0).uniform(Address(), 5, 0).shape == (5, 0)


# Planted bugs: what the checks above catch


def sixteen_bit_u1(pairs):
    """The pairs as a transform would give them that kept only 16 bits of u1."""
    radius = np.linalg.norm(pairs, axis=1, keepdims=True)
    u1 = (np.floor(np.exp(-(radius**2) / 2) * 2**16) + 0.5) / 2**16
    return pairs * np.sqrt(-2 * np.log(u1)) / radius


LAW_BUGS = {"σ + 1 %": lambda z: 1.01 * z, "σ - 1 %": lambda z: 0.99 * z, "mean": lambda z: z + 0.01, "sign": np.abs}
TAIL_BUGS = {"cut at 4.5 σ": lambda z: z.clip(-4.5, 4.5), "16 bits of u1": sixteen_bit_u1}


def words_of_the_normals(u):
    words = np.stack(Stream.from_seed(14).child("uniform").words(Address(1), 1000, 16), axis=1)
    words = words.reshape(1000, 4, 16, LANES).transpose(0, 2, 1, 3).reshape(1000, -1)[:, :1000]
    return (words >> np.uint32(8)).astype(np.float32) * np.float32(2**-24)


UNIFORM_BUGS = {
    "uniform: 32 bits, rounded up to 1": lambda u: np.where(u > 1 - 2**-20, np.float32(1), u),
    "uniform: 16 bits": lambda u: np.floor(u * 2**16) / np.float32(2**16),
    "uniform: the normals' own words": words_of_the_normals,
    "uniform: halves": lambda u: u / 2,
    "uniform: float64": lambda u: u.astype(np.float64),
}


@pytest.mark.parametrize("bug", UNIFORM_BUGS)
def test_the_uniform_test_catches(bug, uniforms_and_normals):
    u, z = uniforms_and_normals
    with pytest.raises(AssertionError):
        check_uniform(UNIFORM_BUGS[bug](u), z)


@pytest.mark.parametrize("bug", LAW_BUGS)
def test_the_law_test_catches(bug):
    z = Stream.from_seed(0).normal(Address(), 1000, 1000)
    check_standard_normal(z)
    with pytest.raises(AssertionError):
        check_standard_normal(LAW_BUGS[bug](z))


@pytest.mark.parametrize("bug", TAIL_BUGS)
def test_the_tail_test_catches(bug, far_pairs):
    """Neither leaves a value beyond 5 σ, where 57.3 belong: u1 ≥ 2^-17 ends at 4.86 σ."""
    with pytest.raises(AssertionError):
        check_tails(TAIL_BUGS[bug](far_pairs), TAIL_DRAWS)


def test_the_correlation_test_catches_a_counter_reused_between_two_passes():
    draws = neighbours()
    draws[2] = draws[0]
    with pytest.raises(AssertionError):
        check_uncorrelated(draws)


def test_the_correlation_test_catches_a_radius_shared_by_two_pairs():
    """The values are uncorrelated then; their squares are not."""
    first, second, third, _ = Stream.from_seed(8).words(Address(), 1, 20_000 // LANES)
    draws = np.concatenate([*normal_pair(first, second), *normal_pair(first, third)])
    with pytest.raises(AssertionError):
        check_uncorrelated(draws)


# Addresses, names and permutations

words_32 = st.integers(0, 2**32 - 1)


@settings(max_examples=60, deadline=None)
@given(words_32, words_32, st.integers(0, 2**32 - 50), st.integers(0, 40), st.integers(0, 40), st.integers(1, 200))
def test_any_chunking_of_rows_and_outputs_gives_the_same_bits(step, pass_index, first, before, after, outputs):
    stream = Stream.from_seed(10)
    whole = stream.normal(Address(step, pass_index, first), before + after, 200)
    top = stream.normal(Address(step, pass_index, first), before, outputs)
    bottom = stream.normal(Address(step, pass_index, first + before), after, outputs)
    assert np.concatenate([top, bottom]).tobytes() == whole[:, :outputs].tobytes()
    whole = stream.uniform(Address(step, pass_index, first), before + after, 200)
    top = stream.uniform(Address(step, pass_index, first), before, outputs)
    bottom = stream.uniform(Address(step, pass_index, first + before), after, outputs)
    assert np.concatenate([top, bottom]).tobytes() == whole[:, :outputs].tobytes()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 300), words_32)
def test_a_permutation_is_a_permutation(n, step):
    assert sorted(Stream.from_seed(11).permutation(n, step)) == list(range(n))


def test_permutations_differ_by_step_and_stream():
    streams = [Stream.from_seed(11), Stream.from_seed(11).child("other")]
    orders = [tuple(stream.permutation(50, step)) for stream in streams for step in (*range(20), 2**32 - 1)]
    assert len(set(orders)) == 42


def test_a_child_is_named_by_its_path_in_order():
    stream = Stream.from_seed(12)
    assert stream.child() == stream
    assert stream.child("a", 2) == stream.child("a").child(2)
    assert Stream.from_seed(12).child("a", 2) == stream.child("a", 2)
    paths = [
        ("a", "b"),
        ("b", "a"),
        ("a",),
        ("b",),
        ("ab",),
        ("a/str:b",),
        ("a/b",),
        (1,),
        ("1",),
        (1, 1),
        (11,),
        ("",),
    ]
    children = [stream, Stream.from_seed(1), *(stream.child(*path) for path in paths)]
    assert len({child.digest for child in children}) == len(children)
    seeds = (0, 2, 2**32, 2**64, 2**64 + 1, 2**200)
    keys = [stream.child("layer", i).key for i in range(2000)] + [Stream.from_seed(seed).key for seed in seeds]
    assert len(set(keys)) == 2006


def test_a_child_does_not_lead_back_to_its_parent():
    """All a child keeps is a SHA-256 digest, and it does not print that."""
    parent = Stream.from_seed(13)
    child = parent.child("read noise")
    assert vars(child) == {"digest": hashlib.sha256(parent.digest + b"/str:read noise").digest()}
    assert repr(child) == "Stream()"


@pytest.mark.parametrize("argument", ["step", "pass_index", "first_sample"])
@pytest.mark.parametrize("value", [-1, 2**32, 1.5, float("nan"), "3", None, True, np.int64(3)])
def test_an_address_refuses_what_is_no_32_bit_number(argument, value):
    with pytest.raises(AnalogsimError) as caught:
        Address(**{argument: value})
    assert caught.value.argument == argument
    assert caught.value.value is value
    assert str(caught.value).startswith(f"{argument}: {value!r} ")


@pytest.mark.parametrize("value", [-1, 1.0, float("nan"), "3", None, True, np.int64(3)])
def test_a_seed_is_a_whole_number(value):
    with pytest.raises(AnalogsimError, match=r"^seed: .* is not allowed; allowed: a whole number") as caught:
        Stream.from_seed(value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("name", [1.0, None, True, b"a", np.int64(1)])
def test_a_name_is_a_text_or_a_whole_number(name):
    with pytest.raises(AnalogsimError, match=r"^name: "):
        Stream.from_seed(0).child("layer", name)
