"""Planning a resumed run over a very long manifest: time and peak memory of the process that does it.

    python -m benchmarks.resume                  # 10 million rows, 9 million of them committed
    python -m benchmarks.resume --rows 100000

The manifest and the committed parts are made first; a process of its own then does what ``zsad score`` does with
them before Ray starts: which rows are left (``work_left``) and what the committed ones say (``count_rows``).
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.rows import Row
from zsad.datasets import MANIFEST_SCHEMA
from zsad.datasets.manifest import build
from zsad.storage import PREDICTIONS_SCHEMA, count_rows, part_name, work_left

ROWS = 10_000_000
QUICK_ROWS = 100_000
MAX_SECONDS = 120
MAX_GIB = 3.0
ROWS_PER_PART = 20_000
FINGERPRINT = "f" * 64
_RUN = "20260101T000000000000Zabcdef"
_CHUNK = 1_000_000


@dataclass(frozen=True)
class Resume:
    """What was measured.

    Attributes:
        rows: of the manifest; committed, left: rows that have a result, and the others.
        read_seconds: reading the manifest; work_seconds: ``work_left``; count_seconds: ``count_rows``. Wall time.
        cpu_seconds: of the whole process; peak_gib: its largest resident memory.
    """

    rows: int
    committed: int
    left: int
    read_seconds: float
    work_seconds: float
    count_seconds: float
    cpu_seconds: float
    peak_gib: float


def prepare(folder: Path, rows: int) -> None:
    """A manifest of ``rows`` images and, of nine tenths of them, committed rows in parts."""
    (folder / "out" / "predictions").mkdir(parents=True)
    with pq.ParquetWriter(folder / "manifest.parquet", MANIFEST_SCHEMA, compression="zstd") as writer:
        for start in range(0, rows, _CHUNK):
            chunk = _manifest(start, min(start + _CHUNK, rows))
            writer.write_table(chunk)
            for first in range(start, min(start + chunk.num_rows, rows * 9 // 10), ROWS_PER_PART):
                stop = min(first + ROWS_PER_PART, rows * 9 // 10)
                name = part_name(_RUN, first // ROWS_PER_PART)
                part = _committed(chunk.slice(first - start, stop - first))
                pq.write_table(part, folder / "out" / "predictions" / name, compression="zstd")


def measure(folder: Path) -> Resume:
    """Plan what ``prepare`` made, in this process."""
    start = time.monotonic()
    manifest = pq.read_table(folder / "manifest.parquet")
    read = time.monotonic()
    work = work_left(manifest, str(folder / "out"), FINGERPRINT)
    found = time.monotonic()
    counts = count_rows(manifest, str(folder / "out"), FINGERPRINT)
    counted = time.monotonic()
    used = resource.getrusage(resource.RUSAGE_SELF)
    if counts.images + work.num_rows != manifest.num_rows:
        raise RuntimeError(f"{counts.images} committed and {work.num_rows} left of {manifest.num_rows}")
    return Resume(
        manifest.num_rows,
        counts.images,
        work.num_rows,
        read - start,
        found - read,
        counted - found,
        used.ru_utime + used.ru_stime,
        used.ru_maxrss / 1024**2,
    )


def run(quick: bool, rows: int | None = None) -> list[Row]:
    """Prepare, then measure in a fresh process; 100,000 rows when ``quick``."""
    rows = rows or (QUICK_ROWS if quick else ROWS)
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), rows)
        command = [sys.executable, "-m", "benchmarks.resume", "--measure", folder]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])  # noqa: S603
    found = Resume(**json.loads(done.stdout))
    seconds = found.read_seconds + found.work_seconds + found.count_seconds
    return [
        Row(
            "resume",
            f"manifest of {found.rows:,} rows, {found.committed:,} committed in parts of {ROWS_PER_PART:,}",
            f"< {MAX_GIB:g} GiB peak, < {MAX_SECONDS} s",
            f"{found.peak_gib:.2f} GiB, {seconds:.1f} s wall ({found.cpu_seconds:.1f} s CPU)",
            None if quick else found.peak_gib < MAX_GIB and seconds < MAX_SECONDS,
            f"read manifest {found.read_seconds:.1f} s, work_left {found.work_seconds:.1f} s ({found.left:,} rows), "
            f"count_rows {found.count_seconds:.1f} s",
        )
    ]


def _manifest(start: int, stop: int) -> pa.Table:
    numbers = pc.cast(pa.array(range(start, stop), pa.int64()), pa.string())
    ids = pc.binary_join_element_wise("line-07/camera-2", pc.utf8_lpad(numbers, 9, "0"), "/")
    count = stop - start
    return build(
        {
            "image_id": pc.binary_join_element_wise(ids, "jpg", "."),
            "image_path": pc.binary_join_element_wise("/data/plant-3/inspection", ids, "/"),
            "category": pa.array(["capsule"] * count),
            "class_name": pa.array(["capsule"] * count),
            "file_size": pa.array([65_536] * count, pa.int64()),
            "file_mtime": pa.array(range(start, stop), pa.int64()),
        }
    )


def _committed(manifest: pa.Table) -> pa.Table:
    count = manifest.num_rows
    columns = {name: manifest[name] for name in manifest.column_names if name in PREDICTIONS_SCHEMA.names}
    columns |= {"status": pa.array(["ok"] * count), "fingerprint": pa.array([FINGERPRINT] * count)}
    arrays = [columns.get(field.name, pa.nulls(count, field.type)) for field in PREDICTIONS_SCHEMA]
    return pa.table(arrays, schema=PREDICTIONS_SCHEMA)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure:
        print(json.dumps(asdict(measure(options.measure))))
        return 0
    for row in run(quick=options.rows < ROWS, rows=options.rows):
        print(f"{row.what}: {row.measured} ({row.note})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
