"""SAM's masks at native resolution, computed only where they live.

SAM upsamples its low-resolution logits twice with ``F.interpolate(mode="bilinear")``: to the padded square
input, then, with the padding cut off, to the image. Here only a window of the result is computed, from the
same taps and weights in the same order of float operations, so that on a CPU it equals the whole upsampling
bit for bit (on another device: to float rounding). Torch has two kernels for this, which round differently;
``joint`` tells them apart. Every function works on the device of its arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in native pixels, end exclusive."""

_NOWHERE: Box = (0, 0, 0, 0)

_SMALL_OUTPUT = 128
"""Up to this height + width of the output, torch always takes its joint kernel on a CPU."""


@dataclass(frozen=True)
class Taps:
    """Bilinear interpolation along one axis: output i = left_weight[i] * x[left[i]] + right_weight[i] * x[right[i]].

    Attributes:
        left, right: (M,) int64 indices into the input.
        left_weight, right_weight: (M,) float32.
    """

    left: Tensor
    right: Tensor
    left_weight: Tensor
    right_weight: Tensor

    def part(self, start: int, stop: int, offset: int = 0) -> Taps:
        """The taps of outputs ``start`` to ``stop`` into an input whose first ``offset`` entries are cut off."""
        cut = slice(start, stop)
        return Taps(self.left[cut] - offset, self.right[cut] - offset, self.left_weight[cut], self.right_weight[cut])


@dataclass(frozen=True)
class Axis:
    """Both upsamplings along one axis of one image.

    Attributes:
        coarse: taps from low resolution to the padded input.
        fine: taps from the input without padding to native pixels.
        first, last: (size,) int64, the first and last low-resolution entry that a native pixel depends on.
        starts, stops: the range of input pixels that a native pixel reads, on the host.
    """

    coarse: Taps
    fine: Taps
    first: Tensor
    last: Tensor
    starts: tuple[int, ...]
    stops: tuple[int, ...]


@dataclass(frozen=True)
class Upsampling:
    """Geometry of the two upsamplings of one image.

    Attributes:
        rows, columns: per axis.
        native_size: (height, width) of the image.
        coarse_joint, fine_joint: which kernel torch takes: one sum of four taps (joint), or along the columns
            and then along the rows.
    """

    rows: Axis
    columns: Axis
    native_size: tuple[int, int]
    coarse_joint: bool
    fine_joint: bool


def upsampling(
    low_size: tuple[int, int],
    padded_size: int,
    input_size: tuple[int, int],
    native_size: tuple[int, int],
    device: str | torch.device = "cpu",
) -> Upsampling:
    """Plan the upsampling from ``low_size`` over ``padded_size``, cut to ``input_size``, to ``native_size``."""
    coarse_joint = _joint((padded_size, padded_size), device)
    fine_joint = _joint(native_size, device)
    axes = [
        _axis(taps(low, padded_size, coarse_joint, device), taps(cut, native, fine_joint, device))
        for low, cut, native in zip(low_size, input_size, native_size, strict=True)
    ]
    return Upsampling(axes[0], axes[1], native_size, coarse_joint, fine_joint)


def taps(size_in: int, size_out: int, joint: bool, device: str | torch.device = "cpu") -> Taps:
    """The taps that ``F.interpolate`` uses along an axis, read off its own output.

    Its weights depend on how it rounds pixel positions in float32. Interpolating the indicator of
    ``index mod 3 = c`` gives them exactly; the position, known to far less than a pixel, tells which indices.
    """
    # Beyond the end, the two taps of the last outputs would coincide and hide their weights.
    index = torch.arange(size_in + 2, device=device)
    indicators = torch.stack([(index % 3 == c).float() for c in range(3)])
    # On a CPU, a single row makes torch take its joint kernel (or, for a long one, decide by the threads as
    # it does for SAM's three masks per prompt: hence three channels), and many rows keep it from doing so.
    rows = indicators[None, :, None].expand(1, 3, 1 if joint else _SMALL_OUTPUT, -1)
    scale = (1.0, size_out / size_in)
    weights = F.interpolate(rows, scale_factor=scale, mode="bilinear", recompute_scale_factor=False)
    weights = weights[0, :, 0, :size_out]

    outputs = torch.arange(size_out, device=device, dtype=torch.float64)
    position = ((outputs + 0.5) * size_in / size_out - 0.5).clamp(min=0)
    used = weights > 0
    both = used.sum(0) == 2
    residue = torch.where(both, used & used.roll(-1, 0), used).int().argmax(0)
    near = torch.where(both, position.floor(), position.round()).long()
    left = near + (residue - near + 1) % 3 - 1
    left_weight = weights.gather(0, (left % 3)[None])[0]
    right_weight = torch.where(both, weights.gather(0, ((left + 1) % 3)[None])[0], 0.0)
    last = size_in - 1
    return Taps(left.clamp(max=last), (left + 1).clamp(max=last), left_weight, right_weight)


