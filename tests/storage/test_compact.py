"""Compaction keeps the table, whatever file operation it is killed at."""

import shutil
import threading
from itertools import count
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from zsad import UsageError
from zsad.cli import main
from zsad.errors import ZsadError
from zsad.evaluation import count_parts, decide_by
from zsad.export import export_run
from zsad.export import maps as maps_module
from zsad.storage import (
    RunInfo,
    cleanup,
    count_rows,
    iter_maps,
    list_parts,
    output_lock,
    part_name,
    read_anomaly_map,
    read_predictions,
    read_success,
    while_unchanged,
    write_part,
    write_run,
    write_success,
    writer,
)
from zsad.storage import compact as compact_module
from zsad.storage import run as run_module
from zsad.storage.compact import compact
from zsad.storage.files import DamagedPart
from zsad.storage.run import clear_success

RUN = "20260101T000000000000Zabcdef"
COUNTS = {"images": 20, "ok": 16, "errors": 4}
POINTERS = ["map_part", "map_row_group"]


class Killed(BaseException):
    """Stands for SIGKILL: no handler of the program catches it."""


@pytest.fixture
def run(rows, out):
    """A finished run of ten parts of two images, every fifth image an error."""
    for part in range(10):
        written = [rows.row(f"i{n:02d}", seed=n, error=n % 5 == 4) for n in (2 * part, 2 * part + 1)]
        write_part(out, part_name(RUN, part), rows.table(*written))
    write_run(out, RunInfo(rows.fingerprint, {}, {}))
    write_success(out, COUNTS, "hash")
    return out


def content(out):
    """What a reader sees: all columns but the pointers, and the maps behind the pointers."""
    table = read_predictions(out).sort_values("image_id", ignore_index=True)
    maps = {}
    for part, rows in table.dropna(subset=["map_part"]).groupby("map_part"):
        found = iter_maps(out, part, zip(rows["image_id"], rows["map_row_group"].astype(int), strict=True))
        maps |= {stored.row["image_id"]: stored.anomaly_map().tobytes() for stored in found}
    return table.drop(columns=POINTERS), maps


def assert_same(found, expected):
    pd.testing.assert_frame_equal(found[0], expected[0])
    assert found[1] == expected[1]


def files(out):
    return sorted((str(path), path.stat().st_mtime_ns) for path in Path(out).rglob("*") if path.is_file())


def assert_compacted(out, expected):
    raw = pd.read_parquet(f"{out}/predictions")
    assert raw["image_id"].is_unique and len(raw) == 20
    assert set(raw["map_part"].dropna()) == set(list_parts(out, "anomaly_maps"))
    assert read_success(out).counts == COUNTS and read_success(out).manifest_hash == "hash"
    assert not list(Path(out).rglob(".*"))
    assert_same(content(out), expected)


def test_small_parts_become_few_and_again_changes_nothing(run):
    expected = content(run)
    done = compact(run)
    assert (done.before.predictions, done.before.maps) == (10, 10)
    assert (done.after.predictions, done.after.maps) == (1, 1)
    assert done.after.predictions_bytes < done.before.predictions_bytes
    assert_compacted(run, expected)
    assert read_anomaly_map(run, "i11").tobytes() == expected[1]["i11"]
    (part,) = list_parts(run, "anomaly_maps")
    table = read_predictions(run).dropna(subset=["map_part"]).sort_values("map_row_group")
    assert table["map_row_group"].tolist() == list(range(len(table)))
    assert len(list(iter_maps(run, part, zip(table["image_id"], range(len(table)), strict=True)))) == len(table)
    before = files(run)
    again = compact(run)
    assert again.before == again.after
    assert [path for path, _ in files(run)] == [path for path, _ in before]
    assert files(run)[1:] == before[1:]


def test_targets_hold_for_both_tables(run):
    expected = content(run)
    one = max(path.stat().st_size for path in Path(run, "anomaly_maps").iterdir())
    target = 2 * one + 2
    done = compact(run, rows_per_part=8, maps_bytes=target)
    assert done.after.predictions == 3
    rows = [len(pd.read_parquet(f"{run}/predictions/{name}")) for name in list_parts(run, "predictions")]
    assert sorted(rows) == [4, 8, 8]
    assert 3 < done.after.maps < 10
    assert_compacted(run, expected)
    assert compact(run, rows_per_part=8, maps_bytes=target).after == done.after


def test_large_maps_parts_stay_where_they_are(run):
    before = list_parts(run, "anomaly_maps")
    expected = content(run)
    done = compact(run, maps_bytes=1)
    assert (done.after.predictions, done.after.maps) == (1, 10)
    assert list_parts(run, "anomaly_maps") == before
    assert_compacted(run, expected)


def test_rows_added_later_are_compacted_too_and_newer_rows_win(run, rows):
    compact(run)
    clear_success(run)
    later = "20270101T000000000000Zabcdef"
    write_part(run, part_name(later, 0), rows.table(rows.row("i04", seed=4), rows.row("i20", seed=20)))
    write_part(run, part_name(later, 1), rows.table(rows.row("i21", seed=21)))
    expected = content(run)
    compact(run)
    assert_same(content(run), expected)
    raw = pd.read_parquet(f"{run}/predictions")
    assert raw["image_id"].is_unique and len(raw) == 22
    assert raw.set_index("image_id").loc["i04", "status"] == "ok"
    assert len(list_parts(run, "predictions")) == len(list_parts(run, "anomaly_maps")) == 1
    assert read_success(run) is None


