"""The one place that decodes images. Thread-safe: no global state is touched."""

from __future__ import annotations

import io
import sys
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from zsad import bit_depth
from zsad.errors import ImageError

DECODER = "pillow/3"
"""Identity of the pixels that ``decode`` returns; part of the fingerprint."""
RESIZE = "pillow/13"
"""Identity of the pixels that ``zsad.resize`` and ``zsad.stretch`` make of them for the models; part of the fingerprint."""

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "PPM")
EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm"}
)

MOST_PIXELS = 178_000_000
"""No cap on an image is higher: Pillow refuses what is larger."""
_CAP = f"images.max_pixels, at most {MOST_PIXELS:,}"
_ORIENTATION_TAG = 0x0112
_TRANSPOSED = frozenset({5, 6, 7, 8})
_SIGNATURES = {b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG", b"GIF8": "GIF"} | dict.fromkeys(
    (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "TIFF"
)

_Scalar = TypeVar("_Scalar", bound=np.generic)


def decode(data: bytes, max_pixels: int, white_level: float | None = None) -> NDArray[np.uint8]:
    """Decode an encoded image to RGB.

    EXIF orientation is applied; the first frame of an animation and the first page of a TIFF are taken; grey is repeated;
    alpha is composited over white; colour profiles are ignored. Of more than 8 bits, where no ``white_level`` is given,
    grey is scaled from the largest value of its type (16 bits by 1/257), colour keeps its high byte, and floating point
    is scaled from its own finite range.

    Args:
        data: an encoded JPEG, PNG, BMP, TIFF, WebP, GIF or PPM file.
        max_pixels: images with more pixels are refused before any pixel is decoded.
        white_level: the value that is white in a PNG or TIFF of more than 8 bits, such as 4095 for a camera of 12;
            0 is black, and what lies outside is clipped.

    Returns:
        (H, W, 3) uint8, range 0 to 255, contiguous and writable.

    Raises:
        ImageError: kind ``empty_file``, ``not_an_image``, ``too_many_pixels``, ``truncated`` or ``undecodable``.
        MemoryError: the pixels do not fit into memory just now.
        ImportError: a package that decoding takes is missing, which says nothing about the image.
    """
    image = _open(data, max_pixels)
    pixels = _jpeg_by_torchvision(data, image)
    return _whole(image, data, white_level) if pixels is None else orient(pixels, _orientation(image))


def decode_small(data: bytes, max_pixels: int, side: int, white_level: float | None = None) -> NDArray[np.uint8]:
    """``decode``, scaled down so that the longer side is at most ``side``; much faster for large JPEG files.

    For looking at, not for scoring: a JPEG is decoded at a fraction of its size where that is enough.

    Returns:
        (h, w, 3) uint8 of the same proportions; not scaled up.

    Raises:
        ImageError, MemoryError: as ``decode``.
    """
    image = _open(data, max_pixels)
    factor = side / max(image.size)
    if factor < 1:
        image.draft(image.mode, (max(1, round(image.width * factor)), max(1, round(image.height * factor))))
    small = Image.fromarray(_whole(image, data, white_level))
    small.thumbnail((side, side), reducing_gap=3.0)
    return np.array(small)


def from_pil(image: Image.Image, white_level: float | None = None) -> NDArray[np.uint8]:
    """The pixels of an open PIL image as ``decode`` would give them: (H, W, 3) uint8.

    ``white_level`` is heard for grey only: of colour of 16 bits Pillow keeps the high byte.

    Raises:
        ImageError: its file is truncated or cannot be decoded.
        MemoryError, ImportError: as ``decode``.
    """
    try:
        image.load()
        # After loading: Pillow turns TIFF itself, and PNG may hold its EXIF data behind the pixels.
        return orient(_to_rgb(image, white_level), _orientation(image))
    except (ImageError, MemoryError, ImportError):
        raise
    except Exception as error:
        # Decoders fed with hostile bytes raise far more than they document.
        explained = _explain(error)
        if image.format == "TIFF" and explained.kind == "undecodable":
            explained = ImageError(explained.kind, f"{bit_depth.in_words(bit_depth.tags_of(image))}: {explained}")
        raise explained from None


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
    except (MemoryError, ImportError):
        raise
    except Exception as error:
        raise _explain(error) from None
    if array.ndim == 3:
        channels = array[..., :-1] if image.mode in ("LA", "RGBA", "PA") else array
        return np.any(channels != 0, axis=-1)
    return array != 0


def image_size(data: bytes, max_pixels: int) -> tuple[int, int]:
    """(height, width) after EXIF orientation, from the header; a PNG without an orientation there is decoded for it.

    Raises:
        ImageError: as ``decode``.
    """
    image = _open(data, max_pixels)
    width, height = image.size
    # Pillow gives the size of a TIFF as it will be once turned.
    turned = image.format != "TIFF" and _orientation(image) in _TRANSPOSED
    return (width, height) if turned else (height, width)


def pixel_count(data: bytes, max_pixels: int) -> int:
    """Number of pixels, from the header alone, of a PNG too. Raises ImageError as ``decode``."""
    width, height = _open(data, max_pixels).size
    return int(width * height)


def orientation(data: bytes, max_pixels: int) -> int:
    """The EXIF orientation, 1 to 8 (1 = upright or unknown). Raises ImageError as ``decode``."""
    return _orientation(_open(data, max_pixels))


def orient(array: NDArray[_Scalar], orientation: int) -> NDArray[_Scalar]:
    """``array`` (H, W, ...) as stored -> upright, for an EXIF orientation of 1 to 8; contiguous."""
    if orientation in _TRANSPOSED:
        array = array.swapaxes(0, 1)
    flip_rows = orientation in (3, 4, 7, 8)
    flip_columns = orientation in (2, 3, 6, 7)
    return np.ascontiguousarray(array[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1])


def _open(data: bytes, max_pixels: int) -> Image.Image:
    if not data:
        raise ImageError("empty_file", "the file has zero bytes")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        for signature, name in _SIGNATURES.items():
            if data.startswith(signature):
                if name == "TIFF" and (samples := bit_depth.samples_in_words(data)):
                    raise ImageError("undecodable", f"{samples}; expected {bit_depth.READ}") from None
                raise ImageError("undecodable", f"starts like {name}, but its header is cut off or broken") from None
        raise ImageError("not_an_image", f"the content is none of {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError:
        raise ImageError("too_many_pixels", f"over the cap of {max_pixels:,} pixels ({_CAP})") from None
    except (MemoryError, ImportError):
        raise
    except Exception as error:
        raise _explain(error) from None
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError("too_many_pixels", f"{width} x {height} pixels; the cap is {max_pixels:,} ({_CAP})")
    return image


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:
        # Broken EXIF data around good pixels: as if there were none.
        return 1
    return value if value in range(1, 9) else 1


def _whole(image: Image.Image, data: bytes, white_level: float | None) -> NDArray[np.uint8]:
    """``from_pil`` of the file ``data``, with all bits of 16-bit colour where they matter."""
    if white_level is None or not bit_depth.is_colour(image):
        return from_pil(image, white_level)
    # Pillow looks at the file as well: OpenCV does not mind one that is cut off.
    from_pil(image)
    turn = 1 if image.format == "TIFF" else _orientation(image)
    return orient(bit_depth.colour(data, image, white_level), turn)


def _to_rgb(image: Image.Image, white_level: float | None) -> NDArray[np.uint8]:
    bit_depth.check_samples(image)
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return bit_depth.grey(image, white_level)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return np.array(Image.alpha_composite(white, rgba).convert("RGB"))
    return _copy(image if image.mode == "RGB" else image.convert("RGB"))


def _jpeg_by_torchvision(data: bytes, image: Image.Image) -> NDArray[np.uint8] | None:
    """The pixels of an ordinary JPEG file as Pillow has them, in four fifths of the time; None = Pillow has to see to it.

    Only where torchvision is loaded anyway, as beside the models. It does not mind a file that is cut off, so what does not
    end as it should is left to Pillow.
    """
    reader: Any = sys.modules.get("torchvision.io")
    if reader is None or image.format != "JPEG" or image.mode not in ("L", "RGB") or not data.endswith(b"\xff\xd9"):
        return None
    import torch

    try:
        encoded = torch.from_numpy(np.frombuffer(data, np.uint8).copy())
        pixels: NDArray[np.uint8] = reader.decode_jpeg(encoded, reader.ImageReadMode.RGB).permute(1, 2, 0).numpy()
    except Exception:
        # Pillow says what is wrong.
        return None
    return pixels if pixels.shape == (image.height, image.width, 3) else None


def _copy(image: Image.Image) -> NDArray[np.uint8]:
    """``np.array`` of a loaded RGB image, whose pixels have four bytes in Pillow's memory, in a sixth of the time."""
    if hasattr(image, "__arrow_c_array__"):
        # Not at the top: results are read without it, and their reader imports this file.
        import cv2

        try:
            stored = pa.array(image).flatten().to_numpy()
        except ValueError:
            # A large one lies in several pieces.
            return np.array(image)
        # Made here, so that no memory for it is a MemoryError.
        pixels = np.empty((image.height, image.width, 3), np.uint8)
        cv2.cvtColor(stored.reshape(image.height, image.width, 4), cv2.COLOR_RGBA2RGB, pixels)
        return pixels
    return np.array(image)


def _explain(error: Exception) -> ImageError:
    text = str(error) or type(error).__name__
    if isinstance(error, Image.DecompressionBombError):
        return ImageError("too_many_pixels", text[:300])
    cut = ("truncated", "unexpected end", "not enough image data", "reached eof")
    truncated = any(word in text.lower() for word in cut) or isinstance(error, EOFError)
    return ImageError("truncated" if truncated else "undecodable", text[:300])
