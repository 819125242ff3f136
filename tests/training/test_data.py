"""Data sets: what is read stays what it was, and what does not fit is said in one line."""

import io
import zipfile
from urllib.error import URLError

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from analogsim.config.schema import IMAGE_SIZES
from analogsim.errors import DataError
from analogsim.training.data import ARRAYS, OPENML, load_data

FIT = {
    "x_train": np.arange(12.0).reshape(4, 3),
    "y_train": np.array([0, 1, 2, 1]),
    "x_test": -np.ones((2, 3)),
    "y_test": np.array([2, 0]),
}


@pytest.fixture
def npz(tmp_path):
    """Saves FIT with changes (None: left out) and returns the data source."""

    def write(**changes):
        arrays = {name: array for name, array in (FIT | changes).items() if array is not None}
        np.savez(tmp_path / "data.npz", **arrays)
        return f"npz:{tmp_path / 'data.npz'}"

    return write


def refused(source):
    with pytest.raises(DataError) as caught:
        load_data(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Digits


def test_digits_are_the_1797_scans_in_0_to_1():
    data = load_data("digits")
    assert (data.x_train.shape, data.x_test.shape, data.y_train.shape) == ((1437, 8, 8), (360, 8, 8), (1437,))
    assert (data.inputs, data.outputs, data.classification) == (64, 10, True)
    assert sorted(set(data.y_train.tolist())) == sorted(set(data.y_test.tolist())) == list(range(10))
    x, y = data.batch("train", slice(None))
    assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
    assert (x.min(), x.max()) == (0, 1)
    assert torch.equal(x * 16, (x * 16).round())


def test_digits_are_scikit_learns_and_its_split():
    images, labels = load_digits(return_X_y=True)
    split = train_test_split(images, labels, test_size=360, stratify=labels, random_state=0)
    data = load_data("digits")
    for ours, theirs in zip((data.x_train, data.x_test, data.y_train, data.y_test), split, strict=True):
        assert np.array_equal(ours.flatten(1) if ours.ndim == 3 else ours, theirs)


def test_digits_are_split_alike_at_every_load_and_no_row_is_in_both():
    first, second = load_data("digits"), load_data("digits")
    assert all(torch.equal(getattr(first, name), getattr(second, name)) for name in ARRAYS)
    images = load_digits().data.astype(np.uint8)
    both = np.concatenate([first.x_train.numpy(), first.x_test.numpy()]).reshape(-1, 64)
    assert sorted(map(bytes, both)) == sorted(map(bytes, images))


def test_a_batch_is_fresh_memory():
    data = load_data("digits")
    data.batch("train", slice(0, 5))[0].zero_()
    assert data.batch("train", slice(0, 5))[0].any()


# Your own arrays


def test_floats_are_taken_as_they_are(npz):
    data = load_data(npz())
    x, y = data.batch("train", torch.tensor([3, 0]))
    assert torch.equal(x, torch.tensor([[9.0, 10, 11], [0, 1, 2]]))
    assert (y.tolist(), data.scale, data.outputs) == ([1, 0], 1, 3)
    assert data.batch("test", slice(None))[0].eq(-1).all()


def test_a_batch_of_floats_does_not_write_into_the_data(npz):
    data = load_data(npz(x_train=FIT["x_train"].astype(np.float32), x_test=FIT["x_test"].astype(np.float32)))
    data.batch("train", torch.tensor([1, 2]))[0].zero_()
    assert data.x_train.sum() == FIT["x_train"].sum()


def test_bytes_are_images_and_scaled_by_255(npz):
    images = np.array([0, 1, 128, 255], np.uint8).reshape(4, 1, 1) * np.ones((4, 2, 2), np.uint8)
    data = load_data(npz(x_train=images, x_test=images[:2]))
    assert data.x_train.dtype == torch.uint8
    x, _ = data.batch("train", slice(None))
    assert x.shape == (4, 4)
    assert torch.equal(x[:, 0], torch.tensor([0.0, 1, 128, 255]) / 255)


@pytest.mark.parametrize("kind", [np.int64, np.int8, np.float16, ">f8", bool])
def test_other_numbers_are_not_scaled(npz, kind):
    data = load_data(npz(x_train=np.ones((4, 3), kind), x_test=np.ones((2, 3), kind)))
    assert data.batch("train", slice(None))[0].eq(1).all()
    assert data.batch("train", slice(None))[0].dtype == torch.float32


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint64, bool])
def test_whole_labels_of_any_kind_are_classes(npz, kind):
    data = load_data(npz(y_train=np.array([0, 1, 1, 0], kind), y_test=np.array([1, 0], kind)))
    assert (data.outputs, data.y_train.dtype, data.classification) == (2, torch.int64, True)


def test_float_targets_are_real_numbers(npz):
    data = load_data(npz(y_train=np.arange(4.0), y_test=np.arange(2.0)))
    assert (data.outputs, data.y_train.shape, data.y_train.dtype) == (1, (4, 1), torch.float32)
    assert not data.classification
    assert load_data(npz(y_train=np.zeros((4, 7)), y_test=np.zeros((2, 7)))).outputs == 7


