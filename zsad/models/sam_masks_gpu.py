"""SAM's masks on a GPU: what is found out about many masks, each in a few launches whatever their number.

The kernels are those of ``sam_mask_kernels``.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from zsad.models import sam_mask_kernels as kernels
from zsad.models.sam_upsampling import Upsampling

_STRIPS = 32
"""Programs that share a mask, each its own rows, so that a large one does not keep the GPU waiting."""
_ROWS, _COLUMNS = 8, 32
"""Pixels that a program makes at once."""
_FOUND = 6
"""Numbers that are found per mask: pixels over the raised and the lowered level, and how far the mask reaches from the
opposite side of the image to the left, the top, the right and the bottom; so that all are sums or maxima of numbers that
start at 0."""


def extents(low: Tensor, chosen: Tensor, level: float) -> Tensor:
    """Per chosen mask the first and last row, then the first and last column, with a logit over the level.

    Args:
        low: (M, h, w) float32.
        chosen: (K,) int64 indices of masks.

    Returns:
        (4, K) int32; where there is none, the first ones are h and w and the last ones -1.
    """
    height, width = low.shape[1:]
    reach = torch.empty((4, len(chosen)), dtype=torch.int32, device=low.device)
    if len(chosen):
        with torch.cuda.device_of(low):
            kernels.extents[(len(chosen),)](
                low.contiguous(),
                chosen.contiguous(),
                reach,
                level,
                height,
                width,
                len(chosen),
                ROWS=8,
                COLUMNS=256,
                num_warps=8,
            )
    return reach


def measure(
    low: Tensor, chosen: Tensor, lowest: float, levels: tuple[float, float, float], plan: Upsampling
) -> tuple[Tensor, Tensor]:
    """``sam_masks.measure``, without a transfer to the host; a sum of more than 32767 pixels in a row does not wrap.

    Args:
        low: (M, h, w) float32.
        chosen: (K,) int64 indices of masks.
        lowest: a level below all others; pixels that depend on no logit over it are left out.
        levels: the threshold, and it plus and minus the offset.

    Returns:
        Stability scores (K,) float32 and boxes (K, 4) int64.
    """
    height, width = plan.native_size
    count = len(chosen)
    stability = torch.empty(count, dtype=torch.float32, device=low.device)
    boxes = torch.empty((count, 4), dtype=torch.int64, device=low.device)
    if count:
        low, chosen = low.contiguous(), chosen.contiguous()
        reach = extents(low, chosen, lowest)
        found = torch.zeros((_FOUND, count), dtype=torch.int32, device=low.device)
        with torch.cuda.device_of(low):
            kernels.measure[(count, _STRIPS)](
                low,
                chosen,
                reach,
                plan.rows.spans,
                plan.columns.spans,
                *_tables(plan),
                found,
                *levels,
                *plan.low_size,
                height,
                width,
                count,
                STRIPS=_STRIPS,
                ROWS=_ROWS,
                COLUMNS=_COLUMNS,
            )
            kernels.conclude[(triton.cdiv(count, 128),)](found, stability, boxes, height, width, count, MASKS=128)
    return stability, boxes


def coverage(low: Tensor, boxes: Tensor, threshold: float, plan: Upsampling, within: Tensor) -> Tensor:
    """How many pixels each mask has, and how many of them lie in ``within``.

    Args:
        low: (K, h, w) float32.
        boxes: (K, 4) int64, tight, all 0 for an empty mask.
        threshold: logits above it are mask.
        within: (H, W) bool, of the image.

    Returns:
        (2, K) int32.
    """
    counts = torch.zeros((2, len(low)), dtype=torch.int32, device=low.device)
    if len(low):
        with torch.cuda.device_of(low):
            kernels.cover[(len(low), _STRIPS)](
                low.contiguous(),
                boxes.contiguous(),
                *_tables(plan),
                within.contiguous().view(torch.uint8),
                counts,
                threshold,
                *plan.low_size,
                *plan.native_size,
                len(low),
                STRIPS=_STRIPS,
                ROWS=_ROWS,
                COLUMNS=_COLUMNS,
            )
    return counts


def paint(low: Tensor, places: Tensor, pixels: int, threshold: float, plan: Upsampling) -> Tensor:
    """Some masks inside their boxes, one after another.

    Args:
        low: (M, h, w) float32.
        places: (K, 6) int64, the box of each, the index of its first pixel in the result, without gaps, and that of
            its mask.
        pixels: of all boxes.
        threshold: logits above it are mask.

    Returns:
        (pixels,) bool on the device.
    """
    painted = torch.empty(pixels, dtype=torch.uint8, device=low.device)
    if pixels:
        with torch.cuda.device_of(low):
            kernels.paint[(len(places), _STRIPS)](
                low.contiguous(),
                places.contiguous(),
                *_tables(plan),
                painted,
                threshold,
                *plan.low_size,
                *plan.native_size,
                STRIPS=_STRIPS,
                ROWS=_ROWS,
                COLUMNS=_COLUMNS,
            )
    return painted.view(torch.bool)


def _tables(plan: Upsampling) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return plan.rows.entries, plan.rows.weights, plan.columns.entries, plan.columns.weights
