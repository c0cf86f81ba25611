import os
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from zsad.errors import UsageError, ZsadError
from zsad.storage import (
    DECISIONS_SCHEMA,
    PREDICTIONS_SCHEMA,
    cleanup,
    iter_maps,
    output_lock,
    part_name,
    read_anomaly_map,
    read_decisions,
    read_foreground,
    read_predictions,
    write_decisions,
    write_part,
    write_run,
)
from zsad.storage import files as files_module
from zsad.storage.run import RunInfo


@pytest.fixture
def run(rows, out):
    """Two parts: five images, one with an error, one of them masked, one retried."""
    write_part(out, part_name("r1", 0), rows.table(rows.row("a/1.png", 1), rows.row("a/2.png", error=True)))
    write_part(
        out,
        part_name("r2", 0),
        rows.table(rows.row("b/1.png", 3, masked=True), rows.row("a/2.png", 2), rows.row("b/bad.png", error=True)),
    )
    return out


def test_one_row_per_image_in_the_order_of_parts(run):
    frame = read_predictions(run)
    assert list(frame.columns) == PREDICTIONS_SCHEMA.names
    assert frame["image_id"].tolist() == ["a/1.png", "b/1.png", "a/2.png", "b/bad.png"]
    assert frame["status"].tolist() == ["ok", "ok", "ok", "error"]
    assert frame["pred_score"].dtype == np.float32
    assert np.isnan(frame["pred_score"].iloc[3])
    assert frame["tiles"].iloc[0][0]["x1"] == 40


def test_a_failed_image_has_neither_map_nor_foreground(run):
    with pytest.raises(UsageError, match="'b/bad.png' has no anomaly map, since it could not be scored"):
        read_anomaly_map(run, "b/bad.png")
    with pytest.raises(UsageError, match="'b/bad.png' has no foreground, since it could not be scored"):
        read_foreground(run, "b/bad.png")


def test_columns_have_an_order(run):
    assert list(read_predictions(run, ["pred_score", "image_id"]).columns) == ["pred_score", "image_id"]
    with pytest.raises(UsageError, match="columns are a set.*Expected a list"):
        read_predictions(run, {"pred_score", "image_id"})


def test_a_missing_file_leaves_the_times_of_the_others_whole(rows, out):
    write_part(out, part_name("r", 0), rows.table(rows.row("a", 1), rows.row("b", error=True, size=None, mtime=None)))
    frame = read_predictions(out, ["file_size", "file_mtime"])
    assert list(frame.dtypes) == ["Int64", "Int64"]
    assert frame["file_mtime"].iloc[0] == 1_700_000_000_123_456_789
    assert frame["file_mtime"].isna().tolist() == frame["file_size"].isna().tolist() == [False, True]


@pytest.mark.parametrize("failed", [False, True])
def test_types_do_not_depend_on_whether_an_image_failed(rows, out, failed):
    good = rows.row("a", 1) | {"gt_label": 0, "num_components": 2}
    write_part(out, part_name("r", 0), rows.table(good, *([rows.row("b", error=True)] if failed else [])))
    columns = ["gt_label", "image_height", "num_components", "map_row_group", "file_size"]
    predictions = read_predictions(
        out, [*columns, "image_id", "category", "split", "status", "pred_score", "fingerprint"]
    )
    assert predictions[columns].dtypes.astype(str).tolist() == ["Int8", "Int32", "Int32", "Int32", "Int64"]
    rule = {"threshold": 0.5, "pixel_threshold": 0.5, "rule": "score:0.5"}
    label = (predictions["status"] == "ok").astype("Int8").where(predictions["status"] == "ok")
    write_decisions(out, predictions.assign(pred_label=label, **rule)[DECISIONS_SCHEMA.names])
    assert read_decisions(out)[["gt_label", "pred_label"]].dtypes.astype(str).tolist() == ["Int8", "Int8"]


def test_columns_are_those_asked_for(run):
    assert list(read_predictions(run, ["pred_score", "image_id"]).columns) == ["pred_score", "image_id"]
    assert len(read_predictions(run, ["pred_score"])) == 4
    with pytest.raises(UsageError, match=r"Unknown columns \['score'\].*pred_score"):
        read_predictions(run, ["score"])


def test_the_name_of_one_column_is_one_column(run):
    assert list(read_predictions(run, "image_id").columns) == ["image_id"]
    with pytest.raises(UsageError, match=r"Unknown columns \['score'\]"):
        read_predictions(run, "score")


