from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numba
import numpy as np
import pytest
import skimage
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from segment_anything.modeling import Sam
from segment_anything.utils.amg import batched_mask_to_box, calculate_stability_score
from sklearn.datasets import load_sample_images
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from zsad.config import ForegroundConfig, ModelConfig
from zsad.errors import ImageError, UsageError
from zsad.models import sam, sam_network
from zsad.models.device import autocast
from zsad.models.sam_batches import shared_batches
from zsad.models.sam_candidates import ahead
from zsad.models.sam_mask_generator import Annotation, MaskGenerator
from zsad.models.sam_masks import LowMask, low_masks, measure, paint, windows
from zsad.models.sam_masks_torch import window_logits
from zsad.models.sam_upsampling import upsampling

from .sam_oracle import assert_same, published, small_sam

# No thresholds and no suppression: every mask must agree, also the ones the published thresholds drop.
EVERYTHING = ForegroundConfig(
    points_per_side=3, points_per_batch=4, pred_iou_threshold=0, stability_threshold=0, box_nms_threshold=1
)


@pytest.fixture(scope="module")
def model() -> sam.SAMModel:
    return small_sam(seed=0)


@pytest.fixture(scope="module")
def photographs() -> dict[str, np.ndarray]:
    names = ("astronaut.png", "chelsea.png", "coffee.png")
    folder = Path(skimage.__file__).parent / "data"
    images = {name: np.array(Image.open(folder / name).convert("RGB")) for name in names}
    china, flower = load_sample_images().images
    return images | {"china": china, "flower": flower}


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def threads(request):
    """Torch upsamples with another kernel, rounding otherwise, on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def as_on_a_gpu():
    """Masks are made and measured by the operations that a GPU launches, on the CPU."""
    return patch("zsad.models.sam_masks._on_cpu", lambda _: False)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * 10_007 + width).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize(
    ("name", "threads"),
    [("china", 1), ("flower", 1), ("astronaut.png", 1), ("chelsea.png", 1), ("coffee.png", 1), ("coffee.png", 2)],
    indirect=["threads"],
)
def test_equals_the_published_generator_on_photographs(model, photographs, name, threads):
    image = photographs[name]
    lowered = ForegroundConfig(points_per_side=5, points_per_batch=16, pred_iou_threshold=0.3, stability_threshold=0.6)
    ours = MaskGenerator(model).annotate(image, lowered)
    assert len(ours) >= 10
    assert_same(ours, published(model, image, lowered))


@pytest.mark.parametrize("name", ["flower", "astronaut.png", "coffee.png"])
def test_equals_the_published_generator_at_its_default_thresholds(model, photographs, name):
    config = ForegroundConfig(points_per_side=7)
    ours = MaskGenerator(model).annotate(photographs[name], config)
    assert len(ours) >= 5
    assert_same(ours, published(model, photographs[name], config))


@pytest.mark.parametrize("name", ["chelsea.png", "flower", "coffee.png"])
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"box_nms_threshold": 0.0},
        {"stability_offset": 0.0},
        {"stability_offset": 40.0, "stability_threshold": 0.3},
        {"pred_iou_threshold": 0.99},
        {"pred_iou_threshold": 2.0},
        {"pred_iou_threshold": -1.0, "stability_threshold": 1.0},
        {"points_per_side": 1},
        {"points_per_batch": 1, "points_per_side": 2},
    ],
)
def test_edge_thresholds(model, photographs, change, name):
    config = EVERYTHING.model_copy(update=change)
    image = photographs[name]
    assert_same(MaskGenerator(model).annotate(image, config), published(model, image, config))


@pytest.mark.parametrize(
    ("height", "width"),
    [(1, 1), (2, 3), (64, 64), (64, 65), (128, 1), (20, 400), (400, 20), (256, 256), (257, 255), (500, 411)],
)
def test_image_sizes(model, height, width):
    image = noise(height, width)
    ours = MaskGenerator(model).annotate(image, EVERYTHING)
    assert len(ours) == 27
    assert_same(ours, published(model, image, EVERYTHING))


class Constant(torch.nn.Module):
    """Decoder with the same logit everywhere."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, sparse_prompt_embeddings: torch.Tensor, **_: object) -> tuple[torch.Tensor, torch.Tensor]:
        prompts = len(sparse_prompt_embeddings)
        return torch.full((prompts, 3, 96, 96), self.value), torch.linspace(0, 1, prompts * 3).view(prompts, 3)


