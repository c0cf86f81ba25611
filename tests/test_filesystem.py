import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from pyarrow import fs

from zsad.errors import ImageError, UsageError
from zsad.filesystem import (
    BACK_OFF,
    absolute,
    exists,
    is_local,
    join,
    read_bytes,
    redact,
    replace_file,
    resolve,
    retry_io,
)


def test_local_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b" / "ü.txt").write_bytes(b"content")
    assert read_bytes("a b/ü.txt") == read_bytes(f"file://{tmp_path}/a b/ü.txt") == b"content"
    assert absolute("a b") == str(tmp_path / "a b")
    assert exists("a b") and not exists("c")
    assert isinstance(resolve("a b")[0], fs.LocalFileSystem)


@pytest.mark.parametrize(
    ("uri", "parts", "expected"),
    [
        ("/data/out/", ("predictions", "part"), "/data/out/predictions/part"),
        ("s3://bucket/run", ("x",), "s3://bucket/run/x"),
        ("s3://bucket/run/?region=eu", ("x",), "s3://bucket/run/x?region=eu"),
        ("/odd?name", ("x",), "/odd?name/x"),
        ("/", ("x",), "/x"),
    ],
)
def test_join(uri, parts, expected):
    assert join(uri, *parts) == expected


def test_a_pathlib_path_is_as_good_as_its_text(tmp_path):
    assert absolute(tmp_path / "x") == absolute(str(tmp_path / "x"))
    assert resolve(tmp_path)[1] == absolute(Path(tmp_path))


@pytest.mark.parametrize("uri", ["", "file://"])
@pytest.mark.parametrize("look_up", [absolute, resolve])
def test_an_empty_path_is_not_the_current_folder(uri, look_up):
    with pytest.raises(UsageError, match="empty path.*unset"):
        look_up(uri)


def test_an_empty_path_of_an_image_stops_no_other():
    with pytest.raises(ImageError, match="empty path"):
        read_bytes("")


def test_unknown_scheme_is_refused():
    with pytest.raises(UsageError) as caught:
        resolve("nosuch://host/path")
    assert "s3://" in str(caught.value)


@pytest.mark.parametrize("uri", ["s3://key:hunter2@bucket/x", "s3://key:ab/cd+hunter2@bucket/x", "gs://hunter2@b/x"])
def test_credentials_in_a_uri_are_refused_and_not_shown(uri):
    with pytest.raises(UsageError, match="environment") as caught:
        resolve(uri)
    assert "hunter2" not in str(caught.value)


def test_is_local():
    assert is_local("folder/x") and is_local("file:///x") and not is_local("s3://b/x")


@pytest.mark.parametrize(
    ("name", "limit", "kind"),
    [
        ("missing", None, "missing"),
        ("", None, "not_a_file"),
        ("file", 3, "file_too_large"),
        ("file/x", None, "missing"),
    ],
)
def test_reading_says_why_it_failed(tmp_path, name, limit, kind):
    (tmp_path / "file").write_bytes(b"12345")
    with pytest.raises(ImageError) as caught:
        read_bytes(str(tmp_path / name), limit)
    assert caught.value.kind == kind


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (OSError("AWS Error NETWORK_CONNECTION during HeadObject operation: curlCode: 7"), True),
        (OSError("AWS Error SLOW_DOWN during GetObject operation"), True),
        (OSError("AWS Error UNKNOWN (HTTP status 429) during GetObject operation"), True),
        (OSError(5, "Input/output error"), True),
        (OSError("AWS Error ACCESS_DENIED during HeadObject operation"), False),
        (OSError("AWS Error NO_SUCH_BUCKET during CreateMultipartUpload operation"), False),
        (OSError("AWS Error UNKNOWN (HTTP status 400) during HeadObject operation"), False),
        (FileNotFoundError(2, "No such file"), False),
    ],
)
def test_what_may_pass_is_tried_five_times_and_all_else_once(monkeypatch, error, passes):
    waits = []
    monkeypatch.setattr("zsad.filesystem.time.sleep", waits.append)
    calls = []

    def work():
        calls.append(1)
        raise error

    with pytest.raises(OSError, match=re.escape(str(error))):
        retry_io(work)
    assert len(calls) == (5 if passes else 1)
    assert waits == [pytest.approx(usual, rel=0.5) for usual in BACK_OFF[: len(waits)]]


def test_a_look_up_of_a_bucket_that_fails_is_tried_again_and_counts_as_passing(monkeypatch):
    monkeypatch.setattr("zsad.filesystem.time.sleep", lambda _: None)
    calls = []

    def unreachable(uri):
        calls.append(uri)
        raise OSError("AWS Error NETWORK_CONNECTION during HeadBucket operation")

    monkeypatch.setattr("zsad.filesystem.fs", SimpleNamespace(FileSystem=SimpleNamespace(from_uri=unreachable)))
    with pytest.raises(ImageError) as caught:
        read_bytes("s3://no-such-bucket-here/x.png")
    assert (caught.value.kind, caught.value.transient, len(calls)) == ("unreadable", True, 3)
    with pytest.raises(UsageError, match="NETWORK_CONNECTION"):
        resolve("s3://no-such-bucket-here/x.png")


def test_redact():
    assert redact("at s3://k:a/b@c/d and s3://e@f/g") == "at s3://***@c/d and s3://***@f/g"
    assert redact("s3://bucket/a@b.png") == "s3://bucket/a@b.png"
    text = redact("s3://key:secret@bucket/x?access_key=abc&secret_key=def&region=eu")
    assert text == "s3://***@bucket/x?access_key=***&secret_key=***&region=eu"


def test_a_named_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ImageError) as caught:
        read_bytes(str(tmp_path / "pipe"))
    assert caught.value.kind == "not_a_file"


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "a.txt"
    replace_file(path, lambda file: file.write(b"first"))
    replace_file(str(path), lambda file: file.write(b"second"))

    def fail(file):
        file.write(b"half")
        raise OSError("no space left")

    for target in (path, path.with_name("b.txt")):
        with pytest.raises(OSError, match="no space left"):
            replace_file(target, fail)
    assert [(found.name, found.read_bytes()) for found in path.parent.iterdir()] == [("a.txt", b"second")]