@pytest.mark.parametrize("read", [read_predictions, lambda run: read_foreground(run, "a/1.png"), read_decisions])
def test_a_run_may_be_given_as_a_path_and_not_as_nothing(run, read):
    write_decisions(run, pd.DataFrame(columns=DECISIONS_SCHEMA.names))
    assert len(read(Path(run))) == len(read(run))
    with pytest.raises(UsageError, match="empty path"):
        read("")


def test_a_map_is_read_from_a_path(run):
    np.testing.assert_array_equal(read_anomaly_map(Path(run), "a/1.png"), read_anomaly_map(run, "a/1.png"))


def test_maps_decode_to_the_scored_bits(rows, run):
    for image_id, seed, masked in (("a/1.png", 1, False), ("a/2.png", 2, False), ("b/1.png", 3, True)):
        expected, foreground = rows.expected(seed, masked)
        found = read_anomaly_map(run, image_id)
        assert found.dtype == np.float16
        np.testing.assert_array_equal(found.view(np.uint16), expected.view(np.uint16))
        np.testing.assert_array_equal(read_foreground(run, image_id), foreground)
    assert (rows.expected(3, True)[0] != rows.expected(3, False)[0]).any()


def test_a_part_is_iterated_one_map_at_a_time(rows, run):
    part = read_predictions(run).set_index("image_id")["map_part"]["b/1.png"]
    pointers = [("b/1.png", 0), ("a/2.png", 1)]
    assert [stored.row["image_id"] for stored in iter_maps(run, part, pointers)] == ["b/1.png", "a/2.png"]
    (only,) = iter_maps(run, part, pointers[1:])
    scores, foreground = rows.expected(2)
    np.testing.assert_array_equal(only.anomaly_map(), scores)
    np.testing.assert_array_equal(only.foreground(), foreground)
    with pytest.raises(ZsadError, match="point to 2"):
        list(iter_maps(run, part, [("a/2.png", 2)]))
    with pytest.raises(ZsadError, match=r"holds the map of 'a/2.png' instead of 'b/1.png'"):
        list(iter_maps(run, part, [("b/1.png", 1)]))
    with pytest.raises(ZsadError, match="missing"):
        list(iter_maps(run, "part-x-000000.parquet", []))


class Counting:
    """A file that counts what is read of it."""

    def __init__(self, file):
        self.file = file
        self.read_bytes = 0

    def read(self, size=-1):
        data = self.file.read(size)
        self.read_bytes += len(data)
        return data

    def seek(self, offset, whence=0):
        return self.file.seek(offset, whence)

    def tell(self):
        return self.file.tell()

    @property
    def closed(self):
        return self.file.closed

    def close(self):
        self.file.close()


def test_reading_one_map_reads_its_row_group_and_the_footer_only(rows, out, monkeypatch):
    table = rows.table(*[rows.row(f"{i:03d}", i) for i in range(3)])
    noise = [np.random.default_rng(i).bytes(400_000) for i in range(2)]
    large = table.set_column(
        table.schema.get_field_index("map_data"),
        table.schema.field("map_data"),
        pa.array([noise[0], table["map_data"][1].as_py(), noise[1]], pa.large_binary()),
    )
    write_part(out, part_name("r", 0), large)
    (map_part,) = files_module.list_parts(out, "anomaly_maps")
    path = f"{out}/anomaly_maps/{map_part}"
    metadata = pq.read_metadata(path)
    own = sum(metadata.row_group(1).column(i).total_compressed_size for i in range(metadata.num_columns))
    opened = []
    real = pq.ParquetFile

    def counted(source, **options):
        if source.size() > 100_000:
            opened.append(Counting(source))
            return real(pa.PythonFile(opened[-1], mode="r"), **options)
        return real(source, **options)

    monkeypatch.setattr(files_module.pq, "ParquetFile", counted)
    np.testing.assert_array_equal(read_anomaly_map(out, "001"), rows.expected(1)[0])
    assert len(opened) == 1
    footer = 64 * 1024  # Arrow reads at least this much from the end in one request
    assert metadata.serialized_size < footer
    assert own <= opened[0].read_bytes <= own + footer + 8192
    foreground_only = len(opened)
    read_foreground(out, "001")
    assert opened[foreground_only].read_bytes < footer + 8192


