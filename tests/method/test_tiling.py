import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zsad.config import TilingConfig
from zsad.method.tiling import Tile, crop, tile_image


def tiles_of(box, height, width, *, parts=0, min_side=352, **config):
    boxes = np.array([box], np.int32)
    return tile_image(boxes, np.array([parts], np.int32), height, width, min_side, TilingConfig(**config))


@st.composite
def boxed_images(draw):
    height, width = draw(st.integers(1, 3000)), draw(st.integers(1, 3000))
    x0, y0 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    x1, y1 = draw(st.integers(x0 + 1, width)), draw(st.integers(y0 + 1, height))
    return (x0, y0, x1, y1), height, width


@given(boxed_images(), st.sampled_from([0, 21]), st.sampled_from([1, 64, 352]), st.sampled_from([1, 2, 5, 64]))
def test_every_pixel_is_covered_and_every_tile_is_a_large_enough_square_that_meets_the_image(
    boxed, parts, min_side, max_tiles
):
    (x0, y0, x1, y1), height, width = boxed
    options = {"parts": parts, "min_side": min_side, "max_tiles": max_tiles}
    tiling = tiles_of((x0, y0, x1, y1), height, width, **options)
    assert tiling == tiles_of((x0, y0, x1, y1), height, width, **options)
    assert 1 <= len(tiling.tiles) <= max_tiles
    columns, rows = np.zeros(width, bool), np.zeros(height, bool)
    for tile in tiling.tiles:
        assert tile.x1 - tile.x0 == tile.y1 - tile.y0 >= min_side
        assert tile.x0 < width and tile.x1 > 0 and tile.y0 < height and tile.y1 > 0
        columns[max(tile.x0, 0) : tile.x1] = True
        rows[max(tile.y0, 0) : tile.y1] = True
        # One of the two axes is covered whole by every tile, so covering both separately covers the box.
        assert (tile.x0 <= x0 and tile.x1 >= x1) or (tile.y0 <= y0 and tile.y1 >= y1)
    assert columns[x0:x1].all() and rows[y0:y1].all()


@given(boxed_images(), st.integers(1, 400))
def test_a_tile_that_fits_lies_inside_and_one_that_does_not_is_centred(boxed, min_side):
    box, height, width = boxed
    (tile,) = tiles_of(box, height, width, min_side=min_side).tiles
    for start, stop, size in ((tile.x0, tile.x1, width), (tile.y0, tile.y1, height)):
        if stop - start <= size:
            assert start >= 0 and stop <= size
        else:
            before, after = -start, stop - size
            assert after - before in (0, 1)


@given(
    st.integers(0, 500), st.integers(30, 2000), st.integers(5, 400), st.integers(0, 60), st.sampled_from([8, 100, 352])
)
def test_every_point_of_a_long_axis_is_central_in_some_tile(begin, length, short, across, min_side):
    if length <= 1.5 * short:
        return
    box = (begin, across, begin + length, across + short)
    tiling = tiles_of(box, 500, 2600, parts=21, min_side=min_side, max_tiles=10_000)
    assert not tiling.widened
    step = max(1, short // 2)
    starts = [tile.x0 for tile in tiling.tiles]
    assert all(after - before == step for before, after in itertools.pairwise(starts[:-1]))
    for point in np.linspace(begin, begin + length, 101):
        assert any(
            tile.x0 + (tile.x1 - tile.x0) / 4 - 1e-9 <= point <= tile.x0 + 3 * (tile.x1 - tile.x0) / 4 + 1e-9
            for tile in tiling.tiles
        )


@pytest.mark.parametrize(
    ("parts", "box", "elongated"),
    [
        (20, (0, 0, 1000, 100), False),
        (21, (0, 0, 1000, 100), True),
        (21, (0, 0, 100, 1000), True),
        (21, (0, 0, 600, 400), False),
        (21, (0, 0, 601, 400), True),
    ],
)
def test_elongated_rule_needs_aspect_over_1_5_and_more_than_20_parts(parts, box, elongated):
    assert (len(tiles_of(box, 1000, 1000, parts=parts, min_side=50).tiles) > 1) == elongated


def test_elongated_tiles_pad_at_the_border_and_vertical_equals_horizontal_transposed():
    across = tiles_of((0, 10, 900, 110), 400, 900, parts=30, min_side=200).tiles
    down = tiles_of((10, 0, 110, 900), 900, 400, parts=30, min_side=200).tiles
    assert across[0].x0 == -50 and across[-1].x1 == 950
    assert [(t.y0, t.x0) for t in across] == [(t.x0, t.y0) for t in down]


def test_max_tiles_widens_the_step_and_says_so():
    tiling = tiles_of((0, 0, 2000, 20), 500, 2000, parts=30, min_side=100, max_tiles=6)
    assert len(tiling.tiles) == 6
    assert tiling.widened == (0,)


def test_components_keep_their_order():
    boxes = np.array([[0, 0, 10, 10], [50, 50, 90, 70]], np.int32)
    tiles = tile_image(boxes, np.zeros(2, np.int32), 100, 100, 30, TilingConfig()).tiles
    assert tiles == (Tile(0, 0, 30, 30, 0), Tile(50, 40, 90, 80, 1))


def test_crop_repeats_the_edge():
    image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    tile = crop(image, Tile(-1, -2, 4, 3, 0))
    assert tile.shape == (5, 5, 3)
    assert (tile.top, tile.bottom, tile.left, tile.right) == (2, 1, 1, 1)
    np.testing.assert_array_equal(tile.pixels, image)
    tile = crop(image, Tile(1, -2, 4, 1, 0))
    assert tile.shape == (3, 3, 3)
    assert (tile.top, tile.bottom, tile.left, tile.right) == (2, 0, 0, 1)
    np.testing.assert_array_equal(tile.pixels, image[:1, 1:])


def test_crop_is_a_view():
    image = np.zeros((10, 12, 3), np.uint8)
    assert np.shares_memory(crop(image, Tile(2, 3, 8, 9, 0)), image)
    assert np.shares_memory(crop(image, Tile(2, -3, 10, 5, 0)).pixels, image)
