"""Where the graph ends: scored rows become committed parts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyarrow as pa
from ray.data import Datasink

from zsad.storage import SCORED_SCHEMA, Lock, conform, part_name, write_part


class PartSink(Datasink[int]):
    """Writes each bundle of rows as one part: maps first, predictions last; the latter is the commit.

    The part's name comes from the run and the write task, so a retried task replaces its own part.

    Args:
        output: output folder or URI.
        run_id: of this run.
        rows_per_part: target number of rows.
        lock: of the output, which must be held at every commit; None = there is none.
    """

    def __init__(self, output: str, run_id: str, rows_per_part: int, lock: Lock | None = None) -> None:
        self._output = output
        self._run_id = run_id
        self._rows_per_part = rows_per_part
        self._lock = lock

    def write(self, blocks: Iterable[Any], ctx: Any) -> int:
        """Write one part; returns its number of rows. Raises ZsadError as ``write_part``, or when the lock is lost."""
        tables = [conform(pa.table(block), SCORED_SCHEMA) for block in blocks if block.num_rows]
        if not tables:
            return 0
        table = pa.concat_tables(tables)
        # A driver that is cut off does not know that another run took its place; its workers find out here.
        if self._lock is not None:
            self._lock.check()
        write_part(self._output, part_name(self._run_id, ctx.task_idx), table)
        return int(table.num_rows)

    @property
    def min_rows_per_write(self) -> int:
        """Rows that Ray Data gathers before it calls ``write``."""
        return self._rows_per_part
