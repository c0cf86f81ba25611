"""The table of metrics as plain text of at most 80 columns, beside the published figures where they apply."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from zsad.evaluation.summary import MEAN
from zsad.text import printable

WIDTH = 80

VISA_CLASSES = (
    "pcb1",
    "pcb2",
    "pcb3",
    "pcb4",
    "capsules",
    "candle",
    "macaroni1",
    "macaroni2",
    "cashew",
    "chewinggum",
    "fryum",
    "pipe_fryum",
)
"""In the order of the paper's tables."""


@dataclass(frozen=True)
class Published:
    """F1-max figures of one system on VisA's 1cls test split (962 normal, 1200 anomalous images), in percent.

    Attributes:
        system: short name.
        level: "sample" or "pixel".
        figures: one per class of ``VISA_CLASSES``.
        mean: as printed.
        source: where the figures stand.
    """

    system: str
    level: str
    figures: tuple[float, ...]
    mean: float
    source: str


_WINCLIP = "Jeong et al., WinCLIP, CVPR 2023"
_APRIL_GAN = "Chen et al., arXiv:2305.17382, 2023"
_PAPER = "Baugh et al., Zero-Shot Anomaly Detection with Pre-trained Segmentation Models, VAND 2023"

PUBLISHED = (
    Published(
        "WinCLIP",
        "sample",
        (71.0, 67.1, 71.0, 74.9, 83.9, 89.4, 74.2, 69.8, 88.4, 94.8, 82.7, 80.7),
        79.0,
        _WINCLIP,
    ),
    Published(
        "APRIL-GAN",
        "sample",
        (66.9, 70.1, 66.7, 87.3, 77.6, 77.8, 71.1, 69.1, 84.8, 93.7, 91.7, 87.7),
        78.7,
        _APRIL_GAN,
    ),
    Published(
        "paper",
        "sample",
        (74.3, 67.1, 70.2, 87.3, 84.9, 82.1, 83.3, 76.9, 82.3, 94.4, 84.8, 90.0),
        81.5,
        f"{_PAPER}, Table 1",
    ),
    Published(
        "WinCLIP",
        "pixel",
        (2.4, 4.7, 10.3, 32.0, 9.2, 22.5, 7.0, 1.0, 13.2, 41.1, 22.1, 12.3),
        14.8,
        _WINCLIP,
    ),
    Published(
        "APRIL-GAN",
        "pixel",
        (12.5, 23.4, 21.7, 31.3, 48.5, 39.4, 35.5, 13.7, 22.9, 78.5, 29.7, 30.4),
        32.3,
        _APRIL_GAN,
    ),
    Published(
        "paper",
        "pixel",
        (29.5, 11.0, 4.7, 21.7, 31.9, 20.2, 24.6, 7.2, 24.5, 63.4, 31.3, 19.6),
        24.2,
        f"{_PAPER}, Table 2",
    ),
)

COLUMNS = (
    ("sample", "f1_max", "F1-max"),
    ("sample", "auroc", "AUROC"),
    ("sample", "ap", "AP"),
    ("pixel", "f1_max", "F1-max"),
    ("pixel", "auroc", "AUROC"),
    ("pixel", "ap", "AP"),
    ("pixel", "aupro", "AUPRO"),
)
"""Level, metric and heading of every column, in order."""

EXCLUDED = {
    "excluded_error": "failed",
    "excluded_unlabelled": "without a label",
    "excluded_no_mask": "anomalous without a mask (pixel level)",
    "excluded_mask_size": "with a mask of another size (pixel level)",
    "excluded_mask_unreadable": "with an unreadable mask (pixel level)",
}
"""What the images that each column of the metrics counts are."""

_INTERVALS = tuple((metric, title) for level, metric, title in COLUMNS if level == "sample")


@dataclass(frozen=True)
class Comparison:
    """F1-max of the published systems and of a run, in percent, over the classes of VisA that the run holds.

    Attributes:
        level: "sample" or "pixel".
        systems: the published ones.
        rows: (class, one cell per system and that of the run).
        mean: the same cells, over these classes.
    """

    level: str
    systems: list[Published]
    rows: list[tuple[str, list[str]]]
    mean: list[str]


