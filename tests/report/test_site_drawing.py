import re
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from zsad.evaluation.metrics import auroc, curve_from_scores
from zsad.evaluation.summary import METRICS_SCHEMA
from zsad.evaluation.table import VISA_CLASSES, comparisons
from zsad.report.curves import histogram_svg, precision_recall_svg, roc_svg
from zsad.report.drawing import svg_path
from zsad.report.figures import MAX_CLASSES, draw_curves
from zsad.report.records import rank

SCORES = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
LABELS = [1, 1, 0, 1, 0, 0]
LEFT, RIGHT, TOP, BOTTOM = 38, 254, 10, 158


def points(svg, name):
    path = next(node for node in ElementTree.fromstring(svg).iter("path") if node.get("class") == name)
    drawn = np.array([list(map(float, pair.split())) for pair in path.get("d")[1:].split("L")])
    return (drawn[:, 0] - LEFT) / (RIGHT - LEFT), (BOTTOM - drawn[:, 1]) / (BOTTOM - TOP)


@pytest.mark.parametrize(
    ("rows", "path"),
    [
        (["....", ".##.", ".##.", "...."], "M1 1L1 2L2 2L2 1Z"),
        (["....", "....", "....", "...."], ""),
        (["#...", "....", "....", "...."], "M0 0L1 0L1 1L0 1Z"),
    ],
)
def test_svg_path(rows, path):
    assert svg_path(np.array([[cell == "#" for cell in row] for row in rows])) == path


def test_svg_path_keeps_holes_and_several_regions():
    mask = np.zeros((60, 60), bool)
    mask[5:40, 5:40] = True
    mask[15:25, 15:25] = False
    mask[50:55, 50:55] = True
    assert svg_path(mask).count("Z") == 3


def test_area_under_the_drawn_roc_curve_is_the_auroc():
    curve = curve_from_scores(SCORES, LABELS)
    fpr, tpr = points(roc_svg(curve, 0.8), "curve")
    assert np.trapezoid(tpr, fpr) == pytest.approx(auroc(curve).value, abs=1e-3)


def test_precision_recall_curve_is_stepped_and_marked_at_the_threshold():
    svg = precision_recall_svg(curve_from_scores(SCORES, LABELS), 0.8)
    recall, precision = points(svg, "curve")
    assert (recall[0], precision[0]) == pytest.approx((0, 1), abs=1e-2)
    assert ((np.diff(recall) == 0) | (np.diff(precision) == 0)).all()
    circle = next(ElementTree.fromstring(svg).iter("circle"))
    assert (float(circle.get("cx")) - LEFT) / (RIGHT - LEFT) == pytest.approx(2 / 3, abs=1e-3)


def test_histogram_counts_every_score_once():
    svg = histogram_svg([("normal", np.array([0.0, 0.0, 1.0])), ("anomalous", np.array([0.5]))], 0.0, 1.0, 0.5)
    bars = {node.get("class"): node.get("d") for node in ElementTree.fromstring(svg).iter("path")}
    assert [float(value) for value in re.findall(r"v(-[\d.]+)", bars["bars normal"])] == [-148, -74]
    assert bars["bars anomalous"].count("M") == 1
    assert bars["threshold"] == f"M{(LEFT + RIGHT) / 2:.0f} {TOP}V{BOTTOM}"


def test_curves_of_a_hundred_thousand_scores_stay_small():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 100_000)
    curve = curve_from_scores(rng.normal(labels, 1), labels)
    assert len(roc_svg(curve, None)) < 20_000
    assert len(precision_recall_svg(curve, None)) < 30_000


def test_the_classes_with_most_images_are_drawn():
    names = [f"c{i:03d}" for i in range(MAX_CLASSES + 5)]
    rows = pd.DataFrame({"category": names + names[5:], "status": "ok", "pred_score": 0.5, "gt_label": np.nan})
    drawn, left_out = draw_curves(rank(rows.assign(image_id=rows.index.astype(str))))
    assert [item.name for item in drawn] == ["all classes", *names[5:]]
    assert left_out == 5
    assert all(not item.curves for item in drawn)


def test_published_figures_stand_beside_visa_only():
    values = {(name, level, "f1_max"): 0.5 for name in ["pcb1", "mean"] for level in ("sample", "pixel")}
    sample, pixel = comparisons(values, ["pcb1"], "visa")
    assert [system.system for system in sample.systems] == ["WinCLIP", "APRIL-GAN", "paper"]
    assert sample.rows == [("pcb1", ["71.0", "66.9", "74.3", "50.0"])]
    assert sample.mean == ["71.0", "66.9", "74.3", "50.0"]
    assert pixel.rows[0] == ("pcb1", ["2.4", "12.5", "29.5", "50.0"])
    everything = values | {(name, "sample", "f1_max"): 0.5 for name in VISA_CLASSES}
    assert comparisons(everything, list(VISA_CLASSES), "visa")[0].mean[:3] == ["79.0", "78.7", "81.5"]
    assert comparisons(values, ["pcb1"], "mvtec") == []
    assert comparisons(values, ["gear"], "visa") == []
    assert {"value", "reason"} <= set(METRICS_SCHEMA.names)
