"""Pixel metrics with scikit-learn on all pixels at once, as the anomaly detection repositories do."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score


def pixel_metrics(maps: Sequence[NDArray[np.float16]], masks: Sequence[NDArray[np.bool_]]) -> dict[str, float]:
    """F1-max, AUROC and average precision over all pixels of all maps."""
    scores = np.concatenate([one.ravel() for one in maps]).astype(np.float32)
    labels = np.concatenate([mask.ravel() for mask in masks])
    precision, recall, _ = precision_recall_curve(labels, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return {
        "f1_max": float(f1.max()),
        "auroc": float(roc_auc_score(labels, scores)),
        "ap": float(average_precision_score(labels, scores)),
    }
