"""The Triton kernels, on a GPU where there is one, else in Triton's interpreter, which takes tensors on the CPU."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock, patch

import numpy as np
import pytest
import torch

from zsad.config import ForegroundConfig
from zsad.coverage import covered_annotations
from zsad.method.foreground import extract_foreground
from zsad.models import sam, sam_masks
from zsad.models.sam_candidates import Candidates, concatenate
from zsad.models.sam_mask_generator import MaskGenerator
from zsad.models.sam_masks import coverage, low_masks, measure, paint
from zsad.models.sam_upsampling import Upsampling, upsampling

from .sam_oracle import small_sam

pytest.importorskip("triton")

from zsad.models import sam_masks_gpu, triton_support

pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered in divide")

if not torch.cuda.is_available():
    # Triton's interpreter before 3.9 does not understand the newest numpy.
    try:
        sam_masks_gpu.extents(torch.zeros(1, 1, 1), torch.tensor([0]), 0.0)
    except Exception as error:
        if "only 0-dimensional arrays" not in str(error):
            raise
        pytest.skip("Triton's interpreter is older than numpy", allow_module_level=True)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Low size, padded input, cut of the input, image.
SIZES = {
    "enlarged": ((24, 24), 96, (96, 71), (50, 37)),
    "as large as the input": ((8, 8), 32, (32, 23), (32, 23)),
    "wide": ((24, 24), 96, (1, 96), (2, 131)),
    "one pixel": ((16, 16), 64, (64, 64), (1, 1)),
}


@pytest.fixture(autouse=True)
def few_programs(monkeypatch):
    """The interpreter takes milliseconds for each."""
    monkeypatch.setattr(sam_masks_gpu, "_STRIPS", 2)
    triton_support.triton_works.cache_clear()


def by_kernels():
    return _as_on_a_gpu(sam_masks_gpu)


def by_torch():
    """The reference: torch's operations."""
    return _as_on_a_gpu(None)


def _as_on_a_gpu(kernels: Any) -> Any:
    return patch.multiple("zsad.models.sam_masks", _on_cpu=lambda _: False, _gpu_kernels=lambda _: kernels)


def plan_of(name: str) -> Upsampling:
    low, padded, cut, native = SIZES[name]
    # More rows than one thread's kernel is for: along the columns first, as on a GPU.
    with patch("zsad.models.sam_upsampling._joint", lambda *_: False):
        return upsampling(low, padded, cut, native, DEVICE)


