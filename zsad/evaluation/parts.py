"""One part of the anomaly maps -> a mergeable state; the parts can be worked on anywhere, in any order."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from zsad.config import ImagesConfig
from zsad.errors import ImageError, UsageError, ZsadError
from zsad.evaluation.histograms import PixelHistogram
from zsad.evaluation.masks import read_mask, resize_mask
from zsad.projection import resize
from zsad.storage import iter_maps

RESOLUTIONS = ("native", "518", "400", "240")
"""Native is primary; the squares are those of other papers (APRIL-GAN 518, WinCLIP 240)."""

DEFAULT_LIMITS = ImagesConfig()
"""For runs that do not say."""
NO_CATEGORY = "(none)"

MAX_NAMED = 3
"""Images that are named where masks could not be used."""

_PART_COLUMNS = ["image_id", "image_path", "category", "gt_label", "mask_path", "map_row_group"]
COLUMNS = [*_PART_COLUMNS, "split", "status", "pred_score", "map_part"]
"""The columns of the predictions that an evaluation reads."""

_LOGGER = logging.getLogger(__name__)


@dataclass
class ClassState:
    """Pixel-level counts of one class.

    Attributes:
        num_images: images whose pixels were counted.
        num_anomalous: those among them with label 1.
        excluded_no_mask: anomalous images without a mask.
        excluded_mask_size: masks of neither the oriented nor the stored image size.
        excluded_mask_unreadable: masks that are missing or cannot be decoded.
        bad_masks: the first images of these two kinds, each with what is wrong.
        num_missing_masks: of the unreadable ones those with no file at their path.
        num_empty_masks: anomalous images that were counted, but whose mask has no anomalous pixel.
        empty_masks: the first of these.
    """

    histogram: PixelHistogram = field(default_factory=PixelHistogram)
    num_images: int = 0
    num_anomalous: int = 0
    excluded_no_mask: int = 0
    excluded_mask_size: int = 0
    excluded_mask_unreadable: int = 0
    bad_masks: list[str] = field(default_factory=list)
    num_missing_masks: int = 0
    num_empty_masks: int = 0
    empty_masks: list[str] = field(default_factory=list)

    @property
    def num_seen(self) -> int:
        """Labelled images met, counted or excluded."""
        return self.num_images + self.excluded_no_mask + self.excluded_mask_size + self.excluded_mask_unreadable

    def merge(self, other: ClassState) -> None:
        """Add ``other``, which stays as it is."""
        self.histogram.merge(other.histogram)
        self.num_images += other.num_images
        self.num_anomalous += other.num_anomalous
        self.excluded_no_mask += other.excluded_no_mask
        self.excluded_mask_size += other.excluded_mask_size
        self.excluded_mask_unreadable += other.excluded_mask_unreadable
        self.bad_masks = [*self.bad_masks, *other.bad_masks][:MAX_NAMED]
        self.num_missing_masks += other.num_missing_masks
        self.num_empty_masks += other.num_empty_masks
        self.empty_masks = [*self.empty_masks, *other.empty_masks][:MAX_NAMED]


@dataclass
class PartState:
    """The state of one part, or of several merged at one resolution: a ``ClassState`` (1.5 MiB) per class."""

    classes: dict[str, ClassState] = field(default_factory=dict)

    def merge(self, other: PartState) -> None:
        """Add ``other``, which stays as it is."""
        for category, state in other.classes.items():
            self.classes.setdefault(category, ClassState()).merge(state)


def merge_states(states: Iterable[PartState]) -> PartState:
    """All ``states`` in one new state; read-only arrays are fine."""
    merged = PartState()
    for state in states:
        merged.merge(state)
    return merged


def category_of(predictions: pd.DataFrame) -> pd.Series:
    """The class of every row; ``(none)`` where the manifest named none."""
    return predictions["category"].astype(object).where(predictions["category"].notna(), NO_CATEGORY)


def scored(predictions: pd.DataFrame) -> pd.DataFrame:
    """The rows that have a score and a map."""
    return predictions[predictions["status"] == "ok"]


def check_resolution(resolution: str) -> None:
    """Raise UsageError unless it is one of ``RESOLUTIONS``."""
    if resolution not in RESOLUTIONS:
        raise UsageError(f"Unknown resolution {resolution!r}. Expected one of: {', '.join(RESOLUTIONS)}.")


def evaluable_parts(predictions: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """(part name, its labelled and scored rows) in order of name, with only the columns ``evaluate_part`` reads."""
    rows = scored(predictions)
    rows = rows[rows["gt_label"].notna()]
    return [
        (str(name), part[_PART_COLUMNS].reset_index(drop=True)) for name, part in rows.groupby("map_part", sort=True)
    ]


def evaluate_part(
    output: str,
    part_name: str,
    rows: pd.DataFrame,
    resolution: str = "native",
    limits: ImagesConfig = DEFAULT_LIMITS,
) -> PartState:
    """Count the pixels of one part of the anomaly maps. A function of files only.

    Args:
        output: folder or URI of the run.
        part_name: as in the column ``map_part``.
        rows: this part's rows of the predictions, status ok, as ``evaluable_parts`` gives them. Rows
            without a label are passed over, and maps without a row (superseded ones) are never read.
        resolution: "native", or the side of the square to which map and mask are resized. A resized
            map is rounded to float16 again; a mask is binarised first.
        limits: caps on a mask (``max_pixels``) and its file (``max_file_bytes``), from ``images_config``.

    Raises:
        UsageError: unknown resolution.
        ZsadError: the part is missing or damaged, does not fit ``rows``, or a map holds NaN.
    """
    check_resolution(resolution)
    state = PartState()
    labelled = rows[rows["gt_label"].notna()]
    records = labelled.assign(category=category_of(labelled)).to_dict("records")
    pointers = [(str(row["image_id"]), int(row["map_row_group"])) for row in records]
    for row, stored in zip(records, iter_maps(output, part_name, pointers), strict=True):
        counts = state.classes.setdefault(str(row["category"]), ClassState())
        _count_image(counts, row, stored.anomaly_map(), resolution, limits)
    return state


def _count_image(
    counts: ClassState,
    row: dict[Hashable, Any],
    scores: NDArray[np.float16],
    resolution: str,
    limits: ImagesConfig,
) -> None:
    height, width = scores.shape
    is_anomalous = int(row["gt_label"]) == 1
    mask: NDArray[np.bool_] | None = None
    if is_anomalous:
        if pd.isna(row["mask_path"]) or not row["mask_path"]:
            counts.excluded_no_mask += 1
            return
        try:
            mask = read_mask(row["mask_path"], row["image_path"], height, width, limits)
        except ImageError as error:
            _LOGGER.warning("image_id=%s stage=evaluate type=%s %s", row["image_id"], error.kind, error)
            counts.bad_masks = [*counts.bad_masks, f"{row['image_id']!r} ({error})"][:MAX_NAMED]
            if error.kind == "mask_size":
                counts.excluded_mask_size += 1
            else:
                counts.excluded_mask_unreadable += 1
                counts.num_missing_masks += error.kind == "missing"
            return
        if not mask.any():
            counts.num_empty_masks += 1
            counts.empty_masks = [*counts.empty_masks, repr(row["image_id"])][:MAX_NAMED]
    if resolution != "native":
        side = int(resolution)
        scores = resize(scores, side, side).astype(np.float16)
        mask = None if mask is None else resize_mask(mask, side, side)
    try:
        counts.histogram.update(scores, mask)
    except ZsadError as error:
        raise ZsadError(f"The anomaly map of {row['image_id']!r} cannot be evaluated: {error}.") from None
    counts.num_images += 1
    counts.num_anomalous += is_anomalous
