"""Ground-truth masks: reading, orientation, nearest-neighbour resize."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from zsad.config import ImagesConfig
from zsad.errors import ImageError
from zsad.filesystem import read_bytes
from zsad.images import decode_mask, orient, orientation


def read_mask(mask_path: str, image_path: str, height: int, width: int, limits: ImagesConfig) -> NDArray[np.bool_]:
    """The mask of an image, in the orientation of its anomaly map.

    A mask of the map's size is taken as it is. One of the transposed size belongs to the image as
    stored, so it is turned by the image's EXIF orientation.

    Args:
        mask_path: path or URI; anomalous where not zero.
        image_path: path or URI of the photograph, opened only when the mask's size is the transposed one.
        height: of the image after EXIF orientation.
        width: of the image after EXIF orientation.
        limits: caps on the mask and the image (``max_pixels``) and on their files (``max_file_bytes``).

    Returns:
        (height, width) bool.

    Raises:
        ImageError: kind ``mask_size`` when the size is neither the oriented nor the stored one, else
            as ``zsad.filesystem.read_bytes`` and ``zsad.images.decode_mask``.
    """
    mask = decode_mask(read_bytes(mask_path, limits.max_file_bytes), limits.max_pixels)
    if mask.shape == (width, height) != (height, width):
        photograph = read_bytes(image_path, limits.max_file_bytes)
        turned = orient(mask, orientation(photograph, limits.max_pixels))
        if turned.shape == (height, width):
            return turned
    if mask.shape != (height, width):
        raise ImageError(
            "mask_size",
            f"the mask has {mask.shape[1]} x {mask.shape[0]} pixels, the image {width} x {height}",
        )
    return mask


def resize_mask(mask: NDArray[np.bool_], height: int, width: int) -> NDArray[np.bool_]:
    """Nearest neighbour: output pixel i takes input pixel floor((i + 0.5) * size_in / size_out).

    The rule of Pillow's ``NEAREST`` and OpenCV's ``INTER_NEAREST_EXACT``, in integers.

    Args:
        mask: (H, W) bool.

    Returns:
        (height, width) bool.
    """
    return mask[np.ix_(_nearest(mask.shape[0], height), _nearest(mask.shape[1], width))]


def _nearest(size_in: int, size_out: int) -> NDArray[np.intp]:
    return (2 * np.arange(size_out) + 1) * size_in // (2 * size_out)
