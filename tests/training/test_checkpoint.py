"""Checkpoints come back bit for bit, or a damaged one is named and the one before is used."""

import io
import json
import math
import os
import subprocess
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analogsim.errors import RunFolderError
from analogsim.training import checkpoint
from analogsim.training.checkpoint import Checkpoint, load_latest, save

SILENT = pytest.fail  # a warning where none is due


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def numbered(folder, number):
    (path,) = folder.glob(f"{number:06d}-*.npz")
    return path


def three(folder):
    """Three saves of which the last two are kept; their records tell them apart."""
    for index in (1, 2, 3):
        save(folder, Checkpoint({"chip/weight0": torch.full((3, 2), float(index))}, {"index": index}))


def same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()


# Round trip


TENSORS = {
    "float32": torch.tensor([0.1, -0.0, math.inf, -math.inf, math.nan, 1e-45]),
    "float64": torch.tensor([[0.1, 5e-324], [math.pi, -0.0]], dtype=torch.float64),
    "float16": torch.tensor([0.1, 65504.0], dtype=torch.float16),
    "int64": torch.tensor([2**63 - 1, -(2**63)]),
    "int32": torch.tensor([-(2**31)], dtype=torch.int32),
    "uint8": torch.tensor([0, 255], dtype=torch.uint8),
    "bool": torch.tensor([True, False]),
    "complex64": torch.tensor([1 + 2j]),
    "no dimension": torch.tensor(7.0),
    "empty": torch.zeros(0, 5),
    "transposed": torch.arange(6.0).view(2, 3).T,
    "strided": torch.arange(10.0)[::3],
    "needs a gradient": torch.ones(2, requires_grad=True),
    "optimizer/0/exp_avg_sq": torch.tensor([1e-38]),
}


def test_tensors_come_back_bit_for_bit(tmp_path):
    save(tmp_path, Checkpoint(TENSORS, {}))
    loaded = load_latest(tmp_path, SILENT).tensors
    assert list(loaded) == list(TENSORS)
    for name, tensor in TENSORS.items():
        assert same_bits(loaded[name], tensor.detach()), name


def test_nan_payloads_come_back(tmp_path):
    bits = torch.tensor([0x7FC12345, 0x7F800001, -1], dtype=torch.int32)
    save(tmp_path, Checkpoint({"a": bits.view(torch.float32)}, {}))
    assert torch.equal(load_latest(tmp_path, SILENT).tensors["a"].view(torch.int32), bits)


numbers = st.floats(allow_nan=False) | st.integers(-(2**80), 2**80) | st.none() | st.text(max_size=5)


@settings(max_examples=30, deadline=None)
@given(record=st.dictionaries(st.text(max_size=5), numbers | st.lists(numbers, max_size=3), max_size=4))
def test_records_come_back_exactly(tmp_path_factory, record):
    folder = tmp_path_factory.mktemp("records")
    save(folder, Checkpoint({}, record))
    assert load_latest(folder, SILENT).record == record


def test_a_record_may_hold_nan(tmp_path):
    save(tmp_path, Checkpoint({}, {"loss": math.nan, "bound": math.inf}))
    record = load_latest(tmp_path, SILENT).record
    assert math.isnan(record["loss"])
    assert record["bound"] == math.inf


def test_a_loaded_tensor_is_its_own_memory_aligned_as_torch_aligns(tmp_path):
    """BLAS may take another path, with other roundings, for memory that is not aligned."""
    save(tmp_path, Checkpoint({name: torch.rand(3, 5) for name in "abc"}, {}))
    for tensor in load_latest(tmp_path, SILENT).tensors.values():
        assert tensor.data_ptr() % 64 == 0
        tensor.add_(1)


def test_the_last_two_are_kept_numbered_and_named_by_their_digest(tmp_path):
    three(tmp_path)
    assert [name[:7] for name in files(tmp_path)] == ["000002-", "000003-"]
    assert load_latest(tmp_path, SILENT).record == {"index": 3}
    for name in files(tmp_path):
        digest = subprocess.run(["sha256sum", tmp_path / name], capture_output=True, text=True).stdout.split()[0]
        assert name[7:] == f"{digest}.npz"


def test_numbers_go_on_past_six_digits(tmp_path):
    three(tmp_path)
    numbered(tmp_path, 3).rename(tmp_path / numbered(tmp_path, 3).name.replace("000003", "999999"))
    save(tmp_path, Checkpoint({}, {"index": 4}))
    save(tmp_path, Checkpoint({}, {"index": 5}))
    assert [name.split("-")[0] for name in files(tmp_path)] == ["1000000", "1000001"]
    assert load_latest(tmp_path, SILENT).record == {"index": 5}


