"""Foreground extraction (paper section 2): DIS map and SAM annotations -> foreground components."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from zsad.config import ForegroundConfig
from zsad.coverage import AnnotationLike, Mask, covered_annotations
from zsad.kernels import compiled

_Scalar = TypeVar("_Scalar", bound=np.generic)

SAM_DIS, DIS, FULL_IMAGE, PRECOMPUTED = "sam+dis", "dis", "full_image", "precomputed"


@dataclass(frozen=True)
class Foreground:
    """The foreground of one image.

    Attributes:
        mask: (H, W) bool.
        components: (H, W) int32, 0 = background, 1..C in order of their top-left corner.
        boxes: (C, 4) int32, x0, y0, x1, y1, end exclusive.
        parts: (C,) int32, number of kept SAM annotations that lie in the component.
        source: ``sam+dis``, ``dis``, ``full_image`` or ``precomputed``.
    """

    mask: Mask
    components: NDArray[np.int32]
    boxes: NDArray[np.int32]
    parts: NDArray[np.int32]
    source: str


def binarise_saliency(saliency: NDArray[np.float32], height: int, width: int, config: ForegroundConfig) -> Mask:
    """DIS map of IS-Net -> DIS mask of the image.

    The map is resized bilinearly, stretched to its own minimum and maximum as the DIS authors'
    inference does, and binarised. Paper is silent on empty scenes: stretching turns noise into
    foreground, so a map whose raw sigmoid never exceeds ``empty_guard`` counts as empty.

    Args:
        saliency: (S, S) float32 sigmoid in [0, 1].
        height: image height H.
        width: image width W.

    Returns:
        (H, W) bool.
    """
    if config.empty_guard > 0 and not float(saliency.max()) > config.empty_guard:
        return np.zeros((height, width), np.bool_)
    resized: NDArray[Any] = cv2.resize(saliency, (width, height), interpolation=cv2.INTER_LINEAR)
    low, high = float(resized.min()), float(resized.max())
    if low == high:
        return np.full((height, width), low > config.binarise_threshold)
    # In place and in float32 throughout: a new array per step takes longer than the step.
    resized -= low
    resized /= high - low
    return np.asarray(resized > config.binarise_threshold)


def extract_foreground(dis_mask: Mask, annotations: Sequence[AnnotationLike], config: ForegroundConfig) -> Foreground:
    """DIS mask and SAM annotations -> foreground, with its fallback chain.

    ``sam+dis``: union of the annotations that the DIS mask covers; ``dis``: no annotation is kept, the
    DIS mask itself; ``full_image``: nothing found (textures end here by design), the whole image is
    one component.

    Args:
        dis_mask: (H, W) bool.
        annotations: SAM's annotations of the image; empty when SAM was not asked.
    """
    kept = []
    if config.source == SAM_DIS:
        kept = [annotations[i] for i in covered_annotations(annotations, dis_mask, config.min_coverage)]
    if kept:
        union = np.zeros_like(dis_mask)
        for annotation in kept:
            window = _window(union, annotation.box)
            np.logical_or(window, annotation.mask, out=window)
        return _with_components(union, kept, SAM_DIS, config)
    if config.source != FULL_IMAGE and dis_mask.any():
        return _with_components(dis_mask, [], DIS, config)
    return _with_components(np.ones_like(dis_mask), [], FULL_IMAGE, config)


def foreground_from_mask(mask: Mask, config: ForegroundConfig) -> Foreground:
    """A given (H, W) foreground mask in place of IS-Net and SAM; an empty one means the full image."""
    if not mask.any():
        return _with_components(np.ones_like(mask), [], FULL_IMAGE, config)
    return _with_components(mask, [], PRECOMPUTED, config)


def near(mask: Mask, rows: NDArray[np.intp], columns: NDArray[np.intp], radius: int) -> Mask:
    """Whether ``mask`` (H, W) has a pixel in the square of ``radius`` pixels around each of N pixels: (N,) bool.

    Asked of sums over rectangles: to grow the whole mask by tens of pixels takes many times as long.
    """
    height, width = mask.shape
    sums = cv2.integral(mask.view(np.uint8))
    top, bottom = np.maximum(rows - radius, 0), np.minimum(rows + radius + 1, height)
    left, right = np.maximum(columns - radius, 0), np.minimum(columns + radius + 1, width)
    inside = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
    return np.asarray(inside > 0)


def _with_components(mask: Mask, parts: Sequence[AnnotationLike], source: str, config: ForegroundConfig) -> Foreground:
    # Paper is silent on clean-up: closing joins what SAM cut apart, tiny components are dropped.
    closed = _close(mask, config.closing_radius)
    count, found = cv2.connectedComponents(closed.view(np.uint8), connectivity=8)
    labels = np.asarray(found, np.int32)
    left, top, right, bottom, areas = _extents(labels, count)
    keep = areas >= config.min_component_fraction * mask.size
    if not keep.any():
        keep[np.argmax(areas)] = True
    order = [i for i in np.lexsort((bottom, right, left, top)) if keep[i]]
    relabel = np.zeros(count, np.int32)
    relabel[np.array(order, np.intp) + 1] = np.arange(1, len(order) + 1)
    in_order = np.array_equal(relabel, np.arange(count))
    components = labels if in_order else np.take(relabel, labels, mode="clip")
    boxes = np.stack([left, top, right, bottom], axis=1)[order].astype(np.int32)
    foreground = closed if keep.all() else components > 0
    return Foreground(foreground, components, boxes, _count_parts(components, len(order), parts, config), source)


def _extents(labels: NDArray[np.int32], count: int) -> NDArray[np.int64]:
    """Left, top, right and bottom (ends exclusive) and area of the components 1 to ``count`` - 1: (5, count - 1)."""
    extents = np.zeros((5, count), np.int64)
    extents[0], extents[1] = labels.shape[1], labels.shape[0]
    _fill_extents(labels, *extents)
    return extents[:, 1:]


@compiled
def _fill_extents(
    labels: Any, left: Any, top: Any, right: Any, bottom: Any, area: Any
) -> None:  # pragma: no cover - compiled
    """OpenCV's own statistics take several times as long as its labels."""
    for y in range(labels.shape[0]):
        row = labels[y]
        x = 0
        while x < len(row):
            label, start = row[x], x
            while x < len(row) and row[x] == label:
                x += 1
            left[label], right[label] = min(left[label], start), max(right[label], x)
            top[label], bottom[label] = min(top[label], y), y + 1
            area[label] += x - start


