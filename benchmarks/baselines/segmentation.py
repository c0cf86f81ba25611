"""The published automatic mask generator, as it is."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from segment_anything import SamAutomaticMaskGenerator
from segment_anything.modeling import Sam

from zsad.config import ForegroundConfig


def stock_generator(network: Sam, config: ForegroundConfig, points: NDArray[np.float64]) -> SamAutomaticMaskGenerator:
    """``SamAutomaticMaskGenerator`` with the same settings and prompts."""
    return SamAutomaticMaskGenerator(
        network,
        points_per_side=None,
        point_grids=[points],
        points_per_batch=config.points_per_batch,
        pred_iou_thresh=config.pred_iou_threshold,
        stability_score_thresh=config.stability_threshold,
        stability_score_offset=config.stability_offset,
        box_nms_thresh=config.box_nms_threshold,
    )


def differing(ours: list[Any], theirs: list[dict[str, Any]]) -> int | None:
    """Pixels that differ over all annotations, in order; None when the sets or their order differ."""
    if len(ours) != len(theirs):
        return None
    pixels = 0
    for mine, other in zip(ours, theirs, strict=True):
        if list(mine.point) != other["point_coords"][0] or abs(mine.predicted_iou - other["predicted_iou"]) > 1e-5:
            return None
        x0, y0, x1, y1 = mine.box
        whole = np.zeros(other["segmentation"].shape, bool)
        whole[y0:y1, x0:x1] = mine.mask
        pixels += int((whole != other["segmentation"]).sum())
    return pixels
