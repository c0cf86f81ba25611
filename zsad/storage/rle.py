"""COCO's run-length encoding of masks, in NumPy.

The format is that of the COCO API (Lin et al., "Microsoft COCO: Common Objects in Context", 2014;
``maskApi.c``): run lengths of the mask read column by column, starting with the zeros; from the fourth
on each is stored as the difference to the one two before; each number in groups of 5 bits, least
significant first, one printable character per group.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from zsad.errors import ZsadError

_MAX_GROUPS = 8
"""Groups of a number below 2^34 with its sign: more than any run of an image within the pixel cap."""


def encode_rle(mask: NDArray[np.bool_]) -> str:
    """The ``counts`` string of a mask, equal to ``pycocotools.mask.encode(...)["counts"]``.

    Args:
        mask: (H, W) bool, at least one pixel.
    """
    import cv2  # whoever only reads results does without

    # A fraction of the time that NumPy takes to turn an array of bytes.
    flat = cv2.transpose(np.ascontiguousarray(mask).view(np.uint8)).reshape(-1)
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    return encode_runs(np.diff(np.concatenate(([0, 0] if flat[0] else [0], edges, [flat.size]))))


def encode_runs(runs: NDArray[np.int64]) -> str:
    """The ``counts`` string of run lengths.

    Args:
        runs: (N,) int64, of zeros and ones in turn, column by column; only the first, of zeros, may be 0.
    """
    numbers = runs.copy()
    numbers[3:] -= runs[1:-2]
    groups = np.zeros((numbers.size, _MAX_GROUPS), np.uint8)
    used = np.zeros((numbers.size, _MAX_GROUPS), bool)
    rest, more = numbers, np.ones(numbers.size, bool)
    for position in range(_MAX_GROUPS):
        group = rest & 0x1F
        rest = rest >> 5
        used[:, position] = more
        more = more & (rest != np.where(group & 0x10, -1, 0))
        groups[:, position] = group + np.where(more, 0x20, 0) + 48
        if not more.any():
            break
    return groups[used].tobytes().decode("ascii")


def decode_rle(counts: str, height: int, width: int) -> NDArray[np.bool_]:
    """The mask of a ``counts`` string.

    Returns:
        (height, width) bool.

    Raises:
        ZsadError: the string is malformed or of another size.
    """
    broken = ZsadError(f"Malformed run-length encoding of a mask of height {height} and width {width}.")
    try:
        groups = np.frombuffer(counts.encode("ascii"), np.uint8).astype(np.int64) - 48
    except UnicodeEncodeError:
        raise broken from None
    if groups.size == 0 or groups.min() < 0 or groups.max() > 63 or groups[-1] & 0x20:
        raise broken
    last = np.flatnonzero((groups & 0x20) == 0)
    first = np.concatenate(([0], last[:-1] + 1))
    lengths = last - first + 1
    if lengths.max() > _MAX_GROUPS:
        raise broken
    shifts = 5 * (np.arange(groups.size) - np.repeat(first, lengths))
    numbers = np.add.reduceat((groups & 0x1F) << shifts, first)
    numbers -= np.where(groups[last] & 0x10, np.left_shift(1, 5 * lengths), 0)
    runs = numbers
    runs[1::2] = np.cumsum(numbers[1::2])
    runs[2::2] = np.cumsum(numbers[2::2])
    if runs.min() < 0 or runs.max() > height * width or runs.sum() != height * width:
        raise broken
    values = np.zeros(runs.size, bool)
    values[1::2] = True
    return np.ascontiguousarray(np.repeat(values, runs).reshape(width, height).T)
