"""Planning a resumed run over a very long manifest: time and peak memory of the process that does it.

    python -m benchmarks.resume                  # 10 million rows, 9 million of them committed
    python -m benchmarks.resume --rows 100000

The manifest file and the committed parts are made first. A process of its own then runs ``zsad.pipeline.score.score``
itself, up to the moment at which it would start Ray, and after it ``count_rows``, with which a run ends. The manifest
names images in a bucket and gives their sizes and times, so that no store is asked for ten million files.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.rows import Row
from zsad.config import load_config
from zsad.fingerprint import fingerprint, scored_fields
from zsad.pipeline import score
from zsad.pipeline.weights import weights_hashes
from zsad.storage import ANOMALY_MAPS_SCHEMA, PREDICTIONS_SCHEMA, RunInfo, part_name, write_run

ROWS = 10_000_000
QUICK_ROWS = 100_000
MAX_SECONDS = 120
MAX_GIB = 3.0
ROWS_PER_PART = 20_000
PRESET = "mini"
PHASES = (
    "load_manifest",
    "weights_hashes",
    "manifest_hash",
    "set_aside_broken",
    "work_left",
    "validate_models",
    "count_rows",
)
"""Steps of ``score`` that are timed apart, in the order in which it takes them."""
_RUN = "20260101T000000000000Zabcdef"
_CHUNK = 1_000_000
_EPOCH = 1_767_225_600_000_000_000
"""2026-01-01 in nanoseconds."""


@dataclass(frozen=True)
class Resume:
    """What was measured.

    Attributes:
        rows: of the manifest; committed, left: rows that have a result, and the others.
        seconds: wall time of all, imports apart.
        phases: of each of ``PHASES`` the wall time, the CPU time, and the largest resident memory so far in GiB.
        cpu_seconds: of the whole process, with its imports; peak_gib: its largest resident memory.
    """

    rows: int
    committed: int
    left: int
    seconds: float
    phases: Mapping[str, tuple[float, float, float]]
    cpu_seconds: float
    peak_gib: float


class _Planned(Exception):
    """Ends a run where it would start Ray; holds the arguments of ``execute``."""


def prepare(folder: Path, rows: int) -> None:
    """A manifest file of ``rows`` images, and a run that has committed nine tenths of them in parts."""
    config = load_config(PRESET)
    weights = weights_hashes(config)
    mark = fingerprint(config, weights)
    write_run(
        str(folder / "out"),
        RunInfo(mark, config.model_dump(mode="json"), scored_fields(config, weights), weights),
    )
    for name in ("predictions", "anomaly_maps"):
        (folder / "out" / name).mkdir()
    writer = None
    for start in range(0, rows, _CHUNK):
        chunk = _manifest(start, min(start + _CHUNK, rows))
        writer = writer or pq.ParquetWriter(folder / "manifest.parquet", chunk.schema, compression="zstd")
        writer.write_table(chunk)
        for first in range(start, min(start + chunk.num_rows, rows * 9 // 10), ROWS_PER_PART):
            stop = min(first + ROWS_PER_PART, rows * 9 // 10)
            name = part_name(_RUN, first // ROWS_PER_PART)
            part = _committed(chunk.slice(first - start, stop - first), name, mark)
            pq.write_table(part, folder / "out" / "predictions" / name, compression="zstd")
            # Of a maps part, planning reads the end only.
            pq.write_table(ANOMALY_MAPS_SCHEMA.empty_table(), folder / "out" / "anomaly_maps" / name)
    if writer is not None:
        writer.close()


def measure(folder: Path) -> Resume:
    """Plan what ``prepare`` made, in this process."""
    options = score.ScoreOptions(
        "manifest", str(folder / "manifest.parquet"), str(folder / "out"), preset=PRESET, allow_outside_root=True
    )
    start = time.monotonic()
    with _timed() as (phases, results):
        try:
            score.score(options, io.StringIO())
        except _Planned as planned:
            work, _, info = planned.args[:3]
        manifest = results["load_manifest"]
        counts = score.count_rows(manifest, options.output, info.fingerprint)
    seconds = time.monotonic() - start
    if counts.images + work.num_rows != manifest.num_rows:
        raise RuntimeError(f"{counts.images} committed and {work.num_rows} left of {manifest.num_rows}")
    return Resume(
        manifest.num_rows,
        counts.images,
        work.num_rows,
        seconds,
        phases,
        time.process_time(),
        _peak_gib(),
    )


@contextmanager
def _timed() -> Iterator[tuple[dict[str, tuple[float, float, float]], dict[str, Any]]]:
    """Phases and results of the functions that ``score`` calls, which ends where it would start Ray."""
    phases: dict[str, tuple[float, float, float]] = {}
    results: dict[str, Any] = {}

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            wall, cpu = time.monotonic(), time.process_time()
            results[name] = function(*arguments, **options)
            phases[name] = (time.monotonic() - wall, time.process_time() - cpu, _peak_gib())
            return results[name]

        return call

    def execute(*arguments: Any) -> None:
        raise _Planned(*arguments)

    # In place of the module that imports Ray.
    stand_in = ModuleType("zsad.pipeline.execute")
    stand_in.execute = execute  # type: ignore[attr-defined]
    wrapped = {name: timed(name, getattr(score, name)) for name in PHASES}
    # Not by patch.dict, which would throw out all modules imported meanwhile.
    sys.modules[stand_in.__name__] = stand_in
    try:
        with mock.patch.multiple(score, **wrapped):
            yield phases, results
    finally:
        del sys.modules[stand_in.__name__]


def _peak_gib() -> float:
    # Not ru_maxrss, in which a process starts with what the one that started it had at most.
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024**2


def run(quick: bool, rows: int | None = None) -> list[Row]:
    """Prepare, then measure in a fresh process; 100,000 rows when ``quick``."""
    rows = rows or (QUICK_ROWS if quick else ROWS)
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), rows)
        command = [sys.executable, "-m", "benchmarks.resume", "--measure", folder]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])  # noqa: S603
    found = Resume(**json.loads(done.stdout))
    phases = ", ".join(
        f"{name} {wall:.1f} s ({cpu:.1f} s CPU, {peak:.2f} GiB so far)"
        for name, (wall, cpu, peak) in found.phases.items()
    )
    return [
        Row(
            "resume",
            f"manifest of {found.rows:,} rows, {found.committed:,} committed in parts of {ROWS_PER_PART:,}",
            f"< {MAX_GIB:g} GiB peak, < {MAX_SECONDS} s",
            f"{found.peak_gib:.2f} GiB, {found.seconds:.1f} s wall ({found.cpu_seconds:.1f} s CPU)",
            None if quick else found.peak_gib < MAX_GIB and found.seconds < MAX_SECONDS,
            f"{found.left:,} rows left; {phases}; preset {PRESET}, images in a bucket with given sizes",
        )
    ]


def _manifest(start: int, stop: int) -> pa.Table:
    numbers = pc.cast(pa.array(range(start, stop), pa.int64()), pa.string())
    ids = pc.binary_join_element_wise("line-07/camera-2", pc.utf8_lpad(numbers, 9, "0"), "/")
    return pa.table(
        {
            "image_id": pc.binary_join_element_wise(ids, "jpg", "."),
            "image_path": pc.binary_join_element_wise("s3://plant-3/inspection", ids, "/"),
            "category": pa.array(["capsule"] * (stop - start)),
            "file_size": pa.array([65_536] * (stop - start), pa.int64()),
            "file_mtime": pa.array(range(_EPOCH + start, _EPOCH + stop), pa.int64()),
        }
    )


def _committed(manifest: pa.Table, name: str, mark: str) -> pa.Table:
    count = manifest.num_rows
    columns = {column: manifest[column] for column in manifest.column_names}
    columns |= {"class_name": manifest["category"], "status": pa.array(["ok"] * count)}
    columns |= {"map_part": pa.array([name] * count), "fingerprint": pa.array([mark] * count)}
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
