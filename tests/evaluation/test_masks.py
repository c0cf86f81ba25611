from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from zsad.config import ImagesConfig
from zsad.errors import ImageError
from zsad.evaluation.masks import read_mask, resize_mask

LIMITS = ImagesConfig(max_pixels=10_000)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_mask_of_the_stored_size_turns_with_its_image(tmp_path: Path, orientation: int) -> None:
    generator = np.random.default_rng(orientation)
    stored = generator.random((5, 9)) < 0.4
    exif = Image.Exif()
    exif[0x0112] = orientation
    photograph = Image.fromarray(stored.astype(np.uint8) * 255)
    photograph.save(tmp_path / "photo.png", exif=exif)
    Image.fromarray(stored.astype(np.uint8)).save(tmp_path / "mask.png")
    expected = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "photo.png"))) > 0
    mask = read_mask(str(tmp_path / "mask.png"), str(tmp_path / "photo.png"), 9, 5, LIMITS)
    assert np.array_equal(mask, expected)


def test_mask_of_the_oriented_size_is_taken_without_opening_the_image(tmp_path: Path) -> None:
    oriented = np.random.default_rng(0).random((9, 5)) < 0.4
    Image.fromarray(oriented.astype(np.uint8)).save(tmp_path / "mask.png")
    assert np.array_equal(read_mask(str(tmp_path / "mask.png"), "nowhere.jpg", 9, 5, LIMITS), oriented)


@pytest.mark.parametrize("size", [(5, 9), (4, 4), (18, 10)])
def test_other_sizes_are_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    """(5, 9) is the transposed size, but this image has no orientation that would transpose it."""
    Image.new("L", (5, 9)).save(tmp_path / "photo.png")
    Image.new("L", size[::-1]).save(tmp_path / "mask.png")
    with pytest.raises(ImageError) as caught:
        read_mask(str(tmp_path / "mask.png"), str(tmp_path / "photo.png"), 9, 5, LIMITS)
    assert caught.value.kind == "mask_size"
    assert str(caught.value) == f"the mask has {size[1]} x {size[0]} pixels, the image 5 x 9"


def test_caps_hold_for_masks(tmp_path: Path) -> None:
    Image.new("L", (5, 9)).save(tmp_path / "mask.png")
    with pytest.raises(ImageError) as caught:
        read_mask(str(tmp_path / "mask.png"), "photo.png", 9, 5, ImagesConfig(max_pixels=44))
    assert caught.value.kind == "too_many_pixels"
    with pytest.raises(ImageError) as caught:
        read_mask(str(tmp_path / "mask.png"), "photo.png", 9, 5, ImagesConfig(max_file_bytes=10))
    assert caught.value.kind == "file_too_large"


@pytest.mark.parametrize("size_in", [(7, 5), (31, 64), (1, 3), (100, 77)])
@pytest.mark.parametrize("size_out", [(3, 4), (7, 5), (50, 41)])
def test_nearest_rule_is_that_of_opencv_and_pillow(size_in: tuple[int, int], size_out: tuple[int, int]) -> None:
    mask = np.random.default_rng(0).random(size_in) < 0.5
    resized = resize_mask(mask, *size_out)
    pixels = mask.astype(np.uint8)
    by_opencv = cv2.resize(pixels, size_out[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    by_pillow = np.asarray(Image.fromarray(pixels).resize(size_out[::-1], Image.Resampling.NEAREST))
    assert np.array_equal(resized, by_opencv > 0)
    assert np.array_equal(resized, by_pillow > 0)
    rows = [int(np.floor((i + 0.5) * size_in[0] / size_out[0])) for i in range(size_out[0])]
    columns = [int(np.floor((i + 0.5) * size_in[1] / size_out[1])) for i in range(size_out[1])]
    assert np.array_equal(resized, mask[rows][:, columns])
