"""Intermediate results of the steps that are in no output; kept only for the image that is explained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zsad.method.foreground import AnnotationLike, Foreground


@dataclass
class Trace:
    """Intermediate results of one image. The steps fill it in where an ``ImageItem`` carries one.

    Attributes:
        saliency: (S, S) float32 DIS map in [0, 1] as IS-Net gives it; None = IS-Net was not asked.
        annotations: SAM's annotations; None = SAM was not asked.
        foreground: with its components.
        embeddings: (T, D) float32 unit image embeddings of the tiles.
        normal_prompts: (P, D) float32 unit text embeddings, in the order of ``sample_prompts``.
        anomalous_prompts: (Q, D) float32, likewise.
        temperature: factor on the similarities before the softmax.
        logits: (L, S, S) float32 of the localising prompts, for the tile of the highest score.
    """

    saliency: NDArray[np.float32] | None = None
    annotations: Sequence[AnnotationLike] | None = None
    foreground: Foreground | None = None
    embeddings: NDArray[np.float32] | None = None
    normal_prompts: NDArray[np.float32] | None = None
    anomalous_prompts: NDArray[np.float32] | None = None
    temperature: float | None = None
    logits: NDArray[np.float32] | None = None
