from dataclasses import dataclass

import cv2
import numpy as np
import pytest

from zsad.config import ForegroundConfig
from zsad.coverage import covered_annotations
from zsad.method.foreground import (
    binarise_saliency,
    extract_foreground,
    foreground_from_mask,
    near,
)

LITERAL = ForegroundConfig(closing_radius=0, min_component_fraction=0)


@dataclass(frozen=True)
class Annotation:
    box: tuple[int, int, int, int]
    mask: np.ndarray
    area: int


def annotation(mask):
    ys, xs = np.nonzero(mask)
    box = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
    return Annotation(box, mask[box[1] : box[3], box[0] : box[2]], int(mask.sum()))


def rectangle(height, width, y0, x0, y1, x1):
    mask = np.zeros((height, width), bool)
    mask[y0:y1, x0:x1] = True
    return mask


def test_saliency_is_stretched_then_binarised_at_the_middle():
    saliency = np.full((8, 8), 0.2, np.float32)
    saliency[:, 4:] = 0.6
    mask = binarise_saliency(saliency, 16, 16, ForegroundConfig())
    np.testing.assert_array_equal(mask, np.broadcast_to(np.arange(16) >= 8, (16, 16)))


@pytest.mark.parametrize(("guard", "empty"), [(0.5, True), (0.0, False)])
def test_a_map_that_never_exceeds_the_guard_is_empty(guard, empty):
    saliency = np.linspace(0, 0.4, 64, dtype=np.float32).reshape(8, 8)
    mask = binarise_saliency(saliency, 20, 20, ForegroundConfig(empty_guard=guard))
    assert mask.any() != empty


def test_annotations_need_eighty_percent_coverage():
    dis = rectangle(20, 20, 0, 0, 10, 20)
    inside, at_80, at_79 = (
        rectangle(20, 20, 0, 0, 5, 5),
        rectangle(20, 20, 2, 0, 12, 4),
        rectangle(20, 20, 2, 5, 12, 9),
    )
    at_79[0, 19] = at_79[11, 9] = at_79[10, 9] = at_79[12, 9] = True
    kept = covered_annotations([annotation(m) for m in (inside, at_80, at_79)], dis, 0.80)
    assert kept == [0, 1]


def test_foreground_is_the_union_of_kept_annotations_with_ordered_components():
    dis = rectangle(40, 40, 0, 0, 40, 30)
    left, right, shadow = (
        rectangle(40, 40, 20, 2, 30, 10),
        rectangle(40, 40, 5, 15, 12, 25),
        rectangle(40, 40, 0, 28, 40, 40),
    )
    found = extract_foreground(dis, [annotation(m) for m in (left, right, shadow)], LITERAL)
    assert found.source == "sam+dis"
    np.testing.assert_array_equal(found.mask, left | right)
    np.testing.assert_array_equal(found.boxes, [[15, 5, 25, 12], [2, 20, 10, 30]])
    np.testing.assert_array_equal(found.components == 1, right)
    assert found.components.dtype == np.int32


def test_fallback_chain():
    dis = rectangle(30, 30, 5, 5, 15, 15)
    outside = annotation(rectangle(30, 30, 20, 20, 28, 28))
    assert extract_foreground(dis, [outside], LITERAL).source == "dis"
    nothing = extract_foreground(np.zeros((30, 30), bool), [], LITERAL)
    assert nothing.source == "full_image"
    np.testing.assert_array_equal(nothing.boxes, [[0, 0, 30, 30]])
    inside = annotation(rectangle(30, 30, 6, 6, 12, 12))
    assert extract_foreground(dis, [inside], LITERAL.model_copy(update={"source": "dis"})).source == "dis"
    assert extract_foreground(dis, [inside], LITERAL.model_copy(update={"source": "full_image"})).mask.all()


def test_parts_are_annotations_with_half_their_area_in_the_component():
    dis = np.ones((40, 40), bool)
    body = rectangle(40, 40, 5, 5, 35, 15)
    half_in = rectangle(40, 40, 10, 10, 12, 20)
    masks = [body, rectangle(40, 40, 6, 6, 8, 8), half_in]
    found = extract_foreground(dis, [annotation(m) for m in masks], LITERAL)
    assert found.parts.tolist() == [3]
    apart = rectangle(40, 40, 5, 25, 10, 30)
    found = extract_foreground(dis, [annotation(m) for m in (body, apart)], LITERAL)
    assert found.parts.tolist() == [1, 1]


@pytest.mark.parametrize("seed", range(5))
def test_parts_are_counted_as_numpy_counts(seed):
    rng = np.random.default_rng(seed)
    masks = []
    for _ in range(30):
        (y, x), (height, width) = rng.integers(0, (50, 70)), rng.integers(1, 12, 2)
        # With holes; some touch the border.
        masks.append(rectangle(60, 80, y, x, y + height, x + width) & (rng.random((60, 80)) < 0.8))
    annotations = [annotation(mask) for mask in masks if mask.any()]
    annotations.append(Annotation((0, 0, 0, 0), np.zeros((0, 0), bool), 0))
    found = extract_foreground(np.ones((60, 80), bool), annotations, LITERAL)
    count = len(found.boxes)
    expected = np.zeros(count, int)
    for mask in masks:
        expected += (2 * np.bincount(found.components[mask], minlength=count + 1)[1:] >= mask.sum()) & mask.any()
    assert count > 1 and found.parts.tolist() == expected.tolist()


