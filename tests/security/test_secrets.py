"""Credentials appear in no row, no log and no file of a run; the caps are what the documents say."""

import pytest

from zsad.cli import main
from zsad.config import ImagesConfig
from zsad.errors import ImageError, UsageError
from zsad.filesystem import redact, resolve
from zsad.steps.item import ImageItem
from zsad.storage import RunInfo, read_run, write_run

SECRET = "hunter2/ab+cd"
LEAKS = [
    f"s3://key:{SECRET}@bucket/x.png",
    f"s3://bucket/x?access_key=AK&secret_key={SECRET}",
    f"s3://bucket/x?region=eu&session_token={SECRET}",
    f"https://host/x?X-Amz-Credential={SECRET}&X-Amz-Expires=60",
    f"https://host/x?X-Amz-Signature={SECRET}",
    f"https://host/x?AWSAccessKeyId={SECRET}",
    f"https://host/x?Expires=1&Signature={SECRET}",
    f"https://account.blob/x?sv=1&sig={SECRET}",
    f"abfs://box@account/x?account_key={SECRET}",
    f"https://host/x?password={SECRET}",
    f"https://host/x?api-key={SECRET}",
]


@pytest.mark.parametrize("text", LEAKS)
def test_redacted(text):
    assert "hunter2" not in redact(f"Cannot read {text} now")
    assert "***" in redact(text)


@pytest.mark.parametrize("text", ["s3://bucket/a@b.png", "s3://b/x?region=eu&scheme=http", "tokens: 5", "design=3"])
def test_nothing_else_is_redacted(text):
    assert redact(text) == text


@pytest.mark.parametrize("text", LEAKS)
def test_not_in_a_row(text):
    item = ImageItem(path="x.png", class_name="disc")
    item.fail("load", ImageError("unreadable", f"cannot read {text}"))
    assert "hunter2" not in item.failure.message
    item.fail("load", RuntimeError(text))
    assert "hunter2" not in item.failure.message


@pytest.mark.parametrize("text", LEAKS)
def test_not_in_run_json(tmp_path, text):
    config = {"models": {"sam": {"weights": text}}, "secret_key": SECRET}
    write_run(str(tmp_path), RunInfo("f", config, {}, dataset={"root": text, "overrides": [text]}))
    assert "hunter2" not in (tmp_path / "run.json").read_text()
    assert read_run(str(tmp_path)).fingerprint == "f"


@pytest.mark.parametrize("text", [text for text in LEAKS if text.startswith("s3://")])
def test_refused_and_not_in_the_log(tmp_path, capsys, text):
    with pytest.raises(UsageError, match="environment"):
        resolve(text)
    (tmp_path / "a.png").write_bytes(b"x")
    for root, output in ((text, str(tmp_path / "out")), (str(tmp_path), text)):
        with pytest.raises(SystemExit) as ended:
            main(["score", "--dataset", "folder", "--object", "disc", "--root", root, "--output", output])
        assert ended.value.code == 2
        said = "".join(capsys.readouterr())
        assert "hunter2" not in said and "environment" in said
    assert not (tmp_path / "out").exists()


def test_a_partition_named_token_is_no_secret():
    assert resolve("s3://bucket/token=5/x.png?region=eu-west-1")[1] == "bucket/token=5/x.png"


def test_the_caps():
    assert ImagesConfig().max_pixels == 100_000_000
    assert ImagesConfig().max_file_bytes == 512 * 1024**2
    # Pillow refuses twice its own limit whatever is configured.
    with pytest.raises(ValueError, match="178000000"):
        ImagesConfig(max_pixels=200_000_000)
