"""The scale benchmarks run and check themselves; what they measure is judged by hand."""

import pandas as pd

from benchmarks import ceiling, resume
from zsad import read_anomaly_map
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
