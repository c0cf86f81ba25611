import io
import os
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from zsad import filesystem as filesystem_module
from zsad.errors import UsageError, ZsadError
from zsad.id_hashes import KEYS
from zsad.storage import (
    Counts,
    broken_parts,
    committed_rows,
    count_rows,
    drop_superseded,
    list_parts,
    part_name,
    read_anomaly_map,
    read_predictions,
    read_success,
    set_aside_broken,
    work_left,
    write_part,
    write_success,
)
from zsad.storage import cleanup as cleanup_module
from zsad.storage import committed as committed_module
from zsad.storage import files as files_module


def manifest(*ids, size=100, mtime=1_700_000_000_123_456_789, noun="nut"):
    count = len(ids)
    return pa.table(
        {
            "image_id": pa.array(ids, pa.string()),
            "class_name": pa.array([noun] * count, pa.string()),
            "file_size": pa.array([size] * count, pa.int64()),
            "file_mtime": pa.array([mtime] * count, pa.int64()),
            "image_path": pa.array([f"/data/{i}" for i in ids], pa.string()),
        }
    )


def left(table, out, rows, **options):
    return work_left(table, out, rows.fingerprint, **options)["image_id"].to_pylist()


def test_hidden_and_foreign_names_are_no_parts(rows, out):
    write_part(out, part_name("run", 1), rows.table(rows.row("b", error=True)))
    write_part(out, part_name("run", 0), rows.table(rows.row("a", error=True)))
    for name in (".part-x.tmp", "_part.parquet", ".part.parquet", "notes.txt"):
        Path(out, "predictions", name).write_text("x")
    assert list_parts(out, "predictions") == [part_name("run", 0), part_name("run", 1)]
    found = list(committed_rows(out))
    assert [name for name, _ in found] == list_parts(out, "predictions")
    assert [table.column_names for _, table in found] == [
        ["image_id", "fingerprint", "status", "class_name", "file_size", "file_mtime"]
    ] * 2


def test_more_parts_than_are_read_ahead_come_in_order(rows, out):
    for index in range(13):
        write_part(out, part_name("run", index), rows.table(rows.row(str(index), error=True)))
    assert [table["image_id"][0].as_py() for _, table in committed_rows(out, ["image_id"])] == list(map(str, range(13)))
    stream = committed_rows(out)
    next(stream)
    stream.close()
    assert threading.active_count() < 20


def test_work_left_is_the_manifest_minus_the_committed(rows, out):
    whole = manifest("d", "a", "c", "b")
    assert work_left(whole, out, rows.fingerprint) is whole
    write_part(out, part_name("run", 0), rows.table(rows.row("a"), rows.row("b", error=True), rows.row("other")))
    assert left(whole, out, rows) == ["d", "c"]
    assert left(whole, out, rows, retry_errors=True) == ["d", "c", "b"]
    assert work_left(whole, out, "e" * 64).num_rows == 4
    assert left(manifest("a"), out, rows) == []
    assert work_left(whole, out, rows.fingerprint).schema == whole.schema
    # An error that was retried with success is done, in whatever order the parts are read.
    write_part(out, part_name("earlier", 0), rows.table(rows.row("b")))
    assert left(whole, out, rows, retry_errors=True) == ["d", "c"]


@pytest.mark.parametrize(
    ("size", "mtime", "expected"),
    [
        (100, 1_700_000_000_123_456_789, []),
        (101, 1_700_000_000_123_456_789, ["a"]),
        (100, 1_700_000_000_123_456_788, ["a"]),
        (None, None, []),
        (None, 5, ["a"]),
        (100, None, []),
    ],
)
def test_a_changed_file_is_work(rows, out, size, mtime, expected):
    write_part(out, part_name("run", 0), rows.table(rows.row("a")))
    assert left(manifest("a", size=size, mtime=mtime), out, rows) == expected


def test_unknown_versions_of_ok_rows_match_any(rows, out):
    write_part(out, part_name("run", 0), rows.table(rows.row("a", size=None, mtime=None)))
    assert left(manifest("a", size=7, mtime=7), out, rows) == []


