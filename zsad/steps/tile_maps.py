"""Step 4, CLIPSeg: tiles -> tile maps, whose projection into the image is the anomaly map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zsad.config import Config
from zsad.kernels import to_float16
from zsad.method.aggregation import scale_tile_maps
from zsad.method.pixel_level import average_prompts
from zsad.method.prompts import LOCALISING_PROMPTS, localising_prompts, sample_prompts
from zsad.method.tiling import crop
from zsad.models import clipseg
from zsad.models.device import to_host
from zsad.models.text_cache import cached_texts
from zsad.resize import Padded
from zsad.steps.isolation import DeviceBatches, isolate
from zsad.steps.item import ImageItem, alive, load, require_numbers, timed
from zsad.threads import file_threads, host_threads, in_threads


class TileMaps:
    """Pixel-level predictor and prediction aggregation (paper section 2): adds ``tile_maps``."""

    name = "tile_maps"

    def __init__(self, model: clipseg.CLIPSegModel, config: Config) -> None:
        self.model = model
        self.config = config
        self.threads = host_threads(config, self.model.device)
        self._batches = DeviceBatches()
        self._embedded: dict[str | None, tuple[Tensor, list[float]]] = {}

    @classmethod
    def from_config(cls, config: Config, device: str) -> TileMaps:
        """Load CLIPSeg as configured. Raises UsageError if its weights cannot be had."""
        return cls(clipseg.load(config.models.clipseg, device, config.models.precision), config)

    def __call__(self, items: Sequence[ImageItem]) -> None:
        """Fill in the tile maps: scaled by the tile scores, then rounded to float16 once."""
        load(items, self.config.images, file_threads(self.config))
        with timed(self.name, items):
            isolate(self.name, alive(items), self._store)

    def predict(self, items: Sequence[ImageItem]) -> list[NDArray[np.float32]]:
        """The scaled tile maps before rounding: one (T, S, S) float32 in [0, 1] per item."""
        queue = [(item, index) for item in items for index in range(len(item.tiles))]
        nouns = [item.class_name for item, _ in queue]
        maps = np.empty((len(queue), self.model.input_size, self.model.input_size), np.float32)
        by_noun = self.config.pixel_level.prompts == "sample"
        # Localising prompts are the same for all classes; sample-level prompts differ by noun.
        for noun in dict.fromkeys(nouns) if by_noun else [None]:
            chosen = [i for i, other in enumerate(nouns) if noun is None or other == noun]
            self._predict_group(queue, chosen, noun, maps)
        results, start = [], 0
        for item in items:
            if item.tile_scores is None:
                raise ValueError("tile_maps needs tile_scores; run the step tile_scores first")
            own = maps[start : start + len(item.tiles)]
            results.append(scale_tile_maps(own, item.tile_scores, self.config.aggregation.tile_scaling))
            start += len(item.tiles)
        return results

    def _predict_group(
        self,
        queue: list[tuple[ImageItem, int]],
        chosen: list[int],
        noun: str | None,
        maps: NDArray[np.float32],
    ) -> None:
        embeddings, weights = self._prompts(noun)

        def forward(window: slice) -> None:
            own = chosen[window]
            levels = self.model.encode_tiles(self.model.preprocess([_crop(*queue[i]) for i in own], self.threads))
            at_once = self.model.tiles_at_once(len(weights)) or len(own)
            for start in range(0, len(own), at_once):
                some = slice(start, start + at_once)
                logits = self.model.decode_tiles([level[some] for level in levels], embeddings)
                for i, prompt_logits in zip(own[some], logits, strict=True):
                    _keep_logits(*queue[i], prompt_logits)
                maps[own[some]] = averaged(logits, weights, self.config.pixel_level.prompt_average)

        # Memory goes with tiles x prompts, so more prompts than the paper's mean fewer tiles at once.
        target = max(1, self.config.runtime.device_batch * len(LOCALISING_PROMPTS) // len(weights))
        target = min(target, self.config.runtime.device_batch)
        self._batches.run(len(chosen), target, forward)

    def _store(self, items: list[ImageItem]) -> None:
        in_threads(_round, items, self.predict(items), threads=self.threads)

    def _prompts(self, noun: str | None) -> tuple[Tensor, list[float]]:
        """Embedded prompts and their weights: localising ones, or the anomalous ones of a noun."""
        if noun not in self._embedded:
            if noun is None:
                prompts, weights = localising_prompts(self.config.prompts)
            else:
                prompts = sample_prompts(noun, self.config.prompts)[1]
                weights = [1.0] * len(prompts)
            embedded = cached_texts(self.model, prompts, lambda: self.model.embed_prompts(prompts).cpu().numpy())
            self._embedded[noun] = (torch.from_numpy(embedded).to(self.model.device), weights)
        return self._embedded[noun]


def averaged(
    logits: Tensor, weights: Sequence[float], average: Literal["harmonic", "arithmetic", "max"]
) -> NDArray[np.float32]:
    """``average_prompts`` of logits (T, P, S, S) that may be on a GPU -> (T, S, S) float32 on the host."""
    # On a CPU tile by tile: averaging takes several times the memory of what it averages.
    some = max(1, len(logits)) if logits.is_cuda else 1
    return to_host(torch.cat([average_prompts(part, weights, average) for part in logits.split(some)]))


def _crop(item: ImageItem, index: int) -> NDArray[np.uint8] | Padded:
    if item.image is None:
        raise ValueError("the image is not decoded")
    return crop(item.image, item.tiles[index])


def _round(item: ImageItem, maps: NDArray[np.float32]) -> None:
    require_numbers(maps, "a map of CLIPSeg")
    item.tile_maps = to_float16(maps)


def _keep_logits(item: ImageItem, index: int, logits: Tensor) -> None:
    """Keep the (L, S, S) logits of the tile of the highest score for an explanation."""
    if item.trace is not None and item.tile_scores is not None and index == int(item.tile_scores.argmax()):
        item.trace.logits = logits.float().cpu().numpy()
