"""A second run over the same output does only what is missing or changed."""

import io
import shutil
from importlib.metadata import PackageNotFoundError

import cv2
import numpy as np
import pandas as pd
import pytest

import zsad
from tests.pipeline.conftest import draw
from zsad import load_config, read_predictions
from zsad.pipeline.score import ScoreOptions, _run_info, _warn_of_another_root, manifest_of, score
from zsad.storage import RunInfo, read_run, read_success


@pytest.fixture
def collection(tmp_path):
    rng = np.random.default_rng(1)
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(4):
        cv2.imwrite(str(folder / f"{index}.png"), draw(rng, 120, 150, 2))
    (folder / "cut.png").write_bytes((folder / "0.png").read_bytes()[:200])
    return folder


def run(root, output, **options):
    # One actor is enough for a few images, and starts in half the time.
    settings = ("runtime.fused.size=1", *options.pop("overrides", ()))
    options = {"dataset": "folder", "object_name": "disc", "overrides": settings} | options
    return score(ScoreOptions(root=str(root), output=str(output), preset="mini", **options), io.StringIO())


def rows(output):
    frame = pd.read_parquet(f"{output}/predictions")
    assert frame["image_id"].is_unique
    return frame.set_index("image_id").drop(columns=["stage_ms"])


def test_added_changed_and_removed_files_and_errors(ray_local, collection, tmp_path):
    output = tmp_path / "out"
    first = run(collection, output)
    assert (first.images, first.errors, first.scored_now, first.exit_code) == (5, 1, 5, 3)
    before, described = rows(output), read_run(str(output))
    assert (described.dataset["split"], described.dataset["limit"]) == (None, None)
    nothing = run(collection, output, limit=2)
    assert (nothing.images, nothing.scored_now) == (2, 0)
    assert read_run(str(output)).dataset == described.dataset

    cv2.imwrite(str(collection / "new.png"), draw(np.random.default_rng(2), 90, 90, 1))
    cv2.imwrite(str(collection / "1.png"), draw(np.random.default_rng(3), 80, 80, 1))
    (collection / "3.png").unlink()
    second = run(collection, output)
    after = rows(output)
    assert second.scored_now == 2
    assert (second.images, second.errors) == (5, 1)
    assert after.loc["1.png", "image_height"] == 80
    same = ["0.png", "2.png", "3.png", "cut.png"]
    pd.testing.assert_frame_equal(after.loc[same], before.loc[same])
    assert read_success(str(output)).counts == {"images": 5, "ok": 4, "errors": 1}

    retried = run(collection, output, retry_errors=True)
    assert (retried.scored_now, retried.errors) == (1, 1)
    shutil.copy(collection / "0.png", collection / "cut.png")
    mended = run(collection, output)
    assert (mended.scored_now, mended.errors, mended.exit_code) == (1, 0, 0)
    assert len(read_predictions(str(output))) == 6


def test_changed_noun_and_late_file_are_scored_again(ray_local, collection, tmp_path):
    manifest, output = collection / "manifest.csv", tmp_path / "out"
    manifest.write_text("image_path,class_name\n0.png,disc\n1.png,disc\nlate.png,disc\n")
    first = run(manifest, output, dataset="manifest", object_name=None)
    assert (first.scored_now, first.errors) == (3, 1)
    manifest.write_text("image_path,class_name\n0.png,disc\n1.png,coin\nlate.png,disc\n")
    shutil.copy(collection / "2.png", collection / "late.png")
    second = run(manifest, output, dataset="manifest", object_name=None)
    assert (second.scored_now, second.errors) == (2, 0)
    assert rows(output)["class_name"].to_dict() == {"0.png": "disc", "1.png": "coin", "late.png": "disc"}


def test_another_root_is_said():
    earlier = RunInfo("f", {}, {}, dataset={"root": "/photos"})
    for before, root, words in (
        (earlier, "/photos", ""),
        (None, "/photos", ""),
        (earlier, "/other", "--root '/photos'"),
    ):
        stream = io.StringIO()
        _warn_of_another_root(before, root, stream)
        assert words in stream.getvalue() and bool(words) == bool(stream.getvalue())


def test_a_submitted_job_imports_zsad_from_its_working_directory_and_needs_no_installed_one(collection, monkeypatch):
    def version(package):
        if package == "zsad":
            raise PackageNotFoundError(package)
        return "1"

    monkeypatch.setattr("zsad.pipeline.score.version", version)
    config = load_config("mini")
    options = ScoreOptions("folder", str(collection), "out", "mini", object_name="disc")
    weights = dict.fromkeys(config.models.by_family(), "a" * 64)
    info = _run_info(options, config, manifest_of(options, config), weights, None)
    assert info.versions["zsad"] == zsad.__version__
