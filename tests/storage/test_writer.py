import os
import resource
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from zsad.errors import ZsadError
from zsad.storage import (
    ANOMALY_MAPS_SCHEMA,
    PREDICTIONS_SCHEMA,
    SCORED_SCHEMA,
    conform,
    list_parts,
    new_run_id,
    part_name,
    read_anomaly_map,
    write_part,
)
from zsad.storage.writer import run_of_file


def tree(out):
    return {str(path.relative_to(out)): path.read_bytes() for path in Path(out).rglob("*") if path.is_file()}


def test_the_schema_is_the_documented_one():
    assert PREDICTIONS_SCHEMA.names == [
        "image_id",
        "image_path",
        "category",
        "class_name",
        "split",
        "gt_label",
        "mask_path",
        "image_height",
        "image_width",
        "status",
        "error_stage",
        "error_type",
        "error_message",
        "pred_score",
        "anomaly_map_max",
        "anomaly_map_mean",
        "foreground_source",
        "foreground_fraction",
        "num_components",
        "component_scores",
        "tiles",
        "map_part",
        "map_row_group",
        "file_size",
        "file_mtime",
        "stage_ms",
        "fingerprint",
    ]
    assert [field.name for field in PREDICTIONS_SCHEMA.field("tiles").type.value_type] == [
        "x0", "y0", "x1", "y1", "component", "score",
    ]  # fmt: skip


def test_a_part_becomes_two_files(rows, out):
    name = part_name("run", 7)
    assert name == "part-run-000007.parquet"
    table = rows.table(rows.row("a", 1), rows.row("bad", error=True), rows.row("b", 2, masked=True))
    write_part(out, name, table)
    (map_part,) = list_parts(out, "anomaly_maps")
    assert set(tree(out)) == {f"predictions/{name}", f"anomaly_maps/{map_part}"}

    predictions = pq.read_table(f"{out}/predictions/{name}")
    assert predictions.schema.equals(PREDICTIONS_SCHEMA)
    assert predictions["image_id"].to_pylist() == ["a", "bad", "b"]
    assert predictions["map_row_group"].to_pylist() == [0, None, 1]
    assert predictions["map_part"].to_pylist() == [map_part, None, map_part]
    assert predictions["tiles"][0].as_py() == table["tiles"][0].as_py()

    maps = pq.ParquetFile(f"{out}/anomaly_maps/{map_part}")
    assert maps.schema_arrow.equals(ANOMALY_MAPS_SCHEMA)
    assert maps.num_row_groups == 2
    assert maps.read_row_group(1).to_pylist()[0]["image_id"] == "b"
    column = maps.metadata.row_group(0).column(ANOMALY_MAPS_SCHEMA.names.index("data"))
    assert column.statistics is None and not column.has_dictionary_page and column.compression == "UNCOMPRESSED"


def test_writing_again_is_the_same_bits_whatever_the_chunks(rows, out):
    parts = [rows.table(rows.row("a", 1)), rows.table(rows.row("b", 2))]
    write_part(out, part_name("run", 0), pa.concat_tables(parts))
    before = tree(out)
    write_part(out, part_name("run", 0), pa.concat_tables(parts).combine_chunks())
    assert tree(out) == before


