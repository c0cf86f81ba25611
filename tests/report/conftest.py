"""A small finished run, written without models and without Ray, with names that try to be markup."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.scored import failed_row, scored_row, write_rows
from zsad.evaluation import METRICS_SCHEMA, evaluate
from zsad.storage import RunInfo, encode_rle, write_run, write_success

HOSTILE = "<img src=x onerror=\"document.title='owned'\">"
HEIGHT, WIDTH = 48, 64
CLASSES = ("candle", HOSTILE, "bottle cap")


def report_row(folder, number, score, label, category, name=None):
    rng = np.random.default_rng(number)
    scores = rng.uniform(0, 0.2, (HEIGHT, WIDTH)).astype(np.float16)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[10:20, 30:45] = 1
    if label == 1:
        scores[mask > 0] = score
        Image.fromarray(mask).save(folder / f"{number}-mask.png")
    photograph = folder / f"{number}.png"
    Image.fromarray(rng.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)).save(photograph)
    foreground = np.zeros((HEIGHT, WIDTH), bool)
    foreground[5:40, 8:60] = True
    box = {"x0": 0, "y0": 0, "x1": WIDTH, "y1": HEIGHT}
    return scored_row(
        name or f"{category.replace('/', '_')}/{number:03d}.png",
        scores,
        image_path=str(photograph),
        category=category,
        class_name=category,
        split="test",
        gt_label=label,
        mask_path=str(folder / f"{number}-mask.png") if label == 1 else None,
        pred_score=score,
        anomaly_map_max=float(scores.max()),
        anomaly_map_mean=float(scores.astype(np.float32).mean()),
        foreground_source="sam+dis",
        foreground_fraction=float(foreground.mean()),
        num_components=2,
        component_scores=[score, score / 2],
        tiles=[box | {"component": 0, "score": score}, box | {"component": 1, "score": score / 2}],
        file_size=1,
        file_mtime=1,
        stage_ms={"load": 1.0, "saliency": 2.0, "instances": 3.0, "tile_scores": 4.0, "tile_maps": 5.0},
        map_tile_boxes=[box],
        map_foreground_rle=encode_rle(foreground),
    )


def hostile_failed_row(number, category="candle"):
    return failed_row(
        f"{category}/{HOSTILE}{number}.png",
        image_path=f"/nowhere/{HOSTILE}.png",
        category=category,
        split="test",
        gt_label=0,
        error_stage="load",
        error_type="truncated",
        error_message=f"broken {HOSTILE}",
    )


@pytest.fixture(scope="session")
def make_run(tmp_path_factory):
    """A function: number of images -> output folder of a finished run over them (and two failed ones)."""

    def make(images=12, evaluated=True):
        folder = tmp_path_factory.mktemp("run")
        rng = np.random.default_rng(7)
        rows = []
        for number in range(images):
            label = number % 2
            score = float(np.float32(np.clip(rng.normal(0.4 + 0.2 * label, 0.12), 0.01, 0.99)))
            name = f"x/{HOSTILE}.png" if number == 0 else None
            rows.append(report_row(folder, number, score, label, CLASSES[number % 3], name))
        rows += [hostile_failed_row(1), hostile_failed_row(2)]
        output = str(folder / "out")
        for part, start in enumerate(range(0, len(rows), 40)):
            write_rows(output, part, rows[start : start + 40])
        config = {"preset": "mini", "aggregation": {"top_fraction": 0.25}, "models": {"sam": {"name": HOSTILE}}}
        dataset = {"layout": "visa", "root": f"/data/{HOSTILE}", "trained": False}
        timings = {"runs": [{"seconds": 75.0, "images_per_second": 12.5, "images": images}]}
        write_run(output, RunInfo("f", config, {}, {"sam": "abc"}, {"zsad": "0"}, dataset, {}, timings))
        write_success(output, {"images": images + 2, "ok": images, "errors": 2}, "m")
        if evaluated:
            (folder / "out" / "metrics").mkdir()
            table = pa.Table.from_pandas(evaluate(output), METRICS_SCHEMA, preserve_index=False)
            pq.write_table(table, folder / "out" / "metrics" / "native.parquet")
        return output

    return make
