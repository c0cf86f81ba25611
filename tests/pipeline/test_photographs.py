"""Real photographs as a folder with a noun, read back by other programs without our code."""

import shutil

import cv2
import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pytest
import skimage
from PIL import Image
from sklearn.datasets import load_sample_images

from zsad import read_anomaly_map, read_predictions
from zsad.pipeline.score import ScoreOptions, score

# Those inside scikit-image's wheel: colour, grey, 1-bit, palette, alpha, several formats and sizes.
IN_THE_WHEEL = ("astronaut.png", "brick.png", "coffee.png", "chelsea.png", "camera.png", "coins.png", "horse.png")


@pytest.fixture(scope="module")
def run(ray_local, tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    samples = load_sample_images()
    for name, image in zip(samples.filenames, samples.images, strict=True):
        Image.fromarray(image).save(folder / name.split("/")[-1])
    available = skimage.data.__path__[0]
    for name in IN_THE_WHEEL:
        try:
            shutil.copy(f"{available}/{name}", folder / name)
        except FileNotFoundError:
            continue
    output = str(tmp_path_factory.mktemp("out") / "run")
    summary = score(
        ScoreOptions(
            dataset="folder",
            root=str(folder),
            output=output,
            preset="mini",
            object_name="photographed thing",
            overrides=("runtime.fused.size=1",),
        )
    )
    return folder, output, summary


def test_every_photograph_is_a_row(run):
    folder, output, summary = run
    names = sorted(path.name for path in folder.iterdir())
    assert len(names) >= 4
    rows = read_predictions(output)
    assert sorted(rows["image_id"]) == names
    assert (rows["status"] == "ok").all() and summary.exit_code == 0
    assert rows["pred_score"].between(0, 1).all()
    assert rows["class_name"].eq("photographed thing").all()


def test_maps_have_the_size_of_the_image(run):
    folder, output, _ = run
    for path in folder.iterdir():
        height, width = cv2.imread(str(path)).shape[:2]
        anomaly_map = read_anomaly_map(output, path.name)
        assert anomaly_map.shape == (height, width)
        assert anomaly_map.dtype == np.float16
        assert 0 < anomaly_map.max() <= 1


def test_pandas_polars_and_duckdb_read_predictions(run):
    _, output, summary = run
    folder = f"{output}/predictions"
    ours = read_predictions(output).sort_values("image_id")
    by_pandas = pd.read_parquet(folder).sort_values("image_id")
    by_polars = pl.read_parquet(f"{folder}/*.parquet").sort("image_id")
    by_duckdb = duckdb.sql(f"select image_id, pred_score, tiles from '{folder}/*.parquet' order by image_id").fetchall()
    assert len(ours) == len(by_pandas) == len(by_polars) == len(by_duckdb) == summary.images
    scores = ours["pred_score"].to_numpy()
    np.testing.assert_array_equal(by_pandas["pred_score"].to_numpy(), scores)
    np.testing.assert_array_equal(by_polars["pred_score"].to_numpy(), scores)
    np.testing.assert_array_equal(np.array([row[1] for row in by_duckdb], np.float32), scores)
    assert by_duckdb[0][2][0]["component"] == 0