def masks_of(plan: Upsampling, seed: int = 0) -> torch.Tensor:
    """Noisy discs, an empty mask, a full one, one of a single entry, and noise: (8, h, w)."""
    generator = torch.Generator().manual_seed(seed)
    height, width = plan.low_size
    y, x = torch.arange(height)[:, None], torch.arange(width)[None]
    centre, radius = torch.rand(2, 8, 1, 1, generator=generator) * width, torch.rand(8, 1, 1, generator=generator) * 9
    low = 2 * (radius - ((y - centre[0]) ** 2 + (x - centre[1]) ** 2).sqrt())
    low += torch.randn(8, height, width, generator=generator) / 2
    low[1], low[2], low[3] = -7, 7, -9
    low[3, height // 2, width // 3] = 30
    low[4] = 4 * torch.randn(height, width, generator=generator)
    return low.to(DEVICE)


def rows(boxes: torch.Tensor) -> list[Any]:
    return [tuple(box) for box in boxes.tolist()]


@pytest.mark.parametrize("chosen", [[0, 1, 2, 3, 4, 5, 6, 7], [6, 6, 2], [1], []])
def test_extents_are_those_of_the_compiled_loops(chosen):
    low = masks_of(plan_of("enlarged"))
    found = np.empty((4, len(chosen)), np.int64)
    indices = torch.tensor(chosen, dtype=torch.int64)
    sam_masks.sam_masks_cpu.extents(low.cpu().numpy(), indices.numpy(), np.float32(0.5), found)
    assert sam_masks_gpu.extents(low, indices.to(DEVICE), 0.5).tolist() == found.tolist()


@pytest.mark.parametrize("name", SIZES)
def test_pixels_are_made_of_the_entries_that_the_windows_are_found_by(name):
    plan = plan_of(name)
    for axis in (plan.rows, plan.columns):
        torch.testing.assert_close(axis.entries.amin(0).long(), axis.first)
        torch.testing.assert_close(axis.entries.amax(0).long(), axis.last)
        weights = axis.weights
        torch.testing.assert_close(weights[::2] + weights[1::2], torch.ones_like(weights[::2]))
        for entry in range(axis.low_size + 1):
            assert axis.spans[0, entry] == (axis.last < entry).sum()
            assert axis.spans[1, entry] == (axis.first < entry).sum()


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_masks_are_measured_and_painted_as_by_torch(name, offset):
    plan = plan_of(name)
    low, chosen = masks_of(plan), torch.tensor([7, 0, 1, 2, 3, 4, 5], device=DEVICE)
    with by_torch():
        scores, boxes = measure(low, chosen, 0.0, offset, plan)
        expected = paint(low_masks(low, chosen, boxes, plan), rows(boxes), 0.0, plan)
    with by_kernels():
        found = measure(low, chosen, 0.0, offset, plan)
        kept = low_masks(low, chosen, boxes, plan)
        painted = paint(kept, rows(boxes), 0.0, plan)
        within = np.random.default_rng(0).random(plan.native_size) < 0.6
        counted = coverage(kept, boxes, 0.0, plan, within)
    torch.testing.assert_close(found[0], scores, rtol=0, atol=0, equal_nan=True)
    assert found[1].dtype == torch.int64 and torch.equal(found[1], boxes)
    assert boxes[2].tolist() == [0] * 4 and boxes[3].tolist() == [0, 0, *plan.native_size[::-1]]
    assert all(mine.dtype == bool and np.array_equal(mine, other) for mine, other in zip(painted, expected))
    windows_of = [within[y0:y1, x0:x1] for x0, y0, x1, y1 in rows(boxes)]
    assert counted.tolist() == [
        [int(mask.sum()) for mask in expected],
        [int((mask & part).sum()) for mask, part in zip(expected, windows_of)],
    ]


def test_masks_are_measured_as_by_the_compiled_loops():
    plan = plan_of("enlarged")
    low, chosen = masks_of(plan, 5), torch.arange(8, device=DEVICE)
    with by_kernels():
        scores, boxes = measure(low, chosen, 0.25, 1.0, plan)
    # On the CPU its own plan, but summed in the same order.
    with patch("zsad.models.sam_upsampling._joint", lambda *_: False):
        host = upsampling(*SIZES["enlarged"])
    expected = measure(low.cpu(), chosen.cpu(), 0.25, 1.0, host)
    np.testing.assert_array_equal(scores.cpu(), expected[0])
    assert torch.equal(boxes.cpu(), expected[1])


def test_part_of_a_mask_is_painted():
    plan = plan_of("enlarged")
    low = masks_of(plan)[[4, 0, 5, 4]]
    boxes: list[Any] = [(5, 7, 6, 8), (0, 0, 0, 0), (3, 11, 37, 50), (36, 49, 37, 50)]
    with by_torch():
        expected = paint(low, boxes, 0.0, plan)
    with by_kernels():
        painted = paint(low, boxes, 0.0, plan)
    assert [mask.shape for mask in painted] == [(1, 1), (0, 0), (39, 34), (1, 1)]
    assert all(np.array_equal(mine, other) for mine, other in zip(painted, expected))
    order = [3, 0, 2]
    for context in (by_kernels, by_torch):
        with context():
            some = paint(low, [boxes[index] for index in order], 0.0, plan, order)
        assert all(np.array_equal(mine, expected[index]) for mine, index in zip(some, order, strict=True))


def test_without_a_mask_there_is_nothing():
    plan = plan_of("enlarged")
    low, none = masks_of(plan), torch.zeros(0, dtype=torch.int64, device=DEVICE)
    for empty in (low, low[:0]):
        with by_kernels():
            scores, boxes = measure(empty, none, 0.0, 1.0, plan)
            kept = low_masks(empty, none, boxes, plan)
            assert scores.shape == (0,) and boxes.shape == (0, 4) and boxes.dtype == torch.int64
            assert paint(kept, [], 0.0, plan) == []
            assert coverage(kept, boxes, 0.0, plan, np.ones(plan.native_size, bool)).shape == (2, 0)
    with by_kernels():
        assert [mask.shape for mask in paint(low[1:2], [(0, 0, 0, 0)], 0.0, plan)] == [(0, 0)]


def test_what_lies_beyond_the_arrays_is_refused():
    plan = plan_of("enlarged")
    low, first = masks_of(plan), torch.zeros(1, dtype=torch.int64, device=DEVICE)
    with by_kernels():
        for logits in (low.double(), low[:, 1:]):
            with pytest.raises(ValueError, match=r"expected float32 \(M, 24, 24\)"):
                measure(logits, first, 0.0, 1.0, plan)
        with pytest.raises(ValueError, match="inside the image of 37 x 50"):
            paint(low[:1], [(0, 0, 38, 50)], 0.0, plan)
        with pytest.raises(ValueError, match="the image has"):
            coverage(low[:1], first.expand(1, 4), 0.0, plan, np.ones((50, 38), bool))


@pytest.mark.skipif(DEVICE == "cpu", reason="there is nothing to wait for")
def test_the_host_does_not_wait_while_masks_are_measured():
    plan = plan_of("enlarged")
    low, chosen = masks_of(plan), torch.arange(8, device=DEVICE)
    # What is kept of the plan, and compiling, may wait.
    measure(low, chosen, 0.0, 1.0, plan)
    torch.cuda.set_sync_debug_mode("error")
    try:
        measure(low, chosen, 0.0, 1.0, plan)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_candidates_are_taken_and_joined_on_the_device():
    low = masks_of(plan_of("enlarged"))
    each = torch.arange(8, device=DEVICE)
    some = Candidates(low, each.float(), each.float(), each[:, None].expand(8, 4), each)
    joined = concatenate([some, some.take(each[:0]), some.take(each[[5, 2]])])
    assert isinstance(joined.low, torch.Tensor)
    assert torch.equal(joined.low, low[[*range(8), 5, 2]])
    assert joined.points.tolist() == [*range(8), 5, 2]


def assert_same_foreground(some: Any, other: Any, within: np.ndarray, config: ForegroundConfig) -> None:
    mine, expected = (extract_foreground(within, annotations, config) for annotations in (some, other))
    assert mine.source == expected.source == "sam+dis"
    for name in ("mask", "components", "boxes", "parts"):
        np.testing.assert_array_equal(getattr(mine, name), getattr(expected, name))


@pytest.mark.parametrize("context", [by_kernels, by_torch])
def test_what_is_not_covered_is_not_painted_and_the_foreground_stays(context):
    plan, network = plan_of("as large as the input"), SimpleNamespace(mask_threshold=0.0)
    generator = MaskGenerator(sam.SAMModel(network, DEVICE, "fp32", ""))  # type: ignore[arg-type]
    low, every = masks_of(plan), torch.arange(8, device=DEVICE)
    embedding, points = sam.Embedding(low, plan), np.arange(16.0).reshape(8, 2)
    within = np.zeros(plan.native_size, bool)
    within[5:25, 3:18] = True
    with context():
        stability, boxes = measure(low, every, 0.0, 1.0, plan)
        candidates = Candidates(low, every / 8, stability, boxes, every.flip(0))
        all_of_them = generator.paint(embedding, candidates, points)
        for min_coverage in (1e-6, 0.4, 1.0):
            config = ForegroundConfig(min_coverage=min_coverage)
            found = generator.paint(embedding, candidates, points, within, min_coverage)
            expected = [all_of_them[i] for i in covered_annotations(all_of_them, within, min_coverage)]
            assert 0 < len(found) < 8
            assert repr(found) == repr(expected)
            assert_same_foreground(found, all_of_them, within, config)
        assert generator.paint(embedding, candidates, points, np.zeros_like(within), 0.1) == []
    assert all(one.area == one.mask.sum() for one in all_of_them)


def test_each_image_has_its_own_mask_or_none():
    image = np.random.default_rng(3).integers(0, 256, (60, 90, 3), np.uint8)
    within = np.zeros((60, 90), bool)
    within[10:50, 5:70] = True
    config = ForegroundConfig(points_per_side=3, pred_iou_threshold=0, stability_threshold=0, min_coverage=0.4)
    generator = MaskGenerator(small_sam(seed=0))
    masks = [within, None, ~within]
    for patched in (by_torch(), nullcontext()):
        with patched:
            every = generator.annotate(image, config)
            found = list(generator.annotate_all([image] * 3, config, [None] * 3, masks))
        assert [len(some) == len(every) for some in found] == [False, True, False]
        for some, mask in zip(found, masks, strict=True):
            if mask is not None:
                assert repr(some) == repr([every[i] for i in covered_annotations(every, mask, 0.4)])
                assert_same_foreground(some, every, mask, config)


def test_where_triton_cannot_compile_torch_does_it(monkeypatch):
    monkeypatch.setattr(sam_masks_gpu, "extents", Mock(side_effect=RuntimeError("no C compiler")))
    with pytest.warns(UserWarning, match="Triton does not work here"):
        assert sam_masks._gpu_kernels(torch.device("cuda")) is None
    # Asked once: no second warning, which would be an error.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sam_masks._gpu_kernels(torch.device("cuda")) is None
    triton_support.triton_works.cache_clear()
    assert sam_masks._gpu_kernels(torch.device("cpu")) is None


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("full"), RuntimeError("Triton Error [CUDA]: out of memory")])
def test_a_full_gpu_says_nothing_about_triton(monkeypatch, error):
    triton_support.triton_works.cache_clear()
    extents = Mock(side_effect=error)
    monkeypatch.setattr(sam_masks_gpu, "extents", extents)
    # The probe's own tensors need no GPU here.
    monkeypatch.setattr(torch, "zeros", Mock())
    for _ in range(2):
        with pytest.raises(type(error)):
            triton_support.triton_works(torch.device("cuda"))
    extents.side_effect = None
    assert triton_support.triton_works(torch.device("cuda"))
    triton_support.triton_works.cache_clear()
