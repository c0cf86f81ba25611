"""The evaluation as a job: on Ray, into files, and from the command line."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from typer.testing import CliRunner

from zsad.cli import app
from zsad.errors import UsageError, ZsadError
from zsad.evaluation import METRICS_SCHEMA, evaluate
from zsad.pipeline.evaluate import decide_run, evaluate_run, metrics_uri
from zsad.storage import RunInfo, write_run, write_success


@pytest.fixture
def output(run) -> str:
    """A run of three parts whose masks have 24 pixels, of which its configuration allows 24."""
    for index in range(9):
        mask = np.ones((4, 6), np.uint8) if index % 2 else None
        run.add(f"{index}", index % 2, index / 10, np.full((4, 6), index / 16), mask, part=index % 3)
    run.add("train", 0, 0.7, split="train/a")
    output = run.write()
    write_run(output, RunInfo("a" * 64, {"images": {"max_pixels": 24}}, {}, dataset={"trained": True}))
    return output


def shown(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return result.output


def test_the_job_equals_the_evaluation_in_one_process(ray_local, output: str) -> None:
    metrics = evaluate_run(output, bootstrap=20)
    pd.testing.assert_frame_equal(metrics, evaluate(output, bootstrap=20))
    assert set(metrics["fingerprint"]) == {"a" * 64}
    assert metrics["low"].notna().sum() == 3
    table = pq.read_table(f"{output}/metrics/native.parquet")
    assert table.schema.equals(METRICS_SCHEMA)
    pd.testing.assert_frame_equal(table.to_pandas(), metrics)


def test_masks_are_under_the_caps_of_the_run(ray_local, output: str) -> None:
    assert set(evaluate_run(output)["excluded_mask_unreadable"]) == {0}
    write_run(output, RunInfo("a" * 64, {"images": {"max_pixels": 23}}, {}))
    metrics = evaluate_run(output)
    assert set(metrics[metrics["level"] == "pixel"]["excluded_mask_unreadable"]) == {4}


def test_a_split_has_a_file_of_its_own(ray_local, output: str) -> None:
    evaluate_run(output)
    whole = Path(output, "metrics", "native.parquet").read_bytes()
    evaluate_run(output, "240", "test")
    evaluate_run(output, "native", "train/a")
    assert sorted(os.listdir(f"{output}/metrics")) == ["240-test.parquet", "native-train_a.parquet", "native.parquet"]
    assert Path(output, "metrics", "native.parquet").read_bytes() == whole
    assert set(pq.read_table(f"{output}/metrics/native-train_a.parquet")["split"].to_pylist()) == {"train/a"}
    assert metrics_uri("s3://bucket/out?region=x", "518", "../b") == "s3://bucket/out/metrics/518-.._b.parquet?region=x"


def test_metrics_are_written_whole_or_not_at_all(ray_local, output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate_run(output)
    before = Path(output, "metrics", "native.parquet").read_bytes()

    def fills_the_disk(table, sink, **_) -> None:
        sink.write(b"PAR1")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("zsad.pipeline.evaluate.pq.write_table", fills_the_disk)
    with pytest.raises(ZsadError, match="Cannot write .*No space left"):
        evaluate_run(output)
    assert {path.name: path.read_bytes() for path in Path(output, "metrics").iterdir()} == {"native.parquet": before}


def test_a_negative_number_of_resamples_is_refused(output: str) -> None:
    with pytest.raises(UsageError, match="Given -5 bootstrap resamples"):
        evaluate_run(output, bootstrap=-5)
    assert not Path(output, "metrics").exists()


def test_the_command_says_what_is_unfinished_and_where_the_metrics_are(ray_local, output: str) -> None:
    text = shown("evaluate", output, "--split", "test", "--bootstrap", "20")
    assert "the run is unfinished (no _SUCCESS)" in " ".join(text.split())
    assert "95 % bootstrap intervals" in text
    assert "weights" not in text
    assert f"Metrics: {output}/metrics/native-test.parquet" in text
    assert Path(output, "metrics", "native-test.parquet").is_file()
    write_success(output, {"images": 10}, "h")
    text = shown("evaluate", output)
    assert "unfinished" not in text and "bootstrap" not in text
    assert f"Metrics: {output}/metrics/native.parquet" in text


def test_masks_of_a_dataset_that_moved_are_found_with_its_root(ray_local, run, output: str, tmp_path: Path) -> None:
    before, decided = evaluate_run(output), decide_run(output, "f1")
    write_run(output, RunInfo("a" * 64, {"images": {"max_pixels": 24}}, {}, dataset={"root": str(run.folder)}))
    moved = tmp_path / "moved"
    moved.mkdir()
    for mask in run.folder.glob("*.png"):
        mask.rename(moved / mask.name)
    with pytest.warns(UserWarning, match=r"4 masks cannot be used.* If the dataset has moved, say .* --root FOLDER"):
        lost = evaluate_run(output)
    assert set(lost[lost["level"] == "pixel"]["excluded_mask_unreadable"]) == {4}
    pd.testing.assert_frame_equal(evaluate_run(output, root=str(moved)), before)
    pd.testing.assert_frame_equal(decide_run(output, "f1", root=str(moved)), decided)
    assert "AUPRO" in shown("evaluate", output, "--root", str(moved))
    with pytest.raises(UsageError, match="None of the 10 images lay in"):
        write_run(output, RunInfo("a" * 64, {}, {}, dataset={}))
        evaluate_run(output, root=str(moved))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("killed", "A process that counted the maps ended: .*run the same command again"),
        ("unschedulable", "this node of the cluster lends no CPU .* with --address local"),
        ("waits", r"No part of the maps was counted within 0\.5 s; the cluster has 2 CPUs.*--address local"),
    ],
)
def test_a_count_that_does_not_come_is_said_in_words(
    ray_local, monkeypatch, output: str, kind: str, words: str
) -> None:
    monkeypatch.setattr("zsad.pipeline.evaluate.evaluate_part", {"waits": waits}.get(kind, killed))
    if kind == "unschedulable":
        other = NodeAffinitySchedulingStrategy("0" * 56, soft=False)
        monkeypatch.setattr("zsad.pipeline.cluster.on_this_node", lambda: other)
    monkeypatch.setattr("zsad.pipeline.evaluate._PART_SECONDS", 0.5 if kind == "waits" else 60)
    with pytest.raises(ZsadError, match=words) as caught:
        evaluate_run(output)
    assert not isinstance(caught.value, UsageError)
    assert not Path(metrics_uri(output)).exists()


def killed(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def waits(*_: object) -> None:
    time.sleep(5)


def test_a_cluster_that_shrinks_meanwhile_still_counts_every_part(ray_local, monkeypatch, output: str) -> None:
    expected = evaluate_run(output)
    cpus = iter([2.0, 64.0, *[0.0] * 20])
    monkeypatch.setattr("zsad.pipeline.evaluate._cpus", lambda: next(cpus))
    pd.testing.assert_frame_equal(evaluate_run(output), expected)