@pytest.mark.parametrize("value", [-30.0, -1.0, 0.0, 1e-7, 1.0, 30.0])
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_empty_and_full_masks_and_masks_on_the_threshold(value, offset):
    model = sam.load(ModelConfig(name="random-sam"), "cpu", "fp32")
    model.network.mask_decoder = Constant(value)
    for stability in (0.0, 0.5):
        config = EVERYTHING.model_copy(update={"stability_offset": offset, "stability_threshold": stability})
        ours = MaskGenerator(model).annotate(noise(150, 211), config)
        assert_same(ours, published(model, noise(150, 211), config))


def test_given_points_replace_the_grid(model, photographs):
    points = sam.point_grid(5)[[1, 7, 8, 20]]
    image = photographs["flower"]
    assert_same(MaskGenerator(model).annotate(image, EVERYTHING, points), published(model, image, EVERYTHING, points))
    assert MaskGenerator(model).annotate(image, EVERYTHING, points[:0]) == []


def test_an_annotation_lies_in_its_tight_box(model, photographs):
    for annotation in MaskGenerator(model).annotate(photographs["china"], EVERYTHING):
        x0, y0, x1, y1 = annotation.box
        assert annotation.mask.shape == (y1 - y0, x1 - x0)
        assert annotation.mask.dtype == bool
        assert annotation.area == annotation.mask.sum()
        if annotation.area:
            edges = annotation.mask[0], annotation.mask[-1], annotation.mask[:, 0], annotation.mask[:, -1]
            assert all(edge.any() for edge in edges)


def plan_and_whole(low: torch.Tensor, height: int, width: int) -> tuple[Any, torch.Tensor]:
    """For logits (M, h, w) and an input of 256 x 256: the plan, and all of them upsampled by torch alone."""
    long = max(height, width)
    cut = max(1, int(height * 256 / long + 0.5)), max(1, int(width * 256 / long + 0.5))
    # As many channels as SAM has, since torch chooses its kernel by them.
    whole = F.interpolate(low.repeat(3, 1, 1)[None, :3], (256, 256), mode="bilinear", align_corners=False)
    whole = F.interpolate(whole[..., : cut[0], : cut[1]], (height, width), mode="bilinear", align_corners=False)
    return upsampling((low.shape[1], low.shape[2]), 256, cut, (height, width)), whole[0, : len(low)]


@settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.integers(1, 700), st.integers(1, 700), st.integers(0, 2**16), st.data())
def test_a_window_equals_the_whole_upsampling(threads, height, width, seed, data):
    generator = torch.Generator().manual_seed(seed)
    low = torch.randn(1, 64, 64, generator=generator) * 7
    plan, (whole,) = plan_and_whole(low, height, width)
    x0, y0 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    x1, y1 = data.draw(st.integers(x0 + 1, width)), data.draw(st.integers(y0 + 1, height))
    expected = whole[y0:y1, x0:x1]
    # At a pixel's own value and just below it, one bit of that pixel would show.
    for chosen in torch.randint(expected.numel(), (10,), generator=generator).tolist():
        value = expected.flatten()[chosen].numpy()
        for level in (value, np.nextafter(value, np.float32(-np.inf))):
            (painted,) = paint([LowMask(low[0])], [(x0, y0, x1, y1)], float(level), plan)
            assert np.array_equal(painted, expected.numpy() > level)
    part = window_logits(low[0], (x0, y0, x1, y1), plan)
    # Torch takes another kernel for small outputs and on one thread.
    exact = not plan.coarse_joint and not plan.fine_joint
    torch.testing.assert_close(part, expected, rtol=0, atol=0 if exact else 1e-4)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(130, 900), st.integers(20, 900), st.integers(0, 63), st.integers(0, 63), st.integers(-3, 3))