def test_arrays_in_fortran_order_keep_their_rows(npz):
    x = np.asfortranarray(FIT["x_train"])
    assert torch.equal(load_data(npz(x_train=x)).batch("train", slice(1, 2))[0], torch.tensor([[3.0, 4, 5]]))


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 8)])
def test_a_shape_with_channels_first_is_doubted(npz, shape):
    doubt = load_data(npz(x_train=np.ones((4, *shape)), x_test=np.ones((2, *shape)))).channels_first
    channels, height, width = shape
    assert f"is taken as images of {channels} × {height} with {width} channels; if it holds {channels} channel" in doubt
    assert doubt.endswith("give x as (rows, height, width, channels)")


@pytest.mark.parametrize("shape", [(32, 32, 3), (8, 8), (3, 8), (3, 3, 3), (1, 1, 1), (3, 8, 9), (2, 8, 8), (12,)])
def test_other_shapes_are_not_doubted(npz, shape):
    assert load_data(npz(x_train=np.ones((4, *shape)), x_test=np.ones((2, *shape)))).channels_first is None


@pytest.mark.parametrize("name", ARRAYS)
def test_a_missing_array_is_named_with_those_there(npz, name):
    text = refused(npz(**{name: None}))
    assert text.endswith(f"but not {name}")
    assert all(other in text for other in ARRAYS if other != name)


