"""Which annotations a mask covers: the one rule by which they are kept, or left out before they are painted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


class AnnotationLike(Protocol):
    """A SAM annotation: ``mask`` (h, w) bool inside the window ``box`` = (x0, y0, x1, y1) of the image."""

    @property
    def box(self) -> tuple[int, int, int, int]: ...
    @property
    def mask(self) -> Mask: ...
    @property
    def area(self) -> int: ...


def is_covered(pixels: int, area: int, min_coverage: float) -> bool:
    """Whether ``pixels`` of a mask of ``area`` pixels are enough of it; none are of an empty one."""
    return area > 0 and pixels / area >= min_coverage


def covered_annotations(annotations: Sequence[AnnotationLike], dis_mask: Mask, min_coverage: float) -> list[int]:
    """Indices of the annotations that the DIS mask covers by at least ``min_coverage`` of their area.

    Paper: "requiring 80% of the mask to be covered by the dichotomous segmentation" drops shadows,
    which SAM segments separately.
    """
    kept = []
    for index, annotation in enumerate(annotations):
        x0, y0, x1, y1 = annotation.box
        common = int(np.count_nonzero(annotation.mask & dis_mask[y0:y1, x0:x1]))
        if is_covered(common, annotation.area, min_coverage):
            kept.append(index)
    return kept