def kill_at(monkeypatch, step):
    """Make the ``step``-th change of a file, counted from 0, raise instead. Returns how many were begun."""
    changes = count()

    def counted(function):
        def wrapper(*arguments, **options):
            if next(changes) == step:
                raise Killed
            return function(*arguments, **options)

        return wrapper

    for module in (compact_module, cleanup, run_module, writer):
        for name in ("write_atomically", "delete"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, counted(getattr(module, name)))
    return changes


def test_killed_before_any_change_of_a_file_nothing_is_lost_or_doubled(run, rows, tmp_path):
    expected = content(run)
    with pytest.MonkeyPatch.context() as patch:
        changes = kill_at(patch, -1)
        shutil.copytree(run, tmp_path / "counted")
        compact(str(tmp_path / "counted"), rows_per_part=12)
        total = next(changes)
    assert total > 25
    for step in range(total):
        out = str(tmp_path / f"killed{step}")
        shutil.copytree(run, out)
        with pytest.MonkeyPatch.context() as patch:
            kill_at(patch, step)
            with pytest.raises(Killed):
                compact(out, rows_per_part=12)
        assert_same(content(out), expected)
        raw = pd.read_parquet(f"{out}/predictions")
        if read_success(out) is not None:
            assert raw["image_id"].is_unique, "a finished run holds every image once"
        manifest = pd.DataFrame(raw.drop_duplicates("image_id"))
        assert accounted(manifest, out, rows) == (16, 4)
        compact(out, rows_per_part=12)
        assert_compacted(out, expected)
        shutil.rmtree(out)


def accounted(frame, out, rows):
    import pyarrow as pa

    columns = ["image_id", "class_name", "file_size", "file_mtime"]
    counts = count_rows(pa.Table.from_pandas(frame[columns], preserve_index=False), out, rows.fingerprint)
    return counts.ok, counts.errors


def test_readers_meanwhile_always_see_every_row_once(run):
    expected = content(run)
    ids = expected[0]["image_id"].tolist()
    problems, stop = [], threading.Event()

    def read():
        while not stop.is_set():
            try:
                assert read_predictions(run, ["image_id"])["image_id"].sort_values().tolist() == ids
                assert read_anomaly_map(run, "i00").tobytes() == expected[1]["i00"]
            except BaseException as error:
                problems.append(error)
                return

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for rows_per_part in (5, 9, 21):
            compact(run, rows_per_part=rows_per_part)
    finally:
        stop.set()
        reader.join()
    assert not problems, problems


def test_a_damaged_part_stops_it_before_anything_is_lost(run):
    name = list_parts(run, "anomaly_maps")[3]
    path = Path(run, "anomaly_maps", name)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(Exception, match="damaged"):
        compact(run)
    assert len(list_parts(run, "predictions")) == 10
    ids = read_predictions(run)["image_id"]
    assert ids.is_unique and len(ids) == 20
    assert np.isfinite(read_anomaly_map(run, "i00")).all()


def test_it_waits_for_no_run_but_refuses_while_one_lives(run):
    before = list_parts(run, "predictions")
    with output_lock(run), pytest.raises(UsageError, match="Another run is writing"):
        compact(run)
    assert list_parts(run, "predictions") == before
    assert compact(run).after.predictions == 1


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(UsageError, match="No results at"):
        compact(str(tmp_path))


def test_the_command_prints_before_and_after(run, capsys):
    with pytest.raises(SystemExit) as end:
        main(["compact", run, "--rows", "8"])
    assert end.value.code in (0, None)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("predictions") and "10 files" in lines[0] and "-> 3 files" in lines[0]
    assert lines[1].startswith("anomaly_maps") and "10 files" in lines[1]


def test_an_export_begins_again_when_its_parts_are_replaced(run, monkeypatch):
    work = maps_module.each_map

    def after_compaction(*args):
        if len(list_parts(run, "predictions")) == 10:
            compact(run)
        return work(*args)

    monkeypatch.setattr(maps_module, "each_map", after_compaction)
    assert export_run(run, "tiff").summary.startswith("16 ")
    assert len(list_parts(run, "predictions")) == 1


def test_an_evaluation_begins_again_when_its_parts_are_replaced(run):
    asked = []

    def after_compaction(*args):
        asked.append(list_parts(run, "predictions"))
        if len(asked) == 1:
            compact(run)
        return count_parts(*args)

    assert len(decide_by(run, "quantile:0.9", count=after_compaction)) == 20
    assert [len(parts) for parts in asked] == [10, 1]


def test_reading_ends_where_parts_are_replaced_without_end(run, rows):
    tries = []

    def read():
        tries.append(1)
        write_part(run, part_name("20270101T000000000000Zabcdef", len(tries)), rows.table(rows.row("new")))
        raise DamagedPart("gone")

    with pytest.raises(ZsadError, match="were replaced 10 times while they were read") as caught:
        while_unchanged(run, read)
    assert not isinstance(caught.value, DamagedPart) and len(tries) == 10
