"""The commit of a bundle of rows."""

from types import SimpleNamespace

import pyarrow as pa
import pytest

from zsad.errors import ZsadError
from zsad.pipeline.sink import PartSink
from zsad.storage import SCORED_SCHEMA, list_parts


class LostLock:
    def check(self):
        raise ZsadError("Another run has taken over the output")


def test_nothing_is_committed_once_the_lock_is_lost(tmp_path):
    row = dict.fromkeys(SCORED_SCHEMA.names) | {
        "image_id": "a",
        "image_path": "/a",
        "class_name": "nut",
        "status": "error",
        "fingerprint": "f",
    }
    rows, task = pa.Table.from_pylist([row], SCORED_SCHEMA), SimpleNamespace(task_idx=0)
    with pytest.raises(ZsadError, match="taken over"):
        PartSink(str(tmp_path), "r", 16, LostLock()).write([rows], task)
    assert list_parts(str(tmp_path), "predictions") == []
    assert PartSink(str(tmp_path), "r", 16).write([rows], task) == 1
    assert len(list_parts(str(tmp_path), "predictions")) == 1
