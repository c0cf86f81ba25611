"""Step 1, IS-Net: image -> DIS mask (dichotomous image segmentation)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from zsad.config import Config
from zsad.method.foreground import FULL_IMAGE, binarise_saliency
from zsad.models import isnet
from zsad.steps.item import ImageItem, alive, attempt, in_device_batches, isolate, load, timed


class Saliency:
    """Foreground extraction, first half (paper section 2): adds ``dis_mask``."""

    name = "saliency"

    def __init__(self, model: isnet.ISNetModel, config: Config) -> None:
        self.model = model
        self.config = config

    @classmethod
    def from_config(cls, config: Config, device: str) -> Saliency:
        """Load IS-Net as configured. Raises UsageError if its weights cannot be had."""
        return cls(isnet.load(config.models.isnet, device, config.models.precision), config)

    def __call__(self, items: Sequence[ImageItem]) -> None:
        """Fill in ``dis_mask`` of the items that need one."""
        load(items, self.config.images, self.config.runtime.threads)
        if self.config.foreground.source == FULL_IMAGE:
            return
        pending = [item for item in alive(items) if item.foreground_path is None]
        with timed(self.name, pending):
            isolate(self.name, pending, self._predict)

    def _predict(self, items: list[ImageItem]) -> None:
        def forward(window: slice) -> torch.Tensor:
            images = [self.model.preprocess(item.image) for item in items[window] if item.image is not None]
            return self.model.predict(torch.stack(images)).cpu()

        maps = torch.cat(in_device_batches(len(items), self.config.runtime.batch_size, forward)).numpy()
        for item, saliency in zip(items, maps, strict=True):
            attempt(self.name, item, partial(self._binarise, saliency))

    def _binarise(self, saliency: NDArray[np.float32], item: ImageItem) -> None:
        item.dis_mask = binarise_saliency(saliency, item.height, item.width, self.config.foreground)
