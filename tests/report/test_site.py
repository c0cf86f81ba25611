import base64
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.report.conftest import HEIGHT, HOSTILE, WIDTH, report_row
from tests.scored import write_rows
from zsad import read_predictions
from zsad.cli import main
from zsad.errors import UsageError
from zsad.evaluation import METRICS_SCHEMA
from zsad.report.records import choose_large, colour_scale, rank, row_scripts
from zsad.report.site import build_report
from zsad.storage import read_run, write_run


def content(script):
    """Name and value of a data script."""
    match = re.fullmatch(r"zsad\.receive\((\"[^\"]+\"), (.*)\);\n", Path(script).read_text("ascii"), re.DOTALL)
    return json.loads(match[1]), json.loads(match[2])


@pytest.fixture(scope="module")
def built(make_run):
    output = make_run()
    build_report(output)
    return output, Path(output) / "report"


def copy_of(built, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(built[0], output)
    return str(output), output / "report"


def test_every_image_is_in_the_index_in_order_of_score(built):
    output, report = built
    predictions = read_predictions(output)
    _, index = content(report / "data" / "index.js")
    scores = np.frombuffer(base64.b64decode(index["scores"]), "<f4")
    flags = np.frombuffer(base64.b64decode(index["flags"]), np.uint8)
    expected = predictions["pred_score"].dropna().sort_values(ascending=False).to_numpy(np.float32)
    assert index["count"] == len(predictions) == 14
    np.testing.assert_array_equal(scores[:12], expected)
    assert np.isnan(scores[12:]).all()
    assert (flags[12:] & 4).all()
    assert not (flags[:12] & 4).any()
    _, rows = content(report / "data" / "rows-0.js")
    by_id = predictions.set_index("image_id")
    assert [by_id.loc[row[0], "gt_label"] for row in rows] == (flags & 3).tolist()
    assert {row[0] for row in rows} == set(predictions["image_id"])


def test_details_hold_what_the_row_holds(built):
    output, report = built
    _, rows = content(report / "data" / "rows-0.js")
    _, details = content(report / "data" / "details-0.js")
    row = read_predictions(output).set_index("image_id").loc[rows[0][0]]
    detail = details[0]
    assert detail["tiles"][0] == [0, 0, WIDTH, HEIGHT, 0, round(float(row["pred_score"]), 6)]
    assert (detail["width"], detail["height"], detail["source"]) == (WIDTH, HEIGHT, "sam+dis")
    assert detail["outline"] == "M8 5L8 39L59 39L59 5Z"
    assert detail["milliseconds"]["tile_maps"] == 5.0
    failed = details[-1]
    assert failed["type"] == "truncated"
    assert HOSTILE in failed["message"]
    assert not failed["problems"], "type and message say it"


def test_ground_truth_and_peak_lie_where_the_mask_is(built):
    _, report = built
    _, details = content(report / "data" / "details-0.js")
    anomalous = [detail for detail in details if detail["truth"]]
    assert len(anomalous) == 6
    assert all(detail["truth"] == "M30 10L30 19L44 19L44 10Z" for detail in anomalous)
    assert all(30 <= detail["peak"][0] < 45 and 10 <= detail["peak"][1] < 20 for detail in anomalous)


def test_pictures_are_small_and_named_by_digits_only(built):
    _, report = built
    names = [path.relative_to(report).as_posix() for path in report.glob("pictures/*/*")]
    assert len([name for name in names if "photo.jpg" in name]) == 12
    assert all(re.fullmatch(r"pictures/[0-9a-f]{2}/[0-9a-f]{20}-(photo|heat)(-large)?\.jpg", name) for name in names)
    assert all(Image.open(report / name).size == (WIDTH, HEIGHT) for name in names)


def test_nothing_from_outside_is_markup(built):
    _, report = built
    page = (report / "index.html").read_text()
    assert "<img" not in page
    assert "&lt;img src=x" in page
    assert not re.search(r"<[^>]*\s(on\w+|style)=", page)
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)[1]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    for file in [report / "index.html", *report.glob("assets/*.css"), *report.glob("assets/*.js")]:
        urls = re.findall(r"https?://[^\s\"']+", file.read_text())
        assert set(urls) <= {"http://www.w3.org/2000/svg"}, file


