"""This module decodes image files, whole or cropped as for ImageNet."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps

from core.data.images import shrink
from core.data.tree import Tree, failure, in_threads, orientation

__all__ = ["CROP_DRAWS", "Decoder", "bits_used", "decode_chunk", "decode_tree"]

CROP_DRAWS = (10, 4)
"""Uniform numbers for one random crop: ten attempts at (area, aspect ratio, top, left)."""

_AREA = (0.08, 1.0)
_ASPECT = (3 / 4, 4 / 3)


@dataclass(frozen=True)
class Decoder:
    """A decoder makes uint8 [C, size, size] of a file.

    channels is 1 (gray) or 3 (RGB); transparency is dropped, and the image is turned as its EXIF
    says. Of images with more than 8 bits a pixel the lowest drop_bits are dropped.

    shorter_side None: the file must be size x size and is taken as it is. Otherwise the image is
    resized (bilinear with antialiasing) until its shorter side is shorter_side, and the central
    size x size pixels are taken. With
    random numbers, a crop of 8 to 100 % of the area and of aspect ratio 3/4 to 4/3 is resized to
    size x size instead (Szegedy et al. 2015; fb.resnet.torch; AdaMixUp trains on the same).
    """

    channels: int
    size: int
    shorter_side: int | None = None
    drop_bits: int = 8

    def __call__(self, path: str, draws: np.ndarray | None = None) -> np.ndarray:
        """Decodes one file; draws float [10, 4] in [0, 1) ask for a random crop."""
        with Image.open(path) as file:
            image: Image.Image = file
            if orientation(file) != 1:
                image = ImageOps.exif_transpose(file)
            if self.shorter_side is None:
                if image.size != (self.size, self.size):
                    width, height = image.size
                    raise ValueError(f"is {width}x{height}, expected {self.size}x{self.size}")
                pixels = np.asarray(self._convert(image))
            else:
                pixels = np.asarray(self._crop(image, draws))
        return pixels.transpose(2, 0, 1) if self.channels == 3 else pixels[None]

    def _convert(self, image: Image.Image) -> Image.Image:
        if image.mode.startswith("I"):  # 16 or 32 bits a pixel, which PIL would clip at 255
            values = np.asarray(image) >> self.drop_bits
            image = Image.fromarray(values.clip(0, 255).astype(np.uint8))
        if image.mode == "P":
            # By way of RGBA: PIL warns when a palette's transparency is dropped directly.
            image = image.convert("RGBA")
        return image.convert("RGB" if self.channels == 3 else "L")

    def _crop(self, image: Image.Image, draws: np.ndarray | None) -> Image.Image:
        assert self.shorter_side is not None
        full = image.size
        if draws is None:
            side = min(full) * self.size / self.shorter_side
            box = _center(full, side, side)
        else:
            box = _random_box(full, draws)
        # A JPEG decodes at 1/2, 1/4 or 1/8 of its size for a fraction of the time.
        shrunk = self.size / min(box[2] - box[0], box[3] - box[1])
        image.draft(None, (math.ceil(full[0] * shrunk), math.ceil(full[1] * shrunk)))
        x, y = image.width / full[0], image.height / full[1]
        box = (box[0] * x, box[1] * y, box[2] * x, box[3] * y)
        return self._convert(image).resize(
            (self.size, self.size), Image.Resampling.BILINEAR, box=box
        )


def _center(full: tuple[int, int], width: float, height: float) -> tuple[float, ...]:
    left, top = (full[0] - width) / 2, (full[1] - height) / 2
    return left, top, left + width, top + height


def _random_box(full: tuple[int, int], draws: np.ndarray) -> tuple[float, ...]:
    """Returns the first attempt that lies inside, else the largest central square."""
    low, high = (math.log(ratio) for ratio in _ASPECT)
    for area, aspect, top, left in draws.tolist():
        pixels = full[0] * full[1] * (_AREA[0] + area * (_AREA[1] - _AREA[0]))
        ratio = math.exp(low + aspect * (high - low))
        width, height = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 0 < width <= full[0] and 0 < height <= full[1]:
            x = int(left * (full[0] - width + 1))
            y = int(top * (full[1] - height + 1))
            return x, y, x + width, y + height
    side = min(full)
    return _center(full, side, side)


def decode_chunk(
    decoder: Decoder,
    root: str,
    names: Sequence[bytes],
    out: np.ndarray,
    draws: np.ndarray | None = None,
) -> list[str]:
    """Decodes the files names below root into out uint8 [n, C, S, S]; draws float [n, 10, 4].

    Returns the files that failed, each with its reason.
    """
    failed = []
    for i, name in enumerate(names):
        path = os.path.join(root, os.fsdecode(name))
        try:
            out[i] = decoder(path, None if draws is None else draws[i])
        # Damaged images make PIL raise nearly anything, struct.error and EOFError included.
        except Exception as error:
            failed.append(f"{path} ({error})")
    return failed


def bits_used(tree: Tree) -> int:
    """Returns how many bits the largest pixel takes of the files with more than 8 bits, else 0.

    Raises `DataFileError` naming up to five files that cannot be decoded.
    """
    names = [os.path.join(tree.root, os.fsdecode(name)) for name in tree.names.tolist()]

    def largest(chunk: slice) -> tuple[int, list[str]]:
        most, failed = 0, []
        for path in names[chunk]:
            try:
                with Image.open(path) as image:
                    if image.mode.startswith("I"):
                        most = max(most, int(np.asarray(image).max()))
            except Exception as error:
                failed.append(f"{path} ({error})")
        return most, failed

    parts = in_threads(largest, len(names))
    if failed := [file for _, files in parts for file in files]:
        raise failure(failed)
    return max((most for most, _ in parts), default=0).bit_length()


def decode_tree(decoder: Decoder, tree: Tree, image_size: int) -> np.ndarray:
    """Decodes every file in threads and shrink it: uint8 [N, C, image_size, image_size].

    Raises `DataFileError` naming up to five files that cannot be decoded.
    """
    names = tree.names.tolist()
    out = np.empty((len(names), decoder.channels, image_size, image_size), np.uint8)

    def work(chunk: slice) -> list[str]:
        part = names[chunk]
        # Chunk by chunk, so that the images never lie in memory at their full size.
        pixels = np.empty((len(part), decoder.channels, decoder.size, decoder.size), np.uint8)
        failed = decode_chunk(decoder, tree.root, part, pixels)
        out[chunk] = shrink(torch.from_numpy(pixels), image_size).numpy()
        return failed

    if failed := [file for part in in_threads(work, len(names)) for file in part]:
        raise failure(failed)
    return out