def test_a_retry_with_other_bits_never_swaps_committed_maps(rows, out, monkeypatch):
    name = part_name("run", 0)
    write_part(out, name, rows.table(rows.row("a", 1), rows.row("b", 2)))

    def dies(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("zsad.storage.writer.write_predictions", dies)
    with pytest.raises(KeyboardInterrupt):
        write_part(out, name, rows.table(rows.row("b", 3), rows.row("a", 4)))
    assert (read_anomaly_map(out, "a") == rows.expected(1)[0]).all()
    monkeypatch.undo()
    write_part(out, name, rows.table(rows.row("b", 3), rows.row("a", 4)))
    assert (read_anomaly_map(out, "a") == rows.expected(4)[0]).all()
    assert list_parts(out, "predictions") == [name]


def test_only_errors_write_no_maps_and_nothing_writes_nothing(rows, out):
    write_part(out, part_name("run", 0), SCORED_SCHEMA.empty_table())
    assert not os.path.exists(out)
    write_part(out, part_name("run", 1), rows.table(rows.row("a", error=True)))
    assert os.listdir(out) == ["predictions"]


def test_columns_are_cast_and_reordered_but_never_invented(rows):
    table = rows.table(rows.row("a", error=True))
    loose = table.select(table.column_names[::-1]).drop(["map_data", "category"])
    loose = loose.append_column("map_data", pa.nulls(1)).append_column("category", pa.array(["c"], pa.large_string()))
    fitted = conform(loose, SCORED_SCHEMA)
    assert fitted.schema.equals(SCORED_SCHEMA)
    assert fitted["category"].to_pylist() == ["c"]
    with pytest.raises(ZsadError, match="lacks the columns \\['split'\\]"):
        conform(table.drop("split"), SCORED_SCHEMA)
    with pytest.raises(ZsadError, match="does not fit"):
        conform(table.set_column(0, "image_id", pa.nulls(1, pa.string())), SCORED_SCHEMA)


def test_inconsistent_rows_are_refused_before_anything_is_written(rows, out):
    ok, error = rows.row("a"), rows.row("a", error=True)
    for row in (
        ok | {"map_data": None},
        ok | {"map_foreground_rle": None},
        ok | {"image_height": None},
        ok | {"status": "error"},
        error | {"status": "ok"},
        error | {"status": "maybe"},
    ):
        with pytest.raises(ZsadError, match="status"):
            write_part(out, part_name("run", 0), rows.table(row))
    with pytest.raises(ZsadError, match="part name"):
        write_part(out, "../evil.parquet", rows.table(ok))
    assert not os.path.exists(out)


def test_a_full_disk_leaves_no_part_and_no_temporary_file(rows, out):
    script = (
        "import resource, signal, sys, pyarrow.parquet as pq\n"
        "from zsad.errors import ZsadError\n"
        "from zsad.storage import write_part\n"
        "table = pq.read_table(sys.argv[1])\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "try:\n"
        "    write_part(sys.argv[2], 'part-run-000000.parquet', table)\n"
        "except ZsadError as error:\n"
        "    print(error)\n"
    )
    assert hasattr(resource, "RLIMIT_FSIZE")
    source = f"{os.path.dirname(out)}/rows.parquet"
    pq.write_table(rows.table(*[rows.row(str(i), i) for i in range(20)]), source)
    done = subprocess.run([sys.executable, "-c", script, source, out], capture_output=True, text=True, check=True)
    assert "Cannot write" in done.stdout and "File too large" in done.stdout
    assert tree(out) == {}


def test_an_unwritable_output_says_so(rows, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ZsadError, match="Cannot write .*file/out"):
        write_part(str(tmp_path / "file" / "out"), part_name("run", 0), rows.table(rows.row("a")))


def test_every_file_of_a_part_names_its_run(rows, out):
    run = new_run_id(out)
    write_part(out, part_name(run, 3), rows.table(rows.row("a")))
    for name in (part_name(run, 3), *list_parts(out, "anomaly_maps"), f"part-{run}-000003-01234567.parquet"):
        assert run_of_file(name) == run_of_file(f".{name}.0123abcd.tmp") == run
    assert run_of_file("stray.parquet") is None and run_of_file(".keep.tmp") is None


def test_run_ids_sort_after_all_committed_ones(rows, out):
    first = new_run_id(out)
    write_part(out, part_name(first, 0), rows.table(rows.row("a", error=True)))
    second = new_run_id(out)
    assert second > first
    ahead = "29991231T235959999999Zabcdef"
    write_part(out, part_name(ahead, 3), rows.table(rows.row("a", error=True)))
    after = new_run_id(out)
    assert part_name(after, 0) > part_name(ahead, 999_999)
    write_part(out, part_name(after, 0), rows.table(rows.row("a", error=True)))
    assert new_run_id(out) > after
