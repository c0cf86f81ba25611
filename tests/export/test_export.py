"""Exports read back by the programs that they are for."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
import pytest
import tifffile
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from pyarrow import fs
from pycocotools.coco import COCO
from scipy.ndimage import gaussian_filter, label
from typer.testing import CliRunner

from tests.scored import failed_row, scored_row, write_rows
from zsad.cli import app
from zsad.datasets.tables import read_table
from zsad.errors import UsageError, ZsadError
from zsad.evaluation import evaluable_parts, evaluate_part, load_predictions, merge_states
from zsad.evaluation.thresholds import decide, parse_rule, rows_to_count
from zsad.export import export_run
from zsad.export.fiftyone import to_fiftyone
from zsad.export.names import file_names
from zsad.export.table import defused
from zsad.storage import (
    read_anomaly_map,
    read_decisions,
    read_predictions,
    write_decisions,
    write_success,
)

IDS = ["bottle/test/broken/000.png", "bottle/test/good/001.png", "../../etc/passwd", "/abs.png", "a.png", "a.jpg"]


def smooth(seed: int, shape: tuple[int, int] = (30, 41)) -> np.ndarray:
    return gaussian_filter(np.random.default_rng(seed).random(shape), 2).astype(np.float16)


def add_part(output: str, number: int, image_ids: list[str], **columns: object) -> None:
    rows = []
    for index, image_id in enumerate(image_ids):
        scores = smooth(100 * number + index)
        row = scored_row(
            image_id,
            scores,
            image_path=f"/data/{image_id}",
            category="bottle",
            split="test",
            pred_score=0.1 + index / 100,
            anomaly_map_max=float(scores.max()),
            tiles=[{"x0": -3, "y0": 0, "x1": 20, "y1": 20, "component": 1, "score": 0.1}],
        )
        rows.append(row | columns)
    write_rows(output, number, rows)


def add_decisions(output: str, text: str = "quantile:0.8") -> None:
    predictions, rule = load_predictions(output), parse_rule(text)
    parts = evaluable_parts(rows_to_count(predictions, rule))
    write_decisions(
        output, decide(predictions, merge_states(evaluate_part(output, *part) for part in parts), rule, None)
    )


@pytest.fixture
def output(tmp_path: Path) -> str:
    output = str(tmp_path / "out")
    add_part(output, 0, IDS[:4])
    add_part(output, 1, [*IDS[4:], *(f"n/{index}.png" for index in range(20))])
    write_rows(output, 2, [failed_row("broken", error_message="=cmd()")])
    return output


def index_of(target: Path) -> dict[str, str]:
    return pd.read_parquet(target / "index.parquet").set_index("image_id")["file"].to_dict()


def test_tiff_equals_the_decoded_map_for_pillow_and_tifffile(output: str, tmp_path: Path) -> None:
    target = tmp_path / "maps"
    done = export_run(output, "tiff", str(target))
    assert done.summary == "26 float32 TIFF files" and done.target == str(target)
    files = index_of(target)
    assert files["bottle/test/broken/000.png"] == "anomaly_images/bottle/test/broken/000.tiff"
    assert set(files) == set(load_predictions(output).query("status == 'ok'")["image_id"])
    written = {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}
    assert written == {*files.values(), "index.parquet", "export.json"}
    for image_id, file in files.items():
        expected = read_anomaly_map(output, image_id).astype(np.float32)
        with Image.open(target / file) as image:
            assert image.mode == "F"
            np.testing.assert_array_equal(np.asarray(image), expected)
        values = tifffile.imread(target / file)
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values, expected)


def test_nothing_is_written_outside_the_target(output: str, tmp_path: Path) -> None:
    before = {path for path in tmp_path.rglob("*")}
    target = tmp_path / "x" / "y" / "maps"
    export_run(output, "tiff", str(target))
    new = {path for path in tmp_path.rglob("*")} - before
    assert all(path in target.parents or target in [path, *path.parents] for path in new)
    assert not Path("/abs.tiff").exists()


def test_masks_are_the_map_at_the_threshold(output: str) -> None:
    with pytest.raises(UsageError, match=r"No decisions in .*zsad evaluate .* --threshold"):
        export_run(output, "masks")
    assert not Path(output, "exports").exists()
    add_decisions(output)
    target = Path(export_run(output, "masks").target)
    assert target == Path(output, "exports", "masks")
    threshold = pd.read_parquet(f"{output}/decisions")["pixel_threshold"].iloc[0]
    marked = 0
    for image_id, file in index_of(target).items():
        with Image.open(target / file) as image:
            assert image.mode == "L"
            mask = np.asarray(image)
        np.testing.assert_array_equal(mask, np.where(read_anomaly_map(output, image_id) >= threshold, 255, 0))
        marked += (mask == 255).sum()
    assert 0.15 < marked / (26 * 30 * 41) <= 0.2


def test_coco_is_read_by_pycocotools(output: str) -> None:
    add_decisions(output)
    target = Path(export_run(output, "coco").target)
    coco = COCO(str(target / "annotations.json"))
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == ["bottle"]
    images = coco.loadImgs(coco.getImgIds())
    decisions = pd.read_parquet(f"{output}/decisions").set_index("image_id")
    assert {image["file_name"] for image in images} == set(decisions.query("status == 'ok'").index)
    for image in images:
        scores = read_anomaly_map(output, image["file_name"])
        row = decisions.loc[image["file_name"]]
        assert (image["height"], image["width"]) == scores.shape
        assert image["pred_label"] == row["pred_label"] and image["pred_score"] == pytest.approx(row["pred_score"])
        wanted = scores >= row["pixel_threshold"]
        regions = coco.loadAnns(coco.getAnnIds(image["id"]))
        assert len(regions) == label(wanted, np.ones((3, 3)))[1]
        union = np.zeros(scores.shape, int)
        for region in regions:
            mask = coco.annToMask(region)
            union += mask
            rows, columns = np.nonzero(mask)
            box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            assert region["bbox"] == box and region["area"] == mask.sum()
            assert region["score"] == pytest.approx(scores[mask == 1].max())
        np.testing.assert_array_equal(union, wanted)
    numbers = [region["id"] for region in coco.dataset["annotations"]]
    assert numbers == list(range(1, len(numbers) + 1))


def test_coco_of_maps_without_and_with_nothing_but_anomalies(tmp_path: Path) -> None:
    output = str(tmp_path / "out")
    add_part(output, 0, ["a", "b"])
    predictions = load_predictions(output)
    columns = {"threshold": 0.0, "pred_label": 1, "pixel_threshold": [0.0, 1.0], "rule": "f1", "fingerprint": None}
    write_decisions(output, predictions.assign(**columns)[list(pd_schema())])
    coco = COCO(f"{export_run(output, 'coco').target}/annotations.json")
    (region,) = coco.dataset["annotations"]
    assert region["image_id"] == 1 and coco.annToMask(region).all()


@pytest.mark.parametrize("flagged_only", [False, True])
def test_regions_can_be_chosen_by_area_and_decision(output: str, flagged_only: bool) -> None:
    add_decisions(output)
    decisions = pd.read_parquet(f"{output}/decisions").set_index("image_id")
    masks = Path(export_run(output, "masks", min_area=25, flagged_only=flagged_only).target)
    coco = COCO(f"{export_run(output, 'coco', min_area=25, flagged_only=flagged_only).target}/annotations.json")
    files = index_of(masks)
    assert len(files) == len(coco.dataset["images"]) == 26
    dropped = 0
    for image in coco.dataset["images"]:
        row = decisions.loc[image["file_name"]]
        regions, number = label(read_anomaly_map(output, image["file_name"]) >= row["pixel_threshold"], np.ones((3, 3)))
        areas = np.bincount(regions.ravel(), minlength=number + 1)[1:]
        kept = np.flatnonzero(areas >= 25) + 1 if row["pred_label"] == 1 or not flagged_only else np.array([], int)
        dropped += number - len(kept)
        own = coco.loadAnns(coco.getAnnIds(image["id"]))
        assert sorted(region["area"] for region in own) == sorted(areas[kept - 1])
        expected = np.isin(regions, kept)
        np.testing.assert_array_equal(sum((coco.annToMask(region) for region in own), 0 * regions), expected)
        with Image.open(masks / files[image["file_name"]]) as mask:
            np.testing.assert_array_equal(np.asarray(mask) == 255, expected)
    assert dropped and coco.dataset["annotations"]


@pytest.mark.parametrize("format_name", ["masks", "coco"])
def test_images_of_a_class_without_a_threshold_are_not_flagged(tmp_path: Path, format_name: str) -> None:
    output = str(tmp_path / "out")
    add_part(output, 0, ["a", "b"])
    columns = {"threshold": [0.1, None], "pixel_threshold": 0.0, "rule": "f1", "fingerprint": None}
    decisions = load_predictions(output).assign(**columns, pred_label=pd.array([1, None], "Int8"))
    write_decisions(output, decisions[list(pd_schema())])
    target = Path(export_run(output, format_name, flagged_only=True).target)
    if format_name == "coco":
        (region,) = COCO(str(target / "annotations.json")).dataset["annotations"]
        assert region["image_id"] == 1
    else:
        assert [np.asarray(Image.open(target / index_of(target)[name])).any() for name in "ab"] == [True, False]


def test_regions_that_are_likely_noise_are_counted(output: str) -> None:
    add_decisions(output)
    first, small, unflagged = export_run(output, "coco").summary.splitlines()
    annotations = json.loads(Path(output, "exports", "coco", "annotations.json").read_text())
    flagged = {image["id"] for image in annotations["images"] if image["pred_label"] == 1}
    areas = [region["area"] for region in annotations["annotations"]]
    outside = sum(region["image_id"] not in flagged for region in annotations["annotations"])
    assert first == f"{len(areas)} regions in 26 images, threshold quantile:0.8"
    assert small.startswith(f"{sum(area < 10 for area in areas)} region") and "--min-area 10" in small
    assert unflagged.startswith(f"{outside} region") and "--flagged-only" in unflagged
    (only,) = export_run(output, "coco", min_area=10, flagged_only=True).summary.splitlines()
    assert only.startswith(f"{sum(a['area'] >= 10 and a['image_id'] in flagged for a in annotations['annotations'])} ")


def test_regions_are_chosen_only_where_there_are_any(output: str) -> None:
    for format_name in ("tiff", "csv"):
        with pytest.raises(UsageError, match="has no regions to choose from: .* are for masks, coco"):
            export_run(output, format_name, min_area=2)
        with pytest.raises(UsageError, match="has no regions to choose from"):
            export_run(output, format_name, flagged_only=True)
    with pytest.raises(UsageError, match="smallest area is 0; expected a number of pixels, 1 or more"):
        export_run(output, "coco", min_area=0)


def pd_schema() -> list[str]:
    from zsad.storage import DECISIONS_SCHEMA

    return DECISIONS_SCHEMA.names


HOSTILE = ["=cmd()", "+1", "-1", "@SUM(A1)", "\tx", "\r=1", "\n=1", "  =1", "\uff1d1", '=HYPERLINK("http://x")']


def test_formulas_are_defused_and_numbers_stay(tmp_path: Path) -> None:
    output = str(tmp_path / "out")
    ids = [*HOSTILE, 'a,"b"', "ünï\U0001f600", "line\nbreak", "a-b=c"]
    add_part(output, 0, ids, category="=1+1", pred_score=-0.1)
    target = Path(export_run(output, "csv").target)
    with open(target / "predictions.csv", encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image_id"] for row in rows] == [*(f"'{text}" for text in HOSTILE), *ids[len(HOSTILE) :]]
    first = rows[0]
    assert first["category"] == "'=1+1" and first["pred_score"] == "-0.1"
    assert first["mask_path"] == first["threshold"] == first["stage_ms"] == ""
    assert json.loads(first["tiles"])[0] == {"x0": -3, "y0": 0, "x1": 20, "y1": 20, "component": 1, "score": 0.1}
    table = pd.read_csv(target / "predictions.csv")
    assert (
        table.columns[0] == "image_id"
        and table["pred_score"].dtype == np.float64
        and table["image_height"].tolist() == [30] * len(ids)
    )


def test_csv_has_each_image_once_with_its_decision(output: str) -> None:
    add_part(output, 3, IDS[:1], pred_score=0.9)
    add_decisions(output, "budget:5")
    add_part(output, 4, IDS[1:2], pred_score=0.95)
    table = pd.read_csv(f"{export_run(output, 'csv').target}/predictions.csv").set_index("image_id")
    assert table.index.is_unique and len(table) == 27
    again = read_table(f"{output}/exports/csv/predictions.csv", ["image_id", "image_path"], [])
    assert again["image_id"].to_pylist() == table.index.tolist()
    assert table.loc[IDS[0], "pred_score"] == 0.9 and table.loc[IDS[0], "pred_label"] == 1
    assert table.loc[IDS[1], "pred_score"] == 0.95 and pd.isna(table.loc[IDS[1], "pred_label"])
    assert table.loc["broken", "error_message"] == "'=cmd()" and pd.isna(table.loc["broken", "pred_label"])
    assert table["pred_label"].count() == 25


@example("good;=HYPERLINK(1)")
@example("\u00a0=1")
@example("a;\t=1")
@given(st.text(alphabet="=+-@;|\t\r\n \x0bab\uff1d", max_size=12))
def test_no_text_starts_a_formula(text: str) -> None:
    cell = defused(text)
    assert cell.replace("'", "") == text.replace("'", "")
    for part in re.split("[;|\t]", cell)[1:]:
        assert not part.lstrip().startswith(("=", "+", "-", "@", "\uff1d"))
    assert not cell.strip(" ").startswith(("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d"))


@example(["a?.png", "a_-dee68ab57ede6ef2.png"])
@example(["CON.png", "con/x.png"])
@given(st.lists(st.text(max_size=300), max_size=8, unique=True))
def test_names_are_unique_and_stay_inside(image_ids: list[str]) -> None:
    names = file_names(image_ids, ".png")
    assert list(names) == image_ids
    assert len({name.casefold() for name in names.values()}) == len(names)
    for name in names.values():
        parts = PurePosixPath(name).parts
        assert not name.startswith("/") and not {"..", ".", ""} & set(name.split("/"))
        assert all(len(part.encode()) <= 160 for part in parts) and not set(name) & set('\\:*?"<>|\0\n\r\t')
        assert name.endswith(".png")


def test_names_follow_the_ids() -> None:
    names = file_names(
        ["a/b.png", "c.PNG", "d", "e.v2.jpg", "x.png", "x.jpg", "X.bmp", "../up.png", "n.tiff/y.png", "n"], ".tiff"
    )
    assert [names[name] for name in ("a/b.png", "c.PNG", "d", "e.v2.jpg")] == [
        "a/b.tiff",
        "c.tiff",
        "d.tiff",
        "e.v2.tiff",
    ]
    assert len({names[name].casefold() for name in ("x.png", "x.jpg", "X.bmp")}) == 3
    assert names["../up.png"].startswith("_/up-")
    assert not names["n.tiff/y.png"].startswith("n.tiff/") and names["n"] == "n.tiff"


def test_only_an_export_of_the_same_run_and_format_is_replaced(output: str, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"not empty and holds no earlier export \(found thesis.txt\)"):
        export_run(output, "csv", str(target))
    (target / "export.json").write_text("[]")
    with pytest.raises(UsageError, match="no earlier export"):
        export_run(output, "csv", str(target))
    assert sorted(path.name for path in target.iterdir()) == ["export.json", "thesis.txt"]
    with pytest.raises(UsageError, match="is a file"):
        export_run(output, "csv", str(target / "thesis.txt"))

    export_run(Path(output), "csv")
    assert json.loads(Path(output, "exports", "csv", "export.json").read_text())["complete"] is True
    export_run(output, "csv")
    with pytest.raises(UsageError, match="a csv export of another run or format"):
        export_run(output, "tiff", f"{output}/exports/csv")


@pytest.mark.parametrize("inside", ["", "/predictions", "/predictions/x", "/metrics", "/exports/../anomaly_maps"])
def test_the_tables_of_the_run_are_no_target(output: str, inside: str) -> None:
    before = sorted(Path(output).rglob("*"))
    with pytest.raises(UsageError, match="among its tables"):
        export_run(output, "csv", output + inside)
    assert sorted(Path(output).rglob("*")) == before


def test_what_is_not_there_is_said_and_nothing_is_written(tmp_path: Path) -> None:
    for name in ("tiff", "masks", "coco", "csv"):
        with pytest.raises(UsageError, match="No results at"):
            export_run(str(tmp_path / "nowhere"), name)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UsageError, match="Unknown format 'xml'.*tiff, masks, coco, csv"):
        export_run(str(tmp_path), "xml")
    write_rows(str(tmp_path), 0, [failed_row("a")])
    with pytest.raises(UsageError, match="No image in .* has an anomaly map"):
        export_run(str(tmp_path), "tiff")


def test_decisions_of_older_scores_are_refused(output: str) -> None:
    add_decisions(output)
    add_part(output, 3, IDS[:1], pred_score=0.9)
    with pytest.raises(UsageError, match=r"^1 image was scored again.*--threshold quantile:0.8' again"):
        export_run(output, "masks")
    with pytest.warns(UserWarning, match=r"^1 image was scored again after .*--threshold quantile:0.8' again"):
        export_run(output, "csv")


def test_a_csv_of_decisions_that_fit_warns_of_nothing(output: str, recwarn: pytest.WarningsRecorder) -> None:
    export_run(output, "csv")
    add_decisions(output)
    export_run(output, "csv")
    assert not [each for each in recwarn if each.category is UserWarning]


def test_a_csv_counts_scored_images_without_a_decision(output: str) -> None:
    add_decisions(output)
    add_part(output, 3, ["late", "later"])
    with pytest.warns(UserWarning, match=r"^2 scored images have no decision .*empty\. Run .*quantile:0.8' again"):
        export_run(output, "csv")
    add_part(output, 4, ["broken"])
    with pytest.warns(UserWarning, match=r"^3 scored images have no decision"):
        export_run(output, "csv")


def test_decisions_of_failed_images_are_the_same_in_the_csv(output: str) -> None:
    write_rows(output, 3, [failed_row("failed", category="bottle")])
    add_decisions(output)
    row = pd.read_csv(f"{export_run(output, 'csv').target}/predictions.csv").set_index("image_id").loc["failed"]
    expected = read_decisions(output).set_index("image_id").loc["failed"]
    assert row["threshold"] == pytest.approx(expected["threshold"]) and row["rule"] == expected["rule"]
    assert row["pixel_threshold"] == pytest.approx(expected["pixel_threshold"]) and pd.isna(row["pred_label"])


def test_images_without_a_decision_are_left_out_and_counted(output: str) -> None:
    add_decisions(output)
    add_part(output, 3, ["late"])
    with pytest.warns(
        UserWarning, match=r"^1 scored image has no decision \(another split, or scored later\) and is left out"
    ):
        assert export_run(output, "masks").summary.startswith("26 masks")


def test_a_class_without_a_pixel_threshold_is_named(output: str) -> None:
    add_decisions(output)
    decisions = pd.read_parquet(f"{output}/decisions")
    write_decisions(output, decisions.assign(pixel_threshold=np.nan))
    with pytest.raises(UsageError, match="No pixel threshold for bottle: .*no usable mask with anomalous pixels"):
        export_run(output, "coco")


def test_files_of_another_run_are_noticed(output: str) -> None:
    first, second = sorted(Path(output, "anomaly_maps").iterdir())
    first.write_bytes(second.read_bytes())
    with pytest.raises(ZsadError, match="do not belong together"):
        export_run(output, "tiff")
    assert json.loads(Path(output, "exports", "tiff", "export.json").read_text())["complete"] is False


def test_the_command(output: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["export", output, "--format", "csv", "--output", str(tmp_path / "csv")])
    assert result.exit_code == 0, result.output
    said = f"27 rows\n{tmp_path / 'csv'}\n"
    assert result.output == f"The run is unfinished (no _SUCCESS), so images may be missing.\n{said}"
    write_success(output, {"images": 27, "ok": 27, "errors": 0}, "m")
    result = CliRunner().invoke(app, ["export", output, "--format", "csv", "--output", str(tmp_path / "csv")])
    assert result.output == said
    assert CliRunner().invoke(app, ["export", output, "--format", "xml"]).exit_code == 2


class Fields(dict):
    """Stands for FiftyOne's classes: keeps what it was made of."""

    def __init__(self, **fields: object) -> None:
        super().__init__(fields)


