"""Tile-level predictor (paper section 2): how much more a tile resembles anomalous than normal prompts."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit


def pool_prompts(
    embeddings: NDArray[np.float32], pooling: Literal["mean_similarity", "mean_embedding"]
) -> NDArray[np.float32]:
    """One vector that stands for a set of prompts.

    Paper: "rather than averaging [the embeddings] themselves, we average the alignment between each
    prompt and the tile image embedding". The mean of the cosine similarities equals the dot product
    with the mean of the unit embeddings left un-normalised, so one vector per set is enough.
    WinCLIP renormalises it (``mean_embedding``).

    Args:
        embeddings: (P, D) float32, unit length.

    Returns:
        (D,) float32.
    """
    mean = embeddings.astype(np.float64).mean(axis=0)
    if pooling == "mean_embedding":
        mean /= np.linalg.norm(mean)
    return np.asarray(mean, np.float32)


def score_tiles(
    images: NDArray[np.float32], normal: NDArray[np.float32], anomalous: NDArray[np.float32], scale: float
) -> NDArray[np.float32]:
    """Anomaly score per tile: softmax over the two mean similarities, anomalous side.

    Args:
        images: (T, D) float32 unit image embeddings of the tiles.
        normal: (D,) pooled normal prompts.
        anomalous: (D,) pooled anomalous prompts.
        scale: factor on the similarities before the softmax (exp of CLIP's logit scale, about 100).

    Returns:
        (T,) float32 in (0, 1).
    """
    margin = images.astype(np.float64) @ (anomalous.astype(np.float64) - normal.astype(np.float64)) * scale
    return np.asarray(expit(margin), np.float32)
