"""The most anomalous image of each kind as a picture, and all of them on one sheet."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zsad.config import ImagesConfig
from zsad.errors import ImageError, UsageError
from zsad.evaluation.masks import read_mask
from zsad.filesystem import Uri, as_uri, join, read_bytes
from zsad.images import decode
from zsad.report.drawing import Scale
from zsad.report.overlay import Colour, Mask, Picture, blend, draw_outline, grey, heat, resize_mask, resize_values
from zsad.report.panels import (
    ALARM,
    FAINT,
    GAP,
    MARGIN,
    WIDTH,
    Line,
    colour_bar,
    column,
    fit,
    page,
    placeholder,
    row,
    text_block,
)
from zsad.report.records import colour_scale
from zsad.storage import describe_run, images_config, read_anomaly_map, read_predictions, read_run, write_atomically

FOLDER, OVERVIEW = "pictures", "overview.png"
TRUTH: Colour = (86, 180, 233)
_COLUMNS = [
    "image_id",
    "image_path",
    "category",
    "gt_label",
    "mask_path",
    "status",
    "pred_score",
    "anomaly_map_max",
    "anomaly_map_mean",
]
_ACROSS = 3
_CELL = (WIDTH - 2 * MARGIN - (_ACROSS - 1) * GAP) // _ACROSS


@dataclass(frozen=True)
class Found:
    """One image to show.

    Attributes:
        title: kind and score; note: image and label.
        photograph: (H, W, 3), or None where it cannot be read; note says why.
        anomaly_map: (H, W) float16.
        truth: (H, W) bool, the labelled defect; None = none.
    """

    title: str
    note: str
    photograph: Picture | None
    anomaly_map: NDArray[np.float16]
    truth: Mask | None


def write_pictures(output: Uri) -> str:
    """Write ``OUT/pictures/KIND.jpg`` and ``OUT/pictures/overview.png``; all heatmaps have one scale.

    Args:
        output: folder or URI of a run; images without a category are of one kind.

    Returns:
        Path or URI of the overview.

    Raises:
        UsageError: no run there, no image with a score, or ``run.json`` holds values out of range.
        ZsadError: a part is damaged, or the pictures cannot be written.
    """
    output = as_uri(output)
    predictions = read_predictions(output, _COLUMNS)
    scored = predictions[predictions["status"] == "ok"]
    if scored.empty:
        raise UsageError(f"No image with a score in {output!r}. Run 'zsad score' first.")
    scale, weights, limits = colour_scale(scored), describe_run(output)[1], images_config(read_run(output))
    kinds = scored["category"].fillna("images")
    best = scored.sort_values(["pred_score", "image_id"], ascending=[False, True]).groupby(kinds, sort=False).head(1)
    cells = []
    for name, record in sorted(zip(kinds[best.index], best.to_dict("records"), strict=True), key=lambda pair: pair[0]):
        found = _read(output, str(name), {str(key): value for key, value in record.items()}, limits)
        _save(join(output, FOLDER, f"{_file_stem(str(name))}.jpg"), _alone(found, scale, weights))
        cells.append(_pair(found, scale, _CELL, _CELL))
    overview = join(output, FOLDER, OVERVIEW)
    _save(overview, draw_overview(cells, scale, weights))
    return overview


def draw_overview(cells: list[Picture], scale: Scale, weights: str | None) -> Picture:
    """All kinds on one sheet: (H, 1600, 3).

    Args:
        cells: one picture per kind.
        scale: of the heatmaps.
        weights: a word on the weights, e.g. "untrained"; None = trained.
    """
    heading = text_block([Line("The most anomalous image of each kind", 28)], WIDTH - 2 * MARGIN)
    rows = [row(cells[start : start + _ACROSS], GAP) for start in range(0, len(cells), _ACROSS)]
    return page([heading, *rows, _legend(scale, weights)], GAP, MARGIN)


def _alone(found: Found, scale: Scale, weights: str | None) -> Picture:
    return page([_pair(found, scale, WIDTH - 2 * MARGIN, 1000), _legend(scale, weights)], 16, MARGIN)


def _legend(scale: Scale, weights: str | None) -> Picture:
    lines = [
        Line("Left the photograph, right its anomaly map over it; blue line: the labelled defect.", 15, FAINT),
        Line("One scale for all images of the run.", 15, FAINT),
    ]
    if weights:
        nothing = "; the scores and maps mean nothing" if weights == "untrained" else ""
        lines.append(Line(f"Weights: {weights}{nothing}.", 15, ALARM))
    bar = colour_bar(scale.low, scale.high, _CELL)
    return row([bar, text_block(lines, WIDTH - 2 * MARGIN - _CELL - GAP)], GAP)


def _pair(found: Found, scale: Scale, width: int, max_height: int) -> Picture:
    """Photograph and overlay side by side under a title: (h, width, 3)."""
    gap = 8
    half = (width - gap) // 2
    height, breadth = found.anomaly_map.shape
    if found.photograph is None:
        field = placeholder("No photograph.", half, max(60, min(max_height, half * height // breadth)))
        photograph, under = field, field
    else:
        photograph = under = fit(found.photograph, half, max_height)
    size = (under.shape[1], under.shape[0])
    over = blend(
        grey(under), heat(resize_values(found.anomaly_map.astype(np.float32), *size), scale.low, scale.high), 0.5
    )
    if found.truth is not None:
        over = draw_outline(over, resize_mask(found.truth, *size, least=0), TRUTH, 2)
    words = text_block([Line(found.title, 17), Line(found.note, 15, FAINT)], width)
    return column([words, row([photograph, over], gap)], 6, width)


def _read(output: str, kind: str, record: dict[str, Any], limits: ImagesConfig) -> Found:
    image_id, image_path, mask_path = str(record["image_id"]), str(record["image_path"]), record["mask_path"]
    values = read_anomaly_map(output, image_id)
    height, width = values.shape
    notes = [image_id, {0: "normal", 1: "anomalous"}.get(record["gt_label"], "no label")]
    photograph, truth = None, None
    try:
        image = decode(read_bytes(image_path, limits.max_file_bytes), limits.max_pixels, limits.white_level)
        if image.shape[:2] == (height, width):
            photograph = image
        else:
            notes.append("the photograph has changed since it was scored")
    except ImageError as error:
        notes.append(f"no photograph: {error}")
    if isinstance(mask_path, str):
        try:
            truth = read_mask(mask_path, image_path, height, width, limits)
        except ImageError as error:
            notes.append(f"no contour: {error}")
    title = f"{kind.replace('_', ' ')}  {record['pred_score']:.3f}"
    return Found(title, ", ".join(notes), photograph, values, truth)


def _file_stem(kind: str) -> str:
    """A category as a file name. It comes from the dataset, so it may hold anything; no two share a name."""
    plain = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "-_") else "_" for letter in kind)
    if plain == kind and 0 < len(kind) <= 100 and f"{kind}.png" != OVERVIEW:
        return kind
    return f"{plain[:100]}-{hashlib.blake2b(kind.encode(), digest_size=4).hexdigest()}"


def _save(uri: str, picture: Picture) -> None:
    buffer = io.BytesIO()
    # Photographs are an order of magnitude faster and smaller as JPEG.
    Image.fromarray(picture).save(buffer, "PNG" if uri.endswith(".png") else "JPEG", quality=90, compress_level=3)
    write_atomically(uri, lambda sink: sink.write(buffer.getvalue()))
