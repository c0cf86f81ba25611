"""Step 3, CLIP: tiles -> tile scores, component scores, sample score."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from zsad.config import Config
from zsad.method.aggregation import component_scores, sample_score
from zsad.method.prompts import sample_prompts
from zsad.method.tile_level import pool_prompts, score_tiles
from zsad.method.tiling import crop
from zsad.models import clip
from zsad.models.device import to_host
from zsad.models.text_cache import cached_texts
from zsad.steps.isolation import DeviceBatches, isolate
from zsad.steps.item import ImageItem, alive, load, require_numbers, timed
from zsad.threads import file_threads, host_threads


class TileScores:
    """Tile-level predictor and the sample score (paper section 2).

    Adds ``tile_scores``, ``component_scores`` and ``score``. The prompts of a noun are encoded once.
    """

    name = "tile_scores"

    def __init__(self, model: clip.CLIPModel, config: Config) -> None:
        self.model = model
        self.config = config
        self.threads = host_threads(config, self.model.device)
        temperature = config.tile_level.temperature
        self.scale = model.logit_scale if temperature == "checkpoint" else float(temperature)
        self._batches = DeviceBatches()
        self._pooled: dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]] = {}

    @classmethod
    def from_config(cls, config: Config, device: str) -> TileScores:
        """Load CLIP as configured. Raises UsageError if its weights cannot be had."""
        return cls(clip.load(config.models.clip, device, config.models.precision), config)

    def __call__(self, items: Sequence[ImageItem]) -> None:
        """Fill in the scores; the tiles of all items go through CLIP together."""
        load(items, self.config.images, file_threads(self.config))
        with timed(self.name, items):
            isolate(self.name, alive(items), self._score)

    def _score(self, items: list[ImageItem]) -> None:
        queue = [(item.image, tile) for item in items for tile in item.tiles if item.image is not None]

        def forward(window: slice) -> NDArray[np.float32]:
            tiles = self.model.preprocess([crop(image, tile) for image, tile in queue[window]], self.threads)
            return to_host(self.model.embed_images(tiles))

        batches = self._batches.run(len(queue), self.config.runtime.device_batch, forward)
        embeddings = np.concatenate(batches)
        bounds = np.cumsum([len(item.tiles) for item in items])[:-1]
        for item, images in zip(items, np.split(embeddings, bounds), strict=True):
            scores = score_tiles(images, *self._prompts(item.class_name), self.scale)
            require_numbers(scores, "a tile score of CLIP")
            components = component_scores(scores, np.array([tile.component for tile in item.tiles]))
            item.tile_scores, item.component_scores = scores, components
            item.score = sample_score(components, self.config.aggregation.top_fraction)
            if item.trace is not None:
                item.trace.embeddings, item.trace.temperature = images, self.scale
                item.trace.normal_prompts, item.trace.anomalous_prompts = self._embed(item.class_name)

    def _prompts(self, noun: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The pooled normal and anomalous prompts of a noun."""
        if noun not in self._pooled:
            pooling = self.config.tile_level.prompt_pooling
            normal, anomalous = self._embed(noun)
            self._pooled[noun] = (pool_prompts(normal, pooling), pool_prompts(anomalous, pooling))
        return self._pooled[noun]

    def _embed(self, noun: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(P, D) and (Q, D) unit embeddings of the normal and anomalous prompts of a noun."""
        normal, anomalous = sample_prompts(noun, self.config.prompts)
        return self._encode(normal), self._encode(anomalous)

    def _encode(self, prompts: list[str]) -> NDArray[np.float32]:
        return cached_texts(self.model, prompts, lambda: self.model.embed_texts(prompts).cpu().numpy())
