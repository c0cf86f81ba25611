"""Layout of pictures that explain: panels with a title and a caption, put into rows, put into a page.

Everything is an (H, W, 3) uint8 picture whose size follows from its content, so nothing can overlap.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageDraw

from zsad.report.overlay import Colour, Picture, heat, load_font

WIDTH, MARGIN, GAP = 1600, 40, 24
"""Of a page, in pixels: its width, the space around it, and between its panels."""
UNIT = (WIDTH - 2 * MARGIN - 3 * GAP) // 4
"""Width of one of four columns."""
PAIR = 2 * UNIT + GAP

PAPER: Colour = (255, 255, 255)
INK: Colour = (26, 26, 26)
FAINT: Colour = (95, 95, 95)
ALARM: Colour = (176, 32, 0)
COMPONENTS: tuple[Colour, ...] = (
    (86, 180, 233),
    (230, 159, 0),
    (0, 158, 115),
    (204, 121, 167),
    (240, 228, 66),
    (213, 94, 0),
    (0, 114, 178),
)
"""The colours of Okabe and Ito, which the colour-blind can tell apart; they repeat after seven components."""


@dataclass(frozen=True)
class Line:
    """A line of text: its size in pixels, its colour, and how far further lines are indented when it wraps."""

    text: str
    size: int = 15
    colour: Colour = INK
    indent: int = 0


def in_font(text: str) -> str:
    """``text`` in the letters that the pictures' font has: accents are left off, others become ``?``."""
    plain = unicodedata.normalize("NFKD", text)
    kept = (character for character in plain if not unicodedata.combining(character))
    return "".join(character if " " <= character <= "~" else "?" for character in kept)


def text_block(lines: Sequence[Line], width: int) -> Picture:
    """Lines of text, wrapped to ``width`` pixels: (h, width, 3)."""
    wrapped = [part for line in lines for part in _wrap(line, width)]
    height = sum(_line_height(line.size) for line, _ in wrapped)
    canvas = Image.new("RGB", (width, max(height, 1)), PAPER)
    draw = ImageDraw.Draw(canvas)
    y = 0
    for line, left in wrapped:
        draw.text((left, y), line.text, font=load_font(line.size), fill=line.colour)
        y += _line_height(line.size)
    return np.array(canvas)


def fit(image: Picture, width: int, max_height: int) -> Picture:
    """The picture resized into ``width`` x ``max_height`` pixels, its aspect kept."""
    scale = min(width / image.shape[1], max_height / image.shape[0])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR))


def panel(title: str, body: Picture, caption: Sequence[str | Line], width: int) -> Picture:
    """A title, a picture at the left of ``width`` pixels, and a caption below it."""
    parts = [text_block([Line(title, 17)], width)] if title else []
    lines = [line if isinstance(line, Line) else Line(line, 15, FAINT) for line in caption]
    return column([*parts, body, *([text_block(lines, width)] if lines else [])], gap=8, width=width)


def placeholder(text: str, width: int, height: int) -> Picture:
    """A grey field that says why there is no picture."""
    body = np.full((height, width, 3), 240, np.uint8)
    block = text_block([Line(text, 15, FAINT)], width - 40)[: max(height - 20, 1)]
    top = (height - block.shape[0]) // 2
    words = np.minimum(block, 240)
    body[top : top + block.shape[0], 20 : 20 + words.shape[1]] = words
    return body


def colour_bar(low: float, high: float, width: int) -> Picture:
    """The scale of a heatmap: the colours from left to right, with the values at the ends and the middle."""
    ramp = np.repeat(np.linspace(low, high, width, dtype=np.float32)[None], 14, axis=0)
    canvas = Image.new("RGB", (width, 14 + _line_height(15)), PAPER)
    canvas.paste(Image.fromarray(heat(ramp, low, high)), (0, 0))
    draw = ImageDraw.Draw(canvas)
    for share, anchor in ((0.0, "la"), (0.5, "ma"), (1.0, "ra")):
        draw.text(
            (share * width, 18), f"{low + share * (high - low):.3g}", font=load_font(15), fill=FAINT, anchor=anchor
        )
    return np.array(canvas)


def row(pictures: Sequence[Picture], gap: int) -> Picture:
    """Pictures side by side, aligned at the top."""
    height = max(picture.shape[0] for picture in pictures)
    filled = [_pad(picture, height, picture.shape[1]) for picture in pictures]
    space = np.full((height, gap, 3), PAPER, np.uint8)
    return np.concatenate([part for picture in filled for part in (picture, space)][:-1], axis=1)


def column(pictures: Sequence[Picture], gap: int, width: int | None = None) -> Picture:
    """Pictures one below the other, aligned at the left, filled up to ``width``."""
    breadth = max([picture.shape[1] for picture in pictures] + ([width] if width else []))
    space = np.full((gap, breadth, 3), PAPER, np.uint8)
    filled = [_pad(picture, picture.shape[0], breadth) for picture in pictures]
    return np.concatenate([part for picture in filled for part in (picture, space)][:-1], axis=0)


def page(rows: Sequence[Picture], gap: int, margin: int) -> Picture:
    """Rows one below the other with a margin around them."""
    body = column(rows, gap)
    return np.pad(body, ((margin, margin), (margin, margin), (0, 0)), constant_values=255)


def _pad(picture: Picture, height: int, width: int) -> Picture:
    filled = np.full((height, width, 3), PAPER, np.uint8)
    filled[: picture.shape[0], : picture.shape[1]] = picture
    return filled


def _line_height(size: int) -> int:
    return round(1.35 * size)


def _wrap(line: Line, width: int) -> list[tuple[Line, int]]:
    """The parts of a line that each fit, with their left edge; a word that is too long is cut with an ellipsis."""
    font = load_font(line.size)
    parts: list[tuple[Line, int]] = []
    text, left = "", 0
    for word in in_font(line.text).split(" "):
        longer = f"{text} {word}" if text else word
        if text.strip() and font.getlength(longer) > width - left:
            parts.append((_with_text(line, text), left))
            text, left = word, line.indent
        else:
            text = longer
        while len(text) > 1 and " " not in text and font.getlength(text) > width - left:
            text = text[:-4] + "..."
    return [*parts, (_with_text(line, text), left)]


def _with_text(line: Line, text: str) -> Line:
    return Line(text, line.size, line.colour, line.indent)
