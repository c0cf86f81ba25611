"""What a real collection holds beside its good photographs: ``CASES`` says what must come of each file."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.bad_images.builders import (
    encode,
    exif,
    gif,
    link_to,
    png,
    png_chunk,
    scan_lines,
    sparse,
    tiff,
    turned,
    webp,
)
from zsad.config import ImagesConfig

LIMITS = ImagesConfig()
HEIGHT, WIDTH = 48, 64


@dataclass(frozen=True)
class Case:
    """One file of the corpus.

    Attributes:
        name: its path below the root.
        make: writes it.
        pixels: (H, W, 3) uint8 that must be scored; None when it cannot be.
        tolerance: largest difference of a pixel, where the format is lossy.
        kind: ``error_type`` of its row; None when it can be scored.
    """

    name: str
    make: Callable[[Path], object]
    pixels: NDArray[np.uint8] | None = None
    tolerance: int = 0
    kind: str | None = None


def write_corpus(folder: Path, cases: list[Case]) -> None:
    """Write the files of ``cases`` into ``folder``."""
    for case in cases:
        case.make(folder / case.name)


def shows(name: str, data: bytes, pixels: NDArray[np.uint8] | None = None, tolerance: int = 0) -> Case:
    """A file that must be scored as ``pixels`` (default: the picture)."""
    return Case(name, lambda path: path.write_bytes(data), PICTURE if pixels is None else pixels, tolerance)


def fails(name: str, content: bytes | Callable[[Path], object], kind: str) -> Case:
    """A file that must end as an error row of this kind."""
    if not isinstance(content, bytes):
        return Case(name, content, kind=kind)
    return Case(name, lambda path: path.write_bytes(content), kind=kind)


def draw_picture() -> NDArray[np.uint8]:
    """A disc on a lit ground: (48, 64, 3) uint8."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    ground = np.stack([60 + columns, 80 + rows, 110 - rows // 2], axis=-1)
    disc = (rows - 26) ** 2 + (columns - 36) ** 2 < 15**2
    return np.where(disc[..., None], [200, 190, 90], ground).astype(np.uint8)


def repeated(grey: NDArray[np.generic]) -> NDArray[np.uint8]:
    """(H, W) grey -> (H, W, 3)."""
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=-1)


PICTURE = draw_picture()
GREY = PICTURE[..., 0]
FINE = {"quality": 100, "subsampling": 0}
JPEG = encode(PICTURE, "JPEG", **FINE)
OTHER = Image.new("RGB", (WIDTH, HEIGHT), "blue")
MORE = {"save_all": True, "append_images": [OTHER]}

# 255 bytes are the most that a name may have on the usual file systems.
HOSTILE_NAMES = [
    "new\nline.png",
    "\"double\" 'single' `tick`.png",
    "<img src=x onerror=alert(1)>.png",
    "=cmd('calc')!A1.png",
    "-rf --output=x.png",
    "$(reboot);x.png",
    "%s%n{0}.png",
    "[red]markup[[bold].png",
    "\x1b[31mescape\x07.png",
    "back\\slash.png",
    "s3:bucket?token=x#y.png",
    " leading and trailing .png",
    "schraube ü \u202egnp.\u202c 螺丝 🔩.png",
    "ü" * 125 + "x.png",
]


def plain_cases() -> list[Case]:
    """Every format and mode that can be scored, with the pixels that it shows."""
    rgb = Image.fromarray(PICTURE)
    strip = PICTURE[:2, :40]
    return [
        shows("plain.png", encode(PICTURE)),
        shows("plain.jpg", JPEG, tolerance=6),
        shows("plain.bmp", encode(PICTURE, "BMP")),
        shows("plain.ppm", encode(PICTURE, "PPM")),
        shows("plain.webp", encode(PICTURE, "WEBP", lossless=True)),
        shows("plain.tif", encode(PICTURE, "TIFF")),
        shows("progressive.jpg", encode(PICTURE, "JPEG", progressive=True, **FINE), tolerance=6),
        shows("png named.jpg", encode(PICTURE)),
        shows("cmyk.jpg", encode(rgb.convert("CMYK"), "JPEG", **FINE), tolerance=6),
        shows("big.tif", encode(PICTURE, "TIFF", big_tiff=True)),
        shows("1x1.png", encode(PICTURE[:1, :1]), PICTURE[:1, :1]),
        shows("aspect 20.png", encode(strip), strip),
        shows("something behind.jpg", JPEG + b"<?php system($_GET['c']); ?>", tolerance=6),
        shows("end missing.png", encode(PICTURE)[:-12]),
        shows("animated.png", encode(PICTURE, **MORE)),
        shows("animated.webp", encode(PICTURE, "WEBP", lossless=True, **MORE)),
        shows("pages.tif", encode(PICTURE, "TIFF", **MORE)),
        shows("two views.jpg", encode(PICTURE, "MPO", **FINE, **MORE), tolerance=6),
    ]


