"""Pictures over pictures: heatmaps, outlines, boxes. Pure functions on arrays; colours are RGB."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Picture = NDArray[np.uint8]
"""(H, W, 3) uint8 RGB."""
Mask = NDArray[np.bool_]
"""(H, W) bool."""
Colour = tuple[int, int, int]
"""Red, green, blue, 0 to 255."""
ColourMap = Literal["inferno", "grey"]
"""Perceptually uniform scales: equal steps of the value look like equal steps, also in grey."""

_LABEL_SIZE = 16
"""Of the letters of a box's label, in pixels."""


def heat(anomaly_map: NDArray[np.floating], low: float, high: float, colours: ColourMap = "inferno") -> Picture:
    """Values as colours: ``low`` and less is the darkest, ``high`` and more the brightest.

    Args:
        anomaly_map: (H, W) float; NaN counts as ``low``.
        low: value at the dark end of the scale; one scale for all pictures that are compared.
        high: value at the bright end; not above ``low`` = all values above ``low`` are brightest.
        colours: name of the scale.

    Returns:
        (H, W, 3) uint8.
    """
    values = np.nan_to_num(np.asarray(anomaly_map, np.float32), nan=low)
    span = max(high - low, float(np.finfo(np.float32).tiny))
    with np.errstate(over="ignore"):
        level = np.rint(np.clip((values - np.float32(low)) / np.float32(span), 0, 1) * 255).astype(np.uint8)
    if colours == "grey":
        return np.repeat(level[..., None], 3, axis=-1)
    return np.asarray(cv2.cvtColor(cv2.applyColorMap(level, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB), np.uint8)


def blend(image: Picture, over: Picture, alpha: float | NDArray[np.floating]) -> Picture:
    """``over`` on ``image``: (1 - alpha) * image + alpha * over.

    Args:
        image: (H, W, 3) uint8.
        over: (H, W, 3) uint8.
        alpha: opacity of ``over`` in [0, 1]; one number, or (H, W) for one per pixel.

    Returns:
        (H, W, 3) uint8.
    """
    share = np.asarray(alpha, np.float32)
    share = share[..., None] if share.ndim == 2 else share
    mixed = image.astype(np.float32) * (1 - share) + over.astype(np.float32) * share
    return np.rint(mixed).astype(np.uint8)


def outline(mask: Mask, width: int = 2) -> Mask:
    """The border of a mask as a line: the inner half of ``width`` pixels in the mask, the outer around it.

    Where the mask meets the edge of the picture, the inner half runs along that edge.

    Args:
        mask: (H, W) bool.
        width: of the line in pixels, at least 1.

    Returns:
        (H, W) bool.
    """
    inner, outer = (width + 1) // 2, width // 2
    grown = cv2.dilate(mask.astype(np.uint8), _disc(outer)).view(np.bool_)
    bordered = np.pad(mask.astype(np.uint8), inner)
    core = cv2.erode(bordered, _disc(inner))[inner:-inner, inner:-inner].view(np.bool_)
    return grown & ~core


def draw_outline(
    image: Picture, mask: Mask, colour: Colour, width: int = 2, casing: Colour | None = (0, 0, 0)
) -> Picture:
    """A copy of the picture with the border of a mask drawn on it.

    Args:
        image: (H, W, 3) uint8.
        mask: (H, W) bool.
        colour: of the line.
        width: of the line in pixels, at least 1.
        casing: colour of one more pixel on both sides, so that the line shows on any photograph; None = none.

    Returns:
        (H, W, 3) uint8.
    """
    drawn = image.copy()
    if casing is not None:
        drawn[outline(mask, width + 2)] = casing
    drawn[outline(mask, width)] = colour
    return drawn


def draw_boxes(
    image: Picture,
    boxes: NDArray[np.integer] | Sequence[tuple[int, int, int, int]],
    labels: Sequence[str],
    colours: Sequence[Colour],
    width: int = 2,
) -> Picture:
    """A copy of the picture with boxes and their labels.

    Boxes are clipped to the picture. A label stands above its box where there is room, else inside, and
    never leaves the picture or covers another; one that finds no place is left out, so give the most
    important boxes first.

    Args:
        image: (H, W, 3) uint8.
        boxes: (N, 4) int, x0, y0, x1, y1 in pixels, end exclusive; may reach outside the picture.
        labels: N texts; an empty one draws no label.
        colours: N colours.
        width: of the lines in pixels.

    Returns:
        (H, W, 3) uint8.
    """
    height, breadth = image.shape[:2]
    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas)
    font = load_font(_LABEL_SIZE)
    clipped = [
        (max(int(x0), 0), max(int(y0), 0), min(int(x1), breadth), min(int(y1), height)) for x0, y0, x1, y1 in boxes
    ]
    # The first box lies on top: it is the most important one.
    for (x0, y0, x1, y1), colour in reversed(list(zip(clipped, colours, strict=True))):
        if x0 < x1 and y0 < y1:
            draw.rectangle((x0, y0, x1 - 1, y1 - 1), outline=(0, 0, 0), width=width + 2)
            inside = (x0 + 1, y0 + 1, max(x1 - 2, x0 + 1), max(y1 - 2, y0 + 1))
            draw.rectangle(inside, outline=colour, width=width)
    taken: list[tuple[int, int, int, int]] = []
    for box, label, colour in zip(clipped, labels, colours, strict=True):
        if not label or box[0] >= box[2] or box[1] >= box[3]:
            continue
        size = (round(draw.textlength(label, font=font)) + _LABEL_SIZE // 2, round(1.3 * _LABEL_SIZE))
        place = place_label(box, size, (breadth, height), taken)
        if place is not None:
            taken.append(place)
            draw.rectangle((place[0], place[1], place[2] - 1, place[3] - 1), fill=colour)
            centre = ((place[0] + place[2]) / 2, (place[1] + place[3]) / 2)
            draw.text(centre, label, font=font, fill=ink_on(colour), anchor="mm")
    return np.asarray(canvas, np.uint8)


def grey(image: Picture) -> Picture:
    """The picture without its colours, so that those of a heatmap over it can be read: (H, W, 3) uint8."""
    return np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=-1).astype(np.uint8)


