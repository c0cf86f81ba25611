"""The step around SAM, with a stand-in that gives chosen annotations."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from zsad.config import load_config
from zsad.models.sam_mask_generator import Annotation
from zsad.steps.instances import Instances
from zsad.steps.item import ImageItem
from zsad.steps.trace import Trace

HEIGHT, WIDTH = 200, 900


@dataclass
class FakeGenerator:
    boxes: list
    asked: list = field(default_factory=list)
    within: list = field(default_factory=list)
    model: Any = field(default_factory=lambda: SimpleNamespace(device="cpu"))

    def annotate_all(self, images, config, points, within=None, threads=1):
        self.asked += points
        self.within += within
        found = [
            Annotation(
                box=(x0, y0, x1, y1),
                mask=np.ones((y1 - y0, x1 - x0), bool),
                area=(y1 - y0) * (x1 - x0),
                predicted_iou=1.0,
                stability_score=1.0,
                point=(x0, y0),
            )
            for x0, y0, x1, y1 in self.boxes
        ]
        return [found for _ in images]


def strip_item():
    dis = np.zeros((HEIGHT, WIDTH), bool)
    dis[80:120, 50:850] = True
    return ImageItem("x", "strip", image=np.full((HEIGHT, WIDTH, 3), 200, np.uint8), dis_mask=dis)


def run(item, *overrides, boxes=(), tile_side=64):
    generator = FakeGenerator(list(boxes))
    Instances(generator, load_config("vand2023", None, list(overrides)), tile_side)([item])
    assert item.failure is None, item.failure
    return generator


PARTS = [(50, 80, 850, 120)] + [(50 + 36 * i, 85, 60 + 36 * i, 115) for i in range(22)]


def test_many_part_strip_is_tiled_along_its_axis():
    item = strip_item()
    run(item, boxes=PARTS)
    assert item.foreground_source == "sam+dis" and item.num_components == 1
    assert 30 < len(item.tiles) <= 64 and item.tiles[0].x1 - item.tiles[0].x0 == 64
    assert item.note is None


def test_row_says_when_max_tiles_widened_the_step():
    item = strip_item()
    run(item, "tiling.max_tiles=20", boxes=PARTS)
    assert len(item.tiles) == 20
    assert "20 tiles" in item.note


def test_without_annotations_the_dis_mask_is_the_foreground():
    item = strip_item()
    generator = run(item)
    assert item.foreground_source == "dis" and len(generator.asked) == 1
    np.testing.assert_array_equal(item.foreground, item.dis_mask)


def test_an_empty_dis_mask_means_the_whole_image_without_asking_sam():
    item = strip_item()
    item.dis_mask[:] = False
    generator = run(item, boxes=PARTS)
    assert item.foreground_source == "full_image" and generator.asked == []
    assert item.foreground.all() and len(item.tiles) == 1


def test_precomputed_foreground_replaces_both_models(tmp_path):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[20:80, 100:200] = 1
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    item = strip_item()
    item.foreground_path = str(tmp_path / "mask.png")
    generator = run(item, boxes=PARTS)
    assert item.foreground_source == "precomputed" and generator.asked == []
    np.testing.assert_array_equal(item.foreground, mask > 0)


def test_an_empty_precomputed_foreground_is_remarked(tmp_path):
    cv2.imwrite(str(tmp_path / "mask.png"), np.zeros((HEIGHT, WIDTH), np.uint8))
    item = strip_item()
    item.foreground_path = str(tmp_path / "mask.png")
    run(item, boxes=PARTS)
    assert (item.foreground_source, item.note) == (
        "full_image",
        "the given foreground is empty, so the whole image was taken",
    )


def test_precomputed_foreground_of_another_size_is_an_error_row(tmp_path):
    cv2.imwrite(str(tmp_path / "mask.png"), np.ones((10, 10), np.uint8))
    item = strip_item()
    item.foreground_path = str(tmp_path / "mask.png")
    Instances(FakeGenerator([]), load_config("vand2023"), 64)([item])
    assert item.failure.kind == "foreground_size" and "10 x 10" in item.failure.message


def test_a_foreground_that_is_missing_is_named(tmp_path):
    item = strip_item()
    item.foreground_path = str(tmp_path / "gone.png")
    Instances(FakeGenerator([]), load_config("vand2023"), 64)([item])
    assert item.failure.kind == "missing"
    assert item.failure.message == f"the foreground '{tmp_path}/gone.png': no file at this path"


@pytest.mark.parametrize("pruned", [False, True])
def test_point_pruning_asks_only_near_the_dis_mask(pruned):
    item = strip_item()
    generator = run(item, f"foreground.point_pruning={'dis' if pruned else 'none'}", boxes=PARTS)
    (points,) = generator.asked
    if not pruned:
        assert points is None
    else:
        assert 0 < len(points) < 1024
        assert (np.abs(points[:, 1] * HEIGHT - 100) <= 20 + 0.05 * WIDTH + 1).all()


def test_less_memory_means_fewer_points_at_once():
    asked = []

    class SmallGPU(FakeGenerator):
        def annotate_all(self, images, config, points, within=None, threads=1):
            asked.append(config.points_per_batch)
            if asked[-1] > 16:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().annotate_all(images, config, points, within, threads)

    item = strip_item()
    Instances(SmallGPU(list(PARTS)), load_config("vand2023"), 64)([item])
    assert item.failure is None and item.foreground_source == "sam+dis"
    assert asked == [64, 32, 16]


def test_less_memory_means_fewer_images_before_fewer_points():
    asked = []

    class SmallGPU(FakeGenerator):
        def annotate_all(self, images, config, points, within=None, threads=1):
            asked.append((len(images), config.points_per_batch))
            if len(images) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().annotate_all(images, config, points, within, threads)

    items = [strip_item() for _ in range(8)]
    Instances(SmallGPU(list(PARTS)), load_config("vand2023"), 64)(items)
    assert all(item.failure is None and item.foreground_source == "sam+dis" for item in items)
    assert asked == [(8, 64), (4, 64), (2, 64), (2, 64), (4, 64), (2, 64), (2, 64)]


def test_images_are_given_to_sam_together_and_a_bad_one_fails_alone():
    class Picky(FakeGenerator):
        def annotate_all(self, images, config, points, within=None, threads=1):
            if any(image[0, 0, 0] == 7 for image in images):
                raise ValueError("seven")
            self.together.append(len(images))
            return super().annotate_all(images, config, points, within, threads)

    items = [strip_item() for _ in range(9)]
    items[2].image[:] = 7
    items[5].dis_mask[:] = False
    items[6].foreground_path = "missing.png"
    generator = Picky(list(PARTS))
    generator.together = []
    Instances(generator, load_config("vand2023"), 64)(items)
    assert [item.failure.message if item.failure else None for item in items][:6] == [None, None, "seven"] + [None] * 3
    assert items[6].failure.kind == "missing"
    sources = [item.foreground_source for item in items]
    assert sources == ["sam+dis"] * 2 + [None, *["sam+dis"] * 2, "full_image", None, *["sam+dis"] * 2]
    # Eight at once, of which six ask: the half with the bad one by halves again.
    assert generator.together == [1, 1, 3, 1]


def test_only_the_covered_annotations_are_asked_for_unless_the_image_is_explained():
    items = [strip_item() for _ in range(3)]
    items[1].trace = Trace()
    generator = FakeGenerator([*PARTS, (0, 0, 900, 30)])
    Instances(generator, load_config("vand2023"), 64)(items)
    assert generator.within[0] is items[0].dis_mask and generator.within[2] is items[2].dis_mask
    assert generator.within[1] is None
    assert len(items[1].trace.annotations) == len(PARTS) + 1


@pytest.mark.parametrize("threads", [1, 3])
def test_what_fails_after_sam_fails_alone_whatever_the_threads(threads, monkeypatch):
    generator = FakeGenerator(list(PARTS), model=SimpleNamespace(device="cuda"))
    step = Instances(generator, load_config("vand2023", None, [f"runtime.threads={threads}"]), 64)
    whole, segment = [strip_item() for _ in range(5)], step._segment

    def picky(item, annotations):
        if item is whole[1] or item is whole[3]:
            raise ValueError(f"number {[item is one for one in whole].index(True)}")
        segment(item, annotations)

    monkeypatch.setattr(step, "_segment", picky)
    step(whole)
    messages = [item.failure.message if item.failure else None for item in whole]
    assert messages == [None, "number 1", None, "number 3", None]
    assert [item.foreground_source for item in whole] == ["sam+dis", None, "sam+dis", None, "sam+dis"]
    assert all(item.stage_ms["instances"] > 0 for item in whole)


def test_images_done_before_an_error_are_not_asked_for_again():
    """SAM answers one image after the other, and fails at the third, whoever else is there."""
    asked = []

    class Failing(FakeGenerator):
        def annotate_all(self, images, config, points, within=None, threads=1):
            asked.append([int(image[0, 0, 0]) for image in images])
            for image, found in zip(images, super().annotate_all(images, config, points, within, threads), strict=True):
                if image[0, 0, 0] == 2:
                    raise ValueError("the third")
                yield found

    items = [strip_item() for _ in range(5)]
    for number, item in enumerate(items):
        item.image[:] = number
    Instances(Failing(list(PARTS)), load_config("vand2023"), 64)(items)
    assert [item.failure.message if item.failure else None for item in items] == [None, None, "the third", None, None]
    assert [item.foreground_source for item in items] == ["sam+dis"] * 2 + [None] + ["sam+dis"] * 2
    assert asked == [[0, 1, 2, 3, 4], [], [2, 3, 4], [2], [3, 4]]


def test_an_error_that_condemns_the_process_is_not_lost_in_a_thread(monkeypatch):
    step = Instances(FakeGenerator(list(PARTS)), load_config("vand2023"), 64)

    def lost(item, annotations):
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(step, "_segment", lost)
    with pytest.raises(RuntimeError, match="device-side assert"):
        step([strip_item()])
