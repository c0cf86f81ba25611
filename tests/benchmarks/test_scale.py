"""The scale benchmarks run and check themselves; what they measure is judged by hand."""

import pandas as pd

from benchmarks import ceiling, gpu_job, resume
from zsad import read_anomaly_map
from zsad.config import load_config
from zsad.storage import list_parts, read_predictions


def test_resume_plans_a_tenth_of_the_rows():
    (row,) = resume.run(quick=True, rows=25_000)
    assert row.goal == "resume" and row.met is None
    assert "25,000 rows, 22,500 committed" in row.what
    assert "2,500 rows" in row.note


def test_ceiling_commits_every_image_with_its_map(ray_local, tmp_path):
    found = ceiling.measure(150, tmp_path, batch=16)
    assert found.images == 150 and found.cpu_seconds > 0
    assert 55_000 < found.jpeg_bytes < 75_000
    rows = read_predictions(str(tmp_path / "out"))
    assert rows["image_id"].is_unique and (rows["status"] == "ok").all()
    assert pd.read_parquet(tmp_path / "out" / "predictions")["image_id"].is_unique
    assert read_anomaly_map(str(tmp_path / "out"), "0000149").shape == (ceiling.HEIGHT, ceiling.WIDTH)
    assert len(list_parts(str(tmp_path / "out"), "anomaly_maps")) == 1


def test_gpu_job_times_all_but_the_first_images(ray_local, tmp_path):
    """Here with small models and without a GPU."""
    small = ["foreground.points_per_side=4", "models.clip.name=random-clip", "models.clipseg.name=random-clipseg"]
    config = load_config("vand2023", None, [*small, "runtime.device=cpu", "runtime.batch_size=2"])
    found = gpu_job.measure(12, 4, config, tmp_path, (150, 200), gpu_job.SmallActor)
    assert 1 <= found.images <= 8 and found.seconds > 0
    assert all(ms > 0 for ms in found.stage_ms.values())
    assert "fused" in found.pools
    assert (read_predictions(str(tmp_path / "out"))["status"] == "ok").sum() == 12
