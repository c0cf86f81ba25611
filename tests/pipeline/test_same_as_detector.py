"""The Ray job, in both topologies, gives the rows and maps that the detector gives."""

import io

import numpy as np
import pytest

from tests.pipeline.conftest import BRANCHES
from zsad import Detector, load_config, read_anomaly_map, read_foreground, read_predictions
from zsad.detector import build_steps
from zsad.pipeline.score import ScoreOptions, score
from zsad.steps.item import ImageItem
from zsad.storage import read_run

NOUN = "disc"


def ulps(left, right):
    """Distance of two float16 arrays of non-negative values in units in the last place."""
    return np.abs(left.view(np.int16).astype(int) - right.view(np.int16).astype(int))


@pytest.fixture(scope="module")
def reference(photographs):
    detector = Detector.from_config(load_config("mini", None, [*BRANCHES, "runtime.batch_size=1"]))
    paths = sorted(photographs.iterdir())
    return dict(zip([path.name for path in paths], detector.score_batch(paths, NOUN), strict=True))


@pytest.fixture(scope="module", params=[("fused", 1), ("pools", 8)], ids=str)
def job(request, ray_local, photographs, tmp_path_factory):
    topology, batch = request.param
    output = str(tmp_path_factory.mktemp("out"))
    options = ScoreOptions(
        dataset="folder",
        root=str(photographs),
        output=output,
        preset="mini",
        object_name=NOUN,
        overrides=(*BRANCHES, f"runtime.topology={topology}", f"runtime.batch_size={batch}", "runtime.fused.size=1"),
    )
    stream = io.StringIO()
    summary = score(options, stream)
    return output, summary, stream.getvalue()


def test_reference_takes_the_branches(reference):
    assert {d.foreground_source for d in reference.values() if d.failure is None} >= {"sam+dis", "dis"}
    assert sum(len(d.tiles) > 1 for d in reference.values()) >= 2
    assert {d.failure.kind for d in reference.values() if d.failure} == {"truncated", "extreme_aspect"}


def test_as_many_threads_as_beside_a_gpu_give_the_same(photographs):
    paths, found = sorted(photographs.iterdir())[:5], []
    for threads in (1, 3):
        detector = Detector.from_config(load_config("mini", None, BRANCHES))
        for step in detector.steps:
            step.threads = threads
        found.append(detector.score_batch(paths, NOUN))
    for one, other in zip(*found, strict=True):
        assert one.failure == other.failure and one.tiles == other.tiles
        np.testing.assert_array_equal(one.score, other.score)
        np.testing.assert_array_equal(one.anomaly_map, other.anomaly_map)
        np.testing.assert_array_equal(one.foreground, other.foreground)


def test_every_image_is_a_row_and_bad_ones_say_why(job, reference):
    output, summary, log = job
    rows = read_predictions(output).set_index("image_id")
    assert sorted(rows.index) == sorted(reference)
    assert summary.images == 10 and summary.errors == 2
    assert summary.exit_code == 3
    failed = rows[rows["status"] == "error"]
    assert dict(zip(failed.index, failed["error_type"], strict=True)) == {
        "broken.jpg": "truncated",
        "long.png": "extreme_aspect",
    }
    assert set(failed["error_stage"]) == {"load"}
    assert failed["pred_score"].isna().all()
    assert "untrained" in log


def test_ray_says_what_every_operator_did(job):
    run = read_run(job[0]).timings["runs"][0]
    figures = run["ray_data"]
    pools = [one for one in figures["operators"] if one["operator"].startswith("MapBatches(StepActor)")]
    assert len(pools) == len(run["pools"])
    assert all(one["output_rows"] == 10 and one["tasks"] >= 2 and one["wall_seconds"] > 0 for one in pools)
    assert figures["operators"][-1]["operator"] == "Write"
    assert figures["spilled_bytes"] == 0


def test_rows_equal_the_detector(job, reference):
    rows = read_predictions(job[0]).set_index("image_id")
    for name, detection in reference.items():
        if detection.failure is not None:
            continue
        row = rows.loc[name]
        assert row["foreground_source"] == detection.foreground_source
        assert row["num_components"] == len(detection.component_scores)
        assert (row["image_height"], row["image_width"]) == detection.anomaly_map.shape
        assert [(t["x0"], t["y0"], t["x1"], t["y1"], t["component"]) for t in row["tiles"]] == [
            (t.x0, t.y0, t.x1, t.y1, t.component) for t in detection.tiles
        ]
        np.testing.assert_allclose(row["pred_score"], detection.score, atol=1e-5)
        np.testing.assert_allclose([t["score"] for t in row["tiles"]], detection.tile_scores, atol=1e-5)
        np.testing.assert_allclose(row["component_scores"], detection.component_scores, atol=1e-5)


def test_stored_maps_equal_the_detector(job, reference, record_property):
    output = job[0]
    differing = total = 0
    for name, detection in reference.items():
        if detection.failure is not None:
            continue
        stored = read_anomaly_map(output, name)
        distance = ulps(stored, detection.anomaly_map)
        assert distance.max() <= 1
        differing += int((distance > 0).sum())
        total += stored.size
        np.testing.assert_array_equal(read_foreground(output, name), detection.foreground)
        row = read_predictions(output).set_index("image_id").loc[name]
        assert row["anomaly_map_max"] == np.float32(stored.max())
    record_property("share_of_pixels_that_differ", differing / total)
    print(f"share of pixels that differ after rounding: {differing / total:.2e}")
    assert differing / total < 0.01


def test_maps_before_rounding_do_not_depend_on_the_batch(photographs):
    config = load_config("mini", None, list(BRANCHES))
    steps = build_steps(config)
    paths = [path for path in sorted(photographs.iterdir()) if path.name[0].isdigit()]

    def predict(size):
        maps = []
        for start in range(0, len(paths), size):
            items = [ImageItem(str(path), NOUN) for path in paths[start : start + size]]
            for step in steps[:-1]:
                step(items)
            maps += steps[-1].predict(items)
        return maps

    for one, eight in zip(predict(1), predict(8), strict=True):
        np.testing.assert_allclose(one, eight, atol=1e-5)
