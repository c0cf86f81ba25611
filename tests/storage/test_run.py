import json
from pathlib import Path

import pyarrow as pa
import pytest

from zsad.config import load_config
from zsad.errors import UsageError
from zsad.fingerprint import fingerprint, scored_fields
from zsad.storage import (
    RunInfo,
    Success,
    check_output,
    clear_success,
    describe_run,
    manifest_hash,
    part_name,
    read_run,
    read_success,
    write_part,
    write_run,
    write_success,
)
from zsad.storage import run as run_module

WEIGHTS = {"isnet": "1", "sam": "2", "clip": "3", "clipseg": "4"}


def info(**changes):
    return RunInfo(**({"fingerprint": "a", "config": {}, "scored_fields": {"x": 1}} | changes))


def test_run_and_success_survive_a_round_trip(out):
    assert read_run(out) is None and read_success(out) is None
    whole = info(weights=WEIGHTS, versions={"tokenizers": "1.0"}, counts={"ok": 3}, timings={"seconds": 1.5})
    write_run(out, whole)
    assert read_run(out) == whole
    write_success(out, {"images": 3, "errors": 0}, "h")
    assert read_success(out) == Success({"images": 3, "errors": 0}, "h")
    clear_success(out)
    clear_success(out)
    assert read_success(out) is None
    assert sorted(path.name for path in Path(out).iterdir()) == ["run.json"]


def test_a_new_success_replaces_one_that_a_killed_compaction_suspended(out):
    write_success(out, {"images": 3}, "old")
    run_module.suspend_success(out)
    assert read_success(out) is None
    write_success(out, {"images": 4}, "new")
    assert [path.name for path in Path(out).iterdir()] == ["_SUCCESS"]
    run_module.resume_success(out)
    assert read_success(out) == Success({"images": 4}, "new")


def test_credentials_do_not_reach_the_disk(out):
    dataset = {
        "root": "s3://me:hunter2@bucket/x?secret_key=abc&region=eu",
        "aws_secret_key": "abc",
        "list": ["gs://u:pw@b"],
    }
    write_run(out, info(dataset=dataset))
    text = Path(out, "run.json").read_text()
    assert "hunter2" not in text and "abc" not in text and "pw@" not in text
    assert "region=eu" in text


def test_the_same_configuration_may_continue(out):
    assert check_output(out, "a", {"x": 1}) is None
    write_run(out, info())
    assert check_output(out, "a", {"x": 1}) == info()
    assert not Path(out, "predictions").exists()


def test_another_configuration_is_refused_with_what_differs(rows, out):
    write_part(out, part_name("r", 0), rows.table(rows.row("a", error=True)))
    old, new = (
        load_config("mini"),
        load_config("mini", overrides=["foreground.min_coverage=0.9", "runtime.batch_size=1"]),
    )
    write_run(
        out,
        RunInfo(fingerprint(old, WEIGHTS), old.model_dump(mode="json"), scored_fields(old, WEIGHTS, "nut")),
    )
    with pytest.raises(UsageError, match=r"foreground.min_coverage: 0.8 -> 0.9\n.*another --output") as caught:
        check_output(out, fingerprint(new, WEIGHTS), scored_fields(new, WEIGHTS, "nut"))
    assert "runtime" not in str(caught.value) and "object" not in str(caught.value)
    with pytest.raises(UsageError, match="object: 'nut' -> 'bolt'"):
        check_output(out, "b", scored_fields(old, WEIGHTS, "bolt"))
    with pytest.raises(UsageError, match="models.clip.sha256: '3' -> '9'"):
        check_output(out, "b", scored_fields(old, WEIGHTS | {"clip": "9"}, "nut"))


def test_a_run_that_failed_before_its_first_row_is_no_obstacle(rows, out):
    write_run(out, info())
    Path(out, "predictions").mkdir()
    Path(out, "predictions", ".part-r-000000.parquet.0123abcd.tmp").write_bytes(b"half")
    assert check_output(out, "b", {"x": 2}) is None
    assert check_output(out, "a", {"x": 1}) == info()
    write_part(out, part_name("r", 0), rows.table(rows.row("a", error=True)))
    with pytest.raises(UsageError, match="x: 1 -> 2"):
        check_output(out, "b", {"x": 2})


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        ({"layout": "visa", "trained": True}, ("visa", None)),
        ({"layout": "visa", "trained": False}, ("visa", "untrained")),
        ({"layout": "visa"}, ("visa", "unknown")),
        ({}, (None, "unknown")),
    ],
)
def test_weights_are_not_called_trained_unless_the_run_says_so(out, dataset, expected):
    assert describe_run(out) == (None, "unknown")
    write_run(out, info(dataset=dataset))
    assert describe_run(out) == expected


def test_a_folder_that_is_not_ours_is_refused(rows, tmp_path):
    (tmp_path / ".DS_Store").write_text("")
    assert check_output(str(tmp_path), "a", {}) is None
    (tmp_path / "thesis.docx").write_text("")
    with pytest.raises(UsageError, match=r"not empty .*found thesis.docx"):
        check_output(str(tmp_path), "a", {})
    with pytest.raises(UsageError, match="is a file"):
        check_output(str(tmp_path / "thesis.docx"), "a", {})
    with pytest.raises(UsageError, match="neither a file nor a folder"):
        check_output("/dev/null", "a", {})
    out = str(tmp_path / "lost")
    write_part(out, part_name("r", 0), rows.table(rows.row("a", error=True)))
    with pytest.raises(UsageError, match="holds no run.json"):
        check_output(out, "a", {})


@pytest.mark.parametrize("text", ["", "{", "[]", '{"other": 1}', json.dumps({"fingerprint": "a", "strange": 2})])
def test_an_unreadable_run_file_is_a_clear_error(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(UsageError, match=r"run.json' is not readable"):
        check_output(str(tmp_path), "a", {})


def test_manifest_hash_depends_on_values_only():
    columns = {
        "image_id": pa.array(["a", "b", "ä", ""], pa.string()),
        "mask_path": pa.array(["x", None, "", "y"], pa.string()),
        "gt_label": pa.array([0, None, 1, 1], pa.int8()),
    }
    whole = pa.table(columns)
    pieces = pa.concat_tables([whole.slice(0, 1), whole.slice(1, 2), whole.slice(3)])
    assert manifest_hash(whole) == manifest_hash(pieces) == manifest_hash(whole.take([0, 1, 2, 3]))
    assert len(manifest_hash(whole)) == 64
    changed = [
        columns | {"image_id": pa.array(["ab", "", "ä", ""])},
        columns | {"mask_path": pa.array(["x", "", None, "y"])},
        columns | {"gt_label": pa.array([0, 0, 1, 1], pa.int8())},
    ]
    hashes = [manifest_hash(pa.table(other)) for other in changed]
    hashes += [manifest_hash(whole.slice(1)), manifest_hash(whole.slice(0, 0)), manifest_hash(whole.take([1, 0, 2, 3]))]
    assert len({manifest_hash(whole), *hashes}) == 7
