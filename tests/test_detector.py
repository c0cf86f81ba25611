"""What the detector says about wrong input; its figures are compared in tests/pipeline/test_same_as_detector.py."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zsad import Detector, ImageError, UsageError, load_config
from zsad.detector import as_item
from zsad.steps.item import load


@pytest.fixture
def detector():
    """Loads the images and goes no further."""
    config = load_config("mini")
    return Detector([lambda items: load(items, config.images)], config)


@pytest.mark.parametrize(
    "image", [np.empty((0, 0, 3), np.uint8), np.empty((4, 0, 3), np.uint8), Image.new("L", (0, 4))]
)
def test_an_image_without_pixels_is_refused(detector, image):
    with pytest.raises(UsageError, match=r"without pixels: its shape is \(\d, 0, 3\)"):
        detector.score(image, "bolt")


@pytest.mark.parametrize("nouns", ["", "  ", ["bolt", ""]])
def test_an_empty_noun_is_refused(detector, nouns):
    with pytest.raises(UsageError, match="The object is empty.*metal washer"):
        detector.score_batch([np.zeros((4, 4, 3), np.uint8)] * 2, nouns)


@pytest.mark.parametrize(
    "image", ["a.jpg", Path("a.jpg"), b"", np.zeros((2, 40, 3), np.uint8), Image.new("RGB", (4, 4))]
)
def test_one_image_is_no_batch(detector, image):
    with pytest.raises(UsageError, match="Given one image; expected a list"):
        detector.score_batch(image, "bolt")


def test_a_batch_may_be_an_array_or_a_generator():
    def name(items):
        for item in items:
            item.fail("load", ImageError("unreadable", str(item.image[0, 0, 0])))

    detector = Detector([name], load_config("mini"))
    images = np.arange(10, 10 + 2 * 40 * 50 * 3, dtype=np.int64).astype(np.uint8).reshape(2, 40, 50, 3)
    expected = ["10", str(images[1, 0, 0, 0])]
    for batch in (list(images), images, (one for one in images)):
        assert [found.failure.message for found in detector.score_batch(batch, "bolt")] == expected


def test_a_batch_may_be_an_array_of_paths(detector, tmp_path):
    paths = np.array([str(tmp_path / "a.jpg"), str(tmp_path / "b.jpg")])
    for batch in (paths, paths.astype(object)):
        assert [found.failure.kind for found in detector.score_batch(batch, "bolt")] == ["missing", "missing"]
    assert detector.score_batch(paths[:0], "bolt") == []


def test_the_error_names_the_path_and_the_failure_of_a_batch_stays_short(detector, tmp_path):
    path = tmp_path / "nowhere.png"
    with pytest.raises(ImageError, match=r"nowhere\.png': no file at this path") as caught:
        detector.score(path, "bolt")
    assert caught.value.kind == "missing"
    assert detector.score_batch([path], "bolt")[0].failure.message == "no file at this path"
    with pytest.raises(ImageError, match="^the file has zero bytes$"):
        detector.score(b"", "bolt")


@pytest.mark.parametrize("noun", [3, None, b"bolt", [3], {"bolt"}, {"bolt": 1}])
def test_an_object_that_is_no_text_is_refused(detector, noun):
    with pytest.raises(UsageError, match="The object is .*Expected a noun for what the images show"):
        detector.score_batch([np.zeros((4, 4, 3), np.uint8)], noun)


def test_a_grey_array_is_the_same_picture_as_its_rgb():
    grey = np.arange(48, dtype=np.uint8).reshape(6, 8)
    np.testing.assert_array_equal(as_item(grey, "bolt").image, np.repeat(grey[..., None], 3, axis=-1))
    with pytest.raises(UsageError, match=r"uint16 array of shape \(6, 8\)\. Expected .*\(H, W\) uint8 grey"):
        as_item(grey.astype(np.uint16), "bolt")