# Damage


def flipped(path, position):
    content = bytearray(path.read_bytes())
    content[position % len(content)] ^= 1 << (position % 8)
    path.write_bytes(content)


def extended(path):
    path.write_bytes(path.read_bytes() + b"\0")


def as_folder(path):
    path.unlink()
    path.mkdir()


def renamed(path):
    path.rename(path.with_name(path.name.replace("-", "-0")))


def bare(path):
    path.rename(path.with_name("000003.npz"))


def swapped(path):
    """The older one's content under the newer one's name."""
    path.write_bytes(numbered(path.parent, 2).read_bytes())


DAMAGES = {
    "a flipped bit at the start": lambda path: flipped(path, 0),
    "a flipped bit in the middle": lambda path: flipped(path, path.stat().st_size // 2),
    "a flipped bit at the end": lambda path: flipped(path, path.stat().st_size - 1),
    "cut in half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "one byte short": lambda path: os.truncate(path, path.stat().st_size - 1),
    "one byte more": extended,
    "empty": lambda path: os.truncate(path, 0),
    "a folder": as_folder,
    "renamed": renamed,
    "without its digest": bare,
    "swapped": swapped,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_is_named_and_the_one_before_is_used(tmp_path, damage):
    three(tmp_path)
    DAMAGES[damage](numbered(tmp_path, 3))
    (name,) = (name for name in files(tmp_path) if name.startswith("000003"))
    warned = []
    assert load_latest(tmp_path, warned.append).record == {"index": 2}
    (text,) = warned
    assert name in text
    assert "\n" not in text


def test_every_single_flipped_byte_is_noticed(tmp_path):
    save(tmp_path, Checkpoint({"a": torch.ones(2)}, {"index": 1}))
    path = numbered(tmp_path, 1)
    good = path.read_bytes()
    for position in range(0, len(good), 7):
        flipped(path, position)
        assert load_latest(tmp_path, lambda text: None) is None
        path.write_bytes(good)
    assert load_latest(tmp_path, SILENT).record == {"index": 1}


def test_none_good_is_none_with_every_one_named(tmp_path):
    three(tmp_path)
    for number in (2, 3):
        flipped(numbered(tmp_path, number), 100)
    names, warned = files(tmp_path), []
    assert load_latest(tmp_path, warned.append) is None
    assert [name in text for name, text in zip(reversed(names), warned)] == [True, True]
    assert all(name.endswith(".damaged") for name in files(tmp_path))  # none counts as one of the two kept


@pytest.mark.parametrize("folder", ["", "not there"])
def test_an_empty_or_missing_folder_is_none_without_a_word(tmp_path, folder):
    assert load_latest(tmp_path / folder, SILENT) is None


def forged(folder, content):
    """A file whose digest fits its content."""
    path = folder / "forged"
    path.write_bytes(content)
    path.rename(folder / f"000009-{checkpoint._digest(path)}.npz")


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was run",))


def test_a_pickle_is_refused_even_under_a_good_digest(tmp_path):
    three(tmp_path)
    record = np.frombuffer(json.dumps({"index": 9}).encode(), np.uint8)
    stream = io.BytesIO()
    np.savez(stream, record=record, weight=np.array([Bomb()], dtype=object))
    forged(tmp_path, stream.getvalue())
    warned = []
    assert load_latest(tmp_path, warned.append).record == {"index": 3}
    assert "Object arrays cannot be loaded" in warned[0]


def test_a_well_formed_archive_that_is_no_checkpoint_is_passed_over(tmp_path):
    three(tmp_path)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("readme.txt", "hello")
    forged(tmp_path, stream.getvalue())
    warned = []
    assert load_latest(tmp_path, warned.append).record == {"index": 3}
    assert len(warned) == 1


def test_strays_are_removed_by_the_next_save(tmp_path):
    (tmp_path / ".tmpabc.part").write_bytes(b"half a checkpoint")
    assert load_latest(tmp_path, SILENT) is None
    three(tmp_path)
    assert len(files(tmp_path)) == 2


def test_a_folder_that_cannot_be_made_is_a_named_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match="cannot be written"):
        save(tmp_path / "file" / "seed-0", Checkpoint({}, {}))