def windows(low: Tensor, level: float, plan: Upsampling) -> list[Box]:
    """A window of the image outside of which no upsampled logit exceeds ``level``; possibly empty.

    Interpolated values are means of their taps, so nothing exceeds the level where no tap does. One
    transfer to the host for all masks.

    Args:
        low: (M, h, w) float32 low-resolution logits.
    """
    # The margin is far over the rounding of a weighted mean.
    over = low > level - 1e-5 * (1 + abs(level))
    y0, y1 = _reach(_any(over, 2), plan.rows)
    x0, x1 = _reach(_any(over, 1), plan.columns)
    found: list[list[int]] = torch.stack([x0, y0, x1, y1], 1).tolist()
    return [(a, b, c, d) if a < c and b < d else _NOWHERE for a, b, c, d in found]


@dataclass(frozen=True)
class LowMask:
    """A mask at low resolution, or the part of it that its window depends on.

    Attributes:
        values: (h, w) float32 logits.
        corner: row and column of ``values[0, 0]`` in the whole mask.
    """

    values: Tensor
    corner: tuple[int, int] = (0, 0)


def low_masks(low: Tensor, chosen: Tensor, boxes: Sequence[Box], plan: Upsampling) -> list[LowMask]:
    """The masks to keep: on a CPU the part of each that its window depends on, so that the rest can be let go.

    Elsewhere all of them are copied at once, since starting an operation is what costs; each then keeps the others.

    Args:
        low: (M, h, w) float32.
        chosen: (K,) int64 indices of the masks to keep.
        boxes: the window of each of the M masks.
    """
    if _pixels_at_once(low.device):
        return [LowMask(values) for values in low[chosen].unbind()]
    indices: list[int] = chosen.tolist()
    x0, y0, x1, y1 = torch.tensor([boxes[index] for index in indices], dtype=torch.int64).view(-1, 4).unbind(1)
    top, bottom = plan.rows.first[y0], torch.where(y1 > y0, plan.rows.last[y1 - 1] + 1, 0)
    left, right = plan.columns.first[x0], torch.where(x1 > x0, plan.columns.last[x1 - 1] + 1, 0)
    spans: list[list[int]] = torch.stack([top, bottom, left, right], 1).tolist()
    return [LowMask(low[index, a:b, c:d].clone(), (a, c)) for index, (a, b, c, d) in zip(indices, spans, strict=True)]


def window_logits(low: Tensor, box: Box, plan: Upsampling, corner: tuple[int, int] = (0, 0)) -> Tensor:
    """The native-resolution logits of one mask, or of several, inside a window that is not empty.

    Args:
        low: (h, w) or (M, h, w) float32.
        box: the window.
        corner: row and column of ``low[..., 0, 0]`` in the whole mask, where ``low`` is a part of it.

    Returns:
        (y1 - y0, x1 - x0) or (M, y1 - y0, x1 - x0) float32.
    """
    x0, y0, x1, y1 = box
    top, bottom = plan.rows.starts[y0], plan.rows.stops[y1 - 1]
    left, right = plan.columns.starts[x0], plan.columns.stops[x1 - 1]
    rows, columns = plan.rows.coarse.part(top, bottom, corner[0]), plan.columns.coarse.part(left, right, corner[1])
    middle = _interpolate(low, rows, columns, plan.coarse_joint)
    return _interpolate(middle, plan.rows.fine.part(y0, y1, top), plan.columns.fine.part(x0, x1, left), plan.fine_joint)