def resize_values(values: NDArray[np.float32], width: int, height: int) -> NDArray[np.float32]:
    """A map (H, W) at another size: mean of the pixels when smaller, bilinear when larger; (height, width)."""
    smaller = width < values.shape[1]
    how = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(values, (width, height), interpolation=how), np.float32)


def resize_mask(mask: Mask, width: int, height: int, least: float = 0.5) -> Mask:
    """A mask (H, W) at another size (height, width): a pixel is in it when more than ``least`` of it is.

    With ``least=0`` nothing vanishes, however thin.
    """
    return resize_values(mask.astype(np.float32), width, height) > least


def place_label(
    box: tuple[int, int, int, int],
    size: tuple[int, int],
    picture: tuple[int, int],
    taken: Sequence[tuple[int, int, int, int]],
) -> tuple[int, int, int, int] | None:
    """Where the label of a box goes: above it, else inside, else below; left before right.

    Args:
        box: x0, y0, x1, y1 in the picture.
        size: width and height of the label.
        picture: width and height of the picture.
        taken: places of other labels.

    Returns:
        x0, y0, x1, y1 inside the picture and off ``taken``, or None when there is no such place.
    """
    (x0, y0, x1, y1), (wide, high), (breadth, height) = box, size, picture
    for top in (y0 - high, y0, y1 - high, y1):
        for wanted in (x0, x1 - wide):
            left = min(max(wanted, 0), breadth - wide)
            place = (left, top, left + wide, top + high)
            fits = left >= 0 and top >= 0 and place[3] <= height
            if fits and not any(_overlap(place, other) for other in taken):
                return place
    return None


def load_font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The font of all pictures, ``size`` in pixels; it comes with Pillow, so all machines have it."""
    return ImageFont.load_default(size)


def ink_on(colour: Colour) -> Colour:
    """Black or white, whichever reads better on a colour."""
    red, green, blue = colour
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 128 else (255, 255, 255)


def _disc(radius: int) -> Picture:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1)).astype(np.uint8)


def _overlap(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