def metadata_cases() -> list[Case]:
    """Orientations, and profiles and EXIF data that make no sense."""
    cut = b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01\x12"
    return [
        *(shows(f"exif {value}.png", turned(PICTURE, value)) for value in range(1, 9)),
        shows("exif 6.jpg", turned(PICTURE, 6, "JPEG", **FINE), tolerance=6),
        shows("exif 6.tif", turned(PICTURE, 6, "TIFF")),
        shows("exif 8.webp", turned(PICTURE, 8, "WEBP", lossless=True)),
        shows("exif 99.png", encode(PICTURE, exif=exif(99))),
        shows("wrong exif.jpg", encode(PICTURE, "JPEG", exif=cut, **FINE), tolerance=6),
        shows("wrong icc.png", encode(PICTURE, icc_profile=b"no profile")),
        shows("wrong icc.jpg", encode(PICTURE, "JPEG", icc_profile=b"no profile", **FINE), tolerance=6),
    ]


def mode_cases() -> list[Case]:
    """Grey, 16 bits, floating point, palettes and transparency."""
    alpha = np.where(np.arange(WIDTH) < WIDTH // 2, 255, 0).astype(np.uint8)[None].repeat(HEIGHT, 0)
    indexed = Image.fromarray(PICTURE).quantize(16, dither=Image.Dither.NONE)
    index = np.asarray(indexed)
    coloured = np.array(indexed.getpalette(), np.uint8).reshape(-1, 3)[index]
    gone = int(index[0, 0])
    bits = GREY > 100
    wide = GREY.astype(np.uint16) * 257
    floats = GREY.astype(np.float32)
    spread = np.rint((floats - floats.min()) / (floats.max() - floats.min()) * 255)
    holes = floats.copy()
    holes[0, :3] = np.nan, np.inf, -np.inf
    spread_holes = spread.copy()
    spread_holes[0, :3] = 0, 255, 0

    def on_white(pixels: NDArray[np.uint8], visible: NDArray[np.bool_]) -> NDArray[np.uint8]:
        return np.where(visible[..., None], pixels, 255).astype(np.uint8)

    return [
        shows("grey 8.png", encode(GREY), repeated(GREY)),
        shows("grey 16.png", encode(wide), repeated(GREY)),
        shows("grey 16.tif", encode(wide, "TIFF"), repeated(GREY)),
        shows("grey 16.pgm", b"P5 64 48 65535\n" + wide.astype(">u2").tobytes(), repeated(GREY)),
        shows(
            "colour 16.png",
            png(WIDTH, HEIGHT, scan_lines(PICTURE.astype(">u2") * 257), depth=16, colour=2),
        ),
        shows("1 bit.png", encode(bits), repeated(bits * 255)),
        shows("float.tif", encode(floats, "TIFF"), repeated(spread)),
        shows("float holes.tif", encode(holes, "TIFF"), repeated(spread_holes)),
        shows("palette.png", encode(indexed), coloured),
        shows("palette hole.png", encode(indexed, transparency=gone), on_white(coloured, index != gone)),
        shows("animated.gif", encode(indexed, "GIF", **MORE), coloured),
        shows("alpha.png", encode(np.dstack([PICTURE, alpha])), on_white(PICTURE, alpha > 0)),
        shows(
            "veil.png",
            encode(np.dstack([PICTURE, np.full_like(alpha, 128)])),
            (PICTURE // 2 + 127).astype(np.uint8),
            tolerance=2,
        ),
        shows(
            "grey alpha.png",
            encode(Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(alpha)])),
            on_white(repeated(GREY), alpha > 0),
        ),
    ]


def hostile_name_cases() -> list[Case]:
    """A good picture under names that break shells, tables, pages and terminals."""
    return [shows(name, encode(PICTURE)) for name in HOSTILE_NAMES]


