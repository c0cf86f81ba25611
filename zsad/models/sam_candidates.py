"""What SAM's automatic mask generation keeps between decoding and painting."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor
from torchvision.ops import batched_nms, nms

from zsad.models.sam_masks import LowMasks

T = TypeVar("T")


@dataclass(frozen=True)
class Decoding:
    """Masks that may still be in the making.

    Attributes:
        low: (3 P, h, w) float32 low-resolution logits.
        predicted_iou: (3 P,) float32.
        done: CUDA event recorded after the decoding; None on a CPU.
    """

    low: Tensor
    predicted_iou: Tensor
    done: torch.cuda.Event | None

    def wait(self) -> tuple[Tensor, Tensor]:
        """Logits and IoUs, for use on the current stream."""
        if self.done is not None:
            stream = torch.cuda.current_stream(self.low.device)
            stream.wait_event(self.done)
            for values in (self.low, self.predicted_iou):
                values.record_stream(stream)
        return self.low, self.predicted_iou


@dataclass(frozen=True)
class Candidates:
    """Masks before non-maximum suppression, at low resolution only.

    Attributes:
        low: M low-resolution masks.
        predicted_iou: (M,) float32.
        stability: (M,) float32.
        boxes: (M, 4) int64, tight, end exclusive.
        points: (M,) int64, index of the prompt.
    """

    low: LowMasks
    predicted_iou: Tensor
    stability: Tensor
    boxes: Tensor
    points: Tensor

    def take(self, chosen: Tensor) -> Candidates:
        """The candidates of these indices (K,) int64, in that order."""
        return Candidates(
            self.low[chosen] if isinstance(self.low, Tensor) else [self.low[index] for index in chosen.tolist()],
            self.predicted_iou[chosen],
            self.stability[chosen],
            self.boxes[chosen],
            self.points[chosen],
        )


def concatenate(parts: list[Candidates]) -> Candidates:
    """The candidates of all batches of an image, in order."""
    stacked = [part.low for part in parts if isinstance(part.low, Tensor)]
    return Candidates(
        torch.cat(stacked) if stacked else [low for part in parts for low in part.low],
        torch.cat([part.predicted_iou for part in parts]),
        torch.cat([part.stability for part in parts]),
        torch.cat([part.boxes for part in parts]),
        torch.cat([part.points for part in parts]),
    )


def suppress(candidates: Candidates, iou_threshold: float) -> Candidates:
    """Non-maximum suppression on boxes; what stays is sorted by decreasing predicted IoU."""
    # The published boxes end on the last pixel, and an empty mask's is all 0.
    boxes = candidates.boxes.float()
    boxes[:, 2:] = (boxes[:, 2:] - 1).clamp(min=0)
    scores = candidates.predicted_iou
    if boxes.is_cuda:
        # What batched_nms does with a single class, without its launches for several.
        return candidates.take(nms(boxes, scores, iou_threshold))
    return candidates.take(batched_nms(boxes, scores, torch.zeros_like(scores), iou_threshold))


def joined(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The logits and the IoUs of several batches, one after the other; a single one is not copied."""
    if len(parts) == 1:
        return parts[0]
    low, iou = (torch.cat(values) for values in zip(*parts, strict=True))
    return low, iou


def ahead(values: Iterator[T], count: int) -> Iterator[T]:
    """The values of an iterator, each once the next ``count`` have been asked for as well."""
    waiting = deque(islice(values, count))
    while True:
        # No other name holds a value: it may be large.
        waiting.extend(islice(values, 1))
        if not waiting:
            return
        yield waiting.popleft()