def test_a_window_holds_the_whole_mask_of_a_single_entry(height, width, row, column, level):
    low = torch.full((1, 64, 64), level - 1e-4)
    low[0, row, column] = 1e4
    plan, (whole,) = plan_and_whole(low, height, width)
    ((x0, y0, x1, y1),) = windows(low, torch.tensor([0]), level, plan)
    whole = whole > level
    assert whole[y0:y1, x0:x1].sum() == whole.sum()
    if whole.any():
        rows, columns = whole.any(1).nonzero().flatten(), whole.any(0).nonzero().flatten()
        assert measure(low, torch.tensor([0]), level, 0, plan)[1].tolist() == [
            [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]
        ]
        # And little more: one input pixel of 256 on each side at most.
        slack = max(height, width) // 256 + 2
        assert rows[0] - y0 <= slack
        assert y1 - 1 - rows[-1] <= slack


def discs(seed: int, radius: float) -> torch.Tensor:
    """Five masks of which one is empty, some at the border: (5, 64, 64)."""
    centres = torch.rand(2, 5, generator=torch.Generator().manual_seed(seed)) * 64
    y, x = torch.arange(64)[:, None, None], torch.arange(64)[:, None]
    low = (radius / 4 - ((y - centres[0]) ** 2 + (x - centres[1]) ** 2).sqrt()).permute(2, 0, 1).contiguous()
    low[3] = -5
    return low


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.integers(1, 700), st.integers(1, 700), st.integers(0, 2**16), st.integers(1, 40))
def test_masks_are_measured_and_painted_as_published(threads, height, width, seed, radius):
    low, chosen = discs(seed, radius), torch.tensor([4, 3, 0, 1])
    parts = [plan_and_whole(low[index : index + 1], height, width) for index in chosen.tolist()]
    plan, whole = parts[0][0], torch.cat([part for _, part in parts])
    stability, boxes = measure(low, chosen, 0, 1, plan)
    np.testing.assert_array_equal(stability, calculate_stability_score(whole, 0, 1))
    published_boxes = batched_mask_to_box(whole > 0)
    full = (whole > 0).flatten(1).any(1, keepdim=True)
    # The published ones end on the last pixel.
    assert torch.equal(boxes, (published_boxes + torch.tensor([0, 0, 1, 1])) * full)
    kept = low_masks(low, chosen, boxes, plan)
    painted = paint(kept, [tuple(box) for box in boxes.tolist()], 0, plan)
    for own, (x0, y0, x1, y1), pixels in zip(whole.numpy(), boxes.tolist(), painted, strict=True):
        assert np.array_equal(pixels, own[y0:y1, x0:x1] > 0)
    # Each has only what is read, so that the rest can be let go.
    assert kept[1].values.numel() == 0
    assert all(mask.values.untyped_storage().nbytes() == 4 * mask.values.numel() for mask in kept)
    if radius < 8:
        assert sum(mask.values.numel() for mask in kept) < 4 * 64 * 64 / 4


def equal(ours: list[Annotation], others: list[Annotation]) -> bool:
    return len(ours) == len(others) and all(
        np.array_equal(mine.mask, other.mask) and replace(mine, mask=other.mask) == other
        for mine, other in zip(ours, others, strict=True)
    )