def test_page_shows_run_metrics_and_errors(built):
    _, report = built
    page = (report / "index.html").read_text()
    text = re.sub(r"<[^>]+>", " ", page)
    assert "untrained" in text
    assert "12.5" in text
    assert "1m15s" in text
    assert re.search(r"load\s+truncated\s+2", text)
    assert "aggregation.top_fraction" in text
    assert re.search(r"candle\s+4\s+2\s+\d", text)
    assert page.count("<title>Precision-recall curve</title>") == 4


def test_metrics_are_headed_by_their_size(built, tmp_path):
    output, report = copy_of(built, tmp_path)
    metrics = pd.read_parquet(f"{output}/metrics/native.parquet").assign(resolution="240")
    pq.write_table(pa.Table.from_pandas(metrics, METRICS_SCHEMA, preserve_index=False), f"{output}/metrics/240.parquet")
    build_report(output)
    page = (report / "index.html").read_text()
    assert "240 x 240 pixels" in page and "native resolution" in page and "240 resolution" not in page


def test_second_report_draws_nothing_and_a_changed_set_is_pruned(built, tmp_path):
    output, report = copy_of(built, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in report.glob("pictures/*/*")}
    build_report(output)
    assert {path: path.stat().st_mtime_ns for path in report.glob("pictures/*/*")} == before
    build_report(output, details=0)
    assert not list(report.glob("pictures/*/*large*"))
    small = {path for path in before if "large" not in path.name}
    assert {path: path.stat().st_mtime_ns for path in small} == {path: before[path] for path in small}
    lost = next(iter(small))
    lost.unlink()
    build_report(output, details=0)
    assert lost.is_file()


def test_missing_photograph_is_said_and_drawn_once_it_is_there(make_run):
    output = make_run(6, evaluated=False)
    photograph = Path(read_predictions(output).query("status == 'ok'")["image_path"].iloc[0])
    away = photograph.with_suffix(".away")
    photograph.rename(away)
    report = build_report(output)
    assert report.problems == 1
    assert report.lines()[0].endswith("; 1 could not be drawn in full (its detail view says why)")
    details = content(Path(output) / "report" / "data" / "details-0.js")[1]
    assert sum("No photograph: missing" in " ".join(detail["problems"]) for detail in details) == 1
    away.rename(photograph)
    assert build_report(output).problems == 0
    drawn = []
    build_report(output, progress=lambda done, total: drawn.append(total))
    assert not drawn, "what could never be read is not tried again"


def test_ids_are_shown_as_far_as_they_tell_images_apart():
    ids = ["a/good/000.JPG", "a/bad/000.JPG", "a/bad/001.JPG", "b/bad/000.JPG", "000.JPG", "x/a/good/000.JPG"]
    ranked = pd.DataFrame(
        {"image_id": ids, "category": ["a", "a", "a", "b", "c", "a"], "status": "ok", "error_type": None}
    )
    _, script = next(row_scripts(ranked, ids))
    shown = [
        "/".join(image_id.split("/")[-parts:])
        for image_id, _, _, parts in json.loads(script.partition(", ")[2].rpartition(");")[0])
    ]
    assert shown == ["a/good/000.JPG", "bad/000.JPG", "001.JPG", "000.JPG", "000.JPG", "x/a/good/000.JPG"]


def test_damaged_map_costs_one_heatmap_and_a_changed_photograph_is_said(make_run):
    output = make_run(6, evaluated=False)
    part = next(Path(output).glob("anomaly_maps/*.parquet"))
    data = bytearray(part.read_bytes())
    data[60] ^= 0xFF
    part.write_bytes(bytes(data))
    Image.new("RGB", (7, 9)).save(read_predictions(output).query("status == 'ok'")["image_path"].iloc[3])
    build_report(output)
    details = content(Path(output) / "report" / "data" / "details-0.js")[1]
    problems = [" ".join(detail["problems"]) for detail in details]
    assert sum("No heatmap" in text for text in problems) == 1
    assert sum("another size" in text for text in problems) == 1
    assert len(list(Path(output).glob("report/pictures/*/*-heat.jpg"))) == 5


def test_report_elsewhere_and_a_run_without_labels(make_run, tmp_path, capsys):
    output = make_run(6, evaluated=False)
    main_exit(["report", output, "--to", str(tmp_path / "site")], 0)
    assert (tmp_path / "site" / "index.html").is_file()
    assert not (Path(output) / "report").exists()
    assert str(tmp_path / "site" / "index.html") in capsys.readouterr().out


