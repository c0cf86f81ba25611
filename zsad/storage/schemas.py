"""The tables on disk, as plain Arrow types that every Parquet reader knows."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa

from zsad.errors import ZsadError

_BOX = [pa.field(name, pa.int32()) for name in ("x0", "y0", "x1", "y1")]
BOX = pa.struct(_BOX)
"""x0, y0, x1, y1 in image pixels after orientation, end exclusive."""
TILE = pa.struct([*_BOX, pa.field("component", pa.int32()), pa.field("score", pa.float32())])
STAGE_MS = pa.struct(
    [pa.field(stage, pa.float32()) for stage in ("load", "saliency", "instances", "tile_scores", "tile_maps")]
)

_INPUT = [
    pa.field("image_id", pa.string(), nullable=False),
    pa.field("image_path", pa.string()),
    pa.field("category", pa.string()),
    pa.field("class_name", pa.string()),
    pa.field("split", pa.string()),
    pa.field("gt_label", pa.int8()),
    pa.field("mask_path", pa.string()),
]
_RESULT = [
    pa.field("image_height", pa.int32()),
    pa.field("image_width", pa.int32()),
    pa.field("status", pa.string(), nullable=False),
    pa.field("error_stage", pa.string()),
    pa.field("error_type", pa.string()),
    pa.field("error_message", pa.string()),
    pa.field("pred_score", pa.float32()),
    pa.field("anomaly_map_max", pa.float32()),
    pa.field("anomaly_map_mean", pa.float32()),
    pa.field("foreground_source", pa.string()),
    pa.field("foreground_fraction", pa.float32()),
    pa.field("num_components", pa.int32()),
    pa.field("component_scores", pa.list_(pa.float32())),
    pa.field("tiles", pa.list_(TILE)),
]
_POINTER = [pa.field("map_part", pa.string()), pa.field("map_row_group", pa.int32())]
_RECORD = [
    pa.field("file_size", pa.int64()),
    pa.field("file_mtime", pa.int64()),
    pa.field("stage_ms", STAGE_MS),
    pa.field("fingerprint", pa.string(), nullable=False),
]

PREDICTIONS_SCHEMA = pa.schema([*_INPUT, *_RESULT, *_POINTER, *_RECORD])
"""``OUT/predictions``. ``status`` is ``ok`` or ``error``; ``file_mtime`` is ns since the epoch."""

ANOMALY_MAPS_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("codec", pa.string(), nullable=False),
        pa.field("data", pa.binary(), nullable=False),
        pa.field("tile_boxes", pa.list_(BOX), nullable=False),
        pa.field("masked", pa.bool_(), nullable=False),
        pa.field("foreground_rle", pa.string(), nullable=False),
        pa.field("fingerprint", pa.string(), nullable=False),
    ]
)
"""``OUT/anomaly_maps``. ``masked``: the map is 0 outside the foreground. ``foreground_rle``: the
``counts`` string of COCO's compressed RLE, column-major, for a mask of (height, width)."""

MAP_COLUMNS = {
    "map_codec": "codec",
    "map_data": "data",
    "map_tile_boxes": "tile_boxes",
    "map_masked": "masked",
    "map_foreground_rle": "foreground_rle",
}
"""Columns of ``SCORED_SCHEMA`` that carry a map -> their names in ``ANOMALY_MAPS_SCHEMA``."""

SCORED_SCHEMA = pa.schema(
    [
        *_INPUT,
        *_RESULT,
        *_RECORD,
        pa.field("map_codec", pa.string()),
        # A block of many maps passes the 2 GiB that the offsets of ``binary`` can address.
        pa.field("map_data", pa.large_binary()),
        pa.field("map_tile_boxes", pa.list_(BOX)),
        pa.field("map_masked", pa.bool_()),
        pa.field("map_foreground_rle", pa.string()),
    ]
)
"""What scoring hands to ``write_part``: a prediction and its encoded map in one row. The ``map_*``
columns are all null on rows with ``status=error`` and all set on the others."""

SUPERSEDING_COLUMNS = ("image_id", "fingerprint", "status", "class_name", "file_size", "file_mtime")
"""What decides which of several rows of one image is the valid one."""


_NULLABLE = {pa.int8(): pd.Int8Dtype(), pa.int32(): pd.Int32Dtype(), pa.int64(): pd.Int64Dtype()}


def to_frame(table: pa.Table) -> pd.DataFrame:
    """As pandas, whole numbers with its nullable types: one missing value would make floats of all others."""
    return table.to_pandas(types_mapper=_NULLABLE.get)


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """``table`` with exactly the columns, order and types of ``schema``.

    Raises:
        ZsadError: a column is missing, has an incompatible type, or holds nulls where none may be.
    """
    missing = [name for name in schema.names if name not in table.column_names]
    if missing:
        raise ZsadError(f"The table lacks the columns {missing}. Expected: {schema.names}.")
    try:
        return table.select(schema.names).cast(schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        raise ZsadError(f"The table does not fit its schema: {error}") from None