class Dataset(Fields):
    def add_samples(self, samples) -> None:
        self["samples"] = list(samples)


class Module:
    Dataset, Sample, Classification, Heatmap = Dataset, Fields, Fields, Fields
    dataset_exists = staticmethod(lambda name: name == "taken")


def test_fiftyone_gets_a_sample_per_scored_image(output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zsad.export.fiftyone.import_module", lambda name: Module)
    add_part(output, 3, ["labelled"], gt_label=1)
    samples = {sample["image_id"]: sample for sample in to_fiftyone(output, "new")["samples"]}
    highest = read_predictions(output)["anomaly_map_max"].max()
    assert len(samples) == 27 and "broken" not in samples
    one = samples["labelled"]
    assert one["filepath"] == "/data/labelled" and one["tags"] == ["test"] and one["category"] == "bottle"
    assert one["ground_truth"] == {"label": "anomalous"} and "prediction" not in one
    np.testing.assert_array_equal(one["anomaly_map"]["map"], read_anomaly_map(output, "labelled"))
    assert one["anomaly_map"]["range"] == [0.0, pytest.approx(highest)]
    add_decisions(output, "budget:27")
    one = to_fiftyone(output, maps=False)["samples"][0]
    assert one["prediction"] == {"label": "anomalous", "confidence": pytest.approx(one["pred_score"])}
    assert "anomaly_map" not in one and "ground_truth" not in one
    with pytest.raises(UsageError, match="'taken' already"):
        to_fiftyone(output, "taken")
    add_part(output, 4, ["far"], image_path="s3://bucket/far.png")
    with pytest.raises(UsageError, match="local photographs only; given 's3://bucket/far.png'"):
        to_fiftyone(output)


def test_fiftyone_that_is_not_installed(output: str) -> None:
    with pytest.raises(UsageError, match=r"pip install 'zsad\[fiftyone\]'"):
        to_fiftyone(output)


def test_a_run_in_an_object_store_is_exported_there(s3_by_environment: fs.FileSystem) -> None:
    s3_by_environment.create_dir("exports")
    output = "s3://exports/out?region=us-east-1"
    add_part(output, 0, IDS[:1])
    add_decisions(output)
    for name, file in [("tiff", "anomaly_images/bottle/test/broken/000.tiff"), ("csv", "predictions.csv")]:
        assert export_run(output, name).target == f"s3://exports/out/exports/{name}?region=us-east-1"
        with s3_by_environment.open_input_stream(f"exports/out/exports/{name}/{file}") as stream:
            content = stream.read()
        assert content.startswith(b"II" if name == "tiff" else b"\xef\xbb\xbfimage_id,")
    with pytest.raises(UsageError, match="among its tables"):
        export_run(output, "csv", "s3://exports/out/predictions?region=us-east-1")
    export_run(output, "csv")
