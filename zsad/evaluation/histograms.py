"""Pixel-level metrics from mergeable histograms over the 65,536 possible float16 values.

An anomaly map is a float16 array, so counting its bit patterns loses nothing: the metrics are exact
on the stored values, while the state's size depends on neither the image's nor the collection's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from zsad.errors import ZsadError
from zsad.evaluation.metrics import Metric, aupro, auroc, average_precision, curve_from_counts, f1_max

NUM_BINS = 1 << 16
_CHUNK = 1 << 18
_SIGN = 0x8000

_Count = TypeVar("_Count", np.int64, np.float64)


def _bits_of_bins() -> NDArray[np.intp]:
    # IEEE 754: the bits of positive numbers increase with the value, those of negative ones decrease.
    bins = np.arange(NUM_BINS)
    bits = np.where(bins >= _SIGN, bins - _SIGN, NUM_BINS - 1 - bins)
    bits.setflags(write=False)
    return bits


_BITS_OF_BINS = _bits_of_bins()


def bin_values() -> NDArray[np.float64]:
    """(65536,) float64, the float16 value of each bin, increasing; the outermost 1,023 bins on either side are NaN."""
    return _BITS_OF_BINS.astype(np.uint16).view(np.float16).astype(np.float64)


@dataclass
class PixelHistogram:
    """The state from which one class's pixel-level metrics follow: ``update``, ``merge``, ``compute``.

    Bins stand in increasing order of the float16 value, negative values included; -0.0 is counted as
    0.0. Infinite scores are values like any other; NaN is refused.

    Attributes:
        positives: (65536,) int64, anomalous pixels of each value.
        negatives: (65536,) int64, normal pixels of each value.
        overlap: (65536,) float64, sum over the ground-truth regions of the share of the region's
            pixels with each value (8-connected regions).
        num_regions: number of ground-truth regions.
    """

    positives: NDArray[np.int64] = field(default_factory=lambda: np.zeros(NUM_BINS, np.int64))
    negatives: NDArray[np.int64] = field(default_factory=lambda: np.zeros(NUM_BINS, np.int64))
    overlap: NDArray[np.float64] = field(default_factory=lambda: np.zeros(NUM_BINS, np.float64))
    num_regions: int = 0

    def update(self, scores: NDArray[np.float16], mask: NDArray[np.bool_] | None = None) -> None:
        """Count the pixels of one image.

        Extra memory: a few MiB, and 4 bytes per pixel of the bounding box of ``mask``.

        Args:
            scores: (H, W) float16 anomaly map.
            mask: (H, W) bool, True = anomalous; None for a normal image.

        Raises:
            ZsadError: a score is NaN; nothing is counted then.
            ValueError: wrong dtype or shape.
        """
        if scores.ndim != 2 or scores.dtype != np.float16:
            raise ValueError(f"scores must be (H, W) float16, not {scores.shape} {scores.dtype}")
        bits = np.ascontiguousarray(scores).view(np.uint16)
        total = np.zeros(NUM_BINS, np.int64)
        flat = bits.reshape(-1)
        for start in range(0, flat.size, _CHUNK):
            total += np.bincount(flat[start : start + _CHUNK], minlength=NUM_BINS)
        num_nan = int(total[0x7C01:_SIGN].sum() + total[0xFC01:].sum())
        if num_nan:
            raise ZsadError(f"{num_nan} of {scores.size} scores are NaN; a metric needs numbers")
        if mask is None:
            self.negatives += _by_value(total)
            return
        if mask.shape != scores.shape or mask.dtype != np.bool_:
            raise ValueError(f"mask must be {scores.shape} bool, not {mask.shape} {mask.dtype}")
        positives, overlap, num_regions = _count_regions(bits, mask)
        self.positives += _by_value(positives)
        self.negatives += _by_value(total - positives)
        self.overlap += _by_value(overlap)
        self.num_regions += num_regions

    def merge(self, other: PixelHistogram) -> None:
        """Add the counts of ``other``, which stays as it is. Order matters only to the last bits of AUPRO."""
        self.positives += other.positives
        self.negatives += other.negatives
        self.overlap += other.overlap
        self.num_regions += other.num_regions

    def compute(self) -> dict[str, Metric]:
        """``f1_max``, ``auroc``, ``ap`` and ``aupro`` (at a false-positive rate of 0.3) of what was counted."""
        curve = curve_from_counts(bin_values(), self.positives, self.negatives, unit="pixels")
        occupied = np.flatnonzero(self.positives + self.negatives)[::-1]
        overlap = np.cumsum(self.overlap[occupied]) / max(self.num_regions, 1)
        return {
            "f1_max": f1_max(curve),
            "auroc": auroc(curve),
            "ap": average_precision(curve),
            "aupro": aupro(curve, overlap),
        }


def _by_value(counts: NDArray[_Count]) -> NDArray[_Count]:
    """Counts per bit pattern -> counts per value in increasing order, with -0.0 in the bin of 0.0."""
    ordered = counts[_BITS_OF_BINS]
    ordered[_SIGN] += ordered[_SIGN - 1]
    ordered[_SIGN - 1] = 0
    return ordered


def _count_regions(
    bits: NDArray[np.uint16], mask: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.float64], int]:
    """Count the anomalous pixels of one image by bit pattern.

    Args:
        bits: (H, W) uint16, the scores' bit patterns.
        mask: (H, W) bool, True = anomalous.

    Returns:
        The anomalous pixels of each pattern, (65536,) int64; for each pattern the sum over the regions of the share of
        the region's pixels that have it, (65536,) float64; and the number of regions.
    """
    positives, overlap = np.zeros(NUM_BINS, np.int64), np.zeros(NUM_BINS, np.float64)
    pixels = np.ascontiguousarray(mask).view(np.uint8)
    left, top, width, height = cv2.boundingRect(pixels)
    if not width:
        return positives, overlap, 0
    window = slice(top, top + height), slice(left, left + width)
    pixels, inside, bits = pixels[window], mask[window], bits[window]
    num_labels, labels = cv2.connectedComponents(pixels, connectivity=8, ltype=cv2.CV_32S)

    step = max(1, _CHUNK // width)
    blocks = [slice(start, start + step) for start in range(0, height, step)]
    areas = np.zeros(num_labels, np.int64)
    for rows in blocks:
        areas += np.bincount(labels[rows][inside[rows]], minlength=num_labels)
    shares = 1 / np.maximum(areas, 1)
    for rows in blocks:
        values = bits[rows][inside[rows]]
        positives += np.bincount(values, minlength=NUM_BINS)
        overlap += np.bincount(values, weights=shares[labels[rows][inside[rows]]], minlength=NUM_BINS)
    return positives, overlap, num_labels - 1