def test_an_image_that_was_missing_and_arrives_is_work(rows, out):
    write_part(out, part_name("r1", 0), rows.table(rows.row("a", error=True, size=None, mtime=None)))
    assert left(manifest("a", size=None, mtime=None), out, rows) == []
    assert left(manifest("a", size=7, mtime=7), out, rows) == ["a"]
    write_part(out, part_name("r2", 0), rows.table(rows.row("a", error=True, size=7, mtime=7)))
    assert left(manifest("a", size=7, mtime=7), out, rows) == []
    assert read_predictions(out, ["file_size"])["file_size"].tolist() == [7]


def test_a_newer_row_of_a_missing_file_is_the_valid_one(rows, out):
    write_part(out, part_name("r1", 0), rows.table(rows.row("a", 1), rows.row("b", size=None)))
    missing = [rows.row(name, error=True, size=None, mtime=None) for name in "ab"]
    write_part(out, part_name("r2", 0), rows.table(*missing))
    # Where the older row knows no size either, there is no telling that the file is another one.
    frame = read_predictions(out, ["image_id", "status"]).set_index("image_id")
    assert frame["status"].to_dict() == {"a": "error", "b": "ok"}


@pytest.mark.parametrize(
    ("committed", "now", "expected"),
    [("nut", "nut", []), ("nut", "hex nut", ["a"]), (None, "nut", ["a"]), ("nut", None, ["a"]), (None, None, [])],
)
@pytest.mark.parametrize("error", [False, True])
def test_an_edited_noun_is_work(rows, out, committed, now, expected, error):
    write_part(out, part_name("run", 0), rows.table(rows.row("a", error=error, noun=committed)))
    assert left(manifest("a", noun=now), out, rows) == expected


def test_nouns_are_compared_image_by_image(rows, out):
    write_part(out, part_name("run", 0), rows.table(rows.row("a"), rows.row("b", noun="bolt"), rows.row("c")))
    whole = pa.concat_tables([manifest("c", "a", noun="bolt"), manifest("b", noun="bolt"), manifest("d")])
    assert left(whole, out, rows) == ["c", "a", "d"]


def test_the_newest_row_tells_the_noun(rows, out):
    write_part(out, part_name("r1", 0), rows.table(rows.row("a", 1)))
    write_part(out, part_name("r2", 0), rows.table(rows.row("a", error=True, noun="bolt")))
    assert read_predictions(out, ["class_name", "status"]).to_numpy().tolist() == [["bolt", "error"]]
    assert left(manifest("a", noun="bolt"), out, rows) == []
    # The valid row is that of the bolt, so going back to the nut is work.
    assert left(manifest("a"), out, rows) == ["a"]
    drop_superseded(out, rows.fingerprint)
    assert raw(out)["class_name"].tolist() == ["bolt"]


def test_an_older_row_that_is_superseded_is_not_done(rows, out):
    write_part(out, part_name("r1", 0), rows.table(rows.row("a", 1)))
    write_part(out, part_name("r2", 0), rows.table(rows.row("a", 2, size=50)))
    for retry in (False, True):
        assert left(manifest("a"), out, rows, retry_errors=retry) == ["a"]
    write_part(out, part_name("r3", 0), rows.table(rows.row("a", 3)))
    assert left(manifest("a"), out, rows) == []


