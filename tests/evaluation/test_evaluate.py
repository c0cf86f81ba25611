"""From predictions, maps and masks to the tidy table."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

from zsad.errors import UsageError, ZsadError
from zsad.evaluation import (
    METRICS_SCHEMA,
    bootstrap_interval,
    evaluable_parts,
    evaluate,
    evaluate_part,
    merge_states,
    summarise,
)
from zsad.projection import resize
from zsad.storage import RunInfo, read_predictions, write_run

SIZE = (30, 40)


def fill(run, categories=("candle", "pcb1"), images=6, parts=3) -> dict[str, tuple[list, list]]:
    """Random images; every second one anomalous. Returns maps and masks per class."""
    generator = np.random.default_rng(0)
    truth = {}
    for category in categories:
        maps, masks = [], []
        for index in range(images):
            scores = generator.random(SIZE).astype(np.float16)
            mask = np.zeros(SIZE, bool)
            if index % 2:
                row, column = generator.integers(0, 20, 2)
                mask[row : row + 8, column : column + 5] = True
                scores[mask] += np.float16(0.3)
            name = f"{category}-{index}"
            score = float(generator.random())
            run.add(name, index % 2, score, scores, mask if index % 2 else None, category, part=index % parts)
            maps.append(scores)
            masks.append(mask)
        truth[category] = (maps, masks)
    return truth


def value(metrics, category: str, level: str, metric: str):
    rows = metrics[(metrics["category"] == category) & (metrics["level"] == level) & (metrics["metric"] == metric)]
    assert len(rows) == 1
    return rows.iloc[0]


def test_equal_to_scikit_learn_on_the_stored_values(run) -> None:
    truth = fill(run)
    metrics = evaluate(run.write())
    predictions = run.predictions()
    for category, (maps, masks) in truth.items():
        labels, scores = np.stack(masks).ravel(), np.stack(maps).ravel()
        assert value(metrics, category, "pixel", "auroc").value == pytest.approx(
            roc_auc_score(labels, scores), abs=1e-12
        )
        assert value(metrics, category, "pixel", "ap").value == pytest.approx(
            average_precision_score(labels, scores), abs=1e-12
        )
        rows = predictions[predictions["category"] == category]
        assert value(metrics, category, "sample", "auroc").value == pytest.approx(
            roc_auc_score(rows["gt_label"], rows["pred_score"]), abs=1e-12
        )
        assert value(metrics, category, "pixel", "aupro").num_images == 6
        assert value(metrics, category, "pixel", "aupro").num_anomalous == 3
    for level, metric in (("sample", "f1_max"), ("pixel", "f1_max"), ("pixel", "aupro")):
        mean = value(metrics, "mean", level, metric)
        assert mean.value == pytest.approx(np.mean([value(metrics, c, level, metric).value for c in truth]))
        assert mean.num_images == 12
        assert mean.isna().reason
    assert len(metrics) == 3 * 7
    assert set(metrics["split"]) == {"test"}
    assert set(metrics["resolution"]) == {"native"}


@pytest.mark.parametrize("resolution", ["518", "240"])
def test_squares_resize_map_and_binary_mask(run, resolution: str) -> None:
    side = int(resolution)
    maps, masks = fill(run, ["candle"], images=2)["candle"]
    output = run.write()
    metrics = evaluate(output, resolution)
    pd.testing.assert_frame_equal(evaluate(Path(output), side), metrics)
    squares = [resize(scores, side, side).astype(np.float16) for scores in maps]
    index = np.ix_(*(((2 * np.arange(side) + 1) * size) // (2 * side) for size in SIZE))
    expected = roc_auc_score(np.stack([mask[index] for mask in masks]).ravel(), np.stack(squares).ravel())
    row = value(metrics, "candle", "pixel", "auroc")
    assert row.value == pytest.approx(expected, abs=1e-12)
    assert row.resolution == resolution
    assert value(evaluate(run.write()), "candle", "pixel", "auroc").value != pytest.approx(expected, abs=1e-6)


def test_parts_in_any_order_and_through_pickles_give_the_same_table(run) -> None:
    fill(run)
    output = run.write()
    predictions = read_predictions(output)
    states = [
        pickle.loads(pickle.dumps(evaluate_part(output, name, rows))) for name, rows in evaluable_parts(predictions)
    ]
    assert len(states) == 3
    for state in states:
        for counts in state.classes.values():
            counts.histogram.positives.setflags(write=False)
    first = summarise(merge_states(states), predictions)
    second = summarise(merge_states(states[::-1]), predictions)
    assert first.drop(columns="value").equals(second.drop(columns="value"))
    np.testing.assert_allclose(first["value"], second["value"], rtol=0, atol=1e-12)
    assert evaluate(run.write()).equals(first)


def test_every_exclusion_is_counted(run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mask = np.zeros((4, 6), np.uint8)
    mask[1, 2] = 3
    hot = np.zeros((4, 6))
    hot[1, 2] = 0.9
    run.add("good", 0, 0.1)
    run.add("bad", 1, 0.9, hot, mask)
    run.add("no-mask", 1, 0.8)
    run.add("other-size", 1, 0.7, mask=np.ones((5, 6), np.uint8))
    run.add("mask-gone", 1, 0.7, mask=tmp_path / "gone.png")
    (tmp_path / "text.png").write_text("no image")
    run.add("mask-is-text", 1, 0.7, mask=tmp_path / "text.png")
    run.add("unlabelled", None, 0.95, hot)
    run.add_failed("broken")
    named = (
        r"^3 masks cannot be used, .*: 'other-size' \(the mask has 6 x 5 pixels, the image 6 x 4\), "
        r"'mask-gone' \(no file at this path\), 'mask-is-text' \(.*\)\. If the dataset has moved"
    )
    with caplog.at_level(logging.WARNING), pytest.warns(UserWarning, match=named):
        metrics = evaluate(run.write())
    pixel = value(metrics, "candle", "pixel", "f1_max")
    assert (pixel.num_images, pixel.num_anomalous) == (2, 1)
    assert (pixel.excluded_error, pixel.excluded_unlabelled) == (1, 1)
    assert (pixel.excluded_no_mask, pixel.excluded_mask_size, pixel.excluded_mask_unreadable) == (1, 1, 2)
    assert pixel.value == 1.0
    assert pixel.threshold == float(np.float16(0.9))
    sample = value(metrics, "candle", "sample", "f1_max")
    assert (sample.num_images, sample.num_anomalous) == (6, 5)
    assert (sample.excluded_error, sample.excluded_unlabelled) == (1, 1)
    assert (sample.excluded_no_mask, sample.excluded_mask_size, sample.excluded_mask_unreadable) == (0, 0, 0)
    assert sample.value == 1.0
    assert sample.threshold == float(np.float32(0.7))
    assert {"image_id=other-size", "image_id=mask-gone", "image_id=mask-is-text"} == {
        record.getMessage().split()[0] for record in caplog.records
    }


def test_of_many_bad_masks_the_first_are_named(run) -> None:
    for index in range(5):
        run.add(f"bad-{index}", 1, 0.7, mask=np.ones((5, 6), np.uint8), part=index, category=f"kind-{index // 3}")
    with pytest.warns(UserWarning, match=r"5 masks .*: 'bad-0' .* 'bad-1' .* 'bad-2' \(.*\) and others\.") as caught:
        evaluate(run.write())
    (message,) = (str(each.message) for each in caught)
    assert "'bad-3'" not in message


def test_a_part_of_an_unknown_resolution_is_refused(run) -> None:
    fill(run, ["candle"])
    with pytest.raises(UsageError, match="Unknown resolution '99'. Expected one of: native, 518"):
        evaluate_part(run.write(), "part", pd.DataFrame(), "99")


def test_a_class_whose_masks_are_all_bad_says_why_it_has_no_anomalous_pixels(run) -> None:
    run.add("bad", 1, 0.7, mask=np.ones((5, 6), np.uint8))
    run.add("no mask", 1, 0.7)
    run.add("good", 0, 0.1)
    with pytest.warns(UserWarning, match="1 mask cannot be used"):
        row = value(evaluate(run.write()), "candle", "pixel", "auroc")
    assert row.reason == "no anomalous pixels (2 images without a usable mask are left out)"


def test_exif_rotated_image_with_an_unrotated_mask(run, tmp_path: Path) -> None:
    stored = np.zeros((4, 6), np.uint8)
    stored[0, 5] = 1
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (6, 4)).save(tmp_path / "turned.jpg", exif=exif)
    scores = np.zeros((6, 4))
    scores[5, 3] = 0.5  # orientation 6 turns the photograph clockwise: top right -> bottom right
    run.add("turned", 1, 0.9, scores, stored)
    run.add("good", 0, 0.1)
    row = value(evaluate(run.write()), "candle", "pixel", "f1_max")
    assert (row.value, row.threshold, row.excluded_mask_size) == (1.0, 0.5, 0)


def test_normal_images_count_as_all_normal_pixels(run) -> None:
    """A false alarm on a normal image lowers precision, whatever mask its row names."""
    mask = np.zeros((4, 6), np.uint8)
    mask[0, 0] = 1
    scores = np.zeros((4, 6))
    scores[0, 0] = 0.5
    run.add("bad", 1, 0.9, scores, mask)
    run.add("good", 0, 0.1, scores, mask)
    row = value(evaluate(run.write()), "candle", "pixel", "f1_max")
    assert row.value == pytest.approx(2 / 3)


def test_undefined_is_null_with_a_reason_and_left_out_of_the_mean(run) -> None:
    fill(run, ["candle"])
    run.add("only-normal", 0, 0.2, category="fryum")
    run.add_failed("failed", category="cashew")
    metrics = evaluate(run.write())
    fryum = value(metrics, "fryum", "sample", "f1_max")
    assert np.isnan(fryum.value)
    assert fryum.reason == "no anomalous images"
    assert value(metrics, "fryum", "pixel", "aupro").reason == "no anomalous pixels"
    assert value(metrics, "cashew", "sample", "ap").reason == "no anomalous and no normal images"
    assert value(metrics, "cashew", "pixel", "ap").excluded_error == 1
    mean = value(metrics, "mean", "sample", "auroc")
    assert mean.value == value(metrics, "candle", "sample", "auroc").value
    assert mean.reason == "over 1 of 3 classes; undefined for cashew, fryum"


def test_a_figure_of_zero_counts_in_the_mean(run) -> None:
    for category, bad in (("candle", 0.9), ("fryum", 0.1)):
        run.add(f"{category}-good", 0, 0.5, category=category)
        run.add(f"{category}-bad", 1, bad, category=category)
    metrics = evaluate(run.write())
    assert value(metrics, "fryum", "sample", "auroc").value == 0.0
    assert value(metrics, "mean", "sample", "auroc").value == 0.5


def test_empty_masks_of_anomalous_images_are_named(run) -> None:
    run.add("good", 0, 0.1)
    run.add("bad", 1, 0.9, mask=np.eye(4, 6, dtype=np.uint8))
    for name in ("b", "a", "d", "c"):
        run.add(name, 1, 0.8, mask=np.zeros((4, 6), np.uint8), category="pcb1")
    named = "^The masks of 4 anomalous images are empty, so all their pixels count as normal: 'b', 'a', 'd' and others."
    with pytest.warns(UserWarning, match=named):
        metrics = evaluate(run.write())
    pixel = value(metrics, "pcb1", "pixel", "f1_max")
    assert (pixel.num_images, pixel.num_anomalous, pixel.excluded_no_mask) == (4, 4, 0)


def test_a_run_without_labels_is_refused(run) -> None:
    run.add("a", None, category=None, split=None)
    with pytest.raises(UsageError, match="None of the 1 images in .* has a label"):
        evaluate(run.write())


def test_normal_images_alone_give_nulls_that_keep_their_types_on_disk(run, tmp_path: Path) -> None:
    run.add("a", 0, category=None, split=None)
    metrics = evaluate(run.write())
    assert set(metrics["category"]) == {"(none)", "mean"}
    assert metrics["value"].isna().all()
    assert set(metrics[metrics["category"] == "mean"]["reason"]) == {"undefined for every class"}
    pq.write_table(pa.Table.from_pandas(metrics, METRICS_SCHEMA, preserve_index=False), tmp_path / "m.parquet")
    assert pq.read_schema(tmp_path / "m.parquet").remove_metadata().equals(METRICS_SCHEMA)


def test_one_split(run) -> None:
    fill(run, ["candle"])
    run.add("train", 0, 0.99, split="train")
    everything, test = evaluate(run.write()), evaluate(run.write(), split="test")
    assert set(everything["split"]) == {"test+train"}
    assert value(everything, "candle", "pixel", "ap").num_images == 7
    assert value(test, "candle", "pixel", "ap").num_images == 6
    with pytest.raises(UsageError, match=r"split 'val'.*test, train"):
        evaluate(run.write(), split="val")


def test_superseded_maps_are_passed_over(run) -> None:
    fill(run, ["candle"])
    expected = evaluate(run.write())
    for part in run.parts:
        run.parts[part] = run.parts[part][::-1]
    run.parts = {part + 1: rows for part, rows in run.parts.items()}
    run.add("candle-0", 1, 7.0, np.full(SIZE, np.nan), part=0)
    assert len(run.predictions()) == 6
    assert evaluate(run.write()).equals(expected)


def test_a_missing_part_is_an_error(run) -> None:
    fill(run, ["candle"])
    output = run.write()
    predictions = read_predictions(output)
    states = [evaluate_part(output, name, rows) for name, rows in evaluable_parts(predictions)]
    with pytest.raises(ZsadError, match="6 labelled images with a score, but 4 anomaly maps"):
        summarise(merge_states(states[1:]), predictions)
    with pytest.raises(ZsadError, match="6 labelled images with a score, but 8 anomaly maps"):
        summarise(merge_states([*states, states[0]]), predictions)


def test_maps_of_other_images_are_an_error(run) -> None:
    fill(run, ["candle"])
    output = run.write()
    first, second, _ = sorted(Path(output, "anomaly_maps").iterdir())
    first.write_bytes(second.read_bytes())
    with pytest.raises(ZsadError, match="holds the map of 'candle-1' instead of 'candle-0'"):
        evaluate(output)


def test_nan_is_refused_with_the_name_of_the_image(run) -> None:
    run.add("odd", 0, scores=np.full((4, 6), np.nan))
    with pytest.raises(ZsadError, match="'odd' cannot be evaluated: 24 of 24 scores are NaN"):
        evaluate(run.write())
    run.parts.clear()
    run.add("no-score", 0, score=float("nan"))
    with pytest.raises(ZsadError, match="'candle': 1 of 1 scores are NaN"):
        evaluate(run.write())


def test_intervals_of_the_sample_level_per_class_on_demand(run) -> None:
    fill(run, images=20)
    run.add("only-normal", 0, 0.2, category="fryum")
    output = run.write()
    plain, metrics = evaluate(output), evaluate(output, bootstrap=50)
    assert plain[["low", "high"]].isna().all(axis=None)
    assert metrics.drop(columns=["low", "high"]).equals(plain.drop(columns=["low", "high"]))
    assert metrics.equals(evaluate(output, bootstrap=50))
    bounded = metrics[metrics["low"].notna()]
    assert set(zip(bounded["category"], bounded["level"], bounded["metric"], strict=True)) == {
        (category, "sample", metric) for category in ("candle", "pcb1") for metric in ("f1_max", "auroc", "ap")
    }
    rows = run.predictions().query("category == 'pcb1'")
    for metric in ("f1_max", "auroc", "ap"):
        row = value(metrics, "pcb1", "sample", metric)
        assert (row.low, row.high) == bootstrap_interval(rows["pred_score"], rows["gt_label"], metric, 50)
        assert 0 <= row.low < row.high <= 1
    with pytest.raises(UsageError, match="Given -1 bootstrap resamples"):
        evaluate(output, bootstrap=-1)


def of_config(output: str, images: dict) -> str:
    write_run(output, RunInfo("a" * 64, {"images": images}, {}))
    return output


@pytest.mark.parametrize(
    ("images", "unreadable"),
    [
        ({"max_pixels": 24, "max_file_bytes": 4000, "max_aspect": 20.0}, 0),
        ({"max_pixels": 23}, 1),
        ({"max_file_bytes": 10}, 1),
        ({}, 0),
    ],
)
def test_masks_are_under_the_caps_of_the_run(run, images: dict, unreadable: int) -> None:
    run.add("bad", 1, mask=np.ones((4, 6), np.uint8))
    run.add("good", 0)
    metrics = evaluate(of_config(run.write(), images))
    row = value(metrics, "candle", "pixel", "ap")
    assert (row.excluded_mask_unreadable, row.num_anomalous) == (unreadable, 1 - unreadable)
    assert set(metrics["fingerprint"]) == {"a" * 64}


def test_caps_out_of_range_are_refused(run) -> None:
    fill(run, ["candle"])
    with pytest.raises(UsageError, match=r"images.max_pixels: Input should be less than or equal"):
        evaluate(of_config(run.write(), {"max_pixels": 10**12}))


def test_bad_usage(run) -> None:
    with pytest.raises(UsageError, match=r"resolution '512'.*native, 518, 400, 240"):
        evaluate(str(run.folder), "512")
    with pytest.raises(UsageError, match="No results at"):
        evaluate(str(run.folder / "nowhere"))
    (run.folder / "begun" / "predictions").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"No predictions in .*begun"):
        evaluate(str(run.folder / "begun"))
