"""Pixel-level metrics from histograms against scikit-learn and against slow direct computations."""

from __future__ import annotations

import itertools
import pickle
import tracemalloc

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from zsad.errors import ZsadError
from zsad.evaluation import histograms
from zsad.evaluation.histograms import NUM_BINS, PixelHistogram, bin_values

Images = list[tuple[np.ndarray, np.ndarray]]


def counted(images: Images) -> PixelHistogram:
    histogram = PixelHistogram()
    for scores, mask in images:
        histogram.update(scores, mask if mask.any() else None)
    return histogram


def aupro_oracle(images: Images, limit: float = 0.3) -> float:
    """One pass over all pixels per threshold and region, then trapezoids."""
    thresholds = np.unique(np.concatenate([scores.ravel() for scores, _ in images]))[::-1]
    regions = []
    for scores, mask in images:
        labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
        regions += [scores[labels == index] for index in range(1, count + 1)]
    normal = np.concatenate([scores[~mask] for scores, mask in images])
    points = [(0.0, 0.0)]
    for threshold in thresholds:
        points.append((np.mean(normal >= threshold), float(np.mean([np.mean(r >= threshold) for r in regions]))))
    area = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x1 > limit:
            if x0 < limit:
                middle = y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
                area += (limit - x0) * (y0 + middle) / 2
            break
        area += (x1 - x0) * (y0 + y1) / 2
    return area / limit


@st.composite
def image_sets(draw: st.DrawFn) -> Images:
    count = draw(st.integers(1, 4))
    values = draw(
        st.sampled_from(
            [
                st.floats(-60000, 60000, width=16),
                st.sampled_from([0.0, 0.25, 0.5, 1.0]),
                st.sampled_from([-1.0, -0.0, 0.0, 6e-8, np.inf, -np.inf]),
            ]
        )
    )
    images = []
    for index in range(count):
        shape = (draw(st.integers(1, 7)), draw(st.integers(2, 7)))
        scores = draw(hnp.arrays(np.float16, shape, elements=values))
        mask = draw(hnp.arrays(bool, shape, elements=st.booleans()))
        if index == 0:
            mask.flat[:2] = True, False
        elif draw(st.booleans()):
            mask[:] = False
        images.append((scores, mask))
    return images


@given(image_sets())
@settings(max_examples=100, deadline=None)
def test_equal_to_scikit_learn_and_to_the_direct_aupro(images: Images) -> None:
    metrics = counted(images).compute()
    # Ranks stand for the values: scikit-learn refuses infinity, and no metric depends on more.
    scores = np.concatenate([scores.ravel() for scores, _ in images])
    ranks = np.unique(scores, return_inverse=True)[1]
    labels = np.concatenate([mask.ravel() for _, mask in images])
    precision, recall, _ = precision_recall_curve(labels, ranks)
    with np.errstate(invalid="ignore"):
        f1 = np.nan_to_num(2 * precision * recall / (precision + recall))
    assert metrics["f1_max"].value == pytest.approx(f1.max(), abs=1e-12)
    assert metrics["auroc"].value == pytest.approx(roc_auc_score(labels, ranks), abs=1e-12)
    assert metrics["ap"].value == pytest.approx(average_precision_score(labels, ranks), abs=1e-12)
    assert metrics["aupro"].value == pytest.approx(aupro_oracle(images), abs=1e-12)
    flagged = scores >= np.float16(metrics["f1_max"].threshold)
    assert 2 * np.sum(flagged & labels) / (flagged.sum() + labels.sum()) == pytest.approx(f1.max(), abs=1e-12)


@given(image_sets(), st.integers(0, 4))
@settings(max_examples=50, deadline=None)
def test_merged_shards_equal_one_pass(images: Images, cut: int) -> None:
    whole = counted(images)
    right = pickle.loads(pickle.dumps(counted(images[cut:])))
    right.overlap.setflags(write=False)
    merged = counted(images[:cut])
    merged.merge(right)
    assert np.array_equal(merged.positives, whole.positives)
    assert np.array_equal(merged.negatives, whole.negatives)
    assert merged.num_regions == whole.num_regions
    np.testing.assert_allclose(merged.overlap, whole.overlap, rtol=0, atol=1e-12)
    for name, metric in whole.compute().items():
        assert merged.compute()[name].value == pytest.approx(metric.value, abs=1e-12)


