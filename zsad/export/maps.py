"""Anomaly maps as float TIFF, and thresholded as PNG masks."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from zsad.export.names import file_names
from zsad.export.regions import Selection, regions_of
from zsad.export.stream import each_map
from zsad.filesystem import join
from zsad.storage import write_atomically

INDEX = "index.parquet"
"""``image_id`` and ``file`` (relative to the target) of every file of an export."""


def write_tiff(output: str, rows: pd.DataFrame, target: str) -> str:
    """``anomaly_images/<image id>.tiff``: float32, one channel, native size, uncompressed; the stored values.

    For MVTec AD, whose ids are ``<class>/test/<defect>/NNN.png``, that is the layout which the evaluation
    script of its authors reads. Other datasets keep the folders of their own ids; see ``file_names``.
    """

    def encode(_: Any, scores: NDArray[np.float16]) -> Image.Image:
        return Image.fromarray(scores.astype(np.float32))

    return f"{_write_images(output, target, rows, 'anomaly_images', '.tiff', encode)} float32 TIFF files"


def write_masks(output: str, rows: pd.DataFrame, target: str, selection: Selection) -> str:
    """``masks/<image id>.png``: 8-bit grey, native size, 255 where the map is at or above the pixel threshold.

    Regions that ``selection`` leaves out are 0.
    """

    def encode(row: Any, scores: NDArray[np.float16]) -> Image.Image:
        return Image.fromarray(np.where(regions_of(row, scores, selection).labels > 0, np.uint8(255), np.uint8(0)))

    return f"{_write_images(output, target, rows, 'masks', '.png', encode)} masks, threshold {rows['rule'].iloc[0]}"


def _write_images(
    output: str,
    target: str,
    rows: pd.DataFrame,
    folder: str,
    extension: str,
    encode: Callable[[Any, NDArray[np.float16]], Image.Image],
) -> int:
    names = file_names(rows["image_id"], extension)

    def write(row: Any, scores: NDArray[np.float16]) -> None:
        encoded = io.BytesIO()
        encode(row, scores).save(encoded, extension.removeprefix(".").upper())
        write_atomically(join(target, folder, names[row.image_id]), lambda sink: sink.write(encoded.getvalue()))

    written = sum(1 for _ in each_map(output, rows, write))
    index = pa.table({"image_id": list(names), "file": [f"{folder}/{name}" for name in names.values()]})
    write_atomically(join(target, INDEX), lambda sink: pq.write_table(index, sink))
    return written
