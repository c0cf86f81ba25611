"""Rows of a run as scoring hands them to the writer, with one tile that is the whole anomaly map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from zsad.storage import SCORED_SCHEMA, encode_map, write_part


def scored_row(image_id: str, scores: np.ndarray, **columns: Any) -> dict[str, Any]:
    """The row of a scored image: ``scores`` (H, W) float16 are its anomaly map, ``columns`` what else it holds."""
    codec, data = encode_map(scores[None], scores)
    row = {
        "image_id": image_id,
        "image_height": scores.shape[0],
        "image_width": scores.shape[1],
        "status": "ok",
        "fingerprint": "f",
        "map_codec": codec,
        "map_data": data,
        "map_tile_boxes": [],
        "map_masked": False,
        "map_foreground_rle": "",
    }
    return row | columns


def failed_row(image_id: str, **columns: Any) -> dict[str, Any]:
    """The row of an image that could not be scored, with ``columns`` besides."""
    return {"image_id": image_id, "status": "error", "fingerprint": "f"} | columns


def write_rows(output: str, number: int, rows: Sequence[dict[str, Any]]) -> None:
    """Commit ``rows`` as the part ``number`` of a run."""
    write_part(output, f"part-test-{number:06d}.parquet", pa.Table.from_pylist(list(rows), SCORED_SCHEMA))
