"""``OUT/decisions``: which images a threshold flags. Written by ``zsad evaluate --threshold``, beside the predictions."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from zsad.errors import UsageError, ZsadError
from zsad.filesystem import Uri, as_uri, exists, join, redact
from zsad.storage.files import DamagedPart, read_part, write_atomically
from zsad.storage.lock import check_is_run
from zsad.storage.schemas import conform, to_frame

DECISIONS = "decisions"
"""Folder of the table; it holds one file, which each evaluation with a threshold replaces as a whole."""
_FILE = "decisions.parquet"

DECISIONS_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("category", pa.string()),
        pa.field("split", pa.string()),
        pa.field("gt_label", pa.int8()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("pred_score", pa.float32()),
        pa.field("threshold", pa.float32()),
        pa.field("pred_label", pa.int8()),
        pa.field("pixel_threshold", pa.float32()),
        pa.field("rule", pa.string(), nullable=False),
        pa.field("fingerprint", pa.string()),
    ]
)
"""One row per image that was decided on.

``pred_label`` is 1 where ``pred_score >= threshold``, else 0; null for an image that could not be scored,
and where its class has no threshold. A pixel is anomalous where the anomaly map is ``>= pixel_threshold``.
Both thresholds are those of the image's class under ``rule``. ``fingerprint`` is that of ``run.json``.
"""


def write_decisions(output: str, decisions: pd.DataFrame) -> None:
    """Replace the decisions of a run.

    Args:
        output: folder or URI of the run.
        decisions: with the columns of ``DECISIONS_SCHEMA``.

    Raises:
        ZsadError: they do not fit the schema, or the file cannot be written.
    """
    table = conform(pa.Table.from_pandas(decisions, preserve_index=False), DECISIONS_SCHEMA)
    table = table.replace_schema_metadata(None)
    write_atomically(decisions_uri(output), lambda sink: pq.write_table(table, sink, compression="zstd"))


def read_decisions(output: Uri) -> pd.DataFrame:
    """The decisions of a run, one row per image, with the columns of ``DECISIONS_SCHEMA``; whole numbers as in
    ``read_predictions``.

    Raises:
        UsageError: there are none yet, and says which command makes them; no run there.
        ZsadError: the file is damaged.
    """
    output = as_uri(output)
    if not exists(decisions_uri(output)):
        check_is_run(output)
        raise UsageError(
            f"No decisions in {redact(output)!r} yet. Choose a threshold first, e.g. "
            f"'zsad evaluate {redact(output)} --threshold quantile:0.99'."
        )
    try:
        return to_frame(read_part(output, DECISIONS, _FILE, DECISIONS_SCHEMA.names))
    except DamagedPart:
        raise ZsadError(
            f"{redact(decisions_uri(output))!r} is damaged or was not written by this program. "
            "Run 'zsad evaluate' with --threshold again; it replaces the file."
        ) from None


def decisions_uri(output: str) -> str:
    """Where the decisions of a run lie."""
    return join(output, DECISIONS, _FILE)
