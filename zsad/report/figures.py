"""The tables and curves of the page: metrics as evaluated, published figures, curves per class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from zsad.evaluation import Curve, sample_metrics
from zsad.evaluation.metrics import curve_from_scores, f1_max
from zsad.evaluation.summary import MEAN
from zsad.evaluation.table import COLUMNS, EXCLUDED, Comparison, comparisons, percent
from zsad.filesystem import join, resolve
from zsad.report.curves import histogram_svg, precision_recall_svg, roc_svg
from zsad.storage.files import list_files

MAX_CLASSES = 60
"""Classes whose curves are drawn: the drawings stand in the page itself, which is to open quickly."""


@dataclass(frozen=True)
class MetricsTable:
    """One evaluation of the run.

    Attributes:
        title: its resolution and split.
        rows: (class, images, anomalous, one cell per ``COLUMNS``); the last one is the mean.
        notes: what was left out and why a figure is undefined.
        stale: whether it is over other images than the run holds now.
        published: comparisons with published figures, where they apply.
    """

    title: str
    rows: list[tuple[str, int, int, list[str]]]
    notes: list[str]
    stale: bool
    published: list[Comparison]


@dataclass(frozen=True)
class ClassCurves:
    """Drawings of one class (SVG of numbers and fixed words only); no ``curves`` where labels do not define them."""

    name: str
    images: int
    anomalous: int
    figures: str
    curves: list[str]
    histogram: str


def read_metrics(output: str, ranked: pd.DataFrame, dataset: str | None) -> list[MetricsTable]:
    """The evaluations in ``OUT/metrics``, native resolution first; files that are none are passed over."""
    tables = []
    names = [info.base_name for info in list_files(join(output, "metrics")) if info.base_name.endswith(".parquet")]
    labelled = int((ranked["pred_score"].notna() & ranked["gt_label"].notna()).sum())
    for name in sorted(names, key=lambda name: (not name.startswith("native"), name)):
        filesystem, path = resolve(join(output, "metrics", name))
        try:
            metrics = pq.read_table(filesystem.open_input_file(path)).to_pandas()
            tables.append(_table(metrics, labelled, ranked, dataset))
        except (OSError, pa.ArrowInvalid, KeyError, IndexError):
            continue
    return tables


def f1_thresholds(ranked: pd.DataFrame) -> dict[str, float]:
    """The F1-max threshold of every class that has normal and anomalous images with a score."""
    curves = {str(name): _curve(rows) for name, rows in ranked.groupby("category")}
    found = {name: f1_max(curve).threshold for name, curve in curves.items()}
    return {name: threshold for name, threshold in found.items() if threshold is not None}


def overall_threshold(ranked: pd.DataFrame) -> float | None:
    """The F1-max threshold over all classes together; None without normal and anomalous images."""
    return f1_max(_curve(ranked)).threshold


def draw_curves(ranked: pd.DataFrame) -> tuple[list[ClassCurves], int]:
    """Curves and histograms, all classes together first, and how many classes were left out (the smallest)."""
    scores = ranked["pred_score"].dropna()
    if scores.empty:
        return [], 0
    low, high = float(scores.min()), float(scores.max())
    high = max(high, low + 1e-3)
    sizes = ranked["category"].value_counts()
    names = sorted(sizes.index[:MAX_CLASSES].astype(str))
    drawn = [_class_curves(name, ranked[ranked["category"] == name], low, high) for name in names]
    if len(sizes) > 1:
        drawn.insert(0, _class_curves("all classes", ranked, low, high))
    return drawn, len(sizes) - len(names)


def _class_curves(name: str, rows: pd.DataFrame, low: float, high: float) -> ClassCurves:
    scored = rows[rows["pred_score"].notna()]
    curve = _curve(scored)
    groups = [
        (css, scored.loc[kind, "pred_score"].to_numpy("float64"))
        for css, kind in (
            ("normal", scored["gt_label"] == 0),
            ("anomalous", scored["gt_label"] == 1),
            ("unknown", scored["gt_label"].isna()),
        )
        if kind.any()
    ]
    threshold, figures, curves = None, "", []
    if curve.undefined is None:
        labelled = scored[scored["gt_label"].notna()]
        metrics = sample_metrics(labelled["pred_score"].to_numpy(), labelled["gt_label"].to_numpy("int64"))
        threshold = metrics["f1_max"].threshold
        figures = ", ".join(
            f"{title} {percent(metrics[metric].value)}" for level, metric, title in COLUMNS if level == "sample"
        )
        curves = [precision_recall_svg(curve, threshold), roc_svg(curve, threshold)]
    histogram = histogram_svg(groups, low, high, threshold)
    return ClassCurves(name, len(scored), int((scored["gt_label"] == 1).sum()), figures, curves, histogram)


def _curve(rows: pd.DataFrame) -> Curve:
    labelled = rows[rows["pred_score"].notna() & rows["gt_label"].notna()]
    return curve_from_scores(labelled["pred_score"].to_numpy("float32"), labelled["gt_label"].to_numpy("int64"))


def _table(metrics: pd.DataFrame, labelled: int, ranked: pd.DataFrame, dataset: str | None) -> MetricsTable:
    first = metrics.iloc[0]
    sample = metrics[metrics["level"] == "sample"].drop_duplicates("category")
    counts: dict[str, tuple[int, int]] = {
        row["category"]: (row["num_images"], row["num_anomalous"]) for row in sample.to_dict("records")
    }
    values: dict[Any, float] = metrics.set_index(["category", "level", "metric"])["value"].to_dict()
    classes = [name for name in counts if name != MEAN]
    rows = [
        (
            name,
            *counts[name],
            [percent(values.get((name, level, metric))) for level, metric, _ in COLUMNS],
        )
        for name in [*classes, MEAN]
    ]
    split = "" if pd.isna(first["split"]) else f", split {first['split']}"
    expected = labelled
    if split:
        same = ranked["split"].isin(str(first["split"]).split("+"))
        expected = int((ranked["pred_score"].notna() & ranked["gt_label"].notna() & same).sum())
    return MetricsTable(
        f"{_resolution(str(first['resolution']))}{split}",
        rows,
        _notes(metrics),
        stale=counts[MEAN][0] != expected,
        published=comparisons(values, classes, dataset),
    )


def _resolution(name: str) -> str:
    return f"{name} x {name} pixels" if name.isdigit() else f"{name} resolution"


def _notes(metrics: pd.DataFrame) -> list[str]:
    pixel = metrics[(metrics["level"] == "pixel") & (metrics["category"] == MEAN)].iloc[0]
    notes = [f"Left out: {int(pixel[column]):,} {text}." for column, text in EXCLUDED.items() if pixel[column]]
    undefined = metrics[metrics["reason"].notna()].drop_duplicates(["category", "level", "reason"])
    notes += [f"{row.category}, {row.level} level: {row.reason}." for row in undefined.itertuples()]
    return notes