def test_counts_are_those_of_the_manifest(rows, out):
    early = rows.row("e", error=True) | {"error_stage": "instances", "error_type": "out_of_memory"}
    stale = rows.row("c", error=True, noun="bolt")
    write_part(out, part_name("r1", 0), rows.table(early, rows.row("a"), rows.row("b", error=True), stale))
    write_part(out, part_name("r2", 0), rows.table(rows.row("x"), rows.row("d", error=True), rows.row("y", error=True)))
    foreign = rows.row("a", error=True) | {"fingerprint": "e" * 64}
    write_part(out, part_name("r3", 0), rows.table(rows.row("a", error=True), foreign))
    whole = manifest("e", "a", "d", "c", "b", "never")
    counts = count_rows(whole, out, rows.fingerprint)
    reasons = {"load/truncated": 2, "instances/out_of_memory": 1}
    assert counts == Counts(images=4, ok=1, errors=3, reasons=reasons, others=2)
    assert list(counts.reasons) == list(reasons)
    assert left(whole, out, rows) == ["c", "never"]
    assert count_rows(manifest("a"), out, rows.fingerprint) == Counts(1, 1, 0, {}, 6)
    assert count_rows(manifest(), out, rows.fingerprint) == Counts(0, 0, 0, {}, 8)
    assert count_rows(whole, out, "d" * 64) == Counts(0, 0, 0, {}, 0)


def test_an_error_that_was_retried_counts_once_as_ok(rows, out):
    write_part(out, part_name("r1", 0), rows.table(rows.row("a", error=True)))
    write_part(out, part_name("r2", 0), rows.table(rows.row("a")))
    assert count_rows(manifest("a"), out, rows.fingerprint) == Counts(1, 1, 0, {}, 0)


def test_no_output_yet_counts_nothing(rows, out):
    assert count_rows(manifest("a"), out, rows.fingerprint) == Counts(0, 0, 0, {}, 0)


def test_work_left_against_sets(rows, out):
    rng = np.random.default_rng(0)
    ids = [f"folder/{i:05d}.png" for i in range(3000)]
    chosen = [ids[i] for i in rng.permutation(3000)[:1700]]
    template = rows.table(rows.row("x", error=True))
    for index, part in enumerate(np.array_split(np.array(chosen, object), 7)):
        table = pa.concat_tables([template] * len(part)).set_column(
            0, template.schema.field(0), pa.array(part.tolist(), pa.string())
        )
        write_part(out, part_name("run", index), table)
    whole = pa.concat_tables([manifest(*ids[:1000]), manifest(*ids[1000:])])
    assert left(whole, out, rows) == [i for i in ids if i not in set(chosen)]


def test_colliding_hashes_of_the_manifest_change_the_key(rows, out, monkeypatch):
    write_part(out, part_name("run", 0), rows.table(rows.row("a")))
    real = committed_module.hash_ids

    def colliding(ids, key=KEYS[0]):
        hashes = real(ids, key)
        return np.zeros_like(hashes) if key == KEYS[0] else hashes

    monkeypatch.setattr(committed_module, "hash_ids", colliding)
    assert left(manifest("a", "b"), out, rows) == ["b"]


def test_an_id_twice_in_the_manifest_is_refused(rows, out):
    write_part(out, part_name("run", 0), rows.table(rows.row("a")))
    with pytest.raises(UsageError, match="'b' twice"):
        work_left(manifest("b", "a", "b"), out, rows.fingerprint)


def raw(out):
    return pd.read_parquet(f"{out}/predictions")


def test_superseded_rows_are_dropped_and_maps_stay_readable(rows, out):
    changed = 1_800_000_000_000_000_000
    write_part(out, part_name("r1", 0), rows.table(rows.row("a", 1), rows.row("b", error=True), rows.row("c", 3)))
    write_part(out, part_name("r1", 1), rows.table(rows.row("e", error=True)))
    write_part(out, part_name("r2", 0), rows.table(rows.row("b", 2), rows.row("a", error=True)))
    write_part(out, part_name("r2", 1), rows.table(rows.row("c", 4, mtime=changed), rows.row("e", 5), rows.row("d", 6)))
    before = read_predictions(out).set_index("image_id")
    drop_superseded(out, rows.fingerprint)
    assert list_parts(out, "predictions") == [part_name("r1", 0), part_name("r2", 0), part_name("r2", 1)]
    after = raw(out).set_index("image_id")
    assert sorted(after.index) == ["a", "b", "c", "d", "e"]
    assert (after["status"] == "ok").all()
    pd.testing.assert_frame_equal(before.sort_index(), after.sort_index(), check_dtype=False)
    for image_id, seed in {"a": 1, "b": 2, "c": 4, "d": 6, "e": 5}.items():
        np.testing.assert_array_equal(read_anomaly_map(out, image_id), rows.expected(seed)[0])
    files = {path: path.stat() for path in Path(out).rglob("*")}
    drop_superseded(out, rows.fingerprint)
    assert {path: path.stat() for path in Path(out).rglob("*")} == files


