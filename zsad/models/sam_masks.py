"""SAM's masks at native resolution, computed only where they live.

Only a window of each upsampling (``sam_upsampling``) is computed, from torch's taps and weights in its order of
float operations. So it equals the whole upsampling bit for bit on a CPU with fused multiply-add (which torch uses where
there is one), elsewhere to float rounding. Every function works on the device of its arguments: on a CPU mask by mask
in compiled loops (``sam_masks_cpu``), on a GPU all masks at once (``sam_masks_gpu``), and where Triton does not work by
torch's operations on many masks (``sam_masks_torch``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zsad.models import sam_masks_cpu, sam_masks_torch
from zsad.models.device import to_host
from zsad.models.sam_upsampling import NOWHERE, Axis, Box, Upsampling
from zsad.models.triton_support import triton_works


def windows(low: Tensor, chosen: Tensor, level: float, plan: Upsampling) -> list[Box]:
    """Per chosen mask a window of the image outside of which no upsampled logit exceeds ``level``; possibly empty.

    Interpolated values are means of their taps, so nothing exceeds the level where no tap does. One
    transfer to the host for all masks.

    Args:
        low: (M, h, w) float32 low-resolution logits.
        chosen: (K,) int64 indices of masks.

    Raises:
        ValueError: on a CPU, logits or indices that the plan or the masks do not have.
    """
    level = _lowered(level)
    if _on_cpu(low):
        found = np.empty((4, len(chosen)), np.int64)
        sam_masks_cpu.extents(*_arrays(low, chosen, plan), np.float32(level), found)
        top, bottom, left, right = torch.from_numpy(found)
    else:
        top, bottom, left, right = sam_masks_torch.extents(low, chosen, level)
    y0, y1 = _dependent(top, bottom, plan.rows)
    x0, x1 = _dependent(left, right, plan.columns)
    boxes: list[list[int]] = torch.stack([x0, y0, x1, y1], 1).tolist()
    return [(a, b, c, d) if a < c and b < d else NOWHERE for a, b, c, d in boxes]


@dataclass(frozen=True)
class LowMask:
    """A mask at low resolution, or the part of it that its box depends on.

    Attributes:
        values: (h, w) float32 logits.
        corner: row and column of ``values[0, 0]`` in the whole mask.
    """

    values: Tensor
    corner: tuple[int, int] = (0, 0)


LowMasks: TypeAlias = list[LowMask] | Tensor
"""Masks at low resolution: on a CPU each on its own, elsewhere as (K, h, w) float32 logits."""


def low_masks(low: Tensor, chosen: Tensor, boxes: Tensor, plan: Upsampling) -> LowMasks:
    """The masks to keep: on a CPU the part of each that its box depends on, so that the rest can be let go.

    Args:
        low: (M, h, w) float32.
        chosen: (K,) int64 indices of the masks to keep.
        boxes: (K, 4) int64, the tight box of each, outside of which nothing will be asked for.
    """
    if not _on_cpu(low):
        return low[chosen]
    x0, y0, x1, y1 = boxes.unbind(1)
    top, bottom = plan.rows.first[y0], torch.where(y1 > y0, plan.rows.last[y1 - 1] + 1, 0)
    left, right = plan.columns.first[x0], torch.where(x1 > x0, plan.columns.last[x1 - 1] + 1, 0)
    spans: list[list[int]] = torch.stack([top, bottom, left, right], 1).tolist()
    return [
        LowMask(low[index, a:b, c:d].clone(), (a, c))
        for index, (a, b, c, d) in zip(chosen.tolist(), spans, strict=True)
    ]


def measure(low: Tensor, chosen: Tensor, threshold: float, offset: float, plan: Upsampling) -> tuple[Tensor, Tensor]:
    """Stability scores and tight boxes of the chosen masks, as published. At most one transfer to the host for all.

    The published sums over a row are int16 and overflow at more than 32767 pixels; those of ``sam_masks_gpu`` do not.

    Args:
        low: (M, h, w) float32.
        chosen: (K,) int64 indices of masks.
        threshold: logits above it are mask.
        offset: the stability score is the IoU of the masks at ``threshold`` plus and minus this; not negative.

    Returns:
        Stability scores (K,) float32, NaN where both masks are empty; and boxes (K, 4) int64, all 0 for an
        empty mask.

    Raises:
        ValueError: as ``windows``.
    """
    levels = float(threshold), float(threshold + offset), float(threshold - offset)
    kernels = _gpu_kernels(low.device)
    if kernels is not None:
        _check_logits(low, plan)
        measured: tuple[Tensor, Tensor] = kernels.measure(low, chosen, _lowered(levels[2]), levels, plan)
        return measured
    boxes = windows(low, chosen, levels[2], plan)
    if _on_cpu(low):
        stability, tight = np.empty(len(boxes), np.float32), np.empty((len(boxes), 4), np.int64)
        where = np.array(boxes, np.int64).reshape(-1, 4)
        singles = tuple(map(np.float32, levels))
        sam_masks_cpu.measure(*_arrays(low, chosen, plan), where, plan.geometry, singles, stability, tight)
        return torch.from_numpy(stability), torch.from_numpy(tight)
    return sam_masks_torch.measure(low[chosen], boxes, levels, plan)


def coverage(
    masks: LowMasks, boxes: Tensor, threshold: float, plan: Upsampling, within: NDArray[np.bool_]
) -> Tensor | None:
    """The area of each mask, and how much of it lies in ``within``.

    Args:
        masks: of ``low_masks``.
        boxes: (K, 4) int64, the tight box of each.
        threshold: logits above it are mask.
        within: (H, W) bool.

    Returns:
        (2, K) int32 pixel counts; None where the masks have to be painted to be counted.

    Raises:
        ValueError: ``within`` is not of the image's size.
    """
    kernels = None if isinstance(masks, list) else _gpu_kernels(masks.device)
    if kernels is None or isinstance(masks, list):
        return None
    _check_logits(masks, plan)
    if within.shape != plan.native_size:
        raise ValueError(f"given a mask of {within.shape}; the image has {plan.native_size}")
    inside = torch.from_numpy(np.ascontiguousarray(within)).to(masks.device)
    counts: Tensor = kernels.coverage(masks, boxes, float(threshold), plan, inside)
    return counts


def paint(
    masks: LowMasks, boxes: Sequence[Box], threshold: float, plan: Upsampling, chosen: Sequence[int] | None = None
) -> list[NDArray[np.bool_]]:
    """Masks inside their boxes, each (y1 - y0, x1 - x0) bool. One transfer to the host for all.

    Args:
        masks: of ``low_masks``.
        boxes: the tight box of each mask to paint.
        threshold: logits above it are mask.
        chosen: which masks the boxes are of; None = all, in order.

    Raises:
        ValueError: a box that is not inside the image, or a mask that lacks what its box depends on.
    """
    chosen = range(len(masks)) if chosen is None else chosen
    if isinstance(masks, list):
        return [_paint_one(masks[index], box, threshold, plan) for index, box in zip(chosen, boxes, strict=True)]
    if not boxes:
        return []
    sizes = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in boxes]
    ends: list[int] = np.cumsum(sizes).tolist()
    kernels = _gpu_kernels(masks.device)
    if kernels is None:
        flat = sam_masks_torch.paint(masks, boxes, chosen, threshold, plan)
    else:
        _check_logits(masks, plan)
        for index, box in zip(chosen, boxes, strict=True):
            _check_box(box, plan)
            if not 0 <= index < len(masks):
                raise ValueError(f"given the index {index} of {len(masks)} masks")
        starts = [end - size for size, end in zip(sizes, ends, strict=True)]
        places = [[*box, start, index] for box, start, index in zip(boxes, starts, chosen, strict=True)]
        flat = kernels.paint(masks, torch.tensor(places, device=masks.device), ends[-1], float(threshold), plan)
    parts = np.split(to_host(flat), ends[:-1])
    return [part.reshape(y1 - y0, x1 - x0) for part, (x0, y0, x1, y1) in zip(parts, boxes, strict=True)]


def _lowered(level: float) -> float:
    """A level below ``level`` by a margin that is far over the rounding of a weighted mean."""
    return level - 1e-5 * (1 + abs(level))


def _on_cpu(values: Tensor) -> bool:
    return values.device.type == "cpu"


def _gpu_kernels(device: torch.device) -> ModuleType | None:
    """``sam_masks_gpu`` where they run on the device."""
    if not triton_works(device):
        return None
    from zsad.models import sam_masks_gpu

    return sam_masks_gpu


def _arrays(low: Tensor, chosen: Tensor, plan: Upsampling) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Logits and indices for ``sam_masks_cpu``, which check nothing; each of one type and layout, as ``compiled`` demands."""
    _check_logits(low, plan)
    indices = chosen.long().contiguous().numpy()
    if len(indices) and not (indices.min() >= 0 and indices.max() < len(low)):
        raise ValueError(f"given indices {indices.min()} to {indices.max()} of {len(low)} masks")
    return low.contiguous().numpy(), indices