def test_every_float16_has_its_bin_in_increasing_order() -> None:
    bits = np.arange(NUM_BINS, dtype=np.uint16)
    values = bits.view(np.float16)
    values = values[~np.isnan(values)]
    histogram = PixelHistogram()
    histogram.update(values[None])
    occupied = np.flatnonzero(histogram.negatives)
    in_order = bin_values()[occupied]
    assert np.all(np.diff(in_order) > 0)
    assert in_order.tolist() == np.unique(values.astype(np.float64)).tolist()
    assert histogram.negatives[occupied[in_order.searchsorted(0.0)]] == 2, "0.0 and -0.0 share a bin"


def test_regions_touch_at_corners_and_count_alike() -> None:
    mask = np.zeros((6, 8), bool)
    mask[0, 0] = mask[1, 1] = True
    mask[4:6, 4:8] = True
    scores = np.zeros((6, 8), np.float16)
    scores[4:6, 4:6] = 1
    scores[0, 0] = 2
    histogram = PixelHistogram()
    histogram.update(scores, mask)
    assert histogram.num_regions == 2
    overlap = {float(v): float(o) for v, o in zip(bin_values(), histogram.overlap, strict=True) if o}
    assert overlap == {0.0: 1.0, 1.0: 0.5, 2.0: 0.5}


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    scores = generator.normal(size=(37, 41)).astype(np.float16)
    mask = generator.random((37, 41)) < 0.3
    whole = counted([(scores, mask)])
    monkeypatch.setattr(histograms, "_CHUNK", 50)
    pieces = counted([(scores, mask)])
    assert np.array_equal(whole.positives, pieces.positives)
    assert np.array_equal(whole.negatives, pieces.negatives)
    np.testing.assert_allclose(whole.overlap, pieces.overlap, rtol=0, atol=1e-12)
    assert whole.positives.sum() == mask.sum()
    assert whole.negatives.sum() == (~mask).sum()


def test_views_are_counted_like_copies() -> None:
    generator = np.random.default_rng(1)
    scores = generator.random((30, 20)).astype(np.float16)
    mask = generator.random((30, 20)) < 0.4
    view, copy = counted([(scores[::2, ::-1], mask[::2, ::-1])]), PixelHistogram()
    copy.update(scores[::2, ::-1].copy(), mask[::2, ::-1].copy())
    assert np.array_equal(view.positives, copy.positives)
    assert view.compute() == copy.compute()


def test_nan_is_refused_and_nothing_is_counted() -> None:
    histogram = PixelHistogram()
    scores = np.zeros((2, 3), np.float16)
    scores[1] = np.nan, -np.nan, 1
    for mask in (None, np.ones((2, 3), bool)):
        with pytest.raises(ZsadError, match="2 of 6 scores are NaN"):
            histogram.update(scores, mask)
    assert not histogram.positives.any()
    assert not histogram.negatives.any()
    assert histogram.num_regions == 0


@pytest.mark.parametrize(
    ("scores", "mask"),
    [
        (np.zeros((2, 2), np.float32), None),
        (np.zeros(4, np.float16), None),
        (np.zeros((2, 2), np.float16), np.zeros((2, 3), bool)),
        (np.zeros((2, 2), np.float16), np.zeros((2, 2), np.uint8)),
    ],
)
def test_wrong_types_are_refused(scores: np.ndarray, mask: np.ndarray | None) -> None:
    with pytest.raises(ValueError, match="must be"):
        PixelHistogram().update(scores, mask)


@pytest.mark.parametrize(("anomalous", "reason"), [(False, "no anomalous pixels"), (True, "no normal pixels")])
def test_one_class_is_undefined(anomalous: bool, reason: str) -> None:
    histogram = PixelHistogram()
    histogram.update(np.ones((3, 3), np.float16), np.full((3, 3), anomalous))
    for metric in histogram.compute().values():
        assert metric.value is None
        assert metric.reason == reason
    assert PixelHistogram().compute()["aupro"].reason == "no anomalous and no normal pixels"


def test_memory_does_not_grow_with_the_image() -> None:
    """Beyond the arrays handed in: the bins, one chunk, and the labels of the mask's bounding box."""
    scores = np.linspace(0, 1, 6_000_000).astype(np.float16).reshape(2000, 3000)
    mask = np.zeros(scores.shape, bool)
    mask[100:300, 100:300] = True
    cv2.connectedComponents(np.zeros((2, 2), np.uint8))
    tracemalloc.start()
    try:
        histogram = PixelHistogram()
        for _ in range(3):
            histogram.update(scores, mask)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert histogram.negatives.sum() == 3 * (scores.size - 40_000)
    assert peak < 12 * 2**20
