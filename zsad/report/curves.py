"""Curves and histograms as small SVG drawings: numbers and class names of CSS only, no text from outside.

Colours come from the page's style sheet, so the drawings follow the dark and the light theme.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from zsad.evaluation import Curve

WIDTH, HEIGHT = 264, 196
_LEFT, _RIGHT, _TOP, _BOTTOM = 38, 254, 10, 158
BINS = 32
_MANY_POINTS = 500
"""From here on points are set to half units, less than a pixel on the page, so that the drawing stays small."""


def precision_recall_svg(curve: Curve, threshold: float | None) -> str:
    """Precision over recall, in the steps that average precision is the area of.

    Args:
        curve: with at least one anomalous and one normal image.
        threshold: where a point is marked (that of F1-max); None = nowhere.
    """
    recall = curve.true_positives / curve.num_positives
    precision = curve.true_positives / (curve.true_positives + curve.false_positives)
    xs, ys = np.repeat(np.concatenate([[0.0], recall]), 2)[1:-1], np.repeat(precision, 2)
    marks = _mark(curve, threshold, recall, precision)
    return _svg("Precision-recall curve", _axes("recall", "precision") + _line(xs, ys, "curve") + marks)


def roc_svg(curve: Curve, threshold: float | None) -> str:
    """True-positive rate over false-positive rate; arguments as ``precision_recall_svg``."""
    tpr, fpr = curve.true_positives / curve.num_positives, curve.false_positives / curve.num_negatives
    xs, ys = np.concatenate([[0.0], fpr]), np.concatenate([[0.0], tpr])
    chance = _line(np.array([0.0, 1.0]), np.array([0.0, 1.0]), "chance")
    body = _axes("false-positive rate", "true-positive rate") + chance + _line(xs, ys, "curve")
    return _svg("ROC curve", body + _mark(curve, threshold, fpr, tpr))


def histogram_svg(
    groups: list[tuple[str, NDArray[np.floating]]], low: float, high: float, threshold: float | None
) -> str:
    """How many images have which score, one colour per group, drawn over each other.

    Args:
        groups: (CSS class, (N,) scores), e.g. normal and anomalous.
        low: left end of the axis.
        high: right end, above ``low``.
        threshold: where a vertical line stands; None = nowhere.
    """
    counts = [(name, np.histogram(scores, BINS, (low, high))[0]) for name, scores in groups]
    top = max(1, *(int(values.max()) for _, values in counts)) if counts else 1
    body = _axes("score", "images", (_number(low), _number(high)), ("0", f"{top:,}"))
    step = (_RIGHT - _LEFT) / BINS
    for name, values in counts:
        bars = "".join(
            f"M{_short(_LEFT + index * step)} {_BOTTOM}v{_short(-value / top * (_BOTTOM - _TOP))}"
            f"h{_short(step)}V{_BOTTOM}Z"
            for index, value in enumerate(values.tolist())
            if value
        )
        body += f'<path class="bars {name}" d="{bars}"/>' if bars else ""
    if threshold is not None and low <= threshold <= high:
        x = _short(_LEFT + (threshold - low) / (high - low) * (_RIGHT - _LEFT))
        body += f'<path class="threshold" d="M{x} {_TOP}V{_BOTTOM}"/>'
    return _svg("Histogram of scores", body)


def _svg(title: str, body: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img"><title>{title}</title>{body}</svg>'


def _axes(
    x_label: str, y_label: str, x_ends: tuple[str, str] = ("0", "1"), y_ends: tuple[str, str] = ("0", "1")
) -> str:
    middle = (_TOP + _BOTTOM) / 2
    grid = "".join(
        f"M{_LEFT} {_short(y)}H{_RIGHT}M{_short(x)} {_TOP}V{_BOTTOM}"
        for x, y in zip(np.linspace(_LEFT, _RIGHT, 5), np.linspace(_TOP, _BOTTOM, 5), strict=True)
    )
    return (
        f'<path class="rules" d="{grid}"/>'
        f'<text x="{_LEFT}" y="{_BOTTOM + 15}">{x_ends[0]}</text>'
        f'<text x="{_RIGHT}" y="{_BOTTOM + 15}" text-anchor="end">{x_ends[1]}</text>'
        f'<text x="{(_LEFT + _RIGHT) / 2}" y="{_BOTTOM + 30}" text-anchor="middle">{x_label}</text>'
        f'<text x="{_LEFT - 6}" y="{_BOTTOM}" text-anchor="end">{y_ends[0]}</text>'
        f'<text x="{_LEFT - 6}" y="{_TOP + 8}" text-anchor="end">{y_ends[1]}</text>'
        f'<text x="10" y="{middle}" text-anchor="middle" transform="rotate(-90 10 {middle})">{y_label}</text>'
    )


def _line(xs: NDArray[np.float64], ys: NDArray[np.float64], name: str) -> str:
    """A line through points of the unit square; points that fall together on the drawing are left out."""
    step = 0.1 if xs.size <= _MANY_POINTS else 0.5
    across, down = _LEFT + xs * (_RIGHT - _LEFT), _BOTTOM - ys * (_BOTTOM - _TOP)
    points = np.round(np.stack([across, down], axis=1) / step) * step
    points = points[np.concatenate([[True], (np.diff(points, axis=0) != 0).any(axis=1)])]
    text = "L".join(f"{_short(x)} {_short(y)}" for x, y in points.tolist())
    return f'<path class="{name}" d="M{text}"/>'


def _mark(curve: Curve, threshold: float | None, xs: NDArray[np.float64], ys: NDArray[np.float64]) -> str:
    if threshold is None:
        return ""
    index = int(np.flatnonzero(curve.thresholds >= threshold)[-1])
    x, y = _LEFT + xs[index] * (_RIGHT - _LEFT), _BOTTOM - ys[index] * (_BOTTOM - _TOP)
    return f'<circle class="mark" cx="{_short(x)}" cy="{_short(y)}" r="4"><title>F1-max</title></circle>'


def _short(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")


def _number(value: float) -> str:
    return f"{value:.3g}"
