"""Why an image has its score: the steps run once, and what they compute on the way is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from zsad.config import Config
from zsad.coverage import covered_annotations
from zsad.detector import Detector
from zsad.errors import ImageError, UsageError
from zsad.filesystem import redact
from zsad.method.aggregation import top_count
from zsad.method.pixel_level import average_prompts
from zsad.method.prompts import localising_prompts, sample_prompts
from zsad.method.tile_level import pool_prompts
from zsad.models.registry import is_trained
from zsad.report.explain_input import file_name, unexplainable
from zsad.steps.item import ImageItem, anomaly_map, load
from zsad.steps.trace import Trace


@dataclass(frozen=True)
class Alignment:
    """One set of sample-level prompts against one tile (paper section 2, tile-level predictor).

    Attributes:
        prompts: P texts.
        similarities: (P,) float32 cosine similarities of the tile to each.
        pooled: the one number that enters the tile score: their mean (or as ``prompt_pooling`` says).
    """

    prompts: tuple[str, ...]
    similarities: NDArray[np.float32]
    pooled: float

    def top(self, number: int) -> list[tuple[str, float]]:
        """The most similar prompts, equal ones in the order of the set."""
        order = np.argsort(-self.similarities, kind="stable")[:number]
        return [(self.prompts[i], float(self.similarities[i])) for i in order]


@dataclass(frozen=True)
class Explanation:
    """Everything that led to the score of one image.

    Attributes:
        item: the image after all steps, with scores, tiles and times.
        trace: the intermediate results of that same run.
        config: the configuration.
        untrained: families of the models that have random weights.
        anomaly_map: (H, W) float16 in [0, 1].
        kept: indices of the SAM annotations that form the foreground.
        best: index of the tile with the highest score; the first of equal ones.
        normal, anomalous: the sample-level prompts against that tile.
        localising: prompts of the pixel-level predictor; prompt_weights: their weights in the average.
        prompt_maps: (L, S, S) float32 in [0, 1], the segmentation of that tile by each of them.
        average_map: (S, S) float32 in [0, 1], their average, before it is scaled by the tile score.
    """

    item: ImageItem
    trace: Trace
    config: Config
    untrained: tuple[str, ...]
    anomaly_map: NDArray[np.float16]
    kept: tuple[int, ...]
    best: int
    normal: Alignment
    anomalous: Alignment
    localising: tuple[str, ...]
    prompt_weights: tuple[float, ...]
    prompt_maps: NDArray[np.float32]
    average_map: NDArray[np.float32]

    @property
    def name(self) -> str:
        """File name of the photograph."""
        return file_name(redact(self.item.path))

    @property
    def photograph(self) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB."""
        if self.item.image is None:
            raise ValueError("the image is not decoded")
        return self.item.image

    @property
    def score(self) -> float:
        """The sample score, as ``Detector.score`` gives it."""
        return float("nan") if self.item.score is None else self.item.score

    @property
    def tile_scores(self) -> list[float]:
        """Score per tile, in [0, 1]."""
        return [] if self.item.tile_scores is None else [float(score) for score in self.item.tile_scores]

    @property
    def component_scores(self) -> list[float]:
        """Score per component, in [0, 1]."""
        return [] if self.item.component_scores is None else [float(score) for score in self.item.component_scores]

    @property
    def rule(self) -> str:
        """How the score arises from the component scores, in words; detail.js says the same."""
        number, share = len(self.component_scores), self.config.aggregation.top_fraction
        k = top_count(number, share)
        if number == 1:
            return "the score of the one component"
        if k == 1:
            return f"the highest of {number} components"
        return f"the mean of the {k} highest of {number} components (the top {share:.0%})"


def open_photograph(path: str, noun: str, config: Config, data: bytes) -> ImageItem:
    """The decoded photograph, ready to be explained.

    Args:
        path, noun, config: as for ``read_photograph``.
        data: what that gave.

    Raises:
        UsageError: the photograph cannot be decoded.
    """
    item = ImageItem(path=path, class_name=noun, data=data)
    load([item], config.images)
    if item.failure is not None:
        raise unexplainable(path, item.failure.kind, item.failure.message)
    return item


def explain(detector: Detector, item: ImageItem) -> Explanation:
    """Score one image and keep what leads to the score.

    Args:
        detector: runs the steps.
        item: of ``open_photograph``; filled in.

    Raises:
        ImageError: the image cannot be scored.
        UsageError: a prompt does not fit the models.
    """
    trace = item.trace = Trace()
    detector.run([item])
    if item.failure is not None:
        raise ImageError(item.failure.kind, f"{item.failure.stage}: {item.failure.message}")
    # A list of steps that is not the paper's leaves some of these out.
    found = (trace.embeddings, trace.normal_prompts, trace.anomalous_prompts, trace.logits, item.tile_scores)
    if any(part is None for part in found):
        raise UsageError("This detector's steps are not those of the paper's method. Expected zsad.Detector's own.")
    embeddings, normal, anomalous, logits, tile_scores = [np.asarray(part) for part in found]
    config = detector.config
    kept: list[int] = []
    if trace.annotations is not None and item.dis_mask is not None:
        kept = covered_annotations(trace.annotations, item.dis_mask, config.foreground.min_coverage)
    best = int(tile_scores.argmax())
    texts = sample_prompts(item.class_name, config.prompts)
    localising, weights = localising_prompts(config.prompts)
    if config.pixel_level.prompts == "sample":
        localising, weights = texts[1], [1.0] * len(texts[1])
    average = average_prompts(torch.from_numpy(logits)[None], weights, config.pixel_level.prompt_average)
    return Explanation(
        item=item,
        trace=trace,
        config=config,
        untrained=tuple(
            family for family, model in config.models.by_family().items() if not is_trained(model.name, model.weights)
        ),
        anomaly_map=anomaly_map(item, config.aggregation.mask_background),
        kept=tuple(kept),
        best=best,
        normal=_align(embeddings[best], texts[0], normal, config),
        anomalous=_align(embeddings[best], texts[1], anomalous, config),
        localising=tuple(localising),
        prompt_weights=tuple(weights),
        prompt_maps=torch.from_numpy(logits).sigmoid().numpy(),
        average_map=average[0].numpy(),
    )


def _align(
    embedding: NDArray[np.float32], texts: Sequence[str], embeddings: NDArray[np.float32], config: Config
) -> Alignment:
    pooled = pool_prompts(embeddings, config.tile_level.prompt_pooling)
    return Alignment(tuple(texts), embeddings @ embedding, float(pooled.astype(np.float64) @ embedding))