def test_components_touch_diagonally():
    mask = np.zeros((10, 10), bool)
    mask[2, 2] = mask[3, 3] = True
    assert len(foreground_from_mask(mask, LITERAL).boxes) == 1


@pytest.mark.parametrize("radius", [1, 3, 9])
def test_closing_is_that_of_the_whole_image_on_an_endless_plane(radius):
    rng = np.random.default_rng(radius)
    yy, xx = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disc = (xx**2 + yy**2 <= radius**2).astype(np.uint8)
    config = ForegroundConfig(closing_radius=radius, min_component_fraction=0)
    for share in (0.002, 0.02, 0.2, 0.9):
        for height, width in ((40, 50), (1, 30), (25, 3)):
            mask = rng.random((height, width)) < share
            mask[rng.integers(height), rng.integers(width)] = True
            plane = np.pad(mask, 3 * radius).view(np.uint8)
            expected = cv2.morphologyEx(plane, cv2.MORPH_CLOSE, disc)[
                3 * radius : -3 * radius, 3 * radius : -3 * radius
            ]
            for given in (mask, np.asfortranarray(mask)):
                found = foreground_from_mask(given, config).mask
                np.testing.assert_array_equal(found, expected.astype(bool))
                assert found.flags.c_contiguous


@pytest.mark.parametrize("size", [(16, 16), (23, 31)])
def test_a_dis_mask_is_the_stretched_map_above_the_threshold(size):
    saliency = np.random.default_rng(0).random((16, 16)).astype(np.float32)
    before = saliency.copy()
    resized = cv2.resize(saliency, size[::-1], interpolation=cv2.INTER_LINEAR)
    stretched = (resized - float(resized.min())) / (float(resized.max()) - float(resized.min()))
    for threshold in (0.1, 0.5, 0.58):
        config = ForegroundConfig(binarise_threshold=threshold)
        np.testing.assert_array_equal(binarise_saliency(saliency, *size, config), stretched > threshold)
    np.testing.assert_array_equal(saliency, before)


def test_closing_joins_neighbours_but_does_not_stick_to_the_border():
    mask = rectangle(60, 60, 20, 3, 40, 20) | rectangle(60, 60, 20, 24, 40, 40)
    found = foreground_from_mask(mask, ForegroundConfig(closing_radius=5, min_component_fraction=0))
    assert len(found.boxes) == 1
    assert not found.mask[:, :3].any()
    assert len(foreground_from_mask(mask, LITERAL).boxes) == 2


def test_small_components_are_dropped_but_never_all():
    mask = rectangle(100, 100, 10, 10, 40, 40)
    mask[80, 80] = True
    config = ForegroundConfig(closing_radius=0)
    assert len(foreground_from_mask(mask, config).boxes) == 1
    specks = np.zeros((100, 100), bool)
    specks[5, 5] = True
    specks[50:52, 50] = True
    found = foreground_from_mask(specks, config)
    np.testing.assert_array_equal(found.boxes, [[50, 50, 51, 52]])


def test_empty_given_mask_means_full_image():
    assert foreground_from_mask(np.zeros((5, 5), bool), LITERAL).source == "full_image"
    assert foreground_from_mask(np.ones((5, 5), bool), LITERAL).source == "precomputed"


@pytest.mark.parametrize("radius", [0, 1, 7, 200])
def test_points_near_the_mask_are_those_in_the_grown_mask(radius):
    rng = np.random.default_rng(radius)
    mask = rng.random((60, 90)) > 0.995
    rows, columns = (index.ravel() for index in np.indices(mask.shape))
    grown = cv2.dilate(mask.view(np.uint8), np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)) > 0
    assert np.array_equal(near(mask, rows, columns, radius), grown.ravel())
    assert not near(np.zeros_like(mask), rows, columns, radius).any()


@pytest.mark.parametrize("density", [0.05, 0.3, 0.6])
def test_components_are_opencvs_in_the_order_of_their_corners(density):
    rng = np.random.default_rng(1)
    given = rng.random((70, 110)) < density
    found = foreground_from_mask(given, ForegroundConfig(closing_radius=0, min_component_fraction=2 / given.size))
    count, labels, statistics, _ = cv2.connectedComponentsWithStats(given.view(np.uint8), connectivity=8)
    x, y, width, height, areas = statistics.T
    kept = [i for i in np.lexsort((y + height, x + width, x, y)) if i and areas[i] >= 2]
    assert 0 < len(kept) < count - 1 or density > 0.5
    expected = np.stack([x, y, x + width, y + height], axis=1)[kept]
    assert np.array_equal(found.boxes, expected) and found.boxes.dtype == np.int32
    for number, i in enumerate(kept, 1):
        assert np.array_equal(found.components == number, labels == i)
    assert np.array_equal(found.mask, np.isin(labels, kept)) and found.components.dtype == np.int32