NAN, HUGE = np.array([[np.nan] * 3] * 2), np.array([[1e39] * 3] * 2)
ONES = np.ones((4, 3))
REFUSALS = {
    "NaN": ({"x_test": NAN}, "x_test holds NaN"),
    "infinity": ({"x_train": ONES * np.inf}, "x_train holds NaN, infinity"),
    "too large for float32": ({"x_test": HUGE}, "x_test holds NaN, infinity or a number too large"),
    "NaN targets": ({"y_train": ONES * np.nan, "y_test": np.ones((2, 3))}, "y_train holds NaN"),
    "rows that do not match": ({"y_train": np.array([0, 1])}, "x_train has 4 rows and y_train 2"),
    "a lone target": ({"y_train": np.array(3)}, "y_train is a single number"),
    "inputs in one row": ({"x_train": np.ones(4)}, r"x_train has shape \(4,\)"),
    "no rows": ({"x_test": np.ones((0, 3)), "y_test": np.zeros(0, int)}, r"x_test has shape \(0, 3\)"),
    "no inputs": ({"x_train": np.ones((4, 0)), "x_test": np.ones((2, 0))}, r"x_train has shape \(4, 0\)"),
    "widths that differ": ({"x_test": np.ones((2, 5))}, r"x_train is float64 \(4, 3\), x_test float64 \(2, 5\)"),
    "images and floats": ({"x_train": ONES.astype(np.uint8)}, "x_train is uint8"),
    "text": ({"x_train": ONES.astype(str)}, "x_train holds <U32, not numbers"),
    "complex": ({"x_train": ONES * 1j}, "x_train holds complex128"),
    "dates": ({"y_train": np.zeros(4, "M8[s]")}, "y_train holds datetime64"),
    "negative labels": ({"y_train": np.array([0, 1, -1, 1])}, "class numbers must run from 0 up"),
    "negative test labels": ({"y_test": np.array([0, -1])}, "class numbers must run from 0 up"),
    "test labels not trained": ({"y_test": np.array([0, 3])}, "y_test's among y_train's"),
    "one class": ({"y_train": np.zeros(4, int), "y_test": np.zeros(2, int)}, "2 to 100000 of them"),
    "no class numbers": ({"y_train": np.array([0, 1, 2, 10**12])}, "give real-valued targets as floats"),
    "beyond int64": ({"y_train": np.array([0, 1, 2, 2**63 + 1], np.uint64)}, "class numbers"),
    "classes and reals": ({"y_test": np.array([0.0, 1.0])}, "y_train holds class numbers, y_test is float64"),
    "reals of two widths": ({"y_train": ONES, "y_test": np.ones((2, 2))}, "y_train has 3 outputs and y_test 2"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_arrays_that_do_not_fit_are_refused(npz, case):
    changes, words = REFUSALS[case]
    with pytest.raises(DataError, match=words):
        load_data(npz(**changes))


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was run",))


def test_pickles_are_refused_unread(npz):
    assert "Object arrays cannot be loaded" in refused(npz(y_train=np.array([Bomb()] * 4, dtype=object)))


def archive():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        for name in ARRAYS:
            file.writestr(f"{name}.npy", b"\x93NUMPY\x01\x00junk")
    return stream.getvalue()


def single_array():
    stream = io.BytesIO()
    np.save(stream, np.ones(3))
    return stream.getvalue()


def cut():
    stream = io.BytesIO()
    np.savez(stream, **FIT)
    return stream.getvalue()[:-30]


@pytest.mark.parametrize(
    "content", [b"", b"hello, world", b"PK\x03\x04", b"\x80\x04.", archive(), single_array(), cut()]
)
def test_what_is_no_npz_file_is_named(tmp_path, content):
    path = tmp_path / "data.npz"
    path.write_bytes(content)
    assert f"{path} cannot be read as an .npz file" in refused(f"npz:{path}")


@pytest.mark.parametrize("path", ["", ".", "no such file.npz", "~nobody-here/data.npz", "/dev/null"])
def test_a_path_without_a_file_is_named(path):
    assert "cannot be read as an .npz file" in refused(f"npz:{path}")


@pytest.mark.parametrize("name", ["", "digit", "npz", "NPZ:a", "data.npz", "mnist "])
def test_an_unknown_name_is_told_the_known_ones(name):
    assert all(known in refused(name) for known in ["digits", *OPENML, "npz:FILE", "tiny_imagenet:FOLDER"])


# OpenML, without a network


@pytest.mark.parametrize("error", [URLError("no route to host"), TimeoutError(), ValueError("two\nlines")])
@pytest.mark.parametrize("name", OPENML)
def test_a_failed_fetch_names_the_way_without_a_network(monkeypatch, name, error):
    def fetch(**_):
        raise error

    monkeypatch.setattr("sklearn.datasets.fetch_openml", fetch)
    text = refused(name)
    assert f"data: npz:FILE with {', '.join(ARRAYS)}" in text
    assert name in text
    assert str(OPENML[name][0]) in text


class Bunch:
    def __init__(self, data, target):
        self.data, self.target = data, target


def test_fetched_images_are_split_as_published_and_scaled(monkeypatch):
    rows = 60_000 + 10
    images = np.zeros((rows, 784), np.uint8)
    images[:, 1] = 255
    labels = np.array([str(row % 10) for row in range(rows)], dtype=object)
    monkeypatch.setattr("sklearn.datasets.fetch_openml", lambda data_id, **_: Bunch(images, labels))
    data = load_data("mnist")
    assert (len(data.x_train), len(data.x_test), data.outputs) == (60_000, 10, 10)
    assert data.x_train.dtype == torch.uint8
    assert data.image_shape == (28, 28, 1)
    assert data.batch("test", slice(0, 1))[0][:, :2].tolist() == [[0.0, 1.0]]


def test_fetched_colours_come_last_and_images_stay_upright(monkeypatch):
    """A pixel says its (channel, row, column), in which order OpenML has them; test images are dimmed."""
    channel, row, column = np.indices((3, 32, 32))
    pixels = ((1024 * channel + 32 * row + column) % 251).astype(np.uint8)
    images = np.repeat([pixels.ravel(), pixels.ravel() // 2], [50_000, 10_000], axis=0)
    labels = np.array([str(row % 10) for row in range(60_000)], dtype=object)
    monkeypatch.setattr("sklearn.datasets.fetch_openml", lambda data_id, **_: Bunch(images, labels))
    data = load_data("cifar10")
    assert (len(data.x_train), len(data.x_test), data.outputs, data.image_shape) == (50_000, 10_000, 10, (32, 32, 3))
    for r, c, ch in ((0, 0, 2), (0, 7, 0), (7, 0, 0), (31, 5, 1)):
        assert data.x_train[0, r, c, ch] == (1024 * ch + 32 * r + c) % 251
    upright = torch.from_numpy(np.stack(list(pixels), axis=-1))
    for x, expected in ((data.x_train, upright), (data.x_test, upright // 2)):
        assert torch.equal(x[0], expected)
        assert torch.equal(x[-1], expected)


@pytest.mark.parametrize("name", IMAGE_SIZES)
def test_a_file_is_checked_for_the_images_that_are_loaded(monkeypatch, name):
    """The sizes by which a network is refused before its data is fetched."""
    inputs = {"cifar10": 3072, "sarcos": 21}.get(name, 784)
    if name in OPENML:
        monkeypatch.setitem(OPENML, name, (0, 2, OPENML[name][2]))
    bunch = Bunch(np.zeros((3, inputs), np.uint8), np.array(["0", "1", "0"], dtype=object))
    monkeypatch.setattr("sklearn.datasets.fetch_openml", lambda data_id, **_: bunch)
    image = load_data(name).image_shape
    assert (image and image[:2]) == IMAGE_SIZES[name]


def test_fetched_reals_stay_real(monkeypatch):
    rows = OPENML["sarcos"][1] + 5
    monkeypatch.setattr(
        "sklearn.datasets.fetch_openml", lambda data_id, **_: Bunch(np.full((rows, 21), 0.5), np.full(rows, 2.5))
    )
    data = load_data("sarcos")
    assert (len(data.x_test), data.outputs, data.classification, data.inputs) == (5, 1, False, 21)
    assert data.batch("train", slice(0, 1))[0].eq(0.5).all()
