"""What a run would be, told without Torch, Ray or weights."""

import io
import json
import re
import subprocess
import sys

import cv2
import numpy as np
import pyarrow as pa
import pytest

from tests.pipeline.conftest import BRANCHES
from zsad import UsageError
from zsad.config import load_config
from zsad.fingerprint import fingerprint, scored_fields
from zsad.pipeline.calibrate import calibrate
from zsad.pipeline.cost import StageCosts, calibrated_costs, measured_costs, stage_costs, table_costs
from zsad.pipeline.ledger import Ledger
from zsad.pipeline.plan import format_plan, plan, sampled, to_json
from zsad.pipeline.progress import ProgressReporter, Snapshot
from zsad.pipeline.score import ScoreOptions, _announce
from zsad.pipeline.text import progress_line
from zsad.storage import SCORED_SCHEMA, RunInfo, encode_map, encode_rle, part_name, write_part, write_run

WEIGHTS = {"isnet": "1", "sam": "2", "clip": "3", "clipseg": "4"}
RUN = "20260101T000000000000Zabcdef"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ZSAD_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def collection(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(6):
        cv2.imwrite(str(folder / f"{index}.png"), np.zeros((100 + index, 200, 3), np.uint8))
    (folder / "bad.jpg").write_text("no image")
    return folder


def options(root, output="", *overrides, **others):
    given = {"dataset": "folder", "object_name": "disc", "preset": "mini"} | others
    return ScoreOptions(root=str(root), output=str(output), overrides=overrides, **given)


def commit(output, collection, ids, fields=("mini", "disc"), gpus=0.0, **pool):
    """A run with measured times, as scoring leaves it; the first id is an error row."""
    config = load_config(fields[0])
    mark = fingerprint(config, WEIGHTS, fields[1])
    rows = []
    for position, image_id in enumerate(ids):
        stat = (collection / image_id).stat()
        row = dict.fromkeys(SCORED_SCHEMA.names) | {
            "image_id": image_id,
            "class_name": "disc",
            "status": "error",
            "fingerprint": mark,
            "file_size": stat.st_size,
            "file_mtime": stat.st_mtime_ns,
        }
        if position:
            tile = {"x0": 0, "y0": 0, "x1": 4, "y1": 4}
            values = np.zeros((4, 4), np.float16)
            codec, data = encode_map(values[None], values)
            row |= {
                "status": "ok",
                "image_height": 4,
                "image_width": 4,
                "tiles": [tile | {"component": 1, "score": 0.5}] * 3,
                "stage_ms": {"load": 10.0, "saliency": 20.0, "instances": 60.0, "tile_scores": 5.0, "tile_maps": 5.0},
                "map_codec": codec,
                "map_data": data,
                "map_tile_boxes": [tile],
                "map_masked": False,
                "map_foreground_rle": encode_rle(np.ones((4, 4), bool)),
            }
        rows.append(row)
    write_part(str(output), part_name(RUN, 0), pa.Table.from_pylist(rows, SCORED_SCHEMA))
    pools = [{"name": "fused", "num_gpus": gpus, "size": 2, **pool}]
    fields = json.loads(json.dumps(scored_fields(config, WEIGHTS, fields[1])))
    write_run(str(output), RunInfo(mark, {}, fields, WEIGHTS, timings={"runs": [{"pools": pools}]}))


def test_a_manifest_of_another_system_says_what_is_wrong(collection):
    manifest = collection.parent / "manifest.csv"
    manifest.write_text("image_path\nimages\\0.png\n")
    shown = format_plan(plan(options(manifest, dataset="manifest")))
    assert re.search(
        r"none of 1 sampled file is a readable image\n        e.g. '.*': no file at this path \(it has \\ where /",
        shown,
    )


def test_a_new_run(collection):
    found = plan(options(collection))
    assert (found.images, found.done, found.to_do) == (7, 0, 7)
    assert (found.sizes.sampled, found.sizes.unreadable) == (7, 1)
    assert re.fullmatch(r"'.*/images/bad\.jpg': the content is none of JPEG, .*", found.sizes.first_failure)
    assert f"seed 0, 1 of them unreadable)\n        e.g. {found.sizes.first_failure}\n" in format_plan(found)
    assert found.sizes.smallest == (200, 100) and found.sizes.largest == (200, 105)
    assert found.costs is None and found.seconds is None
    assert "--calibrate" in format_plan(found)
    assert "by area from 200 x 100 over 200 x 103 (median) to 200 x 105, " in format_plan(found)
    assert "(headers of 1 image, seed 0)" in format_plan(plan(options(collection, limit=1)))
    assert found.maps_bytes == pytest.approx(7 * 0.55 * found.sizes.megapixels * 1e6, abs=1)
    assert json.loads(to_json(found))["sizes"]["median"] == [200, 103]


def test_work_left_and_measured_times_of_the_output(collection, tmp_path):
    commit(tmp_path / "out", collection, ["bad.jpg", "0.png", "1.png"])
    found = plan(options(collection, tmp_path / "out"))
    assert (found.images, found.done, found.done_errors, found.to_do) == (7, 3, 1, 4)
    assert found.costs.total_ms == pytest.approx(100)
    assert (found.costs.images, found.workers, found.tiles) == (2, 2, 3)
    assert (found.worker_seconds, found.seconds) == pytest.approx((0.4, 0.2))
    assert found.differs == ()
    text = format_plan(found)
    assert "7; 3 done (1 error); 4 to do" in text
    assert "instances 60" in text and "measured over 2 images" in text
    assert plan(options(collection, tmp_path / "out", retry_errors=True)).to_do == 5
    (collection / "0.png").write_bytes((collection / "2.png").read_bytes())
    assert plan(options(collection, tmp_path / "out")).to_do == 5


def test_an_earlier_run_of_other_images_lends_its_times(collection, tmp_path):
    commit(tmp_path / "earlier", collection, ["bad.jpg", "0.png"])
    found = plan(options(collection), measured_in=str(tmp_path / "earlier"))
    assert found.to_do == 7
    assert found.seconds == pytest.approx(7 * 0.1 / 2)


def test_what_scoring_refuses_is_refused(collection, tmp_path):
    with pytest.raises(UsageError, match=r"no scored image at '.*nowhere'"):
        plan(options(collection), measured_in=str(tmp_path / "nowhere"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    with pytest.raises(UsageError, match=r"not empty and holds no run.json"):
        plan(options(collection, tmp_path / "full"))
    with pytest.raises(UsageError, match=r"is a file. Expected a folder"):
        plan(options(collection, tmp_path / "full" / "letter.txt"))


def test_times_of_a_gpu_are_not_those_of_a_cpu(collection, tmp_path):
    commit(tmp_path / "gpu", collection, ["bad.jpg", "0.png"], gpus=1.0)
    assert measured_costs(str(tmp_path / "gpu")).device == "cuda"
    assert plan(options(collection), gpus=0, measured_in=str(tmp_path / "gpu")).costs is None
    found = plan(options(collection), gpus=4, measured_in=str(tmp_path / "gpu"))
    assert (found.workers, found.device) == (4, "cuda")
    assert found.seconds == pytest.approx(found.to_do * 0.1 / 4) and "overlap" not in format_plan(found)


@pytest.mark.parametrize(("calls", "ms"), [(3, 60), (1, 100)])
def test_steps_that_worked_on_different_batches_count_as_their_slowest(collection, tmp_path, calls, ms):
    commit(tmp_path / "gpu", collection, ["bad.jpg", "0.png"], gpus=1.0, calls=calls, overlap=True)
    found = plan(options(collection), gpus=4, measured_in=str(tmp_path / "gpu"))
    assert found.seconds == pytest.approx(found.to_do * ms / 1000 / 4)
    assert ("; the stages overlap" in format_plan(found)) == (calls > 1)


def test_a_worker_that_has_few_batches_is_no_faster_than_they_allow():
    even = StageCosts(dict.fromkeys("abcde", 50.0), "", "cuda", batches=3)
    assert even.worker_ms == pytest.approx(250 / 3) and StageCosts({}, "", "cuda").worker_ms == 0


def test_a_run_of_another_configuration_is_named_and_not_counted(collection, tmp_path):
    commit(tmp_path / "out", collection, ["bad.jpg", "0.png"])
    found = plan(options(collection, tmp_path / "out", "tiling.max_tiles=3"))
    assert found.differs == ("tiling.max_tiles: 64 -> 3",)
    assert found.to_do == 7 and found.costs is None
    assert "refuse" in format_plan(found)


def test_computed_times_of_known_models():
    config = load_config("vand2023")
    on_gpu = table_costs(config, "cuda")
    assert on_gpu.ms["instances"] == pytest.approx(1000 * 9671 / 15_000)
    assert "15 TFLOP/s" in on_gpu.source
    assert table_costs(config, "cpu").total_ms > on_gpu.total_ms
    # Shares of the GPU's time, which add up.
    assert on_gpu.worker_ms == on_gpu.total_ms
    assert table_costs(load_config("mini"), "cpu") is None
    half = load_config("vand2023", None, ["models.precision=bf16"])
    assert table_costs(half, "cuda").ms["saliency"] < on_gpu.ms["saliency"]


def test_the_sample_is_the_same_every_time_and_in_order():
    manifest = pa.table({"image_path": [str(n) for n in range(5000)]})
    rows = [int(path) for path in sampled(manifest, 200)["image_path"].to_pylist()]
    assert rows == sorted(set(rows)) and len(rows) == 200
    assert sampled(manifest, 200).equals(sampled(manifest, 200))
    assert sampled(manifest.slice(0, 3), 200).num_rows == 3


def test_calibration_is_kept_and_used_by_plans_and_runs(photographs, tmp_path):
    random = options(photographs, "", *BRANCHES, limit=2)
    config = load_config("mini", None, list(BRANCHES))
    assert calibrated_costs(config, "cpu") is None
    stream = io.StringIO()
    measured = calibrate(random, stream)
    assert 1 <= measured.images <= 2 and all(ms > 0 for ms in measured.ms.values())
    assert str(tmp_path / "cache") in stream.getvalue()
    assert stage_costs(config, "cpu", None) == calibrated_costs(config, "cpu") == measured
    assert calibrated_costs(config, "cuda") is None
    assert calibrated_costs(load_config("mini", None, [*BRANCHES, "models.precision=bf16"]), "cpu") is None
    found = plan(random, gpus=0)
    assert found.costs == measured and found.tiles == measured.tiles
    assert found.seconds == pytest.approx(2 * measured.total_ms / 1000)


def test_calibration_on_nothing_readable_says_so(tmp_path):
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(UsageError, match="could be scored"):
        calibrate(options(tmp_path, "", *BRANCHES), io.StringIO())


def test_the_command_needs_neither_torch_nor_ray(collection):
    code = f"""
import sys
from zsad.cli import main
try:
    main(["plan", "--dataset", "folder", "--root", {str(collection)!r}, "--object", "disc", "--preset", "mini", "--json"])
except SystemExit as end:
    assert end.code == 0, end.code
loaded = {{"torch", "ray"}} & set(sys.modules)
assert not loaded, loaded
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images"] == 7


def test_the_ledger_hands_every_failure_over_until_it_is_acknowledged():
    ledger = Ledger(given_up_limit=10)
    first, second = ("a", "load", "missing", ""), ("b", "load", "missing", "")
    ledger.add(2, [first], {"load": 3.0})
    assert ledger.read(0).failures == (first,)
    assert ledger.read(0).failures == (first,)
    ledger.add(1, [second], {"load": 1.5, "saliency": 2.0})
    now = ledger.read(1)
    assert (now.done, now.failed, now.failures) == (3, 2, (second,))
    assert now.stage_ms == {"load": 4.5, "saliency": 2.0}
    assert ledger.read(2).failures == ()


def test_a_remark_is_counted_and_the_first_shown_at_the_end_in_one_line(monkeypatch):
    monkeypatch.setattr("zsad.pipeline.progress.ray.get", lambda reference, timeout: reference)
    ledger = Ledger(given_up_limit=10)
    ledger.add(3, [], {}, [("a\n\x1b b.png", "dark"), ("c.png", "dark too")])
    ledger.add(1, [], {}, [("d.png", "dark")])
    stream = io.StringIO()
    with ProgressReporter(Scripted(ledger.read(0)), 4, stream):
        pass
    line = stream.getvalue().splitlines()[-1]
    assert line == r'3 scored images with a remark in error_message, e.g. image_id="a\n\u001b b.png" message=dark'


class Scripted:
    """Stands for the handle of a ledger: gives one snapshot after the other."""

    def __init__(self, *snapshots):
        self.left = list(snapshots)
        self.asked = []
        self.read = self

    def remote(self, seen):
        self.asked.append(seen)
        return self.left.pop(0)


def test_progress_prints_each_failed_image_on_a_line_of_its_own(monkeypatch):
    monkeypatch.setattr("zsad.pipeline.progress.ray.get", lambda reference, timeout: reference)
    failure = ("a b.png", "load", "truncated", "ends early")
    ledger = Scripted(Snapshot(4, 1, (failure,), {"load": 8.0}), Snapshot(5, 1, (), {"load": 10.0}))
    stream = io.StringIO()
    reporter = ProgressReporter(ledger, 5, stream)
    reporter._print()
    reporter._print()
    lines = stream.getvalue().splitlines()
    assert lines[0] == 'image_id="a b.png" stage=load type=truncated message="ends early"'
    assert "4/5 images (80.0%)" in lines[1] and "1 error" in lines[1]
    assert "5/5 images" in lines[2] and len(lines) == 3
    assert ledger.asked == [0, 1]
    assert reporter.stage_ms == {"load": 2.0}


def test_the_rate_counts_from_when_the_models_are_loaded(monkeypatch):
    clock = iter([100.0, 104.0, 104.0])
    monkeypatch.setattr("zsad.pipeline.ledger.time.monotonic", lambda: next(clock))
    ledger = Ledger(given_up_limit=10)
    assert ledger.read(0).seconds == 0
    ledger.begin("fused", ["a"])
    ledger.begin("fused", ["b"])
    ledger.add(8, [], {})
    now = ledger.read(0)
    assert now.seconds == 4
    assert progress_line(now.done, 20, 0, now.seconds) == "8/20 images (40.0%), 2.00 images/s, 0 errors, 6s left"


def test_times_per_stage_are_those_of_the_images_that_reached_it(monkeypatch):
    monkeypatch.setattr("zsad.pipeline.progress.ray.get", lambda reference, timeout: reference)
    ledger = Ledger(given_up_limit=10)
    lost = [("a", "load", "missing", ""), ("b", "load", "missing", ""), ("c", "saliency", "odd", "")]
    ledger.add(6, lost, {"load": 12.0, "saliency": 40.0, "instances": 30.0})
    reporter = ProgressReporter(Scripted(ledger.read(0)), 6, io.StringIO())
    reporter._print()
    assert reporter.stage_ms == {"load": 2.0, "saliency": 10.0, "instances": 10.0}


def test_images_without_a_category_are_in_no_category(tmp_path):
    manifest = pa.table({"category": ["nut", None, "bolt", "nut"]})
    info = RunInfo("f" * 64, {"preset": "mini"}, {}, dataset={"trained": True})
    for rows, said in (
        (manifest, "4 images in 2 categories or none ("),
        (manifest.drop_null(), "3 images in 2 categories ("),
    ):
        stream = io.StringIO()
        _announce(options(tmp_path), info, rows, rows, stream)
        assert stream.getvalue().startswith(said)
