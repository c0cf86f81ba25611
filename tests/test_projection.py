import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zsad.projection import aggregate, project, resize

GOLDEN = "0c81e51897f4040788c6f2ec30468674dcc9852654cefa74062e31f65442e10b"


def direct(tile_maps, boxes, height, width):
    """Pixel by pixel: the mean over the tiles that cover a pixel, each resized by torch."""
    total, count = np.zeros((height, width)), np.zeros((height, width))
    for tile_map, (x0, y0, x1, y1) in zip(tile_maps, boxes, strict=True):
        full = torch.nn.functional.interpolate(
            torch.from_numpy(tile_map.astype(np.float64))[None, None], (y1 - y0, x1 - x0), mode="bilinear"
        )[0, 0].numpy()
        for y in range(max(y0, 0), min(y1, height)):
            for x in range(max(x0, 0), min(x1, width)):
                total[y, x] += full[y - y0, x - x0]
                count[y, x] += 1
    return total / np.maximum(count, 1)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 30), st.integers(1, 30), st.integers(0, 10**6))
def test_resize_equals_torch(height_in, width_in, height, width, seed):
    array = np.random.default_rng(seed).standard_normal((height_in, width_in)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(array.astype(np.float64))[None, None], (height, width), mode="bilinear"
    )[0, 0]
    found = resize(array, height, width)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected.numpy(), atol=2e-6)


@given(st.integers(0, 5), st.integers(1, 25), st.integers(1, 25), st.booleans(), st.integers(0, 10**6))
def test_mean_over_overlapping_tiles_zero_outside(count, height, width, masked, seed):
    rng = np.random.default_rng(seed)
    tiles = rng.random((count, 6, 6)).astype(np.float16)
    corners = rng.integers(-8, 25, (count, 2))
    boxes = np.concatenate([corners, corners + rng.integers(1, 20, (count, 1))], 1)
    foreground = rng.random((height, width)) < 0.5 if masked else None
    found = aggregate(tiles, boxes, height, width)
    np.testing.assert_allclose(found, direct(tiles, boxes.tolist(), height, width), atol=1e-6)
    rounded = project(tiles, boxes, height, width, foreground)
    assert rounded.dtype == np.float16
    np.testing.assert_array_equal(
        rounded, np.where(True if foreground is None else foreground, found, 0).astype(np.float16)
    )


def blend(source, size, start, stop):
    """Along the first axis, in whole arrays: the definition of ``PROJECTION``."""
    centre = np.clip((np.arange(start, stop) + 0.5) * (len(source) / size) - 0.5, 0, len(source) - 1)
    low = np.floor(centre).astype(int)
    weight = (centre - low).astype(np.float32)[:, None]
    return source[low] * (1 - weight) + source[np.minimum(low + 1, len(source) - 1)] * weight


@given(
    st.integers(0, 4), st.integers(1, 150), st.integers(1, 40), st.sampled_from([1, 0.01, 300]), st.integers(0, 10**6)
)
def test_bit_for_bit_what_whole_arrays_give(count, height, width, scale, seed):
    rng = np.random.default_rng(seed)
    tiles = (scale * rng.standard_normal((count, 5, 7))).astype(np.float32)
    corners = rng.integers(-20, 60, (count, 2))
    boxes = np.concatenate([corners, corners + rng.integers(0, 60, (count, 2))], 1)
    total, hits = np.zeros((height, width), np.float32), np.zeros((height, width), np.float32)
    for tile, (x0, y0, x1, y1) in zip(tiles, boxes.tolist(), strict=True):
        top, bottom, left, right = max(y0, 0), min(y1, height), max(x0, 0), min(x1, width)
        if top < bottom and left < right:
            rows = blend(tile, y1 - y0, top - y0, bottom - y0)
            total[top:bottom, left:right] += blend(rows.T, x1 - x0, left - x0, right - x0).T
            hits[top:bottom, left:right] += 1
    expected = total / np.maximum(hits, 1)
    found = aggregate(tiles, boxes, height, width)
    assert np.array_equal(found.view(np.uint32), expected.view(np.uint32))
    rounded = project(tiles, boxes, height, width)
    assert np.array_equal(rounded.view(np.uint16), expected.astype(np.float16).view(np.uint16))


def test_same_size_keeps_every_bit():
    tile = np.arange(65536, dtype=np.uint16).view(np.float16).reshape(1, 256, 256)
    tile = np.where(np.isfinite(tile), tile, np.float16(0))
    found = project(tile, np.array([[0, 0, 256, 256]]), 256, 256)
    np.testing.assert_array_equal(found, tile[0])


def test_a_window_of_a_tile_equals_the_crop_of_the_whole():
    tile = np.random.default_rng(0).random((1, 16, 16)).astype(np.float16)
    whole = project(tile, np.array([[0, 0, 50, 50]]), 50, 50)
    part = project(tile, np.array([[-7, -11, 43, 39]]), 30, 20)
    np.testing.assert_array_equal(part, whole[11:41, 7:27])


def test_input_is_left_as_it_was():
    tile = np.random.default_rng(0).random((2, 8, 8)).astype(np.float32)
    before = tile.copy()
    project(tile, np.array([[0, 0, 8, 8], [4, 4, 12, 12]]), 12, 12, np.zeros((12, 12), bool))
    np.testing.assert_array_equal(tile, before)


def test_as_many_boxes_as_tiles():
    with pytest.raises(ValueError, match="zip"):
        project(np.zeros((2, 4, 4), np.float16), np.array([[0, 0, 4, 4]]), 8, 8)


def test_tile_maps_without_pixels_are_refused():
    with pytest.raises(ValueError, match="no pixels"):
        project(np.zeros((1, 0, 0), np.float16), np.array([[0, 0, 4, 4]]), 8, 8)


def golden():
    y, x = np.mgrid[0:64, 0:64]
    tiles = np.stack([((x * 37 + y * 91 + t * 53) % 1021 / 1024).astype(np.float16) for t in range(4)])
    boxes = np.array([[0, 0, 131, 131], [90, 20, 221, 151], [-10, 60, 121, 191], [100, 100, 150, 150]])
    return hashlib.sha256(project(tiles, boxes, 170, 200).astype("<f2").tobytes()).hexdigest()


def test_golden_bits():
    """These bits are what every stored map means; they may only change with the codec's version."""
    assert golden() == GOLDEN
