"""Make a small folder shaped like Tiny ImageNet, to try `tiny_imagenet.yaml` without the data set.

    python examples/synthetic_tiny_imagenet.py FOLDER [--images 2000] [--classes 200]
    analogsim train tiny_imagenet --set data=tiny_imagenet:FOLDER --set training.epochs=2

Every class is a colour and a stripe pattern of its own under noise; a tenth of the images is val/.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image


def make(folder: Path, images: int, classes: int) -> None:
    rng = np.random.default_rng(0)
    colours, waves = rng.uniform(60, 195, (classes, 3)), rng.uniform(-0.6, 0.6, (classes, 2))
    rows, columns = np.mgrid[:64, :64]
    (folder / "val" / "images").mkdir(parents=True)
    lines = []
    for number in range(images):
        label = number % classes
        wave = np.sin(waves[label, 0] * rows + waves[label, 1] * columns + rng.uniform(0, 2 * np.pi))
        pixels = colours[label] + 40 * wave[..., None] + rng.normal(0, 25, (64, 64, 3))
        wnid = f"n{10_000_000 + label}"
        if number // classes % 10 == 9:
            path = folder / "val" / "images" / f"val_{number}.JPEG"
            lines.append(f"{path.name}\t{wnid}\t0\t0\t62\t62\n")
        else:
            path = folder / "train" / wnid / "images" / f"{wnid}_{number}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=90)
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--classes", type=int, default=200)
    arguments = parser.parse_args()
    make(arguments.folder, arguments.images, arguments.classes)
