"""Pictures over pictures: heatmap colours, outlines, boxes whose labels stay inside and apart."""

import numpy as np
import pytest

from zsad.report.overlay import blend, draw_boxes, draw_outline, grey, heat, ink_on, outline, place_label, resize_mask

WHITE, BLACK, BLUE = (255, 255, 255), (0, 0, 0), (0, 114, 178)


@pytest.mark.parametrize("colours", ["inferno", "grey"])
def test_more_heat_is_always_brighter(colours):
    ramp = heat(np.linspace(0, 1, 256, dtype=np.float32)[None], 0, 1, colours)
    light = ramp[0].astype(np.float64) @ (0.299, 0.587, 0.114)
    assert (np.diff(light) > -0.5).all() and light[-1] - light[0] > 150


def test_values_outside_the_scale_take_its_ends():
    values = np.array([[-3, 0.2, 0.8, 9, np.inf, np.nan]], np.float32)
    picture = heat(values, 0.2, 0.8, "grey")[0, :, 0]
    np.testing.assert_array_equal(picture, [0, 0, 255, 255, 255, 0])


def test_a_scale_without_width_tells_only_above_from_not_above():
    np.testing.assert_array_equal(heat(np.array([[0.4, 0.5, 0.6]], np.float16), 0.5, 0.5, "grey")[0, :, 0], [0, 0, 255])


def test_blend_takes_one_share_or_one_per_pixel():
    dark, light = np.zeros((1, 3, 3), np.uint8), np.full((1, 3, 3), 200, np.uint8)
    assert (blend(dark, light, 0.25) == 50).all()
    np.testing.assert_array_equal(blend(dark, light, np.array([[0, 0.5, 1]]))[0, :, 0], [0, 100, 200])


def test_grey_keeps_the_lightness_only():
    assert len(set(grey(np.array([[[200, 30, 90]]], np.uint8)).ravel().tolist())) == 1


@pytest.mark.parametrize(("width", "pixels"), [(1, 16), (2, 16 + 4 * 5), (3, 25 - 1 + 4 * 5)])
def test_an_outline_lies_half_inside_and_half_around(width, pixels):
    mask = np.zeros((20, 20), bool)
    mask[5:10, 5:10] = True
    assert outline(mask, width).sum() == pixels


def test_the_outline_of_everything_runs_along_the_edge():
    line = outline(np.ones((6, 9), bool), 2)
    assert line[0].all() and line[-1].all() and line[:, 0].all() and line[:, -1].all() and not line[1:-1, 1:-1].any()


def test_an_empty_mask_has_no_outline():
    image = np.full((8, 8, 3), 90, np.uint8)
    np.testing.assert_array_equal(draw_outline(image, np.zeros((8, 8), bool), BLUE), image)


def test_a_drawn_outline_has_its_colour_and_casing_and_leaves_the_input_alone():
    image = np.full((30, 30, 3), 90, np.uint8)
    mask = np.zeros((30, 30), bool)
    mask[10:20, 10:20] = True
    drawn = draw_outline(image, mask, BLUE, 2, WHITE)
    assert (drawn[10, 15] == BLUE).all() and (drawn[9, 15] == BLUE).all()
    assert (drawn[8, 15] == 255).all() and (drawn[11, 15] == 255).all() and (drawn[15, 15] == 90).all()
    assert (image == 90).all()


def test_a_thin_mask_survives_shrinking_when_asked():
    mask = np.zeros((100, 100), bool)
    mask[40] = True
    assert not resize_mask(mask, 10, 10).any()
    np.testing.assert_array_equal(resize_mask(mask, 10, 10, least=0).any(axis=1), np.arange(10) == 4)


CORNERS = {
    "in the middle": ((40, 40, 80, 80), (40, 20, 70, 40)),
    "at the top: inside": ((40, 0, 80, 50), (40, 0, 70, 20)),
    "beyond the right edge: shifted": ((85, 50, 100, 80), (70, 30, 100, 50)),
    "flat at the top: below": ((10, 0, 60, 10), (10, 0, 40, 20)),
}


@pytest.mark.parametrize("case", CORNERS)
def test_place_of_a_label(case):
    box, expected = CORNERS[case]
    assert place_label(box, (30, 20), (100, 100), []) == expected


def test_labels_avoid_each_other_or_are_left_out():
    box, taken = (40, 40, 80, 80), []
    while (place := place_label(box, (30, 20), (100, 100), taken)) is not None:
        taken.append(place)
    assert len(taken) == 4
    assert place_label(box, (200, 20), (100, 100), []) is None


def test_labels_of_random_boxes_stay_inside_and_apart():
    rng = np.random.default_rng(0)
    taken = []
    for _ in range(60):
        x0, y0 = rng.integers(0, 150), rng.integers(0, 90)
        place = place_label((x0, y0, x0 + 20, y0 + 15), (38, 16), (170, 110), taken)
        if place is not None:
            assert place[0] >= 0 and place[1] >= 0 and place[2] <= 170 and place[3] <= 110
            assert not any(place[0] < b[2] and b[0] < place[2] and place[1] < b[3] and b[1] < place[3] for b in taken)
            taken.append(place)
    assert len(taken) > 10


def test_boxes_are_clipped_and_those_outside_draw_nothing():
    image = np.full((60, 90, 3), 128, np.uint8)
    drawn = draw_boxes(image, np.array([[-10, -10, 40, 300]]), ["0.9"], [BLUE])
    assert drawn.shape == image.shape and (drawn[30, 1] == BLUE).all() and (drawn != image).any()
    outside = draw_boxes(image, np.array([[200, 0, 300, 20], [-50, 5, -10, 9]]), ["0.9", "0.8"], [BLUE, BLUE])
    np.testing.assert_array_equal(outside, image)


def test_labels_are_readable_on_their_colour():
    assert ink_on((240, 228, 66)) == BLACK and ink_on(BLUE) == WHITE