def test_a_file_that_changed_and_now_fails_is_an_error_row(rows, out):
    write_part(out, part_name("r1", 0), rows.table(rows.row("a", 1, size=100)))
    write_part(out, part_name("r2", 0), rows.table(rows.row("a", error=True, size=50)))
    assert read_predictions(out)["status"].tolist() == ["error"]
    drop_superseded(out, rows.fingerprint)
    assert raw(out)["status"].tolist() == ["error"]
    assert left(manifest("a", size=50), out, rows) == []
    assert list_parts(out, "anomaly_maps") == []


def test_a_kill_between_two_rewrites_loses_nothing(rows, out, monkeypatch):
    for run in ("r1", "r2", "r3"):
        write_part(out, part_name(run, 0), rows.table(rows.row("a", 1), rows.row(run, 2)))
    real, calls = committed_module.read_part, []

    def dies_at_second(*args, **options):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **options)

    monkeypatch.setattr("zsad.storage.cleanup.read_part", dies_at_second)
    with pytest.raises(KeyboardInterrupt):
        drop_superseded(out, rows.fingerprint)
    monkeypatch.undo()
    assert sorted(read_predictions(out)["image_id"]) == ["a", "r1", "r2", "r3"]
    drop_superseded(out, rows.fingerprint)
    assert sorted(raw(out)["image_id"]) == ["a", "r1", "r2", "r3"]


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_cleaning_up_refuses_a_part_without_its_maps(rows, out, damage):
    write_part(out, part_name("r1", 0), rows.table(rows.row("a", 1)))
    write_part(out, part_name("r1", 1), rows.table(rows.row("b", 2)))
    gone = list_parts(out, "anomaly_maps")[1]
    path = Path(out, "anomaly_maps", gone)
    if damage == "missing":
        path.unlink()
        with pytest.raises(ZsadError, match=f"{gone}.* is missing"):
            drop_superseded(out, rows.fingerprint)
    else:
        path.write_bytes(path.read_bytes()[:-20])
    write_success(out, {}, "h")
    assert broken_parts(out) == [f"predictions/{part_name('r1', 1)}"] + [f"anomaly_maps/{gone}"] * (damage == "cut")
    assert read_success(out) is not None
    set_aside_broken(out)
    assert read_success(out) is None
    assert left(manifest("a", "b"), out, rows) == ["b"]
    drop_superseded(out, rows.fingerprint)


def test_orphan_maps_and_leftovers_of_killed_writes_go(rows, out):
    write_part(out, part_name("r1", 0), rows.table(rows.row("a", 1)))
    write_part(out, part_name("r1", 1), rows.table(rows.row("b", 2)))
    os.unlink(f"{out}/predictions/{part_name('r1', 1)}")
    assert len(list_parts(out, "anomaly_maps")) == 2
    for folder in ("predictions", "anomaly_maps"):
        Path(out, folder, ".part-r1-000002.parquet.0123abcd.tmp").write_bytes(b"half")
        Path(out, folder, ".keep").write_bytes(b"")
    kept = [".run.json.tmp", ".notes.0123abcd.tmp", "run.json.0123abcd.tmp"]
    for name in ("run.json", "_SUCCESS", "._SUCCESS-suspended", ".lock.json"):
        Path(out, f".{name}.0123abcd.tmp").write_bytes(b"half")
    for name in kept:
        Path(out, name).write_bytes(b"")
    drop_superseded(out, rows.fingerprint)
    assert len(list_parts(out, "anomaly_maps")) == 1
    assert read_predictions(out)["image_id"].tolist() == ["a"]
    assert sorted(os.listdir(f"{out}/predictions")) == [".keep", part_name("r1", 0)]
    assert len(os.listdir(f"{out}/anomaly_maps")) == 2
    assert sorted(os.listdir(out)) == sorted([*kept, "anomaly_maps", "predictions"])
    np.testing.assert_array_equal(read_anomaly_map(out, "a"), rows.expected(1)[0])


