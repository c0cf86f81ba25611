"""The whole protocol against an S3 endpoint on loopback."""

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import fs

from zsad.errors import UsageError, ZsadError
from zsad.storage import (
    RunInfo,
    check_output,
    clear_success,
    committed_rows,
    count_rows,
    drop_superseded,
    list_parts,
    new_run_id,
    part_name,
    read_anomaly_map,
    read_predictions,
    read_success,
    set_aside_broken,
    work_left,
    write_part,
    write_run,
    write_success,
)

QUERY = "?region=us-east-1"


@pytest.fixture(scope="module")
def bucket(s3_by_environment):
    s3_by_environment.create_dir("results")
    return s3_by_environment


def names(bucket, folder):
    found = bucket.get_file_info(fs.FileSelector(f"results/{folder}", recursive=True))
    return sorted(info.path for info in found if info.type == fs.FileType.File)


def test_write_list_resume_clean_and_read(rows, bucket):
    out = f"s3://results/run{QUERY}"
    assert check_output(out, rows.fingerprint, {}) is None
    write_run(out, RunInfo(rows.fingerprint, {}, {}))
    run_id = new_run_id(out)
    write_part(out, part_name(run_id, 0), rows.table(rows.row("a", 1), rows.row("b", error=True)))
    later = new_run_id(out)
    assert later > run_id
    write_part(out, part_name(later, 0), rows.table(rows.row("b", 2, masked=True)))
    first, second = (part_name(run, 0) for run in (run_id, later))
    assert list_parts(out, "predictions") == [first, second]
    maps = list_parts(out, "anomaly_maps")
    np.testing.assert_array_equal(read_anomaly_map(out, "b"), rows.expected(2, True)[0])
    manifest = pa.table(
        {
            "image_id": ["a", "b", "c"],
            "class_name": ["nut"] * 3,
            "file_size": pa.array([100] * 3, pa.int64()),
            "file_mtime": pa.nulls(3, pa.int64()),
        }
    )
    assert work_left(manifest, out, rows.fingerprint)["image_id"].to_pylist() == ["c"]
    counts = count_rows(manifest, out, rows.fingerprint)
    assert (counts.images, counts.ok, counts.errors) == (2, 2, 0)
    drop_superseded(out, rows.fingerprint)
    assert [part.num_rows for _, part in committed_rows(out)] == [1, 1]
    assert read_predictions(out, ["image_id"])["image_id"].tolist() == ["a", "b"]
    write_success(out, {"images": 2}, "h")
    assert read_success(out).counts == {"images": 2}
    clear_success(out)
    assert read_success(out) is None
    assert names(bucket, "run") == [
        *(f"results/run/anomaly_maps/{name}" for name in maps),
        f"results/run/predictions/{first}",
        f"results/run/predictions/{second}",
        "results/run/run.json",
    ]
    with pytest.raises(UsageError, match="another configuration"):
        check_output(out, "e" * 64, {})


def test_broken_parts_are_set_aside(rows, bucket):
    out = f"s3://results/broken{QUERY}"
    write_part(out, part_name("r", 0), rows.table(rows.row("a", 1)))
    with bucket.open_output_stream("results/broken/predictions/part-r-000001.parquet") as stream:
        stream.write(b"PAR1 cut off")
    with pytest.raises(ZsadError, match="part-r-000001.parquet.* is damaged: "):
        read_predictions(out)
    assert set_aside_broken(out) == ["predictions/part-r-000001.parquet"]
    assert list_parts(out, "predictions") == [part_name("r", 0)]
    assert read_predictions(out)["image_id"].tolist() == ["a"]


def test_one_map_out_of_several(rows, bucket):
    out = f"s3://results/one{QUERY}"
    write_part(out, part_name("r", 0), rows.table(*[rows.row(str(i), i) for i in range(5)]))
    np.testing.assert_array_equal(read_anomaly_map(out, "3"), rows.expected(3)[0])


def test_a_missing_bucket_is_a_clear_error(bucket):
    with pytest.raises(ZsadError, match="nobucket"):
        write_run(f"s3://nobucket/run{QUERY}", RunInfo("f", {}, {}))
    with pytest.raises(UsageError, match="No results"):
        read_predictions(f"s3://nobucket/run{QUERY}")