def _count_parts(
    components: NDArray[np.int32], count: int, parts: Sequence[AnnotationLike], config: ForegroundConfig
) -> NDArray[np.int32]:
    inside = np.zeros(count, np.int32)
    pixels = np.zeros(count + 1, np.int64)
    for part in parts:
        pixels[:] = 0
        _count_labels(components, *part.box[:2], np.ascontiguousarray(part.mask), pixels)
        inside += pixels[1:] >= config.min_part_inside * part.area
    return inside


@compiled
def _count_labels(labels: Any, left: int, top: int, mask: Any, pixels: Any) -> None:  # pragma: no cover - compiled
    """Add to ``pixels`` how many pixels of each label the mask has, its upper left corner at (left, top).

    NumPy takes several times as long and lets no other thread run meanwhile, such as the one that feeds a GPU.
    """
    for y in range(mask.shape[0]):
        row, chosen = labels[top + y, left : left + mask.shape[1]], mask[y]
        x = 0
        while x < len(row):
            label, count = row[x], 0
            while x < len(row) and row[x] == label:
                count += chosen[x]
                x += 1
            pixels[label] += count


def _close(mask: Mask, radius: int) -> Mask:
    if radius == 0:
        return np.ascontiguousarray(mask)
    yy, xx = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disc = (xx**2 + yy**2 <= radius**2).astype(np.uint8)
    # Closing adds nothing outside the box around a mask.
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
    box = x, y, x + width, y + height
    # Without the margin, closing would glue everything near the border to the border.
    padded = np.pad(_window(mask, box), radius).view(np.uint8)
    closed = np.zeros(mask.shape, np.bool_)
    _window(closed, box)[:] = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, disc)[radius:-radius, radius:-radius]
    return closed


def _window(array: NDArray[_Scalar], box: tuple[int, int, int, int]) -> NDArray[_Scalar]:
    x0, y0, x1, y1 = box
    return array[y0:y1, x0:x1]