def test_rows_of_another_fingerprint_are_not_touched_silently(rows, out):
    write_part(out, part_name("r1", 0), rows.table(rows.row("a")))
    with pytest.raises(ZsadError, match="another configuration"):
        drop_superseded(out, "e" * 64)
    assert read_predictions(out)["image_id"].tolist() == ["a"]


def test_broken_parts_are_named_then_set_aside_and_become_work(rows, out):
    for i in range(4):
        write_part(out, part_name("r1", i), rows.table(rows.row(str(i), i)))
    names, maps = list_parts(out, "predictions"), list_parts(out, "anomaly_maps")
    cut = Path(out, "predictions", names[1])
    cut.write_bytes(cut.read_bytes()[:-20])
    cut_map = Path(out, "anomaly_maps", maps[2])
    cut_map.write_bytes(cut_map.read_bytes()[:-20])
    os.unlink(f"{out}/anomaly_maps/{maps[3]}")
    Path(out, "predictions", "stray.parquet").write_bytes(b"not parquet")
    Path(out, "anomaly_maps", "stray.parquet").write_bytes(Path(out, "predictions", names[0]).read_bytes())
    with pytest.raises(ZsadError, match=names[1]):
        read_predictions(out)
    predictions = [names[1], names[2], names[3], "stray.parquet"]
    expected = [f"predictions/{name}" for name in predictions]
    assert set_aside_broken(out) == [*expected, f"anomaly_maps/{maps[2]}", "anomaly_maps/stray.parquet"]
    assert raw(out)["image_id"].tolist() == ["0"]
    assert left(manifest("0", "1", "2", "3"), out, rows) == ["1", "2", "3"]
    assert set_aside_broken(out) == []


class FaultyFile(io.FileIO):
    """A file whose reads fail as a bad connection makes them fail, while there are failures left."""

    def __init__(self, path, failures):
        super().__init__(path)
        self.failures = failures

    def read(self, count=-1):
        if self.failures:
            raise self.failures.pop()
        return super().read(count)


@pytest.fixture
def faulty(monkeypatch):
    """Faults of reading, by the end of a file's path. No waiting between tries."""
    faults = {}

    class Faulty:
        def __getattr__(self, name):
            return getattr(fs.LocalFileSystem(), name)

        def open_input_file(self, path):
            failures = next((faults[name] for name in faults if path.endswith(name)), [])
            return pa.PythonFile(FaultyFile(path, failures), "r")

    def resolve(uri):
        local, path = filesystem_module.resolve(uri)
        return (Faulty() if os.path.isfile(path) else local), path

    for module in (files_module, cleanup_module):
        monkeypatch.setattr(module, "resolve", resolve)
    monkeypatch.setattr(filesystem_module.time, "sleep", lambda _: None)
    return faults


def network_error():
    return OSError("When reading information for key 'x': AWS Error NETWORK_CONNECTION during GetObject operation")


@pytest.mark.parametrize("times", [1, 2, 4])
@pytest.mark.parametrize("folder", ["predictions", "anomaly_maps"])
def test_a_bad_connection_that_passes_sets_nothing_aside(rows, out, faulty, folder, times):
    write_part(out, part_name("r1", 0), rows.table(rows.row("a", 1), rows.row("b", 2)))
    (name,) = list_parts(out, folder)
    faulty[f"{folder}/{name}"] = [network_error() for _ in range(times)]
    assert set_aside_broken(out) == []
    assert faulty[f"{folder}/{name}"] == []
    faulty[f"{folder}/{name}"] += [network_error() for _ in range(times)]
    assert read_predictions(out)["image_id"].tolist() == ["a", "b"]
    if folder == "anomaly_maps":
        np.testing.assert_array_equal(read_anomaly_map(out, "a"), rows.expected(1)[0])
    assert faulty[f"{folder}/{name}"] == []


