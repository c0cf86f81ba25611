"""Where a map is anomalous, as the masks and the COCO export show it."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from zsad.export.stream import Row


class Selection(NamedTuple):
    """Which regions are exported.

    Attributes:
        min_area: fewest pixels of an 8-connected region.
        flagged_only: only regions in images with ``pred_label`` 1.
    """

    min_area: int = 1
    flagged_only: bool = False


class Regions(NamedTuple):
    """8-connected regions of one image.

    Attributes:
        labels: (H, W) int32; 0 outside, region i has the value i + 1.
        boxes: (N, 4) int, x, y, width, height.
        areas: (N,) int, pixels.
    """

    labels: NDArray[np.int32]
    boxes: NDArray[np.int32]
    areas: NDArray[np.int32]


def regions_of(row: Row, scores: NDArray[np.float16], selection: Selection) -> Regions:
    """The regions at or above the pixel threshold of the image.

    Args:
        row: of ``decided_rows``.
        scores: (H, W) float16, its map.
        selection: which regions count.
    """
    mask = scores >= np.float16(row.pixel_threshold)
    # An image of a class without a threshold has no decision.
    if selection.flagged_only and (pd.isna(row.pred_label) or row.pred_label != 1):
        mask[:] = False
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8, ltype=cv2.CV_32S)
    kept = stats[:, cv2.CC_STAT_AREA] >= selection.min_area
    kept[0] = False
    numbers = np.where(kept, np.cumsum(kept), 0).astype(np.int32)
    found: NDArray[np.int32] = stats[kept].astype(np.int32)
    return Regions(numbers[labels], found[:, :4], found[:, cv2.CC_STAT_AREA])