@pytest.mark.parametrize(("size", "threads"), [(64, 1), (16, 1), (5, 1), (16, 2)], indirect=["threads"])
def test_images_that_share_batches_are_annotated_as_if_alone(model, photographs, size, threads):
    rng = np.random.default_rng(size)
    grid = sam.point_grid(9)
    images = list(photographs.values())
    points = [grid[rng.random(len(grid)) < share] for share in (0.25, 0.3, 0.9, 0.03, 0.4)]
    points[3:3] = [grid[:0]]
    images[3:3] = [noise(40, 50)]
    config = EVERYTHING.model_copy(update={"points_per_batch": size, "stability_threshold": 0.3})
    calls: list[int] = []
    hook = model.network.mask_decoder.register_forward_hook(lambda *_: calls.append(1))
    together = list(MaskGenerator(model).annotate_all(images, config, points))
    hook.remove()
    assert sum(len(own) for own in points) > 2 * size
    assert len(calls) <= -(-sum(len(own) for own in points) // size)
    alone = [MaskGenerator(model).annotate(image, config, own) for image, own in zip(images, points, strict=True)]
    assert sum(len(own) >= 3 for own in alone) == 5
    assert all(map(equal, together, alone))
    assert_same(together[2], published(model, images[2], config, points[2]))


@given(st.lists(st.integers(0, 300), max_size=12), st.integers(1, 70), st.integers(1, 20))
def test_shared_batches_hold_what_is_left_of_each_image_and_are_few(counts, size, group):
    batches = shared_batches(counts, size, group)
    left: list[list[int]] = [[] for _ in counts]
    for batch in batches:
        assert 0 < sum(stop - start for _, start, stop in batch) < size + group
        assert len({image for image, _, _ in batch}) == len(batch)
        for image, start, stop in batch:
            left[image] += range(start, stop)
            assert (start - counts[image] // size * size) % group == 0
    assert left == [list(range(count // size * size, count)) for count in counts]
    assert len(batches) + sum(count // size for count in counts) <= -(-sum(counts) // size)


class Transfers(TorchFunctionMode):
    """Counts what makes the host wait for the device: calls that fetch, and operations whose shape depends on values."""

    NAMES = frozenset({"tolist", "cpu", "numpy", "item", "__bool__", "__int__", "__float__", "__index__"})
    OPERATIONS = frozenset(
        {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "repeat_interleave", "equal"}
    )

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self._inner = _Dispatched(self)

    def __enter__(self) -> Transfers:
        self._inner.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._inner.__exit__(*error)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, given = getattr(func, "__name__", ""), [*args[1:], *(kwargs or {}).values()]
        self.count += name in self.NAMES or (name == "to" and any(str(one) == "cpu" for one in given))
        return func(*args, **(kwargs or {}))


class _Dispatched(TorchDispatchMode):
    def __init__(self, transfers: Transfers) -> None:
        super().__init__()
        self._transfers = transfers

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        masked = name in ("index", "index_put_") and any(one is not None and one.dtype == torch.bool for one in args[1])
        self._transfers.count += name in Transfers.OPERATIONS or masked
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "wait",
    [
        lambda values: values[values > 0],
        lambda values: values.to("cpu"),
        lambda values: values.tolist(),
        lambda values: float(values[0]),
        lambda values: values.nonzero(),
        lambda values: torch.where(values > 0),
        lambda values: values.unique(),
        lambda values: bool((values > 0).any()),
    ],
)
def test_what_waits_is_counted(wait):
    with Transfers() as transfers:
        torch.ones(3).add(1).sum()
    assert transfers.count == 0
    with Transfers() as transfers:
        wait(torch.ones(3))
    assert transfers.count > 0


def test_the_host_waits_as_often_for_many_masks_as_for_few(model, photographs):
    counts, found = [], []
    # What is read from the model once is not counted.
    model.preprocess(photographs["coffee.png"])
    for side in (2, 8):
        with as_on_a_gpu(), Transfers() as transfers:
            found.append(
                MaskGenerator(model).annotate(
                    photographs["coffee.png"],
                    EVERYTHING.model_copy(update={"points_per_batch": 65}),
                    sam.point_grid(side),
                )
            )
        counts.append(transfers.count)
    assert len(found[1]) > 10 * len(found[0]) > 0
    assert counts[0] == counts[1] > 0


class Operations(TorchDispatchMode):
    """Counts what a GPU would launch."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("threads", [2], indirect=True)
@pytest.mark.parametrize("pixels", [1, 100_000, 1 << 24])
def test_masks_measured_together_as_on_a_gpu_are_measured_the_same(monkeypatch, pixels, threads):
    generator = torch.Generator().manual_seed(0)
    y, x = torch.arange(64)[:, None], torch.arange(64)[None]
    centre, radius = torch.rand(2, 40, 1, 1, generator=generator) * 64, torch.rand(40, 1, 1, generator=generator) * 20
    low = radius - 2 - ((y - centre[0]) ** 2 + (x - centre[1]) ** 2).sqrt()
    plan = upsampling((64, 64), 256, (170, 256), (200, 301))
    chosen = torch.arange(39, -1, -3)
    boxes = windows(low, chosen, -1, plan)
    assert 0 < boxes.count((0, 0, 0, 0)) < 7
    expected = measure(low, chosen, 0, 1, plan)
    assert expected[0].isnan().sum() == boxes.count((0, 0, 0, 0))
    monkeypatch.setattr("zsad.models.sam_masks_torch._PIXELS_AT_ONCE", pixels)
    with as_on_a_gpu(), Operations() as operations:
        assert windows(low, chosen, -1, plan) == boxes
        found = measure(low, chosen, 0, 1, plan)
    for ours, other in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, other, rtol=0, atol=0, equal_nan=True)
    assert (operations.count < 130) == (pixels == 1 << 24)


@pytest.mark.parametrize("threads", [2], indirect=True)
def test_masks_are_annotated_the_same_as_on_a_gpu(model, photographs, threads):
    config = EVERYTHING.model_copy(update={"points_per_batch": 16, "stability_threshold": 0.3})
    expected = MaskGenerator(model).annotate(photographs["china"], config, sam.point_grid(6))
    assert len(expected) > 10
    with as_on_a_gpu():
        assert equal(MaskGenerator(model).annotate(photographs["china"], config, sam.point_grid(6)), expected)


@pytest.mark.parametrize("width", [70_000, 140_000])
def test_a_row_of_more_pixels_than_an_int16_holds_is_counted_as_published(width, threads):
    low = torch.full((1, 64, 64), 5.0)
    low[0, :, 32:] = torch.linspace(1.5, -1.5, 32)
    plan, (whole,) = plan_and_whole(low, 2, width)
    inner, outer = ((whole > level).sum(-1, dtype=torch.int16).sum(-1, dtype=torch.int32) for level in (1, -1))
    stability, boxes = measure(low, torch.tensor([0]), 0, 1, plan)
    assert stability[0] == inner / outer
    assert boxes[0].tolist() == [0, 0, int((whole[0] > 0).sum()), 2]


@settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.integers(20, 900), st.integers(20, 900), st.integers(0, 2**16), st.sampled_from([0.0, 0.3, 7.5, -3e4]))
def test_what_is_left_out_inside_a_mask_changes_nothing(threads, height, width, seed, level):
    # At equal sizes torch copies, and an infinite logit is no sum with weights of 0.
    assume(max(height, width) != 256)
    generator = torch.Generator().manual_seed(seed)
    low = 40 * torch.randn(1, 1, 6, 6, generator=generator)
    low = level + F.interpolate(low, (64, 64), mode="bicubic", align_corners=False)[0]
    # Wide parts on one side, in which some entries are on a level, hardly off it, huge, or no number.
    special = [level, level + 1, level - 1, level + 1 + 2e-5, level - 1 - 2e-5, 2e30, -3e38, np.inf, -np.inf, np.nan]
    for value in special:
        row, column = torch.randint(64, (2,), generator=generator).tolist()
        low[0, row, column] = value
    plan, (whole,) = plan_and_whole(low, height, width)
    assert_measured_and_painted(low, whole.numpy(), level, plan)
    # A part of the mask that does not begin at its corner.
    y0, x0 = (int(torch.randint(size, (1,), generator=generator)) for size in (height, width))
    box = (x0, y0, min(x0 + 300, width), min(y0 + 200, height))
    (kept,) = low_masks(low, torch.tensor([0]), torch.tensor([box]), plan)
    (part,) = paint([kept], [box], level, plan)
    assert np.array_equal(part, whole.numpy()[box[1] : box[3], box[0] : box[2]] > np.float32(level))


@pytest.mark.parametrize(("height", "width"), [(401, 600), (170, 256), (701, 333)])
@pytest.mark.parametrize("level", [0.3, -7.7, 3e4])
@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("up", [True, False])
def test_a_mask_hardly_off_a_level_is_not_taken_to_be_on_that_side(height, width, level, offset, up, threads):
    for around in (level + offset, level, level - offset):
        value = np.nextafter(np.float32(around), np.float32(np.inf if up else -np.inf))
        low = torch.full((1, 64, 64), float(value))
        plan, (whole,) = plan_and_whole(low, height, width)
        assert_measured_and_painted(low, whole.numpy(), level, plan, offset)


def assert_measured_and_painted(
    low: torch.Tensor, whole: np.ndarray, level: float, plan: Any, offset: float = 1.0
) -> None:
    """The one mask of ``low`` is as ``whole``, all of it upsampled by torch."""
    stability, boxes = measure(low, torch.tensor([0]), level, offset, plan)
    inner, outer = (np.count_nonzero(whole > np.float32(at)) for at in (level + offset, level - offset))
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(stability[0], np.float32(inner) / np.float32(outer))
    expected, painted = whole > np.float32(level), np.zeros(whole.shape, np.bool_)
    x0, y0, x1, y1 = boxes[0].tolist()
    if expected.any():
        (painted[y0:y1, x0:x1],) = paint(
            low_masks(low, torch.tensor([0]), boxes, plan), [(x0, y0, x1, y1)], level, plan
        )
    assert np.array_equal(painted, expected)
    rows, columns = expected.any(1).nonzero()[0], expected.any(0).nonzero()[0]
    tight = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1] if expected.any() else [0, 0, 0, 0]
    assert [x0, y0, x1, y1] == tight


def test_masks_of_which_none_has_a_pixel_are_painted_as_on_a_gpu():
    low = torch.full((3, 64, 64), -5.0)
    plan = upsampling((64, 64), 256, (170, 256), (200, 301))
    with as_on_a_gpu():
        _, boxes = measure(low, torch.arange(3), 0, 1, plan)
        kept = low_masks(low, torch.arange(3), boxes, plan)
        painted = paint(kept, [(0, 0, 0, 0)] * 3, 0, plan)
    assert boxes.tolist() == [[0, 0, 0, 0]] * 3
    assert [mask.shape for mask in painted] == [(0, 0)] * 3


def test_what_lies_beyond_the_arrays_is_refused():
    low, first = torch.zeros(3, 64, 64), torch.tensor([0])
    plan = upsampling((64, 64), 256, (170, 256), (200, 301))
    for logits in (torch.zeros(3, 96, 96), low.double(), low[0]):
        with pytest.raises(ValueError, match=r"expected float32 \(M, 64, 64\)"):
            measure(logits, first, 0, 1, plan)
    for chosen in ([0, 3], [-1]):
        with pytest.raises(ValueError, match="of 3 masks"):
            measure(low, torch.tensor(chosen), 0, 1, plan)
    for box in ((290, 190, 305, 200), (0, 190, 301, 201), (-1, 0, 5, 5), (5, 5, 5, 9), (7, 5, 6, 9)):
        with pytest.raises(ValueError, match="inside the image of 301 x 200"):
            paint([LowMask(low[0])], [box], 0, plan)
    for part, corner in (
        (low[0, 1:], (1, 0)),
        (low[0, :, 1:], (0, 1)),
        (low[0, :-22], (0, 0)),
        (low[0, :, :-1], (0, 0)),
    ):
        with pytest.raises(ValueError, match="depends on"):
            paint([LowMask(part, corner)], [(0, 0, 301, 200)], 0, plan)
    assert paint([LowMask(low[0, :-21])], [(0, 0, 301, 200)], -1, plan)[0].all()


def test_kernels_see_one_type_and_layout_whatever_is_given():
    low, plan = discs(0, 30).permute(0, 2, 1), upsampling((64, 64), 256, (170, 256), (200, 301))
    chosen = torch.arange(5)
    expected = measure(low.contiguous(), chosen[::2].contiguous(), 0, 1, plan)
    with patch("zsad.models.sam_masks_cpu.measure", Signatures()) as signatures:
        for some in (chosen[::2], chosen[::2].int(), chosen[:0], chosen[1:]):
            measure(low, some, 0, 1, plan)
    assert len(signatures.seen) == 1
    found = measure(low, chosen[::2].int(), 0, 1, plan)
    assert all(np.array_equal(*pair, equal_nan=True) for pair in zip(found, expected, strict=True))


class Signatures:
    """In a kernel's place; what numba would compile it for."""

    def __init__(self) -> None:
        self.seen: set[tuple[Any, ...]] = set()

    def __call__(self, *arguments: Any) -> None:
        self.seen.add(tuple(numba.typeof(argument) for argument in arguments))


def test_what_is_no_number_stays_where_torch_leaves_it(threads):
    low = discs(0, 60)[:1]
    low[0, 20, 30] = torch.nan
    for height, width in ((170, 256), (256, 256), (170, 300), (333, 256)):
        plan, (whole,) = plan_and_whole(low, height, width)
        (painted,) = paint([LowMask(low[0])], [(0, 0, width, height)], -3, plan)
        assert np.array_equal(painted, whole.numpy() > -3)


def test_kernels_stay_within_their_arrays(tmp_path):
    code = (
        "import torch; from zsad.models.sam_masks import low_masks, measure, paint; "
        "from zsad.models.sam_upsampling import upsampling; "
        "torch.manual_seed(0); low = torch.randn(5, 64, 64) * 5; every = torch.arange(5); "
        "low[1] = -9; low[2] = 9; low[4] = torch.linspace(-9, 9, 64)\n"
        "for cut, size in (((256, 256), (1, 1)), ((1, 256), (1, 700)), ((256, 3), (900, 9)), ((171, 256), (401, 600))):\n"
        "    plan = upsampling((64, 64), 256, cut, size)\n"
        "    stability, boxes = measure(low, every, 0, 1, plan)\n"
        "    paint(low_masks(low, every, boxes, plan), [tuple(box) for box in boxes.tolist()], 0, plan)\n"
        "print(boxes[2].tolist())"
    )
    checked = {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | checked, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[0, 0, 600, 401]\n"


def test_images_resized_ahead_are_encoded_the_same(model, photographs):
    images = [photographs[name] for name in ("flower", "coffee.png", "chelsea.png")]
    expected = [model.encode(image) for image in images]
    with patch.object(MaskGenerator, "_on_cpu", lambda _: False):
        resized = list(MaskGenerator(model)._resized(images, 2))
    for one, prepared in zip(expected, resized, strict=True):
        assert torch.equal(model.encode_pixels(prepared, one.upsampling).features, one.features)


def test_the_grid_is_encoded_in_single_precision_whatever_the_models():
    model = sam.load(ModelConfig(name="random-sam"), "cpu", "bf16")
    with autocast(model.device, model.precision):
        assert model._positions.dtype == torch.float32


def test_random_is_a_small_sam_seeded_and_silent():
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    model = sam.load(ModelConfig(name="random-sam"), "cpu", "fp32")
    assert torch.equal(torch.rand(3), expected)
    assert isinstance(model.network, Sam)
    assert model.input_size == 288
    assert model.sha256 == sam.load(ModelConfig(name="random-sam"), "cpu", "fp32").sha256
    assert sum(parameter.numel() for parameter in model.network.parameters()) < 2_000_000


def test_weights_load_strictly(tmp_path, model):
    state = sam_network.build("mini-sam").state_dict()
    torch.save(state, tmp_path / "sam.pth")
    loaded = sam.load(ModelConfig(name="random-sam", weights=str(tmp_path / "sam.pth")), "cpu", "fp32")
    assert all(torch.equal(value, state[key]) for key, value in loaded.network.state_dict().items())
    torch.save(state | {"mask_decoder.iou_token.weight": torch.zeros(1, 32)}, tmp_path / "wrong.pth")
    with pytest.raises(UsageError, match=r"mask_decoder\.iou_token\.weight"):
        sam.load(ModelConfig(name="random-sam", weights=str(tmp_path / "wrong.pth")), "cpu", "fp32")


def test_unknown_name_is_refused():
    with pytest.raises(UsageError, match="expected one of: sam-vit-h, sam-vit-l, sam-vit-b, mini-sam, random-sam"):
        sam.load(ModelConfig(name="random-isnet"), "cpu", "fp32")


def test_half_precision_gives_float32_logits_close_to_single(photographs):
    single = sam.load(ModelConfig(name="random-sam"), "cpu", "fp32")
    half = sam.load(ModelConfig(name="random-sam"), "cpu", "bf16")
    points = sam.point_grid(2) * 400
    (low, _), (low_half, iou_half) = (
        model.decode([embedding], [model.encode_points([(embedding.upsampling.native_size, points)])])
        for model in (single, half)
        for embedding in [model.encode(photographs["china"])]
    )
    assert low_half.dtype == iou_half.dtype == torch.float32
    assert 0 < (low - low_half).abs().max() < 0.1 * low.abs().max()


def test_plans_of_the_upsampling_are_kept(monkeypatch):
    def plan():
        return upsampling((64, 64), 256, (170, 256), (200, 303))

    first = plan()
    assert plan() is first
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 1)
    assert plan() is not first


@pytest.mark.parametrize("count", [0, 1, 3, 9])
def test_values_are_asked_for_ahead_and_come_in_order(count):
    asked = []

    def values():
        for number in range(5):
            asked.append(number)
            yield number

    values_ahead = ahead(values(), count)
    for number in range(5):
        assert next(values_ahead) == number
        assert asked == list(range(min(5, number + count + 1)))
    assert list(values_ahead) == []


@pytest.mark.parametrize(
    ("gigabytes", "precision", "kernels", "batches"),
    [
        (141, "bf16", True, 8),
        (24, "bf16", True, 5),
        (24, "fp32", True, 1),
        (80, "fp32", True, 6),
        (80, "bf16", False, 6),
        (4, "bf16", True, 1),
    ],
)
def test_a_gpu_decodes_as_many_batches_as_one_as_its_memory_allows(monkeypatch, gigabytes, precision, kernels, batches):
    properties = SimpleNamespace(total_memory=gigabytes * 10**9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr("zsad.models.sam_mask_generator.half_kernels_run", lambda device: kernels)

    def generator(device):
        return MaskGenerator(sam.SAMModel(SimpleNamespace(), device, precision, ""))  # type: ignore[arg-type]

    # When memory runs out, half as many are asked for, down to the last.
    for size in (64, 32, 1):
        assert generator("cuda")._batch_size(ForegroundConfig(points_per_batch=size)) == size * batches
    assert generator("cpu")._batch_size(ForegroundConfig()) == 64


def test_a_predicted_iou_that_is_no_number_is_an_error_of_the_image():
    generator = MaskGenerator(small_sam(seed=0))
    config = ForegroundConfig(points_per_side=2, pred_iou_threshold=-9, stability_threshold=0)
    images = [np.zeros((60, 90, 3), np.uint8), np.full((60, 90, 3), 255, np.uint8)]
    encode = generator.model.encode_pixels

    def broken(pixels, plan):
        embedding = encode(pixels, plan)
        return embedding if pixels.mean() < 0 else replace(embedding, features=embedding.features * float("nan"))

    vars(generator.model)["encode_pixels"] = broken
    assert len(list(generator.annotate_all(images[:1], config, [None]))) == 1
    with pytest.raises(ImageError, match="SAM's predicted IoU is NaN") as caught:
        list(generator.annotate_all(images, config, [None, None]))
    assert caught.value.kind == "not_finite"
