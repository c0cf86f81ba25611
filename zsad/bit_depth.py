"""Images of more than 8 bits per sample, as cameras for inspection write them: PNG and TIFF files -> 8 bits."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from zsad.errors import ImageError
from zsad.text import count

READ = "interleaved grey, RGB or RGBA of 8 or 16 unsigned bits, or grey of 32 bits"
"""What is read of TIFF files, in words."""

_BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _PLANES, _EXTRA, _FORMAT = 258, 259, 262, 277, 284, 338, 339
_UNCOMPRESSED = 1
_WHITE_IS_ZERO = 0
_SEPARATE = 2
_PREMULTIPLIED = 1
_SIGNED = 2
_FORMATS = {1: "unsigned", 2: "signed", 3: "floating-point", 4: "untyped", 5: "complex signed", 6: "complex"}


def tags_of(image: Image.Image) -> Mapping[int, Any]:
    """The tags of a TIFF file that Pillow has opened; empty for any other image."""
    return getattr(image, "tag_v2", {})


def is_colour(image: Image.Image) -> bool:
    """Whether an image that is not loaded yet has several samples of 16 bits, of which Pillow keeps the high bytes."""
    if image.mode not in ("RGB", "RGBA", "RGBX", "LA", "CMYK"):
        return False
    if image.format == "TIFF":
        return _bits(tags_of(image)) > 8
    pieces = getattr(image, "tile", None)
    raw = pieces[0][3] if pieces else None
    return image.format == "PNG" and isinstance(raw, str) and ";16" in raw


def colour(data: bytes, image: Image.Image, white_level: float) -> NDArray[np.uint8]:
    """Decode colour of 16 bits, upright for TIFF and as stored for PNG, by OpenCV.

    Args:
        data: a whole PNG or TIFF file.
        image: that file opened by Pillow, which tells what a fourth channel is.
        white_level: the value that becomes 255.

    Returns:
        (H, W, 3) uint8 RGB, alpha composited over white.

    Raises:
        ImageError: OpenCV does not read it.
        MemoryError: the pixels do not fit into memory just now.
    """
    unread = ImageError(
        "undecodable",
        f"{image.mode} of 16 bits of a kind that is not read with images.white_level; save it as 16-bit RGB",
    )
    if image.mode == "CMYK":
        raise unread
    # Not at the top: results are read without it, and their reader imports this file.
    import cv2

    try:
        stored = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        if error.code == cv2.Error.STS_NO_MEM:
            raise MemoryError(str(error)) from None
        raise unread from None
    if stored is None or stored.dtype != np.uint16 or stored.ndim != 3 or stored.shape[2] not in (3, 4):
        raise unread
    rgb = np.asarray(stored[..., 2::-1], np.uint16)
    eight = _scaled(rgb, white_level)
    if stored.shape[2] == 4 and image.mode in ("RGBA", "LA"):
        opacity = stored[..., 3:] / 65535
        shown = eight if _PREMULTIPLIED in _each(tags_of(image).get(_EXTRA)) else eight * opacity
        eight = _bytes(shown + 255 * (1 - opacity))
    return np.ascontiguousarray(eight)


def grey(image: Image.Image, white_level: float | None) -> NDArray[np.uint8]:
    """The pixels of a loaded image of 16-bit, 32-bit integer or floating-point grey.

    Args:
        image: of mode ``I``, ``I;16...`` or ``F``.
        white_level: the value that becomes 255. None: the largest of the type for up to 16 bits, 65535 for integers of
            32 bits, and for floating point its own finite range.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ImageError: no finite value, or integers outside what is black to white.
    """
    values, tags = np.asarray(image), tags_of(image)
    if image.format == "PPM":
        # Pillow has scaled it by the white that the file states.
        white_level = None
    if values.dtype.kind == "f" and not np.isfinite(values).any():
        raise ImageError("undecodable", "floating-point pixels without a finite value")
    if white_level is not None:
        eight = _scaled(values, white_level)
    elif values.dtype.kind == "f":
        eight = _own_range(values)
    else:
        eight = _integers(values, _white(tags))
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        np.subtract(255, eight, out=eight)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        eight[values == transparent] = 255
    return np.repeat(eight[..., None], 3, axis=-1)


def check_samples(image: Image.Image) -> None:
    """Refuse what Pillow opens and gives wrong values for. Raises ImageError."""
    tags = tags_of(image)
    if _BITS not in tags:
        return
    signed = _bits(tags) == 8 and _SIGNED in _each(tags.get(_FORMAT))
    apart = _bits(tags) > 8 and tags.get(_PLANES) == _SEPARATE and tags.get(_SAMPLES, 1) > 1
    # Pillow takes what is decompressed for big-endian, which it no longer is.
    swapped = image.mode in ("I", "F") and _prefix(tags) == b"MM" and tags.get(_COMPRESSION, 1) != _UNCOMPRESSED
    if signed or apart or swapped:
        raise ImageError("undecodable", f"{in_words(tags)}; expected {READ}")


def samples_in_words(data: bytes) -> str | None:
    """What a TIFF file says of its samples; None where its header cannot be read."""
    if data.startswith(b"MM\0+"):
        return "a big-endian TIFF of over 4 GiB (BigTIFF)"
    try:
        stream = io.BytesIO(data)
        tags = ImageFileDirectory_v2(stream.read(16 if data.startswith(b"II+") else 8))
        stream.seek(tags.next)
        tags.load(stream)
        return in_words(tags) if _BITS in tags else None
    except Exception:
        # Hostile bytes; the caller has words of its own.
        return None


def in_words(tags: Mapping[int, Any]) -> str:
    """What the tags of a TIFF say of its samples."""
    format = _FORMATS.get(_each(tags.get(_FORMAT, 1))[0], "unknown")
    number = int(tags.get(_SAMPLES, 1))
    apart = ", stored apart" if number > 1 and tags.get(_PLANES) == _SEPARATE else ""
    inverted = ", 0 is white" if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO else ""
    packed = ", compressed" if tags.get(_COMPRESSION, 1) != _UNCOMPRESSED else ""
    order = ", big-endian" if _prefix(tags) == b"MM" else ""
    return f"a TIFF of {count(number, 'channel')} of {_bits(tags)}-bit {format} samples{apart}{inverted}{order}{packed}"


def _prefix(tags: Mapping[int, Any]) -> bytes:
    return bytes(getattr(tags, "prefix", b""))


def _white(tags: Mapping[int, Any]) -> int:
    bits = _bits(tags) if _BITS in tags else 16
    if bits > 16:
        return 65535
    return int(2 ** (bits - 1 if _SIGNED in _each(tags.get(_FORMAT)) else bits)) - 1


def _bits(tags: Mapping[int, Any]) -> int:
    return int(max(_each(tags.get(_BITS, 1))))


def _each(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) and value else (value,)


def _integers(values: NDArray[Any], white: int) -> NDArray[np.uint8]:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > white:
        raise ImageError(
            "undecodable",
            f"grey values from {low} to {high}; expected 0 to {white}, or images.white_level, the value that is white",
        )
    if white != 65535:
        return _scaled(values, white)
    # Integers throughout: (v + 128) // 257 is v / 257 rounded, which never falls half-way.
    wide = values.astype(np.uint32)
    wide += 128
    wide //= 257
    return wide.astype(np.uint8)


def _own_range(values: NDArray[Any]) -> NDArray[np.uint8]:
    finite = values[np.isfinite(values)]
    low, high = float(finite.min()), float(finite.max())
    return _bytes((values.astype(np.float64) - low) / max(high - low, 1e-12) * 255)


def _scaled(values: NDArray[Any], white: float) -> NDArray[np.uint8]:
    if values.dtype == np.uint16:
        # In a table, since eight bytes per value are much for a large image.
        return _scaled(np.arange(65536), white)[values]
    return _bytes(values.astype(np.float64) * 255 / white)


def _bytes(scaled: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.clip(np.rint(np.nan_to_num(scaled)), 0, 255).astype(np.uint8)