@pytest.mark.parametrize("label", [None, 0])
def test_without_labels_of_both_kinds_nothing_is_said_of_f1(tmp_path, label):
    output = str(tmp_path / "out")
    rows = [report_row(tmp_path, number, 0.1 * number, label, "candle") for number in range(1, 4)]
    write_rows(output, 0, rows)
    page = Path(build_report(output).page).read_text()
    assert "Histograms share one score axis" in page and "Large for the 20 highest scores of each class;" in page
    assert "dashed line" not in page and "F1-max threshold" not in page


def main_exit(arguments, code):
    try:
        main(arguments)
    except SystemExit as done:
        assert (done.code or 0) == code


def test_wrong_usage(make_run, tmp_path, capsys):
    with pytest.raises(UsageError, match="No results"):
        build_report(str(tmp_path / "none"))
    with pytest.raises(UsageError, match="--details -1"):
        build_report(str(tmp_path), details=-1)
    with pytest.raises(UsageError, match="empty path"):
        build_report(make_run(), "")
    main_exit(["report", str(tmp_path / "none")], 2)
    assert "No results" in capsys.readouterr().err


def table(scores, labels, category="a"):
    return pd.DataFrame(
        {
            "image_id": [f"{category}{i}" for i in range(len(scores))],
            "category": category,
            "pred_score": np.array(scores, np.float32),
            "gt_label": labels,
            "status": ["error" if np.isnan(score) else "ok" for score in scores],
            "anomaly_map_mean": 0.1,
            "anomaly_map_max": np.linspace(0.2, 0.9, len(scores)),
        }
    )


def test_rank_and_large_pictures():
    ranked = rank(table([0.5, 0.9, np.nan, 0.5, 0.1, 0.3], [1, 0, 0, 0, 1, 1]))
    assert ranked["image_id"].tolist() == ["a1", "a0", "a3", "a5", "a4", "a2"]
    # Top score 0; at 0.4 the false positives are 0 and 2, the false negatives 3 and 4.
    assert choose_large(ranked, {"a": 0.4}, 1) == {0, 4}
    assert choose_large(ranked, {"a": 0.4}, 2) == {0, 1, 2, 3, 4}
    assert choose_large(ranked, {}, 1) == {0}
    assert choose_large(ranked, {"a": 0.4}, 0) == set()


def test_one_scale_for_all_maps():
    scale = colour_scale(rank(table([0.5, 0.9, 0.1], [1, 0, 0])))
    assert (scale.low, scale.high) == (0.1, 0.89)
    nothing = colour_scale(rank(table([np.nan], [1])).assign(anomaly_map_mean=np.nan, anomaly_map_max=np.nan))
    assert nothing.low < nothing.high


def test_the_page_says_what_the_dot_is(built):
    assert "The dot and the dashed line are at F1-max" in (built[1] / "index.html").read_text()


def test_a_folder_with_other_things_is_refused_and_kept(built, tmp_path):
    output, _ = copy_of(built, tmp_path)
    foreign = tmp_path / "project" / "data" / "mine.csv"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("1")
    with pytest.raises(UsageError, match="something else, such as 'data'"):
        build_report(output, str(tmp_path / "project"))
    with pytest.raises(UsageError, match="among the results"):
        build_report(output, f"{output}/predictions")
    with pytest.raises(UsageError, match=r"mine.csv' is a file. Expected a folder; give another --to"):
        build_report(output, foreign)
    assert foreign.read_text() == "1"
    assert (
        build_report(output, str(tmp_path / "new")).images == build_report(output, str(tmp_path / "new")).images == 14
    )


def test_photographs_of_a_dataset_that_moved_are_drawn_with_its_root(make_run, tmp_path):
    output = Path(make_run(4))
    info = read_run(str(output))
    write_run(str(output), replace(info, dataset=info.dataset | {"root": str(output.parent)}))
    moved = tmp_path / "moved"
    moved.mkdir()
    for picture in output.parent.glob("*.png"):
        picture.rename(moved / picture.name)
    # Of the two that failed there never was one.
    assert build_report(str(output), str(tmp_path / "lost")).problems == 4
    assert build_report(str(output), str(tmp_path / "found"), root=str(moved)).problems == 0
