"""A report into and from an S3 endpoint on loopback."""

import pytest
from pyarrow import fs

from zsad.report.site import build_report

QUERY = "?region=us-east-1"


@pytest.fixture(scope="module")
def bucket(s3_by_environment):
    s3_by_environment.create_dir("reports")
    return s3_by_environment


def files(bucket, folder):
    found = bucket.get_file_info(fs.FileSelector(folder, recursive=True))
    return {info.path: info.mtime_ns for info in found if info.type == fs.FileType.File}


def test_a_run_in_a_bucket_gets_its_report_there_and_draws_each_picture_once(make_run, bucket):
    local = make_run(4, evaluated=False)
    fs.copy_files(local, "reports/run", source_filesystem=fs.LocalFileSystem(), destination_filesystem=bucket)
    report = build_report(f"s3://reports/run{QUERY}")
    assert report.page == f"s3://reports/run/report/index.html{QUERY}"
    pictures = files(bucket, "reports/run/report/pictures")
    assert len(pictures) == 16
    assert {"reports/run/report/index.html", "reports/run/report/assets/report.css"} <= set(
        files(bucket, "reports/run/report")
    )
    build_report(f"s3://reports/run{QUERY}")
    assert files(bucket, "reports/run/report/pictures") == pictures