def _check_logits(low: Tensor, plan: Upsampling) -> None:
    height, width = plan.low_size
    if low.dtype != torch.float32 or low.shape[1:] != plan.low_size:
        raise ValueError(f"given {low.dtype} logits {tuple(low.shape)}; expected float32 (M, {height}, {width})")


def _paint_one(mask: LowMask, box: Box, threshold: float, plan: Upsampling) -> NDArray[np.bool_]:
    x0, y0, x1, y1 = box
    if box == NOWHERE:
        return np.zeros((0, 0), np.bool_)
    _check(mask, box, plan)
    painted = np.empty((y1 - y0, x1 - x0), np.bool_)
    low, where = mask.values.contiguous().numpy(), np.array(box, np.int64)
    sam_masks_cpu.paint(low, mask.corner, where, plan.geometry, np.float32(threshold), painted)
    return painted


def _check(mask: LowMask, box: Box, plan: Upsampling) -> None:
    """Raises ValueError where ``sam_masks_cpu.paint`` would read beyond its arrays."""
    x0, y0, x1, y1 = box
    _check_box(box, plan)
    (row, column), (rows, columns) = mask.corner, mask.values.shape
    top, bottom = plan.rows.first.numpy()[y0], plan.rows.last.numpy()[y1 - 1]
    left, right = plan.columns.first.numpy()[x0], plan.columns.last.numpy()[x1 - 1]
    if not (row <= top and bottom < row + rows and column <= left and right < column + columns):
        raise ValueError(
            f"given {rows} x {columns} logits from {mask.corner} on, which is not all that {box} depends on"
        )


def _check_box(box: Box, plan: Upsampling) -> None:
    x0, y0, x1, y1 = box
    height, width = plan.native_size
    if box != NOWHERE and not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise ValueError(f"given the box {box}; expected one inside the image of {width} x {height}")


def _dependent(first: Tensor, last: Tensor, axis: Axis) -> tuple[Tensor, Tensor]:
    """Start and stop (M,) of the native pixels that depend on low-resolution entries (M,) from first to last."""
    return torch.searchsorted(axis.last, first), torch.searchsorted(axis.first, last, right=True)