@pytest.mark.parametrize("folder", ["predictions", "anomaly_maps"])
def test_a_bad_connection_that_stays_ends_the_run_and_changes_nothing(rows, out, faulty, folder):
    write_part(out, part_name("r1", 0), rows.table(rows.row("a", 1)))
    (name,) = list_parts(out, folder)
    Path(out, "predictions", "stray.parquet").write_bytes(b"not parquet")
    write_success(out, {}, "h")
    before = sorted(str(path) for path in Path(out).rglob("*"))
    faulty[f"{folder}/{name}"] = [network_error() for _ in range(100)]
    with pytest.raises(ZsadError, match="Cannot read .*NETWORK_CONNECTION") as caught:
        set_aside_broken(out)
    assert not isinstance(caught.value, files_module.DamagedPart)
    assert sorted(str(path) for path in Path(out).rglob("*")) == before


def test_the_connection_may_break_anywhere_in_a_part(rows, out, faulty, monkeypatch):
    """Footer, column or the second look: the n-th read of the part fails, then all is well."""
    write_part(out, part_name("r1", 0), rows.table(rows.row("a", 1)))
    reads, failing, read = [], [], FaultyFile.read

    def counted(self, count=-1):
        reads.append(count)
        if len(reads) in failing:
            raise network_error()
        return read(self, count)

    monkeypatch.setattr(FaultyFile, "read", counted)
    assert read_predictions(out)["image_id"].tolist() == ["a"]
    assert set_aside_broken(out) == []
    total = len(reads)
    assert total >= 4
    for number in range(1, total + 1):
        reads.clear()
        failing[:] = [number]
        assert read_predictions(out)["image_id"].tolist() == ["a"]
        assert set_aside_broken(out) == []
    assert list_parts(out, "predictions") == [part_name("r1", 0)]


def damaged_copies(good):
    """Many ways of being broken, with all kinds of errors that Arrow has for them."""
    footer = len(good) - 8 - int.from_bytes(good[-8:-4], "little")
    for length in (0, 1, 7, 8, 12, len(good) // 2, footer, len(good) - 20, len(good) - 8, len(good) - 1):
        yield good[:length]
    noise = np.random.default_rng(0).bytes(3000)
    yield b"PAR1" + noise + b"PAR1"
    yield b"PAR1" + noise + (100).to_bytes(4, "little") + b"PAR1"
    yield bytes(len(good))
    yield good[:footer] + bytes(40) + good[footer + 40 :]
    # The pages of the column that is read to find the maps.
    column = pq.read_metadata(pa.BufferReader(good)).row_group(0)
    column = next(found for i in range(column.num_columns) if (found := column.column(i)).path_in_schema == "map_part")
    start = column.dictionary_page_offset or column.data_page_offset
    yield good[:start] + bytes(20) + good[start + 20 :]
    end = start + column.total_compressed_size
    yield good[: end - 1] + bytes([good[end - 1] ^ 1]) + good[end:]


def test_whatever_arrow_says_of_broken_bytes_they_are_set_aside(rows, out):
    write_part(out, part_name("r0", 0), rows.table(rows.row("a", 1)))
    path = Path(out, "predictions", part_name("r1", 0))
    write_part(out, path.name, rows.table(rows.row("b", 2), rows.row("c", 3)))
    good = path.read_bytes()
    for content in damaged_copies(good):
        path.write_bytes(content)
        assert set_aside_broken(out) == [f"predictions/{path.name}"]
        assert list_parts(out, "predictions") == [part_name("r0", 0)]
        assert left(manifest("a", "b", "c"), out, rows) == ["b", "c"]
    path.write_bytes(good)
    assert set_aside_broken(out) == []
