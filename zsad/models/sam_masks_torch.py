"""SAM's masks by torch's operations on many masks, for devices other than a CPU on which Triton does not work.

What ``sam_masks_cpu`` and ``sam_masks_gpu`` do, called by ``sam_masks``, which says what is computed and checks it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zsad.models.sam_upsampling import NOWHERE, Box, Taps, Upsampling

_PIXELS_AT_ONCE = 1 << 24
"""The most pixels of all masks that are measured together."""


def extents(low: Tensor, chosen: Tensor, level: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Per chosen mask the first and last row, then the first and last column, with a logit over the level.

    Args:
        low: (M, h, w) float32.
        chosen: (K,) int64 indices of masks.

    Returns:
        Each (K,) int64; where there is none, the first ones are h and w and the last ones -1.
    """
    over = low[chosen] > level
    return *_reach(over.any(2)), *_reach(over.any(1))


def measure(
    low: Tensor, boxes: Sequence[Box], levels: tuple[float, float, float], plan: Upsampling
) -> tuple[Tensor, Tensor]:
    """``sam_masks.measure`` of masks (K, h, w) float32, each in the window of ``boxes``.

    Args:
        levels: the threshold, and it plus and minus the offset.

    Returns:
        Stability scores (K,) float32 and boxes (K, 4) int64.
    """
    level, raised, lowered = levels
    scores, edges = [low.new_zeros(0)], [torch.zeros((0, 4), dtype=torch.int64, device=low.device)]
    for start, stop, box in _runs(boxes, _PIXELS_AT_ONCE):
        if box == NOWHERE:
            scores.append(low.new_full((stop - start,), torch.nan))
            edges.append(torch.zeros((stop - start, 4), dtype=torch.int64, device=low.device))
            continue
        logits = window_logits(low[start:stop], box, plan)
        scores.append(_count(logits > raised) / _count(logits > lowered))
        edges.append(_tight_boxes(logits > level, box))
    return torch.cat(scores), torch.cat(edges)


def paint(masks: Tensor, boxes: Sequence[Box], chosen: Sequence[int], threshold: float, plan: Upsampling) -> Tensor:
    """Some masks inside their boxes, one after another.

    Args:
        masks: (M, h, w) float32.
        boxes: K boxes, at least one.
        chosen: K indices, the mask of each box.
        threshold: logits above it are mask.

    Returns:
        (pixels of all boxes,) bool on the device.
    """
    return torch.cat([_flat_mask(masks[index], box, threshold, plan) for index, box in zip(chosen, boxes, strict=True)])


def window_logits(low: Tensor, box: Box, plan: Upsampling) -> Tensor:
    """The native-resolution logits inside a window that is not empty, by operations that suit a GPU.

    Args:
        low: (..., h, w) float32.
        box: the window.

    Returns:
        (..., y1 - y0, x1 - x0) float32.
    """
    x0, y0, x1, y1 = box
    top, bottom = plan.rows.starts[y0], plan.rows.stops[y1 - 1]
    left, right = plan.columns.starts[x0], plan.columns.stops[x1 - 1]
    middle = _interpolate(low, plan.rows.coarse.part(top, bottom), plan.columns.coarse.part(left, right))
    return _interpolate(middle, plan.rows.fine.part(y0, y1, top), plan.columns.fine.part(x0, x1, left))


def _flat_mask(low: Tensor, box: Box, threshold: float, plan: Upsampling) -> Tensor:
    if box == NOWHERE:
        return low.new_empty(0, dtype=torch.bool)
    return (window_logits(low, box, plan) > threshold).flatten()


def _runs(boxes: Sequence[Box], pixels: int) -> list[tuple[int, int, Box]]:
    """Consecutive masks to be measured in one window: start, stop and the window around all of theirs.

    Args:
        boxes: the window of each.
        pixels: of all masks of a run in its window, at most; a single mask may have more.
    """
    runs: list[tuple[int, int, Box]] = []
    for index, box in enumerate(boxes):
        if runs:
            start, _, around = runs[-1]
            joint = _around(around, box)
            if (index + 1 - start) * (joint[2] - joint[0]) * (joint[3] - joint[1]) <= pixels:
                runs[-1] = (start, index + 1, joint)
                continue
        runs.append((index, index + 1, box))
    return runs


def _around(one: Box, other: Box) -> Box:
    if NOWHERE in (one, other):
        return other if one == NOWHERE else one
    return min(one[0], other[0]), min(one[1], other[1]), max(one[2], other[2]), max(one[3], other[3])


def _reach(over: Tensor) -> tuple[Tensor, Tensor]:
    """(M, h) bool -> the first and the last true entry of each (M,), h and -1 for none."""
    size = over.shape[1]
    some = over.any(1)
    first = over.int().argmax(1)
    last = size - 1 - over.flip(1).int().argmax(1)
    return torch.where(some, first, size), torch.where(some, last, -1)


def _interpolate(values: Tensor, rows: Taps, columns: Taps) -> Tensor:
    """(..., h, w) -> (..., outputs of rows, outputs of columns), along the columns first."""
    left, right = values.index_select(-1, columns.left), values.index_select(-1, columns.right)
    across = right.mul_(columns.right_weight).addcmul_(left, columns.left_weight)
    upper, lower = rows.left_weight[:, None], rows.right_weight[:, None]
    return across.index_select(-2, rows.right).mul_(lower).addcmul_(across.index_select(-2, rows.left), upper)


def _count(masks: Tensor) -> Tensor:
    # The published sums, their int16 rows included.
    return masks.sum(-1, dtype=torch.int16).sum(-1, dtype=torch.int32)


def _tight_boxes(masks: Tensor, box: Box) -> Tensor:
    """(M, h, w) bool in the window ``box`` -> (M, 4) int64 tight boxes in the image, all 0 for an empty mask."""
    height, width = masks.shape[1:]
    rows, columns = masks.any(2).int(), masks.any(1).int()
    edges = torch.stack(
        [
            columns.argmax(1) + box[0],
            rows.argmax(1) + box[1],
            box[0] + width - columns.flip(1).argmax(1),
            box[1] + height - rows.flip(1).argmax(1),
        ],
        1,
    )
    return edges * rows.any(1, keepdim=True)
