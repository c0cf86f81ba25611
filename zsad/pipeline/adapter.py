"""Between Arrow tables, which travel through Ray, and ``ImageItem``, which the steps work on.

Encoded bytes, packed masks and boxes travel; decoded images never do. One fixed schema holds at every
hop: an inferred one would change with the first all-null column.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from zsad.datasets import MANIFEST_SCHEMA
from zsad.kernels import peak_and_mean
from zsad.method.tiling import Tile
from zsad.steps.isolation import condemns_process, retry_item
from zsad.steps.item import Failure, ImageItem, anomaly_map
from zsad.storage import SCORED_SCHEMA, encode_map, encode_rle
from zsad.storage.schemas import STAGE_MS

_TILE = pa.struct([(name, pa.int32()) for name in ("x0", "y0", "x1", "y1", "component")])

TRANSPORT_SCHEMA = pa.schema(
    [
        *MANIFEST_SCHEMA,
        pa.field("data", pa.large_binary()),
        pa.field("height", pa.int32()),
        pa.field("width", pa.int32()),
        pa.field("dis_mask", pa.binary()),
        pa.field("foreground", pa.binary()),
        pa.field("foreground_source", pa.string()),
        pa.field("num_components", pa.int32()),
        pa.field("tiles", pa.list_(_TILE)),
        pa.field("note", pa.string()),
        pa.field("tile_scores", pa.list_(pa.float32())),
        pa.field("component_scores", pa.list_(pa.float32())),
        pa.field("score", pa.float64()),
        pa.field("error_stage", pa.string()),
        pa.field("error_type", pa.string()),
        pa.field("error_message", pa.string()),
        pa.field("stage_ms", STAGE_MS),
    ]
)
"""What travels between the pools, one row per image."""


def items_from_table(table: pa.Table) -> list[ImageItem]:
    """Items of a manifest table (before the first pool) or of a ``TRANSPORT_SCHEMA`` table."""
    return [_item(row) for row in table.to_pylist()]


def transport_table(items: Sequence[ImageItem], manifest: pa.Table) -> pa.Table:
    """Items after a step -> ``TRANSPORT_SCHEMA``; ``manifest`` holds their manifest columns, in order."""
    columns: dict[str, Any] = {name: manifest[name] for name in MANIFEST_SCHEMA.names}
    columns |= {
        "data": [item.data if item.failure is None else None for item in items],
        "height": [item.height for item in items],
        "width": [item.width for item in items],
        "dis_mask": [_pack(item.dis_mask) for item in items],
        "foreground": [_pack(item.foreground) for item in items],
        "foreground_source": [item.foreground_source for item in items],
        "num_components": [item.num_components for item in items],
        "tiles": [[vars(tile) for tile in item.tiles] for item in items],
        "note": [item.note for item in items],
        "tile_scores": [item.tile_scores for item in items],
        "component_scores": [item.component_scores for item in items],
        "score": [item.score for item in items],
        "error_stage": [item.failure and item.failure.stage for item in items],
        "error_type": [item.failure and item.failure.kind for item in items],
        "error_message": [item.failure and item.failure.message for item in items],
        "stage_ms": [_stage_ms(item) for item in items],
    }
    return _table(columns, TRANSPORT_SCHEMA)


def scored_table(items: Sequence[ImageItem], manifest: pa.Table, fingerprint: str, mask_background: bool) -> pa.Table:
    """Items after the last step -> ``SCORED_SCHEMA``, one row per image, failed ones too.

    Args:
        items: finished items.
        manifest: their manifest columns, in order.
        fingerprint: of the configuration.
        mask_background: whether the anomaly map is 0 outside the foreground.
    """
    columns: dict[str, Any] = {name: manifest[name] for name in SCORED_SCHEMA.names if name in MANIFEST_SCHEMA.names}
    rows = [_row_or_failure(item, fingerprint, mask_background) for item in items]
    columns |= {name: [row.get(name) for row in rows] for name in SCORED_SCHEMA.names if name not in columns}
    return _table(columns, SCORED_SCHEMA)


def _item(row: dict[str, Any]) -> ImageItem:
    item = ImageItem(
        path=row["image_path"],
        class_name=row["class_name"] or "object",
        foreground_path=row["foreground_path"],
        data=row.get("data"),
        height=row.get("height") or 0,
        width=row.get("width") or 0,
        foreground_source=row.get("foreground_source"),
        num_components=row.get("num_components") or 0,
        tiles=tuple(Tile(**tile) for tile in row.get("tiles") or ()),
        note=row.get("note"),
        tile_scores=_floats(row.get("tile_scores")),
        component_scores=_floats(row.get("component_scores")),
        score=row.get("score"),
    )
    item.dis_mask = _unpack(row.get("dis_mask"), item.height, item.width)
    item.foreground = _unpack(row.get("foreground"), item.height, item.width)
    if row.get("error_stage") is not None:
        item.failure = Failure(row["error_stage"], row["error_type"], row["error_message"])
    item.stage_ms = {stage: ms for stage, ms in (row.get("stage_ms") or {}).items() if ms is not None}
    return item


def _row_or_failure(item: ImageItem, fingerprint: str, mask_background: bool) -> dict[str, Any]:
    try:
        return retry_item(lambda: _scored_row(item, fingerprint, mask_background))
    except Exception as error:
        if condemns_process(error):
            raise
        item.fail("tile_maps", error)
        return _scored_row(item, fingerprint, mask_background)


def _scored_row(item: ImageItem, fingerprint: str, mask_background: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"fingerprint": fingerprint, "stage_ms": _stage_ms(item)}
    if item.height and item.width:
        row |= {"image_height": item.height, "image_width": item.width}
    if item.failure is not None:
        return row | {
            "status": "error",
            "error_stage": item.failure.stage,
            "error_type": item.failure.kind,
            "error_message": item.failure.message,
        }
    if item.tile_maps is None or item.foreground is None or item.tile_scores is None:
        raise ValueError("the item has not been through all steps")
    values = anomaly_map(item, mask_background)
    codec, data = encode_map(item.tile_maps, values)
    peak, mean = peak_and_mean(values)
    return row | {
        "status": "ok",
        # The only column for a remark on an image that was scored.
        "error_message": item.note,
        "pred_score": item.score,
        "anomaly_map_max": peak,
        "anomaly_map_mean": mean,
        "foreground_source": item.foreground_source,
        "foreground_fraction": np.count_nonzero(item.foreground) / item.foreground.size,
        "num_components": item.num_components,
        "component_scores": item.component_scores,
        "tiles": [
            vars(tile) | {"score": score} for tile, score in zip(item.tiles, item.tile_scores.tolist(), strict=True)
        ],
        "map_codec": codec,
        "map_data": data,
        "map_tile_boxes": [{"x0": t.x0, "y0": t.y0, "x1": t.x1, "y1": t.y1} for t in item.tiles],
        "map_masked": mask_background,
        "map_foreground_rle": encode_rle(item.foreground),
    }


def _stage_ms(item: ImageItem) -> dict[str, float | None]:
    return {field.name: item.stage_ms.get(field.name) for field in STAGE_MS}


def _table(columns: dict[str, Any], schema: pa.Schema) -> pa.Table:
    arrays = [
        column if isinstance(column := columns[field.name], pa.ChunkedArray) else pa.array(column, field.type)
        for field in schema
    ]
    return pa.table(arrays, schema=schema)


def _floats(values: list[float] | None) -> NDArray[np.float32] | None:
    return None if values is None else np.array(values, np.float32)


def _pack(mask: NDArray[np.bool_] | None) -> bytes | None:
    return None if mask is None else zlib.compress(np.packbits(mask).tobytes(), level=1)


def _unpack(data: bytes | None, height: int, width: int) -> NDArray[np.bool_] | None:
    if data is None:
        return None
    bits = np.frombuffer(zlib.decompress(data), np.uint8)
    return np.unpackbits(bits, count=height * width).view(np.bool_).reshape(height, width)
