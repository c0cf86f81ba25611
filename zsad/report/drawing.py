"""One image -> small pictures (JPEG) and lines (SVG paths) for its place in the report."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zsad.config import ImagesConfig
from zsad.errors import ImageError
from zsad.evaluation.masks import read_mask
from zsad.filesystem import read_bytes
from zsad.images import decode_small, image_size
from zsad.report.overlay import heat

THUMBNAIL, LARGE = 320, 960
"""Longer side of the pictures in pixels."""
_PHOTO_QUALITY, _HEAT_QUALITY = 82, 80
_LINE_TOLERANCE = 1 / 800
"""Of the longer side of the image: less than a pixel of the largest picture that the lines are drawn on."""


@dataclass(frozen=True)
class Scale:
    """The values at both ends of the colours, the same for every heatmap of the report."""

    low: float
    high: float


@dataclass(frozen=True)
class Subject:
    """What is to be drawn of one image.

    Attributes:
        key: hexadecimal, the stem of its pictures' names.
        image_path: of the photograph.
        mask_path: of the ground truth, None for none.
        map_row_group: of its anomaly map, None for an image that could not be scored.
        large: also pictures of ``LARGE`` pixels.
        unreadable: it could not be read when it was to be scored; its row says why.
    """

    key: str
    image_id: str
    image_path: str
    mask_path: str | None
    map_row_group: int | None
    large: bool
    unreadable: bool = False


@dataclass(frozen=True)
class Drawn:
    """What was drawn of one image; plain JSON types.

    Attributes:
        photo: whether there is a picture of the photograph.
        heat: whether there is one of the anomaly map.
        large: whether there are large ones.
        outline: SVG path of the foreground in image pixels, empty for none.
        truth: SVG path of the ground truth.
        peak: x, y of the anomaly map's maximum, None without a map.
        problems: what could not be drawn and why, but for the photograph of an unreadable one.
    """

    photo: bool = False
    heat: bool = False
    large: bool = False
    outline: str = ""
    truth: str = ""
    peak: tuple[int, int] | None = None
    problems: tuple[str, ...] = ()


def picture_name(key: str, kind: str, large: bool = False) -> str:
    """Name of a picture in the report's folder; ``kind`` is ``photo`` or ``heat``."""
    return f"pictures/{key[:2]}/{key}-{kind}{'-large' if large else ''}.jpg"


def draw(
    subject: Subject,
    anomaly_map: NDArray[np.float16] | None,
    foreground: NDArray[np.bool_] | None,
    scale: Scale,
    limits: ImagesConfig,
    save: Callable[[str, bytes], None],
) -> Drawn:
    """Draw one image; whatever cannot be read becomes a line of ``problems``.

    Args:
        subject: the image.
        anomaly_map: (H, W) float16; None = there is none.
        foreground: (H, W) bool; None = there is none.
        scale: of the heatmap's colours.
        limits: caps on the files that are read.
        save: called with the name and the content of every picture.
    """
    problems: list[str] = []
    size = None if anomaly_map is None else (anomaly_map.shape[0], anomaly_map.shape[1])
    photo = _save_photo(subject, size, limits, save, problems)
    outline, truth, peak = "", "", None
    if anomaly_map is not None:
        values = anomaly_map.astype(np.float32)
        _save_heat(subject, values, scale, save)
        y, x = np.unravel_index(int(np.argmax(values)), values.shape)
        peak = (int(x), int(y))
    if foreground is not None and not foreground.all():
        outline = svg_path(foreground)
    if subject.mask_path is not None and size is not None:
        try:
            truth = svg_path(read_mask(subject.mask_path, subject.image_path, *size, limits))
        except ImageError as error:
            problems.append(f"No ground-truth contour: {error.kind}: {error}")
    large = subject.large and (photo or anomaly_map is not None)
    return Drawn(photo, anomaly_map is not None, large, outline, truth, peak, tuple(problems))


def svg_path(mask: NDArray[np.bool_]) -> str:
    """The border of a mask as SVG path data in its own pixels: closed polygons, holes included.

    Args:
        mask: (H, W) bool.

    Returns:
        e.g. ``M3 4L9 4L9 8Z``; empty for an empty mask.
    """
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    tolerance = max(mask.shape) * _LINE_TOLERANCE
    paths = []
    for contour in contours:
        points = cv2.approxPolyDP(contour, tolerance, True).reshape(-1, 2)
        if len(points) < 3:
            # A region of one pixel or one line would be invisible as a polygon.
            left, top, width, height = cv2.boundingRect(contour)
            points = np.array([[left, top], [left + width, top], [left + width, top + height], [left, top + height]])
        paths.append("M" + "L".join(f"{x} {y}" for x, y in points.tolist()) + "Z")
    return "".join(paths)


def _save_photo(
    subject: Subject,
    size: tuple[int, int] | None,
    limits: ImagesConfig,
    save: Callable[[str, bytes], None],
    problems: list[str],
) -> bool:
    try:
        data = read_bytes(subject.image_path, limits.max_file_bytes)
        picture = decode_small(data, limits.max_pixels, LARGE if subject.large else THUMBNAIL, limits.white_level)
        if size is not None and image_size(data, limits.max_pixels) != size:
            problems.append("The photograph has another size now than when it was scored.")
    except ImageError as error:
        if not subject.unreadable:
            problems.append(f"No photograph: {error.kind}: {error}")
        return False
    except MemoryError:
        problems.append("No photograph: it did not fit into memory")
        return False
    image = Image.fromarray(picture)
    if subject.large:
        save(picture_name(subject.key, "photo", large=True), _jpeg(image, _PHOTO_QUALITY))
        image.thumbnail((THUMBNAIL, THUMBNAIL), reducing_gap=3.0)
    save(picture_name(subject.key, "photo"), _jpeg(image, _PHOTO_QUALITY))
    return True


def _save_heat(subject: Subject, values: NDArray[np.float32], scale: Scale, save: Callable[[str, bytes], None]) -> None:
    for side, large in ((THUMBNAIL, False), (LARGE, True)):
        if large and not subject.large:
            continue
        factor = min(1.0, side / max(values.shape))
        width, height = (max(1, round(n * factor)) for n in values.shape[::-1])
        small = np.asarray(cv2.resize(values, (width, height), interpolation=cv2.INTER_AREA), np.float32)
        picture = Image.fromarray(heat(small, scale.low, scale.high))
        save(picture_name(subject.key, "heat", large), _jpeg(picture, _HEAT_QUALITY))


def _jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