def measure(
    low: Tensor, boxes: Sequence[Box], threshold: float, offset: float, plan: Upsampling
) -> tuple[Tensor, Tensor]:
    """Stability scores and tight boxes of masks, as published, with no transfer to the host.

    Args:
        low: (M, h, w) float32.
        boxes: the window of each mask at level ``threshold - offset``.
        threshold: logits above it are mask.
        offset: the stability score is the IoU of the masks at ``threshold`` plus and minus this.

    Returns:
        Stability scores (M,) float32, NaN where both masks are empty; and boxes (M, 4) int64, all 0 for an
        empty mask.
    """
    stability, tight = [low.new_zeros(0)], [torch.zeros((0, 4), dtype=torch.int64, device=low.device)]
    for start, stop, box in _runs(boxes, _pixels_at_once(low.device)):
        if box == _NOWHERE:
            stability.append(low.new_full((stop - start,), torch.nan))
            tight.append(torch.zeros((stop - start, 4), dtype=torch.int64, device=low.device))
            continue
        # On a CPU, columns are selected twice as fast from two dimensions as from three.
        some = low[start] if stop == start + 1 else low[start:stop]
        logits = window_logits(some, box, plan).view(stop - start, box[3] - box[1], box[2] - box[0])
        stability.append(_count(logits > threshold + offset) / _count(logits > threshold - offset))
        tight.append(_tight_boxes(logits > threshold, box))
    return torch.cat(stability), torch.cat(tight)


def _pixels_at_once(device: torch.device) -> int:
    """Pixels of all masks that are measured together: elsewhere than on a CPU, starting an operation is what costs."""
    return 0 if device.type == "cpu" else 1 << 24


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
    if _NOWHERE in (one, other):
        return other if one == _NOWHERE else one
    return min(one[0], other[0]), min(one[1], other[1]), max(one[2], other[2]), max(one[3], other[3])


def _axis(coarse: Taps, fine: Taps) -> Axis:
    return Axis(
        coarse,
        fine,
        first=coarse.left[fine.left],
        last=coarse.right[fine.right],
        starts=tuple(fine.left.tolist()),
        stops=tuple((fine.right + 1).tolist()),
    )


def _reach(over: Tensor, axis: Axis) -> tuple[Tensor, Tensor]:
    """(M, h) bool -> start and stop (M,) of the native pixels that depend on a true entry; stop 0 for none."""
    size = over.shape[1]
    first = over.int().argmax(1)
    last = size - 1 - over.flip(1).int().argmax(1)
    start = torch.searchsorted(axis.last, first)
    stop = torch.searchsorted(axis.first, last, right=True)
    return start, torch.where(over.any(1), stop, 0)


def _joint(size_out: tuple[int, int], device: str | torch.device) -> bool:
    """Whether torch takes its joint kernel for three channels of this output size (UpSampleKernel.cpp)."""
    if torch.device(device).type != "cpu":
        return False
    return torch.get_num_threads() == 1 or sum(size_out) <= _SMALL_OUTPUT


def _interpolate(values: Tensor, rows: Taps, columns: Taps, joint: bool) -> Tensor:
    """(..., h, w) -> (..., outputs of rows, outputs of columns), in the order of operations of torch's kernels.

    Where those are compiled with fused multiply-add, so is addcmul.
    """
    left, right = values.index_select(-1, columns.left), values.index_select(-1, columns.right)
    upper, lower = rows.left_weight[:, None], rows.right_weight[:, None]
    if joint:
        total = right.index_select(-2, rows.left).mul_(upper * columns.right_weight)
        total.addcmul_(left.index_select(-2, rows.left), upper * columns.left_weight)
        total.addcmul_(left.index_select(-2, rows.right), lower * columns.left_weight)
        return total.addcmul_(right.index_select(-2, rows.right), lower * columns.right_weight)
    across = right.mul_(columns.right_weight).addcmul_(left, columns.left_weight)
    return across.index_select(-2, rows.right).mul_(lower).addcmul_(across.index_select(-2, rows.left), upper)


def _count(masks: Tensor) -> Tensor:
    # The published sums, their int16 rows included.
    return masks.sum(-1, dtype=torch.int16).sum(-1, dtype=torch.int32)


def _any(mask: Tensor, dim: int) -> Tensor:
    """``mask.any(dim)`` of a bool array, on a CPU about twenty times as fast."""
    return mask.view(torch.uint8).amax(dim).bool()


def _tight_boxes(masks: Tensor, box: Box) -> Tensor:
    """(M, h, w) bool in the window ``box`` -> (M, 4) int64 tight boxes in the image, all 0 for an empty mask."""
    height, width = masks.shape[1:]
    rows, columns = _any(masks, 2).int(), _any(masks, 1).int()
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