def comparisons(
    values: Mapping[tuple[str, str, str], float], categories: list[str], dataset: str | None
) -> list[Comparison]:
    """A run beside the published figures, one comparison per level.

    Args:
        values: by class, level and metric.
        categories: the classes of the run.
        dataset: its name, e.g. "visa"; None if unknown.

    Returns:
        Nothing where the dataset is not VisA, or a class is none of its twelve.
    """
    if (dataset or "").lower() != "visa" or not categories or not set(categories) <= set(VISA_CLASSES):
        return []
    names = [name for name in VISA_CLASSES if name in categories]
    is_complete = len(names) == len(VISA_CLASSES)
    found = []
    for level in ("sample", "pixel"):
        systems = [system for system in PUBLISHED if system.level == level]
        figures = [dict(zip(VISA_CLASSES, system.figures, strict=True)) for system in systems]
        rows = [(name, _cells([each[name] for each in figures], values.get((name, level, "f1_max")))) for name in names]
        means = [
            system.mean if is_complete else sum(each[name] for name in names) / len(names)
            for system, each in zip(systems, figures, strict=True)
        ]
        found.append(Comparison(level, systems, rows, _cells(means, values.get((MEAN, level, "f1_max")))))
    return found


def _cells(published: list[float], ours: float | None) -> list[str]:
    return [*(f"{figure:.1f}" for figure in published), percent(ours)]


def percent(value: float | None) -> str:
    """A share in percent with one decimal, ``-`` where there is none."""
    return "-" if value is None or pd.isna(value) else f"{100 * value:.1f}"


def format_table(
    metrics: pd.DataFrame, dataset: str | None = None, weights: str | None = None, finished: bool = True
) -> str:
    """The metrics as text: the protocol, one row per class and the mean, in percent; "-" where undefined.

    When ``dataset`` is VisA and every class is one of its twelve, the published F1-max figures of
    WinCLIP, APRIL-GAN and the paper follow beside ours, over the classes that occur. Bootstrap intervals
    follow where the metrics hold them.

    Args:
        metrics: from ``zsad.evaluation.evaluate``.
        dataset: its name, e.g. "visa"; None if unknown.
        weights: a word on the weights that stands beside every figure of ours, e.g. "untrained".
        finished: whether the run has its ``_SUCCESS``; the heading says so when it has not.

    Returns:
        Lines of at most 80 characters, without a newline at the end.
    """
    categories = _order([str(name) for name in metrics["category"].unique() if name != MEAN])
    lines = [*_heading(metrics, dataset, weights, finished), "", *_main_table(metrics, categories)]
    notes = _notes(metrics, categories)
    if notes:
        lines += ["", *notes]
    if metrics["low"].notna().any():
        lines += ["", *_intervals(metrics, categories)]
    compared = comparisons(_values(metrics), categories, dataset)
    for comparison in compared:
        lines += ["", *_comparison(comparison, weights)]
    if compared:
        lines += ["", *_sources()]
    return "\n".join(lines)


def _order(categories: list[str]) -> list[str]:
    """The order of the paper's tables for classes of VisA; else the alphabet's."""
    of_visa = set(categories) <= set(VISA_CLASSES)
    return [name for name in VISA_CLASSES if name in categories] if of_visa else sorted(categories)


def _heading(metrics: pd.DataFrame, dataset: str | None, weights: str | None, finished: bool) -> list[str]:
    first = metrics.iloc[0]
    sample, pixel = _mean_row(metrics, "sample"), _mean_row(metrics, "pixel")
    parts = [
        f"dataset {printable(dataset)}" if dataset else "dataset not named",
        f"split {printable(first['split'])}" if pd.notna(first["split"]) else "no split",
        f"resolution {first['resolution']}",
        f"sample level over {sample['num_images']} images ({sample['num_anomalous']} anomalous)",
        f"pixel level over {pixel['num_images']} images ({pixel['num_anomalous']} anomalous)",
    ]
    left_out = [f"{pixel[column]} {text}" for column, text in EXCLUDED.items() if pixel[column]]
    parts.append("left out: " + (", ".join(left_out) if left_out else "none"))
    if weights:
        parts.append(f"weights: {weights}")
    if not finished:
        parts.append("the run is unfinished (no _SUCCESS), so images may be missing")
    return [*_wrap("Evaluation: " + "; ".join(parts) + "."), "Percent; AUPRO up to a false-positive rate of 0.3."]


