"""Tiny ImageNet's usual folder, in miniature: what is read, what is cached, and what is refused."""

import itertools
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from analogsim.errors import DataError
from analogsim.training import images
from analogsim.training.data import load_data
from analogsim.training.images import CACHE, load_folder

WNIDS = ("n01443537", "n01629819", "n02226429")


@pytest.fixture
def folder(tmp_path):
    """Three classes of four training and two test images each, 8 × 8; class k has channel k bright."""
    rng = np.random.default_rng(0)
    lines = []
    root = tmp_path / "tin"
    (root / "val" / "images").mkdir(parents=True)
    for label, wnid in enumerate(WNIDS):
        images = root / "train" / wnid / "images"
        images.mkdir(parents=True)
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("ignored\n")
        for number in range(6):
            pixels = rng.integers(0, 60, (8, 8, 3)).astype(np.uint8)
            pixels[..., label] += 150
            test = number >= 4
            path = root / "val/images" / f"val_{label}{number}.JPEG" if test else images / f"{wnid}_{number}.JPEG"
            Image.fromarray(pixels).save(path, quality=95)
            if test:
                lines.append(f"{path.name}\t{wnid}\t0\t0\t62\t62\n")
    (root / "val" / "val_annotations.txt").write_text("".join(reversed(lines)))
    return root


def test_images_and_their_classes_are_read(folder):
    data = load_data(f"tiny_imagenet:{folder}")
    assert data.image_shape == (8, 8, 3)
    assert (len(data.x_train), len(data.x_test), data.outputs) == (12, 6, 3)
    for x, y in ((data.x_train, data.y_train), (data.x_test, data.y_test)):
        brightest = x.float().mean((1, 2)).argmax(1)
        assert torch.equal(brightest, y)  # classes in the order of their wnids


def test_batches_are_standardised_per_channel_by_the_training_images(folder):
    data = load_data(f"tiny_imagenet:{folder}")
    x, _ = data.batch("train", slice(None))
    x = x.view(-1, 3)
    torch.testing.assert_close(x.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.std(0, correction=0), torch.ones(3), atol=1e-5, rtol=0)
    test, _ = data.batch("test", slice(None))
    mean, sd = data.standardised
    exact = (data.x_test.double() / 255 - mean.double()) / sd.double()
    torch.testing.assert_close(test.double(), exact.flatten(1), atol=1e-5, rtol=0)


def test_a_grey_image_becomes_three_equal_channels(folder):
    path = folder / "train" / WNIDS[0] / "images" / f"{WNIDS[0]}_0.JPEG"
    Image.new("L", (8, 8), 99).save(path, quality=95)
    arrays = load_folder(folder)
    assert (arrays["x_train"][0] == 99).all()


def test_the_cache_is_read_and_made_anew_when_a_file_changes(folder, monkeypatch):
    before = load_folder(folder)
    assert (folder / CACHE).is_file()
    monkeypatch.setattr("analogsim.training.images._image", None)  # decoding would fail
    for name, array in load_folder(folder).items():
        np.testing.assert_array_equal(array, before[name])
    monkeypatch.undo()
    (folder / "train" / WNIDS[1] / "images" / f"{WNIDS[1]}_3.JPEG").unlink()
    assert len(load_folder(folder)["x_train"]) == 11
    torn = (folder / CACHE).read_bytes()[:1000]
    (folder / CACHE).write_bytes(torn)
    assert len(load_folder(folder)["x_train"]) == 11


def test_hidden_files_and_blank_lines_are_passed_over(folder):
    before = load_folder(folder)
    (folder / "train" / WNIDS[0] / "images" / f"._{WNIDS[0]}_0.JPEG").write_bytes(b"what macOS puts beside a file")
    (folder / "train" / ".hidden" / "images").mkdir(parents=True)
    annotations = folder / "val" / "val_annotations.txt"
    first, *rest = annotations.read_text().splitlines()
    annotations.write_text("\n".join(["", first, " \t", *rest, "", ""]))
    for name, array in load_folder(folder).items():
        np.testing.assert_array_equal(array, before[name])


def test_several_images_are_decoded_at_once(folder, monkeypatch):
    """Four decodes wait for each other, after the first image, which is looked at alone for its size."""
    paths = sorted((folder / "train" / WNIDS[0] / "images").iterdir())
    plain, meeting, calls = images._image, threading.Barrier(len(paths), timeout=10), itertools.count()

    def decode(path):
        if next(calls):
            meeting.wait()
        return plain(path)

    monkeypatch.setattr(images, "_image", decode)
    assert len(images._decode(paths)) == next(calls) - 1 == 4


