"""Step 1, IS-Net: image -> DIS mask (dichotomous image segmentation)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from zsad.config import Config
from zsad.method.foreground import FULL_IMAGE, binarise_saliency
from zsad.models import isnet
from zsad.models.device import to_host
from zsad.steps.isolation import isolate
from zsad.steps.item import ImageItem, alive, load, require_numbers, timed
from zsad.threads import file_threads, host_threads, in_threads


class Saliency:
    """Foreground extraction, first half (paper section 2): adds ``dis_mask``."""

    name = "saliency"

    def __init__(self, model: isnet.ISNetModel, config: Config) -> None:
        self.model = model
        self.config = config
        self.threads = host_threads(config, self.model.device)

    @classmethod
    def from_config(cls, config: Config, device: str) -> Saliency:
        """Load IS-Net as configured. Raises UsageError if its weights cannot be had."""
        return cls(isnet.load(config.models.isnet, device, config.models.precision), config)

    def __call__(self, items: Sequence[ImageItem]) -> None:
        """Fill in ``dis_mask`` of the items that need one."""
        load(items, self.config.images, file_threads(self.config))
        if self.config.foreground.source == FULL_IMAGE:
            return
        pending = [item for item in alive(items) if item.foreground_path is None]
        size = self.model.batch_size
        with timed(self.name, pending):
            for start in range(0, len(pending), size):
                isolate(self.name, pending[start : start + size], self._predict)

    def _predict(self, items: list[ImageItem]) -> None:
        images = [item.image for item in items if item.image is not None]
        if len(images) < len(items):
            raise ValueError("an image is not decoded")
        found = to_host(self.model.predict(self.model.preprocess(images, self.threads)))
        require_numbers(found, "IS-Net's saliency")
        in_threads(self._finish, items, found, threads=self.threads)

    def _finish(self, item: ImageItem, saliency: NDArray[np.float32]) -> None:
        if item.trace is not None:
            item.trace.saliency = saliency.copy()
        item.dis_mask = binarise_saliency(saliency, item.height, item.width, self.config.foreground)
