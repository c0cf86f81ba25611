"""F1-max, AUROC, average precision and AUPRO from scores or from counts per score.

Every metric is computed on the distinct scores, at the thresholds "score >= t", so ties are handled
as scikit-learn handles them. A metric that the labels leave undefined is ``None`` with a reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from zsad.errors import ZsadError

FPR_LIMIT = 0.3
"""AUPRO integrates up to this false-positive rate (MVTec AD's protocol)."""


@dataclass(frozen=True)
class Metric:
    """One figure.

    Attributes:
        value: in [0, 1]; None where the metric is undefined.
        threshold: the score at which F1 is maximal; None for the other metrics.
        reason: why ``value`` is None.
    """

    value: float | None
    threshold: float | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Curve:
    """Confusion counts at every distinct score, highest threshold first.

    Attributes:
        thresholds: (N,) float64, strictly decreasing.
        true_positives: (N,) int64, anomalous items with score >= threshold.
        false_positives: (N,) int64, normal items with score >= threshold.
        unit: what is counted, "images" or "pixels".
    """

    thresholds: NDArray[np.float64]
    true_positives: NDArray[np.int64]
    false_positives: NDArray[np.int64]
    unit: str

    @property
    def num_positives(self) -> int:
        return int(self.true_positives[-1]) if self.true_positives.size else 0

    @property
    def num_negatives(self) -> int:
        return int(self.false_positives[-1]) if self.false_positives.size else 0

    @property
    def undefined(self) -> str | None:
        """Why no metric is defined on this curve, or None."""
        missing = [
            name for name, count in (("anomalous", self.num_positives), ("normal", self.num_negatives)) if not count
        ]
        return f"no {' and no '.join(missing)} {self.unit}" if missing else None


def curve_from_counts(
    values: NDArray[np.floating],
    positives: NDArray[np.integer],
    negatives: NDArray[np.integer],
    unit: str = "pixels",
) -> Curve:
    """The curve of counts per score.

    Args:
        values: (N,) strictly increasing scores.
        positives: (N,) int, anomalous items of each score.
        negatives: (N,) int, normal items of each score.
    """
    occupied = np.flatnonzero(positives + negatives)[::-1]
    return Curve(
        values[occupied].astype(np.float64),
        np.cumsum(positives[occupied], dtype=np.int64),
        np.cumsum(negatives[occupied], dtype=np.int64),
        unit,
    )


def curve_from_scores(scores: ArrayLike, labels: ArrayLike) -> Curve:
    """The curve of raw scores.

    Args:
        scores: (N,) float, higher = more anomalous; infinite values are ordered like any other.
        labels: (N,) bool, or int with 1 = anomalous and 0 = normal.

    Raises:
        ZsadError: a score is NaN.
        ValueError: shapes differ, or a label is neither 0 nor 1.
    """
    values, groups, is_positive = _group(scores, labels)
    return curve_from_counts(
        values,
        np.bincount(groups[is_positive], minlength=values.size),
        np.bincount(groups[~is_positive], minlength=values.size),
        unit="images",
    )


def f1_max(curve: Curve) -> Metric:
    """The largest F1 over all thresholds, and the highest threshold that reaches it."""
    if curve.undefined:
        return Metric(None, reason=curve.undefined)
    f1 = 2 * curve.true_positives / (curve.true_positives + curve.false_positives + curve.num_positives)
    best = int(np.argmax(f1))
    return Metric(float(f1[best]), threshold=float(curve.thresholds[best]))


def auroc(curve: Curve) -> Metric:
    """The area under the ROC curve (ties count one half)."""
    if curve.undefined:
        return Metric(None, reason=curve.undefined)
    tpr = np.concatenate([[0.0], curve.true_positives / curve.num_positives])
    fpr = np.concatenate([[0.0], curve.false_positives / curve.num_negatives])
    return Metric(_area(tpr, fpr))


def average_precision(curve: Curve) -> Metric:
    """The step-wise area under the precision-recall curve: sum of (R_n - R_(n-1)) P_n."""
    if curve.undefined:
        return Metric(None, reason=curve.undefined)
    precision = curve.true_positives / (curve.true_positives + curve.false_positives)
    recall_steps = np.diff(curve.true_positives, prepend=0) / curve.num_positives
    return Metric(float(np.sum(recall_steps * precision)))


def aupro(curve: Curve, overlap: NDArray[np.float64]) -> Metric:
    """The area under the per-region-overlap curve up to the false-positive rate ``FPR_LIMIT``, divided by it.

    Bergmann et al., "The MVTec Anomaly Detection Dataset" (IJCV 2021): the false-positive rate is
    over all normal pixels, and the curve is interpolated linearly at the limit.

    Args:
        curve: counts of pixels.
        overlap: (N,) mean over the ground-truth regions of the share of the region at or above each
            of ``curve.thresholds``, in [0, 1].
    """
    if curve.undefined:
        return Metric(None, reason=curve.undefined)
    pro = np.concatenate([[0.0], overlap])
    fpr = np.concatenate([[0.0], curve.false_positives / curve.num_negatives])
    inside = int(np.searchsorted(fpr, FPR_LIMIT, side="right"))
    if inside < fpr.size:
        pro[inside] = np.interp(FPR_LIMIT, fpr[inside - 1 : inside + 1], pro[inside - 1 : inside + 1])
        fpr[inside] = FPR_LIMIT
    return Metric(_area(pro[: inside + 1], fpr[: inside + 1]) / FPR_LIMIT)


SAMPLE_METRICS: Mapping[str, Callable[[Curve], Metric]] = MappingProxyType(
    {"f1_max": f1_max, "auroc": auroc, "ap": average_precision}
)


def sample_metrics(scores: ArrayLike, labels: ArrayLike) -> dict[str, Metric]:
    """``f1_max``, ``auroc`` and ``ap`` of one class's images; arguments and errors as ``curve_from_scores``."""
    curve = curve_from_scores(scores, labels)
    return {name: metric(curve) for name, metric in SAMPLE_METRICS.items()}


def bootstrap_interval(
    scores: ArrayLike,
    labels: ArrayLike,
    metric: str = "f1_max",
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[float, float] | None:
    """A percentile bootstrap interval of one class's sample-level metric.

    Images are drawn with replacement within normal and within anomalous images, so that every
    resample keeps both and the metric stays defined.

    Args:
        scores: (N,) float.
        labels: (N,) bool or 0/1.
        metric: "f1_max", "auroc" or "ap".
        resamples: number of resamples, at least 1.
        confidence: in (0, 1).
        seed: the same seed gives the same interval.

    Returns:
        (low, high), or None where the metric is undefined, or where one image stands for all normal or all anomalous
        ones: drawn again and again, it says nothing of how others would vary.
    """
    values, groups, is_positive = _group(scores, labels)
    positives, negatives = groups[is_positive], groups[~is_positive]
    if min(positives.size, negatives.size) < 2:
        return None
    generator = np.random.default_rng(seed)
    figures = np.empty(resamples)
    for index in range(resamples):
        curve = curve_from_counts(
            values,
            np.bincount(generator.choice(positives, positives.size), minlength=values.size),
            np.bincount(generator.choice(negatives, negatives.size), minlength=values.size),
            "images",
        )
        figures[index] = SAMPLE_METRICS[metric](curve).value
    low, high = np.quantile(figures, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _group(scores: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.floating], NDArray[np.intp], NDArray[np.bool_]]:
    """Distinct scores in increasing order, the group of every item, and whether it is anomalous."""
    score_array, label_array = np.asarray(scores), np.asarray(labels)
    if score_array.ndim != 1 or score_array.shape != label_array.shape:
        raise ValueError(f"scores {score_array.shape} and labels {label_array.shape} must be 1-D and of equal length")
    if not np.isin(label_array, (0, 1)).all():
        raise ValueError("labels must be 0 (normal) or 1 (anomalous)")
    num_nan = int(np.isnan(score_array).sum())
    if num_nan:
        raise ZsadError(f"{num_nan} of {score_array.size} scores are NaN; a metric needs numbers")
    values, groups = np.unique(score_array, return_inverse=True)
    return values, groups, label_array.astype(bool)


def _area(heights: NDArray[np.float64], positions: NDArray[np.float64]) -> float:
    return float(np.sum(np.diff(positions) * (heights[1:] + heights[:-1])) / 2)
