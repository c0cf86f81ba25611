"""Results on disk: schemas, map codec, commit protocol, and the readers. Needs neither Torch nor Ray."""

from zsad.storage.cleanup import broken_parts, drop_superseded, set_aside_broken
from zsad.storage.codec import decode_map, encode_map
from zsad.storage.committed import Counts, committed_rows, count_rows, work_left
from zsad.storage.decisions import DECISIONS_SCHEMA, decisions_uri, read_decisions, write_decisions
from zsad.storage.files import list_parts, write_atomically
from zsad.storage.lock import Lock, output_lock
from zsad.storage.reader import (
    iter_maps,
    read_anomaly_map,
    read_foreground,
    read_predictions,
    while_unchanged,
)
from zsad.storage.rle import decode_rle, encode_rle
from zsad.storage.run import (
    RunInfo,
    Success,
    check_output,
    clear_success,
    describe_run,
    images_config,
    manifest_hash,
    read_run,
    read_success,
    write_run,
    write_success,
)
from zsad.storage.schemas import ANOMALY_MAPS_SCHEMA, PREDICTIONS_SCHEMA, SCORED_SCHEMA, conform
from zsad.storage.writer import new_run_id, part_name, write_part

__all__ = [
    "ANOMALY_MAPS_SCHEMA",
    "DECISIONS_SCHEMA",
    "PREDICTIONS_SCHEMA",
    "SCORED_SCHEMA",
    "Counts",
    "Lock",
    "RunInfo",
    "Success",
    "broken_parts",
    "check_output",
    "clear_success",
    "committed_rows",
    "conform",
    "count_rows",
    "decisions_uri",
    "decode_map",
    "decode_rle",
    "describe_run",
    "drop_superseded",
    "encode_map",
    "encode_rle",
    "images_config",
    "iter_maps",
    "list_parts",
    "manifest_hash",
    "new_run_id",
    "output_lock",
    "part_name",
    "read_anomaly_map",
    "read_decisions",
    "read_foreground",
    "read_predictions",
    "read_run",
    "read_success",
    "set_aside_broken",
    "while_unchanged",
    "work_left",
    "write_atomically",
    "write_decisions",
    "write_part",
    "write_run",
    "write_success",
]
