"""Two streams of a GPU, here without one, and what SAM launches on them."""

from __future__ import annotations

import copy
import pickle
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_images

from zsad.config import ForegroundConfig, ModelConfig
from zsad.models import sam, sam_decoder
from zsad.models.sam_candidates import Decoding
from zsad.models.sam_mask_generator import MaskGenerator
from zsad.models.streams import TwoStreams

EVERYTHING = ForegroundConfig(
    points_per_side=5, points_per_batch=8, pred_iou_threshold=0, stability_threshold=0, box_nms_threshold=1
)


class Recorded:
    """In the place of ``torch.cuda``: streams that say what happens on them."""

    def __init__(self) -> None:
        self.log: list[Any] = []
        self.on: Any = "default"

    def install(self) -> Any:
        outer = self

        class Stream:
            def __init__(self, device: str, priority: int = 0) -> None:
                self.name = "large" if priority == 0 else "small"

            def wait_stream(self, other: Any) -> None:
                outer.log.append((self.name, "follows", getattr(other, "name", other)))

            def wait_event(self, event: str) -> None:
                outer.log.append((self.name, "waits", event))

            def record_event(self) -> str:
                return f"event {len(outer.log)}"

        @contextmanager
        def on(stream: Any) -> Any:
            before, self.on = self.on, stream
            yield
            self.on = before

        return patch.multiple(torch.cuda, Stream=Stream, stream=on, current_stream=lambda _: self.on)

    @property
    def current(self) -> str:
        return getattr(self.on, "name", self.on)


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
        assert streams.record_large() == "event 4"
    assert recorded.log == [("small", "follows", "default"), ("large", "follows", "small"), "read", "read"]


def test_without_a_gpu_nothing_is_put_off():
    streams = TwoStreams("cpu")
    streams.follow()
    with streams.large(torch.zeros(1)), streams.small():
        assert streams.record_large() is None
    for other in (copy.deepcopy(streams), pickle.loads(pickle.dumps(streams))):
        assert isinstance(other, TwoStreams) and other.record_large() is None


def test_masks_in_the_making_are_waited_for_and_kept_by_who_reads_them():
    recorded = Recorded()
    low, iou = torch.zeros(3, 2, 2), torch.zeros(3)
    with recorded.install(), patch.object(torch.Tensor, "record_stream", lambda one, _: recorded.log.append(one)):
        streams = TwoStreams("cuda")
        decoding = Decoding(low, iou, streams.record_large())
        with streams.small():
            assert decoding.wait() == (low, iou)
    assert recorded.log[0] == ("small", "waits", "event 0")
    assert [id(one) for one in recorded.log[1:]] == [id(low), id(iou)]


@pytest.mark.parametrize(("counts", "sizes"), [(None, {32, 8}), ([7, 0, 22, 15], {32, 16}), ([3, 1, 1, 2], {8})])
def test_sam_encodes_and_decodes_on_the_large_stream_and_selects_on_the_small_one(counts, sizes):
    """As on a GPU, with batches of four, work launched ahead, and threads that resize: the same annotations.

    Shared batches are filled up to one of three sizes.
    """
    model = sam.load(ModelConfig(name="random-sam"), "cpu", "fp32")
    generator = MaskGenerator(model)
    images = [photograph[top : top + 200, :300] for photograph in load_sample_images().images for top in (0, 200)]
    grid = sam.point_grid(5)
    points = [None] * 4 if counts is None else [grid[:count] for count in counts]
    expected = list(generator.annotate_all(images, EVERYTHING, points))
    assert sum(map(len, expected)) == 3 * (100 if counts is None else sum(counts))
    recorded, seen, read, decoded = Recorded(), [], [], []

    def noting(owner: Any, name: str) -> Any:
        real = getattr(owner, name)

        def call(self: Any, *arguments: Any) -> Any:
            seen.append((name, recorded.current))
            return real(self, *arguments)

        return patch.object(owner, name, call)

    def decoding(*arguments: Any) -> Any:
        decoded.append(len(arguments[5]))
        return decode(*arguments)

    decode = sam.decode_prompts
    with recorded.install():
        # It does not know that there is no GPU behind them.
        generator.__dict__["_streams"] = TwoStreams("cuda")
    model.__dict__.pop("_decoded", None)
    large, small = ("encode_pixels", "decode"), ("select", "paint", "encode_points", "upsampling_to")
    with (
        recorded.install(),
        patch.object(torch.Tensor, "record_stream", lambda one, _: read.append(one.data_ptr())),
        patch.multiple(
            MaskGenerator, _on_cpu=lambda _: False, _batch_size=lambda _, config: 4 * config.points_per_batch
        ),
        patch.multiple(sam, decode_prompts=decoding, prompts_at_once=lambda *_: None),
        patch.object(sam_decoder, "prompts_at_once", lambda *_: None),
        ExitStack() as stack,
    ):
        for name in (*large, *small):
            stack.enter_context(noting(MaskGenerator if name in ("select", "paint") else sam.SAMModel, name))
        found = list(generator.annotate_all(images, EVERYTHING, points, threads=2))
    assert set(seen) == {(name, "large") for name in large} | {(name, "small") for name in small}
    follows = [("small", "follows", "default"), ("large", "follows", "small")]
    assert [what for what in recorded.log if what[1] == "follows"] == 2 * follows
    # Features and prompts of every batch, then its masks and their IoUs.
    assert len(read) >= 4 * len(decoded)
    assert set(decoded) == sizes
    order = [name for name, _ in seen]
    ahead = min(3, len(decoded))
    assert order[: order.index("select")].count("decode") == ahead
    # The first image is done before the last masks are decoded, where there are so many.
    assert len(decoded) <= ahead or "decode" in order[order.index("paint") :]
    for mine, other in zip(chain(*found), chain(*expected), strict=True):
        assert mine.box == other.box and mine.point == other.point
        np.testing.assert_array_equal(mine.mask, other.mask)
