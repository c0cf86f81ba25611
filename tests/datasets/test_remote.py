"""VisA, a folder and a manifest read from an S3 endpoint on loopback."""

from urllib.parse import unquote

import pytest
from pyarrow import fs

from zsad.datasets import load_manifest
from zsad.errors import UsageError
from zsad.filesystem import read_bytes

QUERY = "?region=us-east-1"


@pytest.fixture(scope="module")
def bucket(s3_by_environment) -> fs.FileSystem:
    s3_by_environment.create_dir("parts")
    return s3_by_environment


def put(filesystem: fs.FileSystem, key: str, data: bytes = b"1234567") -> None:
    with filesystem.open_output_stream(f"parts/{key}") as stream:
        stream.write(data)


def test_folder(bucket):
    names = ["10.png", "2.png", "sub/a b.png", "sub/100%?#+ü.png"]
    run = ["out/run.json", "out/predictions/part-0.parquet", "out/report/a.png"]
    for name in [*names, *run, "notes.txt", ".hidden/x.png"]:
        put(bucket, f"folder/{name}")
    table = load_manifest("folder", f"s3://parts/folder{QUERY}", object_name="washer")
    assert table["image_id"].to_pylist() == ["2.png", "10.png", "sub/100%?#+ü.png", "sub/a b.png"]
    assert table["file_size"].to_pylist() == [7] * 4
    assert table["file_mtime"].null_count == 0
    assert table["image_path"][0].as_py() == f"s3://parts/folder/2.png{QUERY}"
    for path in table["image_path"].to_pylist():
        assert read_bytes(path) == b"1234567"


def test_visa_csv(bucket):
    rows = [f"candle,test,normal,candle/Data/Images/Normal/{index:03d}.JPG," for index in range(101)]
    rows += ["candle,test,anomaly,candle/Data/Images/Anomaly/000 x.JPG,candle/Data/Masks/Anomaly/000 x.png"]
    rows += ["candle,test,anomaly,candle/Data/Images/Anomaly/gone.JPG,"]
    for row in rows[:-1]:
        put(bucket, "visa/" + row.split(",")[3])
    put(bucket, "visa/split_csv/1cls.csv", "\n".join(["object,split,label,image,mask", *rows]).encode())
    table = load_manifest("visa", f"s3://parts/visa{QUERY}")
    assert table["image_id"].to_pylist() == [row.split(",")[3] for row in rows]
    assert table["file_size"].to_pylist() == [7] * 102 + [None]
    assert table["mask_path"][101].as_py() == f"s3://parts/visa/candle/Data/Masks/Anomaly/000%20x.png{QUERY}"
    assert read_bytes(table["image_path"][101].as_py()) == b"1234567"


def test_manifest(bucket):
    put(bucket, "m/i/a b.png")
    text = "image_path,mask_path\ni/a b.png,i/m.png\ns3://parts/m/i/a%20b.png,s3://parts/m/i/m.png\n"
    put(bucket, "m/list.csv", text.encode())
    with pytest.warns(UserWarning, match="1 repeated row "):
        table = load_manifest("manifest", f"s3://parts/m/list.csv{QUERY}", object_name="bolt")
    assert unquote(table["image_path"][0].as_py()) == f"s3://parts/m/i/a b.png{QUERY}"
    assert table["file_size"].to_pylist() == [7]
    put(bucket, "m/manifest.csv", b"image_path\n../folder/x.png\n")
    with pytest.raises(UsageError, match="leaves the root 's3://parts/m'"):
        load_manifest("manifest", f"s3://parts/m{QUERY}", object_name="bolt")
    outside = load_manifest("manifest", f"s3://parts/m{QUERY}", object_name="bolt", allow_outside_root=True)
    assert outside["image_path"].to_pylist() == [f"s3://parts/folder/x.png{QUERY}"]


def test_missing_prefix_bucket_and_layout(bucket):
    with pytest.raises(UsageError, match="No folder at 's3://parts/none"):
        load_manifest("folder", f"s3://parts/none{QUERY}", object_name="x")
    with pytest.raises(UsageError, match="No folder at|Cannot read"):
        load_manifest("folder", f"s3://other/none{QUERY}", object_name="x")
    put(bucket, "odd/a.png")
    with pytest.raises(UsageError, match="Expected one of VisA's layouts.*found a.png"):
        load_manifest("visa", f"s3://parts/odd{QUERY}")
    with pytest.raises(UsageError, match="Cannot open 'ftp://"):
        load_manifest("folder", "ftp://host/x", object_name="x")