def _main_table(metrics: pd.DataFrame, categories: list[str]) -> list[str]:
    values = _values(metrics)
    counts = metrics[metrics["level"] == "sample"].drop_duplicates("category").set_index("category")
    width = min(14, max(len(printable(name)) for name in [*categories, "class"]))
    groups = f"{'':{width}}{'':13} |{'sample':^21} |{'pixel':^28}".rstrip()
    header = f"{'class':{width}}{'images':>7}{'anom.':>6} |" + "".join(
        f"{title:>7}" + (" |" if index == 2 else "") for index, (_, _, title) in enumerate(COLUMNS)
    )
    rule = "-" * len(header)
    lines = [groups, header, rule]
    for category in [*categories, MEAN]:
        if category == MEAN:
            lines.append(rule)
        cells = "".join(
            f"{percent(values.get((category, level, metric))):>7}" + (" |" if index == 2 else "")
            for index, (level, metric, _) in enumerate(COLUMNS)
        )
        images, anomalous = counts.loc[category, ["num_images", "num_anomalous"]]
        lines.append(f"{_short(category, width):{width}}{images:>7}{anomalous:>6} |{cells}")
    return lines


def _intervals(metrics: pd.DataFrame, categories: list[str]) -> list[str]:
    by_figure = metrics[metrics["level"] == "sample"].set_index(["category", "metric"])
    low, high = by_figure["low"].to_dict(), by_figure["high"].to_dict()
    width = min(14, max(len(printable(name)) for name in [*categories, "class"]))
    header = f"{'class':{width}}" + "".join(f"{title:>16}" for _, title in _INTERVALS)
    lines = [*_wrap("95 % bootstrap intervals, sample level (normal and anomalous images drawn apart)"), header]
    lines.append("-" * len(header))
    for category in categories:
        keys = [(category, metric) for metric, _ in _INTERVALS]
        texts = ["-" if pd.isna(low[key]) else f"{percent(low[key])} to {percent(high[key])}" for key in keys]
        lines.append(f"{_short(category, width):{width}}" + "".join(f"{text:>16}" for text in texts))
    return lines


def _notes(metrics: pd.DataFrame, categories: list[str]) -> list[str]:
    with_reason = metrics[metrics["reason"].notna()]
    seen: dict[str, list[str]] = {}
    for category in [*categories, MEAN]:
        rows = with_reason[with_reason["category"] == category]
        for level, reason in dict.fromkeys(zip(rows["level"], rows["reason"], strict=True)):
            seen.setdefault(f"{level} level, {reason}", []).append(category)
    lines: list[str] = []
    for text, names in seen.items():
        lines += _wrap(f"{', '.join(printable(name) for name in names)}: {printable(text)}.")
    return lines


def _comparison(comparison: Comparison, weights: str | None) -> list[str]:
    title = f"{comparison.level} F1-max" + (f" (weights of ours: {weights})" if weights else "")
    header = f"{'class':16}" + "".join(f"{system.system:>11}" for system in comparison.systems)
    header += "   ours (reconstruction)"
    rule = "-" * len(header)
    number = len(comparison.rows)
    label = "mean" if number == len(VISA_CLASSES) else f"mean of these {number}"
    rows = [_comparison_row(name, cells) for name, cells in comparison.rows]
    return [*_wrap(title), header, rule, *rows, rule, _comparison_row(label, comparison.mean)]


def _comparison_row(label: str, cells: list[str]) -> str:
    return f"{label:16}" + "".join(f"{cell:>11}" for cell in cells[:-1]) + f"{cells[-1]:>8}"


def _sources() -> list[str]:
    text = (
        f"Published figures: {_WINCLIP}; {_APRIL_GAN} (APRIL-GAN); paper: {_PAPER}, Tables 1 and 2. "
        "They are on VisA's 1cls test split, 962 normal and 1200 anomalous images. Which split, weights "
        "and resolution the paper used is our reconstruction."
    )
    return _wrap(text)


def _values(metrics: pd.DataFrame) -> dict[tuple[str, str, str], float]:
    values: dict[Any, float] = metrics.set_index(["category", "level", "metric"])["value"].to_dict()
    return values


def _mean_row(metrics: pd.DataFrame, level: str) -> pd.Series:
    return metrics[(metrics["category"] == MEAN) & (metrics["level"] == level)].iloc[0]


def _short(name: str, width: int) -> str:
    name = printable(name)
    return name if len(name) <= width else name[: width - 2] + ".."


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent="  ")
