"""Image files built part by part, true ones and lying ones."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def encode(image: Image.Image | NDArray[np.generic], format: str = "PNG", **options: object) -> bytes:
    """``image`` as a file of this format."""
    buffer = io.BytesIO()
    opened = image if isinstance(image, Image.Image) else Image.fromarray(image)
    opened.save(buffer, format, **options)
    return buffer.getvalue()


def exif(orientation: int) -> Image.Exif:
    """EXIF data that hold an orientation."""
    data = Image.Exif()
    data[0x0112] = orientation
    return data


def stored_as(upright: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """The pixels that a camera stores with this EXIF orientation when the scene is ``upright``."""
    return {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }[orientation]


def turned(upright: NDArray[np.uint8], orientation: int, format: str = "PNG", **options: object) -> bytes:
    """``upright`` stored in another orientation, with the EXIF tag that says so."""
    stored = np.ascontiguousarray(stored_as(upright, orientation))
    return encode(stored, format, exif=exif(orientation), **options)


def png(width: int, height: int, rows: bytes, *, depth: int = 8, colour: int = 0, extra: bytes = b"") -> bytes:
    """A PNG that claims this size; ``rows`` are its filtered scan lines, ``extra`` its chunks before them."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = png_chunk(b"IHDR", header) + extra + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """One chunk of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def scan_lines(values: NDArray[np.generic]) -> bytes:
    """The unfiltered scan lines of a PNG from pixels in big-endian order."""
    return b"".join(b"\0" + row.tobytes() for row in values)


def webp(width: int, height: int) -> bytes:
    """A WebP whose canvas claims this size."""
    canvas = b"\0\0\0\0" + struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    frame = encode(np.zeros((2, 2, 3), np.uint8), "WEBP")[12:]
    body = b"WEBPVP8X" + struct.pack("<I", len(canvas)) + canvas + frame
    return b"RIFF" + struct.pack("<I", len(body)) + body


def tiff(width: int, height: int) -> bytes:
    """A TIFF of one strip of one byte that claims this size."""
    entries = {256: width, 257: height, 258: 1, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: 1}
    packed = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries.items())
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + packed + b"\0\0\0\0"


def gif(width: int, height: int) -> bytes:
    """A GIF whose only frame claims this size."""
    screen = struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    frame = b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02L\x01\0"
    return b"GIF89a" + screen + frame + b";"


def link_to(target: str) -> Callable[[Path], object]:
    """Makes a symbolic link to a name in the same folder."""
    return lambda path: path.symlink_to(path.parent / target)


def sparse(size: int) -> Callable[[Path], object]:
    """Makes a file of ``size`` bytes that takes no space on disk."""

    def make(path: Path) -> None:
        with open(path, "wb") as file:
            file.truncate(size)

    return make
