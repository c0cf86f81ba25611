"""Reading results: predictions as a DataFrame, and anomaly maps one at a time."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from zsad.errors import UsageError, ZsadError
from zsad.filesystem import Uri, as_uri, join, redact
from zsad.layout import ANOMALY_MAPS, PREDICTIONS
from zsad.storage.codec import MAP, decode_map
from zsad.storage.committed import committed_rows, superseded
from zsad.storage.files import DamagedPart, list_parts, open_part
from zsad.storage.lock import check_is_run
from zsad.storage.rle import decode_rle
from zsad.storage.schemas import ANOMALY_MAPS_SCHEMA, PREDICTIONS_SCHEMA, SUPERSEDING_COLUMNS, to_frame

T = TypeVar("T")

_POINTER_COLUMNS = ["map_part", "map_row_group", "error_stage", "error_type", "error_message"]
_MAX_COMPARED = 20_000
"""Ids compared for a suggestion; more would take longer than the user waits."""
_TRIES = 10


def read_predictions(output: Uri, columns: str | Sequence[str] | None = None) -> pd.DataFrame:
    """The predictions of a run, finished or not: one row per image and fingerprint.

    Args:
        output: folder or URI given to ``zsad score --output``.
        columns: some of the columns, in this order, or the name of one; all by default. Few columns read much faster.

    Returns:
        A DataFrame; empty when nothing is committed yet. Whole numbers have pandas' nullable types (``Int8``, ``Int32``,
        ``Int64``) with or without missing values, so that types do not depend on whether an image failed.

    Raises:
        UsageError: no run at ``output``, or an unknown column.
        ZsadError: a part is damaged or out of reach.
    """
    output = as_uri(output)
    columns = [columns] if isinstance(columns, str) else columns
    if isinstance(columns, Set):
        raise UsageError(f"The columns are a set, {columns!r}, which has no order. Expected a list.")
    wanted = PREDICTIONS_SCHEMA.names if columns is None else list(columns)
    unknown = [name for name in wanted if name not in PREDICTIONS_SCHEMA.names]
    if unknown:
        raise UsageError(f"Unknown columns {unknown}. Expected some of: {', '.join(PREDICTIONS_SCHEMA.names)}.")
    rows = while_unchanged(output, lambda: _valid_rows(output, wanted)).select(wanted)
    return to_frame(rows)


def read_anomaly_map(output: Uri, image_id: str) -> NDArray[np.float16]:
    """The anomaly map of one image; of the maps only this one is read.

    Returns:
        (H, W) float16, higher = more anomalous, bit for bit what was scored.

    Raises:
        UsageError: no run at ``output``, no such image, one that could not be scored, or an ID that is no string.
        ZsadError: a part is missing or damaged.
    """
    output = as_uri(output)
    row = while_unchanged(output, lambda: _map_row(output, image_id, ANOMALY_MAPS_SCHEMA.names))
    return _decode(row)


def read_foreground(output: Uri, image_id: str) -> NDArray[np.bool_]:
    """The foreground of one image: (H, W) bool. Raises as ``read_anomaly_map``."""
    output = as_uri(output)
    columns = ["image_id", "height", "width", "foreground_rle"]
    row = while_unchanged(output, lambda: _map_row(output, image_id, columns, "foreground"))
    return decode_rle(row["foreground_rle"], row["height"], row["width"])


def while_unchanged(output: str, read: Callable[[], T]) -> T:
    """``read()``, again where a part was gone because others took its place meanwhile (``zsad compact``).

    Args:
        output: folder or URI of the run.
        read: begins with the predictions, which say where the maps lie.

    Raises:
        ZsadError: a part is damaged or lacks its maps, or parts were replaced again and again.
    """
    for _ in range(_TRIES):
        before = list_parts(output, PREDICTIONS)
        try:
            return read()
        except DamagedPart:
            if list_parts(output, PREDICTIONS) == before:
                raise
    raise ZsadError(
        f"The files of {redact(output)!r} were replaced {_TRIES} times while they were read. Wait until 'zsad compact' "
        "or 'zsad score' has ended there, then do this again."
    )


class StoredMap:
    """A row of ``anomaly_maps``, decoded when asked.

    Attributes:
        row: its columns.
    """

    def __init__(self, row: dict[str, Any]) -> None:
        self.row = row

    def anomaly_map(self) -> NDArray[np.float16]:
        """(H, W) float16. Raises ZsadError where it cannot be decoded."""
        return _decode(self.row)

    def foreground(self) -> NDArray[np.bool_]:
        """(H, W) bool."""
        return decode_rle(self.row["foreground_rle"], self.row["height"], self.row["width"])


def iter_maps(output: str, part_name: str, pointers: Iterable[tuple[str, int]]) -> Iterator[StoredMap]:
    """The maps of some images of one part, one in memory at a time.

    Args:
        output: folder or URI of the run.
        part_name: as in the column ``map_part`` of the predictions.
        pointers: ``image_id`` and ``map_row_group`` of valid rows of the predictions. Before a run has finished, a
            part may hold maps to which no row points.

    Raises:
        ZsadError: the part is missing or damaged, or its maps are not those of the images.
    """
    with open_part(output, ANOMALY_MAPS, part_name) as part:
        for image_id, index in pointers:
            row = _read_row(part, join(output, ANOMALY_MAPS, part_name), index, ANOMALY_MAPS_SCHEMA.names)
            check_owner(row["image_id"], image_id, part_name, index)
            yield StoredMap(row)


def check_owner(found: str, expected: str, part_name: str, row_group: int) -> None:
    """Raises ZsadError where a row group holds the map of another image than the predictions say."""
    if found != expected:
        raise ZsadError(
            f"Row group {row_group} of {part_name!r} holds the map of {found!r} instead of {expected!r}; "
            "the files of predictions and anomaly_maps do not belong together."
        )


def _valid_rows(output: str, columns: Sequence[str], image_id: str | None = None) -> pa.Table:
    """The valid rows, with ``columns`` and those that decide which are valid."""
    names = list(dict.fromkeys([*SUPERSEDING_COLUMNS, *columns]))
    tables = []
    for _, rows in committed_rows(output, names):
        tables.append(rows if image_id is None else rows.filter(pc.equal(rows["image_id"], image_id)))
    if not tables:
        check_is_run(output)
    schema = pa.schema([PREDICTIONS_SCHEMA.field(name) for name in names])
    table = pa.concat_tables([schema.empty_table(), *tables])
    replaced = superseded(table)
    return table.filter(pa.array(~replaced)) if replaced.any() else table


def _map_row(output: str, image_id: str, columns: Sequence[str], what: str = "anomaly map") -> dict[str, Any]:
    if not isinstance(image_id, str):
        raise UsageError(
            f"The image ID {image_id!r} is a {type(image_id).__name__}. Expected a string, as in the column image_id of "
            "zsad.read_predictions."
        )
    rows = _valid_rows(output, _POINTER_COLUMNS, image_id).to_pylist()
    if not rows:
        raise UsageError(f"No image {image_id!r} in {redact(output)!r}.{_suggestion(output, image_id)}")
    found = rows[-1]
    if found["status"] != "ok":
        raise UsageError(
            f"The image {image_id!r} has no {what}, since it could not be scored: "
            f"{found['error_stage']}: {found['error_type']}: {found['error_message']}"
        )
    name, index = found["map_part"], found["map_row_group"]
    with open_part(output, ANOMALY_MAPS, name) as part:
        row = _read_row(part, join(output, ANOMALY_MAPS, name), index, columns)
    check_owner(row["image_id"], image_id, name, index)
    return row


def _read_row(part: pq.ParquetFile, uri: str, index: int, columns: Sequence[str]) -> dict[str, Any]:
    if not 0 <= index < part.num_row_groups:
        raise ZsadError(f"{redact(uri)!r} has {part.num_row_groups} row groups; the predictions point to {index}.")
    try:
        row: dict[str, Any] = part.read_row_group(index, columns=list(columns)).to_pylist()[0]
    except (OSError, pa.ArrowInvalid, IndexError) as error:
        raise ZsadError(
            f"Row group {index} of {redact(uri)!r} is damaged or out of reach: {redact(str(error))}"
        ) from error
    return row


def _decode(row: dict[str, Any]) -> NDArray[np.float16]:
    height, width = row["height"], row["width"]
    boxes = np.array([[box["x0"], box["y0"], box["x1"], box["y1"]] for box in row["tile_boxes"]], np.int64)
    foreground = None
    if row["masked"] and row["codec"] != MAP:
        foreground = decode_rle(row["foreground_rle"], height, width)
    try:
        return decode_map(row["codec"], row["data"], boxes, height, width, foreground)
    except ZsadError as error:
        raise ZsadError(f"The anomaly map of {row['image_id']!r} cannot be read. {error}") from None


def _suggestion(output: str, image_id: str) -> str:
    """Ids like the one asked for: the same file name in another folder, else close spellings."""
    ids: list[str] = []
    same_name: list[str] = []
    ending = image_id.replace("\\", "/").rsplit("/", 1)[-1]
    for _, rows in committed_rows(output, ["image_id"]):
        if ending:
            same_name += rows["image_id"].filter(pc.ends_with(rows["image_id"], ending)).to_pylist()[:3]
        if len(ids) < _MAX_COMPARED:
            ids += rows["image_id"].to_pylist()
    close = same_name[:3] or difflib.get_close_matches(image_id, ids[:_MAX_COMPARED], n=3)
    if close:
        return f" Did you mean {' or '.join(map(repr, dict.fromkeys(close)))}?"
    return f" Ids look like {ids[0]!r}." if ids else " Nothing is committed there yet."
