"""Metrics against scikit-learn on the same values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from zsad.errors import ZsadError
from zsad.evaluation.metrics import (
    Metric,
    aupro,
    bootstrap_interval,
    curve_from_counts,
    curve_from_scores,
    sample_metrics,
)


def oracle(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    precision, recall, _ = precision_recall_curve(labels, scores)
    with np.errstate(invalid="ignore"):
        f1 = np.nan_to_num(2 * precision * recall / (precision + recall))
    return {
        "f1_max": float(f1.max()),
        "auroc": roc_auc_score(labels, scores),
        "ap": average_precision_score(labels, scores),
    }


@st.composite
def both_classes(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    pool = draw(
        st.sampled_from(
            [
                st.floats(allow_nan=False, allow_infinity=False, width=32),
                st.sampled_from([0.0, 0.25, 0.5, 0.75]),
                st.sampled_from([-2.0, -0.0, 0.0, 1e-40]),
            ]
        )
    )
    labels = draw(st.lists(st.booleans(), min_size=2, max_size=60).filter(lambda x: len(set(x)) == 2))
    scores = draw(st.lists(pool, min_size=len(labels), max_size=len(labels)))
    return np.array(scores, np.float32), np.array(labels)


@given(both_classes())
@settings(max_examples=150, deadline=None)
def test_equal_to_scikit_learn(case: tuple[np.ndarray, np.ndarray]) -> None:
    scores, labels = case
    metrics = sample_metrics(scores, labels)
    for name, expected in oracle(scores, labels).items():
        assert metrics[name].value == pytest.approx(expected, abs=1e-12), name
        assert metrics[name].reason is None
    flagged = scores >= np.float32(metrics["f1_max"].threshold)
    f1 = 2 * np.sum(flagged & labels) / (flagged.sum() + labels.sum())
    assert f1 == pytest.approx(metrics["f1_max"].value, abs=1e-12)


@pytest.mark.parametrize(
    ("scores", "labels", "f1", "threshold", "auroc", "ap"),
    [
        ([0.1, 0.9], [0, 1], 1.0, 0.9, 1.0, 1.0),
        ([0.9, 0.1], [0, 1], 2 / 3, 0.1, 0.0, 0.5),
        ([0.5, 0.5, 0.5], [0, 1, 1], 0.8, 0.5, 0.5, 2 / 3),
        # 0.7 (1 of 2 found) and 0.2 (2 of 2 found among 4 flagged) give the same F1: the higher one is taken.
        ([0.7, 0.2, 0.5, 0.4], [1, 1, 0, 0], 2 / 3, 0.7, 0.5, 0.75),
        ([np.inf, 1.0, -np.inf], [1, 0, 0], 1.0, np.inf, 1.0, 1.0),
    ],
)
def test_by_hand(scores: list, labels: list, f1: float, threshold: float, auroc: float, ap: float) -> None:
    metrics = sample_metrics(np.array(scores, np.float64), labels)
    assert metrics["f1_max"].value == pytest.approx(f1)
    assert metrics["f1_max"].threshold == threshold
    assert metrics["auroc"].value == pytest.approx(auroc)
    assert metrics["ap"].value == pytest.approx(ap)


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ([0, 0], "no anomalous images"),
        ([1, 1], "no normal images"),
        ([], "no anomalous and no normal images"),
    ],
)
def test_one_class_is_undefined_and_never_zero(labels: list[int], reason: str) -> None:
    metrics = sample_metrics(np.linspace(0, 1, len(labels)), np.array(labels, int))
    assert metrics == dict.fromkeys(("f1_max", "auroc", "ap"), Metric(None, None, reason))
    assert bootstrap_interval(np.linspace(0, 1, len(labels)), np.array(labels, int)) is None


def test_nan_is_refused() -> None:
    with pytest.raises(ZsadError, match="1 of 3 scores are NaN"):
        sample_metrics([0.1, np.nan, 0.3], [0, 1, 1])


@pytest.mark.parametrize(("scores", "labels"), [([0.1], [0, 1]), ([[0.1, 0.2]], [[0, 1]]), ([0.1, 0.2], [0, 2])])
def test_malformed_arguments(scores: list, labels: list) -> None:
    with pytest.raises(ValueError, match="must be"):
        curve_from_scores(scores, labels)


def test_counts_and_scores_give_the_same_curve() -> None:
    scores, labels = np.array([3.0, 1.0, 3.0, 2.0, 1.0]), np.array([1, 0, 0, 1, 1])
    from_counts = curve_from_counts(np.array([0.0, 1.0, 2.0, 3.0]), np.array([0, 1, 1, 1]), np.array([0, 1, 0, 1]))
    from_scores = curve_from_scores(scores, labels)
    for name in ("thresholds", "true_positives", "false_positives"):
        assert getattr(from_counts, name).tolist() == getattr(from_scores, name).tolist()


@pytest.mark.parametrize(
    ("overlap", "expected"),
    [
        # Normal pixels fall in at rates 0.2, 0.6, 1.0: up to 0.2 the line 0 -> a, then a -> a + (b - a) / 4.
        ([0.5, 0.9, 1.0], (0.2 * 0.25 + 0.1 * (0.5 + 0.6) / 2) / 0.3),
        ([0.0, 0.0, 1.0], 0.0),
    ],
)
def test_aupro_interpolates_at_the_limit(overlap: list[float], expected: float) -> None:
    curve = curve_from_counts(np.array([0.1, 0.2, 0.3]), np.array([1, 1, 1]), np.array([2, 2, 1]))
    assert aupro(curve, np.array(overlap)).value == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("labels", [[0, 1, 1, 1], [1, 0, 0, 0]])
def test_one_image_of_a_kind_gives_no_interval(labels: list[int]) -> None:
    scores = np.array(labels, np.float32)
    assert bootstrap_interval(scores, labels, "auroc", resamples=5) is None
    assert bootstrap_interval([*scores, *scores], [*labels, *labels], "auroc", resamples=5) == (1.0, 1.0)


def test_bootstrap_is_seeded_and_surrounds_the_figure() -> None:
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1], 40)
    scores = generator.normal(labels, 1.0).astype(np.float32)
    for name, metric in sample_metrics(scores, labels).items():
        interval = bootstrap_interval(scores, labels, name, resamples=200, seed=3)
        assert interval == bootstrap_interval(scores, labels, name, resamples=200, seed=3)
        assert interval != bootstrap_interval(scores, labels, name, resamples=200, seed=4)
        assert 0 <= interval[0] < metric.value < interval[1] <= 1
    narrow = bootstrap_interval(scores, labels, confidence=0.5, resamples=200)
    wide = bootstrap_interval(scores, labels, confidence=0.99, resamples=200)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]