def test_missing_things_are_explained(run, out, tmp_path):
    with pytest.raises(UsageError, match="No results at .*nowhere"):
        read_predictions(str(tmp_path / "nowhere"))
    with (
        output_lock(str(tmp_path / "begun")),
        pytest.raises(UsageError, match=r"yet: process \d+ on .* has begun a run"),
    ):
        read_predictions(str(tmp_path / "begun"))
    with pytest.raises(UsageError, match="Did you mean 'a/1.png' or 'b/1.png'"):
        read_anomaly_map(run, "c/1.png")
    with pytest.raises(UsageError, match="Did you mean 'b/bad.png'"):
        read_anomaly_map(run, "b/baad.png")
    with pytest.raises(UsageError, match="Ids look like 'a/1.png'"):
        read_foreground(run, "%%%%")
    with pytest.raises(UsageError, match="load: truncated: the file ends early"):
        read_anomaly_map(run, "b/bad.png")
    for no_string in (None, 1001):
        with pytest.raises(UsageError, match=f"{no_string} is a .*Expected a string"):
            read_anomaly_map(run, no_string)


def test_names_that_are_no_utf8_are_nobody_s_parts(run):
    parts = files_module.list_parts(run, "predictions")
    for folder in (run, f"{run}/predictions", f"{run}/anomaly_maps"):
        Path(os.fsdecode(os.fsencode(folder) + b"/n\xe9.parquet")).touch()
    assert files_module.list_parts(run, "predictions") == parts
    assert len(read_predictions(run)) > 0
    maps = files_module.list_parts(run, "anomaly_maps")
    cleanup._remove_orphans(run)
    assert files_module.list_parts(run, "anomaly_maps") == maps


def test_a_run_without_parts_yet_is_empty(out):
    write_run(out, RunInfo("f", {}, {}))
    frame = read_predictions(out)
    assert frame.empty and list(frame.columns) == PREDICTIONS_SCHEMA.names
    with pytest.raises(UsageError, match="Nothing is committed"):
        read_anomaly_map(out, "a")


def test_a_damaged_map_is_an_error_with_the_name(rows, run):
    row = read_predictions(run).set_index("image_id").loc["a/1.png"]
    path = f"{run}/anomaly_maps/{row['map_part']}"
    column = pq.read_metadata(path).row_group(0).column(4)
    with open(path, "r+b") as file:
        file.seek(column.data_page_offset + column.total_compressed_size - 5)
        file.write(b"\xff\x00\xff")
    with pytest.raises(ZsadError, match="Row group 0 of .*damaged"):
        read_anomaly_map(run, "a/1.png")
    np.testing.assert_array_equal(read_anomaly_map(run, "a/2.png"), rows.expected(2)[0])


def test_maps_of_another_image_are_refused(rows, out):
    write_part(out, part_name("r", 0), rows.table(rows.row("a", 1)))
    write_part(out, part_name("r", 1), rows.table(rows.row("b", 2)))
    first, second = (f"{out}/anomaly_maps/{name}" for name in files_module.list_parts(out, "anomaly_maps"))
    with open(second, "rb") as source, open(first, "wb") as target:
        target.write(source.read())
    with pytest.raises(ZsadError, match="map of 'b' instead of 'a'"):
        read_anomaly_map(out, "a")


def test_other_readers_need_none_of_our_code(run):
    folder = f"{run}/predictions"
    # The retried error is still there until the run is finished.
    assert len(pd.read_parquet(folder)) == 5
    lazy = polars.scan_parquet(f"{folder}/*.parquet").filter(polars.col("status") == "ok")
    assert sorted(lazy.collect()["image_id"]) == ["a/1.png", "a/2.png", "b/1.png"]
    query = f"select count(*), max(tiles[1].x1) from '{folder}/*.parquet' where pred_score > 0.2"
    assert duckdb.sql(query).fetchall() == [(3, 40)]


def test_parts_of_errors_only_read_together_with_others(rows, out):
    write_part(out, part_name("r", 0), rows.table(rows.row("a", error=True)))
    write_part(out, part_name("r", 1), rows.table(rows.row("b", 1)))
    assert pd.read_parquet(f"{out}/predictions")["image_id"].tolist() == ["a", "b"]
    assert polars.read_parquet(f"{out}/predictions/*.parquet").height == 2


def test_reading_needs_neither_torch_nor_ray(run):
    script = (
        "import sys\n"
        "sys.modules['torch'] = sys.modules['ray'] = None\n"
        "import zsad\n"
        "print(len(zsad.read_predictions(sys.argv[1])), zsad.read_anomaly_map(sys.argv[1], 'a/1.png').shape)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, run], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["4", "(60,", "80)"]
