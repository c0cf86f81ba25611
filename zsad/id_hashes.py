"""Image ids as 64-bit hashes: 8 bytes a row, where a table of all texts would take as much memory as the manifest."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

KEYS = ("zsad image id 01", "zsad image id 02")
"""Ids whose hashes are equal by chance under one key differ under the other."""
_SLICE = 1 << 18


def hash_ids(ids: pa.ChunkedArray, key: str = KEYS[0]) -> NDArray[np.uint64]:
    """64-bit SipHash of every id, in slices, so that few of them are Python strings at a time."""
    hashes = np.empty(len(ids), np.uint64)
    for start in range(0, len(ids), _SLICE):
        values = ids.slice(start, _SLICE).to_numpy().astype(object, copy=False)
        hashes[start : start + len(values)] = pd.util.hash_array(values, hash_key=key, categorize=False)
    return hashes


def repeated(hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Those that stand there more than once, each one time, sorted."""
    ordered = np.sort(hashes)
    return np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
