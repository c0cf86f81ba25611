"""The one place that decodes images. Thread-safe: no global state is touched."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from zsad.errors import ImageError

DECODER = "pillow/1"
"""Identity of the pixels that ``decode`` returns; part of the fingerprint."""

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "PPM")
EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm"})

_ORIENTATION_TAG = 0x0112
_TRANSPOSED = frozenset({5, 6, 7, 8})


def decode(data: bytes, max_pixels: int) -> NDArray[np.uint8]:
    """Decode an encoded image to RGB.

    EXIF orientation is applied; the first frame of an animation is taken; 16-bit grey is scaled by
    1/257, floating-point TIFF from its own range; grey is repeated; alpha is composited over white.

    Args:
        data: an encoded JPEG, PNG, BMP, TIFF, WebP, GIF or PPM file.
        max_pixels: images with more pixels are refused before any pixel is decoded.

    Returns:
        (H, W, 3) uint8, range 0 to 255, contiguous and writable.

    Raises:
        ImageError: kind ``empty_file``, ``not_an_image``, ``too_many_pixels``, ``truncated`` or ``undecodable``.
    """
    image = _open(data, max_pixels)
    return from_pil(image)


def from_pil(image: Image.Image) -> NDArray[np.uint8]:
    """The pixels of an open PIL image as ``decode`` would give them: (H, W, 3) uint8.

    Raises:
        ImageError: its file is truncated or cannot be decoded.
    """
    try:
        return _to_rgb(ImageOps.exif_transpose(image))
    except (OSError, ValueError, SyntaxError, EOFError, TypeError, IndexError, KeyError) as error:
        raise _explain(error) from None


def decode_mask(data: bytes, max_pixels: int) -> NDArray[np.bool_]:
    """Decode a ground-truth mask: anomalous where any channel but alpha is not zero.

    VisA's masks hold small integers and MVTec's 0 and 255, so the test is ``!= 0``. The stored
    orientation is kept; see ``orient``.

    Returns:
        (H, W) bool.

    Raises:
        ImageError: as ``decode``.
    """
    image = _open(data, max_pixels)
    try:
        array = np.asarray(image)
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise _explain(error) from None
    if array.ndim == 3:
        channels = array[..., :-1] if image.mode in ("LA", "RGBA", "PA") else array
        return np.any(channels != 0, axis=-1)
    return array != 0


def image_size(data: bytes, max_pixels: int) -> tuple[int, int]:
    """(height, width) after EXIF orientation, from the header alone. Raises ImageError as ``decode``."""
    image = _open(data, max_pixels)
    width, height = image.size
    return (width, height) if _orientation(image) in _TRANSPOSED else (height, width)


def orientation(data: bytes, max_pixels: int) -> int:
    """The EXIF orientation, 1 to 8 (1 = upright or unknown). Raises ImageError as ``decode``."""
    return _orientation(_open(data, max_pixels))


def orient(array: NDArray[np.bool_], orientation: int) -> NDArray[np.bool_]:
    """``array`` (H, W) turned as ``decode`` turns an image of this EXIF orientation (1 to 8)."""
    if orientation in _TRANSPOSED:
        array = array.T
    flip_rows = orientation in (3, 4, 7, 8)
    flip_columns = orientation in (2, 3, 6, 7)
    return np.ascontiguousarray(array[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1])


def _open(data: bytes, max_pixels: int) -> Image.Image:
    if not data:
        raise ImageError("empty_file", "the file has zero bytes")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise ImageError("not_an_image", f"the content is none of {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError:
        raise ImageError("too_many_pixels", f"over the cap of {max_pixels:,} pixels") from None
    except (OSError, ValueError, SyntaxError, EOFError, TypeError, IndexError, KeyError) as error:
        raise _explain(error) from None
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError("too_many_pixels", f"{width} x {height} pixels; the cap is {max_pixels:,} (images.max_pixels)")
    return image


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except (OSError, ValueError, SyntaxError, TypeError, KeyError):
        return 1
    return value if value in range(1, 9) else 1


def _to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        grey = np.asarray(image).astype(np.float64)
        if image.mode == "F":
            grey = (grey - np.nanmin(grey)) / max(float(np.nanmax(grey) - np.nanmin(grey)), 1e-12) * 65535
            grey = np.nan_to_num(grey)
        grey8 = np.clip(np.rint(grey / 257.0), 0, 255).astype(np.uint8)
        return np.repeat(grey8[..., None], 3, axis=-1)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return np.array(Image.alpha_composite(white, rgba).convert("RGB"))
    return np.array(image.convert("RGB"))


def _explain(error: Exception) -> ImageError:
    text = str(error) or type(error).__name__
    truncated = "truncated" in text.lower() or "unexpected end" in text.lower() or isinstance(error, EOFError)
    return ImageError("truncated" if truncated else "undecodable", text[:300])
