"""Two streams of a GPU, here without one, and what SAM launches on them."""

from __future__ import annotations

import copy
import pickle
from contextlib import contextmanager
from itertools import chain
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_images

from zsad.config import ForegroundConfig, ModelConfig
from zsad.models import sam
from zsad.models.streams import TwoStreams

EVERYTHING = ForegroundConfig(
    points_per_side=5, points_per_batch=8, pred_iou_threshold=0, stability_threshold=0, box_nms_threshold=1
)


class Recorded:
    """In the place of ``torch.cuda``: streams that say what happens on them."""

    def __init__(self) -> None:
        self.log: list[Any] = []
        self.current = "default"

    def install(self) -> Any:
        outer = self

        class Stream:
            def __init__(self, device: str, priority: int = 0) -> None:
                self.name = "large" if priority == 0 else "small"

            def wait_stream(self, other: Any) -> None:
                outer.log.append((self.name, "follows", getattr(other, "name", other)))

            def record_event(self) -> str:
                return f"event {len(outer.log)}"

        @contextmanager
        def on(stream: Any) -> Any:
            before, outer.current = outer.current, stream.name
            yield
            outer.current = before

        return patch.multiple(torch.cuda, Stream=Stream, stream=on, current_stream=lambda _: outer.current)


def test_large_work_follows_small_work_follows_the_current_stream():
    recorded = Recorded()
    with recorded.install(), patch.object(torch.Tensor, "record_stream", lambda *_: recorded.log.append("read")):
        streams = TwoStreams("cuda")
        streams.follow()
        with streams.large(torch.zeros(1), torch.zeros(2)):
            assert recorded.current == "large"
        with streams.small():
            assert recorded.current == "small"
        assert recorded.current == "default"
        assert streams.large_so_far() == "event 4"
    assert recorded.log == [("small", "follows", "default"), ("large", "follows", "small"), "read", "read"]


def test_without_a_gpu_nothing_is_put_off():
    streams = TwoStreams("cpu")
    streams.follow()
    with streams.large(torch.zeros(1)), streams.small():
        assert streams.large_so_far() is None
    for other in (copy.deepcopy(streams), pickle.loads(pickle.dumps(streams))):
        assert isinstance(other, TwoStreams) and other.large_so_far() is None


@pytest.mark.parametrize("pruned", [False, True])
def test_sam_encodes_and_decodes_on_the_large_stream_and_selects_on_the_small_one(pruned):
    """As on a GPU, with batches of two, work launched ahead, and threads that resize: the same annotations."""
    model = sam.load(ModelConfig(name="random-sam"), "cpu", "fp32")
    images = [photograph[top : top + 200, :300] for photograph in load_sample_images().images for top in (0, 200)]
    grid = sam.point_grid(5)
    points = [grid[:7], grid[:0], grid[3:22], grid[:12]] if pruned else [None] * 4
    expected = list(model.annotate_all(images, EVERYTHING, points))
    assert sum(map(len, expected)) > 20
    recorded, seen = Recorded(), []

    def noting(name: str) -> Any:
        real = getattr(sam.SAMModel, name)

        def call(self: Any, *arguments: Any) -> Any:
            seen.append((name, recorded.current))
            return real(self, *arguments)

        return patch.object(sam.SAMModel, name, call)

    with recorded.install(), patch.object(torch.Tensor, "record_stream", lambda *_: None):
        # A model of its own streams, which does not know that there is no GPU behind them.
        model.__dict__["_streams"] = TwoStreams("cuda")
    names = ("_encode", "decode", "select", "paint", "encode_points")
    with (
        recorded.install(),
        patch.object(torch.Tensor, "record_stream", lambda *_: None),
        patch.object(sam.Decoding, "wait", lambda self: (self.low, self.predicted_iou)),
        patch.multiple(sam.SAMModel, _on_cpu=lambda _: False, _batch_size=lambda _, config: 2 * config.points_per_batch),
        noting("_encode"), noting("decode"), noting("select"), noting("paint"), noting("encode_points"),
    ):  # fmt: skip
        found = list(model.annotate_all(images, EVERYTHING, points, threads=2))
    assert set(seen) == {(name, "large" if name in ("_encode", "decode") else "small") for name in names}
    # Some masks are decoded ahead, but the first image is done before the last ones are; pruned, there are too few.
    order = [name for name, _ in seen]
    assert order.index("select") >= 3
    assert pruned or "decode" in order[order.index("paint") :]
    assert [len(some) for some in found] == [len(some) for some in expected]
    for mine, other in zip(chain(*found), chain(*expected), strict=True):
        assert mine.box == other.box and mine.point == other.point
        np.testing.assert_array_equal(mine.mask, other.mask)