def test_an_image_that_changes_at_the_same_size_is_decoded_anew(folder):
    load_folder(folder)
    path = folder / "train" / WNIDS[0] / "images" / f"{WNIDS[0]}_0.JPEG"
    before = path.stat()
    Image.new("RGB", (8, 8), (9, 9, 9)).save(path, quality=95)
    path.write_bytes(path.read_bytes().ljust(before.st_size, b"\0"))  # a decoder reads no further than the end mark
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert path.stat().st_size == before.st_size
    assert (load_folder(folder)["x_train"][0] == 9).all()


def test_a_run_on_a_folder_given_from_here_goes_on_elsewhere(folder, call, tmp_path, monkeypatch):
    options = ["--set", "data=tiny_imagenet:tin", "--set", "network.hidden=[4]", "--out", "run"]
    assert call("train", "small.yaml", *options)[0] == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert call("train", "--resume", tmp_path / "run")[::2] == (0, "")
    assert call("evaluate", tmp_path / "run", "--chip", "ideal", "--repeats", "1")[::2] == (0, "")
    assert f"data: tiny_imagenet:{folder}\n" in (tmp_path / "run" / "config.yaml").read_text()


def test_a_folder_in_the_home_is_found(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert len(load_data("tiny_imagenet:~/tin").x_train) == 12
    with pytest.raises(DataError, match="~nobody-here/tin is not a Tiny ImageNet folder"):
        load_data("tiny_imagenet:~nobody-here/tin")


def refused(folder):
    with pytest.raises(DataError) as caught:
        load_data(f"tiny_imagenet:{folder}")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("damage", ["truncated", "text", "empty"])
def test_a_corrupt_image_is_named(folder, damage):
    path = folder / "train" / WNIDS[2] / "images" / f"{WNIDS[2]}_1.JPEG"
    whole = path.read_bytes()
    path.write_bytes({"truncated": whole[: len(whole) // 2], "text": b"not an image", "empty": b""}[damage])
    assert f"{path} cannot be read as an image" in refused(folder)
    assert not (folder / CACHE).exists()


def test_an_image_of_another_size_is_named(folder):
    path = folder / "val" / "images" / "val_04.JPEG"
    Image.new("RGB", (9, 8)).save(path)
    assert f"{path} is 8 × 9, other images are 8 × 8" in refused(folder)


def test_folders_of_another_form_are_refused(folder, tmp_path):
    assert "train/<wnid>/images/" in refused(tmp_path / "nowhere")
    annotations = folder / "val" / "val_annotations.txt"
    text = annotations.read_text()
    annotations.write_text("val_99.JPEG\tn01443537\t0\n" + text)
    assert "val_99.JPEG cannot be read: No such file or directory" in refused(folder)
    annotations.write_text("val_04.JPEG\tn0000\t0\n" + text)
    assert f"{annotations}:1: 'n0000' is not a class" in refused(folder)
    annotations.unlink()
    assert "val/val_annotations.txt" in refused(folder)


@pytest.mark.parametrize("left", ["._x.JPEG", "x.txt"])
def test_a_class_without_training_images_is_named(folder, left):
    images = folder / "train" / WNIDS[1] / "images"
    for path in images.iterdir():
        path.unlink()
    (images / left).write_bytes(b"")
    assert refused(folder) == f"data: {images} holds no images; a class needs one at least: .jpeg, .jpg, .png"


def test_annotations_of_nothing_are_named(folder):
    annotations = folder / "val" / "val_annotations.txt"
    annotations.write_text("\n")
    assert refused(folder) == f"data: {annotations} names no images"


def test_a_link_that_leads_nowhere_is_named(folder):
    dangling = folder / "train" / WNIDS[0] / "images" / "zz.JPEG"
    dangling.symlink_to(folder / "nowhere.JPEG")
    assert refused(folder) == f"data: {dangling} cannot be read: No such file or directory"


def test_annotations_that_are_not_utf8_are_named(folder):
    annotations = folder / "val" / "val_annotations.txt"
    annotations.write_bytes(b"val_\xe9.JPEG\tn01443537\n")
    assert refused(folder).startswith(f"data: {annotations} cannot be read: 'utf-8' codec can't decode byte 0xe9")


@pytest.mark.parametrize("name", ["val\0.JPEG", str(Path(__file__).absolute())])
def test_an_annotation_of_no_image_here_is_named(folder, name):
    (folder / "val" / "val_annotations.txt").write_text(f"{name}\tn01443537\n")
    assert f"{name} cannot be read: " in refused(folder)
