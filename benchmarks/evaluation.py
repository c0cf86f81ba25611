"""P5: pixel metrics from histograms against scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.baselines.evaluation import pixel_metrics
from benchmarks.measure import cpu_seconds, extra_memory
from benchmarks.rows import Row
from zsad.evaluation import PixelHistogram

GOALS = {7: 40.0, 8: 50.0}
MEMORY = 64 * 2**20
Maps = Sequence[NDArray[np.float16]]
Masks = Sequence[NDArray[np.bool_]]


def metrics(quick: bool) -> list[Row]:
    """P5 at 1e7 and 1e8 pixels: time, memory and equality."""
    return [_compare(exponent) for exponent in ((5,) if quick else (7, 8))]


def _compare(exponent: int) -> Row:
    maps, masks = _collection(exponent)
    pixels = sum(one.size for one in maps)
    state = PixelHistogram()
    memory = extra_memory(lambda: _count(state, maps, masks))
    ours = min(cpu_seconds(lambda: _ours(maps, masks)) for _ in range(3))
    found = _ours(maps, masks)
    expected: dict[str, float] = {}
    theirs = cpu_seconds(lambda: expected.update(pixel_metrics(maps, masks)))
    difference = max(abs(found[name] - expected[name]) for name in expected)
    halves = PixelHistogram()
    for part in (slice(0, None, 2), slice(1, None, 2)):
        shard = PixelHistogram()
        _count(shard, maps[part], masks[part])
        halves.merge(shard)
    merged = np.array_equal(halves.positives, state.positives) and np.array_equal(halves.negatives, state.negatives)
    goal = GOALS.get(exponent)
    same = difference <= 1e-9 and merged
    fast = goal is None or (theirs / ours >= goal and memory <= MEMORY)
    return Row(
        "P5",
        f"F1-max, AUROC, AP of {pixels:.1e} pixels in {len(maps)} maps",
        f">= {goal or min(GOALS.values()):g}x scikit-learn, <= 64 MiB extra, shards merge exactly",
        f"{theirs / ours:.0f}x ({theirs:.2f} s : {ours:.3f} s), {memory / 2**20:.1f} MiB, difference {difference:.1e}, "
        f"merged counts {'equal' if merged else 'differ'}",
        same and fast,
        "ours counts regions for AUPRO besides, which scikit-learn does not have"
        + ("; no timing gate in a quick run" if goal is None else ""),
    )


def _ours(maps: Maps, masks: Masks) -> dict[str, float]:
    state = PixelHistogram()
    _count(state, maps, masks)
    return {name: metric.value for name, metric in state.compute().items() if metric.value is not None}


def _count(state: PixelHistogram, maps: Maps, masks: Masks) -> None:
    for scores, mask in zip(maps, masks, strict=True):
        state.update(scores, mask)


def _collection(exponent: int) -> tuple[Maps, Masks]:
    """About 10 ** exponent pixels: smooth maps in [0, 1], and masks that go with them."""
    height, width = (1000, 1500) if exponent > 5 else (200, 250)
    count = max(1, round(10**exponent / (height * width)))
    rng = np.random.default_rng(exponent)
    maps, masks = [], []
    for _ in range(count):
        coarse = rng.standard_normal((24, 36)).astype(np.float32)
        smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        maps.append((1 / (1 + np.exp(2 - smooth + rng.normal(0, 0.1, smooth.shape)))).astype(np.float16))
        masks.append(smooth > 2.2)
    return maps, masks