def broken_cases() -> list[Case]:
    """Content that is cut off, is no image, or shows nothing that could be scored."""
    middle = len(JPEG) // 2
    deep = np.array([[0, 70_000]], np.int32)
    broken_sum = bytearray(encode(PICTURE))
    broken_sum[60] ^= 0xFF
    return [
        fails("empty.jpg", b"", "empty_file"),
        fails("one byte.jpg", JPEG[:1], "not_an_image"),
        *(fails(f"cut {at}.jpg", JPEG[:at], "truncated") for at in (100, middle, len(JPEG) - 100)),
        fails("end missing.jpg", JPEG[:-2], "truncated"),
        fails("start only.jpg", JPEG[:3], "undecodable"),
        fails("cut.png", encode(PICTURE)[:-100], "truncated"),
        fails("cut.gif", encode(PICTURE, "GIF")[:-300], "truncated"),
        fails("cut.bmp", encode(PICTURE, "BMP")[:-300], "truncated"),
        fails("cut.ppm", encode(PICTURE, "PPM")[:-300], "truncated"),
        fails("cut.tif", encode(PICTURE, "TIFF")[:-300], "truncated"),
        fails("cut.webp", encode(PICTURE, "WEBP")[:-30], "undecodable"),
        fails("wrong checksum.png", bytes(broken_sum), "undecodable"),
        fails("no pixels.png", png(0, 1, b""), "undecodable"),
        fails("text.jpg", b"this is a text that someone has renamed\n", "not_an_image"),
        fails("page.png", b"<html><body>404 Not Found</body></html>", "not_an_image"),
        fails("archive.png", b"PK\x03\x04" + bytes(60), "not_an_image"),
        fails("script.jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not_an_image"),
        fails("vector.png", b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", "not_an_image"),
        fails("phone.jpg", b"\0\0\0\x18ftypheic" + bytes(40), "not_an_image"),
        fails("zeros.png", bytes(5000), "not_an_image"),
        fails("deep.tif", encode(deep, "TIFF"), "undecodable"),
        fails("nothing finite.tif", encode(np.full((4, 4), np.nan, np.float32), "TIFF"), "undecodable"),
        fails("5x4000.png", encode(np.zeros((4000, 5, 3), np.uint8)), "extreme_aspect"),
        fails("21x1.png", encode(np.zeros((1, 21, 3), np.uint8)), "extreme_aspect"),
    ]


def bomb_cases() -> list[Case]:
    """Small files that claim or unpack to something huge."""
    text = b"note\0\0" + zlib.compress(bytes(50_000_000))
    many = png_chunk(b"zTXt", b"note\0\0" + zlib.compress(bytes(1_000_000))) * 80
    profile = png_chunk(b"iCCP", text)
    return [
        fails("over the cap.png", png(LIMITS.max_pixels // 10_000 + 1, 10_000, bytes(99)), "too_many_pixels"),
        fails("huge.png", png(2**31 - 1, 2**31 - 1, bytes(99)), "too_many_pixels"),
        fails("huge.gif", gif(65_535, 65_535), "too_many_pixels"),
        fails("huge.tif", tiff(2**31, 2**31), "too_many_pixels"),
        fails("huge.ppm", b"P5 600000 600000 255\n", "too_many_pixels"),
        fails("huge.webp", webp(16_383, 16_383), "too_many_pixels"),
        fails("text.png", png(1, 1, bytes(2), extra=png_chunk(b"zTXt", text)), "undecodable"),
        fails("texts.png", png(1, 1, bytes(2), extra=many), "undecodable"),
        fails("profile.png", png(1, 1, bytes(2), extra=profile), "undecodable"),
        fails("large.jpg", sparse(LIMITS.max_file_bytes + 1), "file_too_large"),
        shows("too many rows.png", png(1, 1, bytes(20_000_000)), np.zeros((1, 1, 3), np.uint8)),
    ]


def place_cases() -> list[Case]:
    """Paths at which no readable file lies."""
    return [
        fails("missing.png", lambda path: None, "missing"),
        fails("folder.png", Path.mkdir, "not_a_file"),
        fails("pipe.png", os.mkfifo, "not_a_file"),
        fails("link to nothing.png", link_to("nothing.png"), "missing"),
        fails("link to itself.png", link_to("link to itself.png"), "unreadable"),
        fails("link there.png", link_to("link back.png"), "unreadable"),
        fails("link back.png", link_to("link there.png"), "unreadable"),
        fails("plain.png/below a file.png", lambda path: None, "missing"),
    ]


CASES = [
    *plain_cases(),
    *metadata_cases(),
    *mode_cases(),
    *hostile_name_cases(),
    *broken_cases(),
    *bomb_cases(),
    *place_cases(),
]
