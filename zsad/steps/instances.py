"""Step 2, SAM: image and DIS mask -> foreground, its components and the tiles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import numpy as np
from numpy.typing import NDArray

from zsad.config import Config
from zsad.method.foreground import (
    FULL_IMAGE,
    SAM_DIS,
    Foreground,
    extract_foreground,
    foreground_from_mask,
    near,
)
from zsad.method.tiling import tile_image
from zsad.models import sam
from zsad.models.graphs import out_of_memory
from zsad.models.sam_mask_generator import Annotation, MaskGenerator
from zsad.models.turns import is_alone
from zsad.steps.isolation import attempt, free_memory, isolate
from zsad.steps.item import ImageItem, alive, load, load_foreground, timed
from zsad.threads import file_threads, host_threads, in_threads

_IMAGES_AT_ONCE = 8
"""Images whose prompts share decoder batches. Of each image, less than a batch of masks waits in memory for the others."""


class Instances:
    """Foreground extraction, second half, and image tiling (paper section 2).

    Adds ``foreground``, ``foreground_source``, ``num_components`` and ``tiles``.

    Args:
        generator: SAM with its automatic mask generation.
        config: the configuration.
        tile_side: smallest tile side in pixels: the input size of the pixel-level model.
    """

    name = "instances"

    def __init__(self, generator: MaskGenerator, config: Config, tile_side: int) -> None:
        self.generator = generator
        self.model = generator.model
        self.config = config
        self.threads = host_threads(config, self.model.device)
        self.tile_side = config.tiling.min_side or tile_side

    @classmethod
    def from_config(cls, config: Config, device: str) -> Instances:
        """Load SAM as configured. Raises UsageError if its weights cannot be had."""
        from zsad.models import clipseg_network

        model = sam.load(config.models.sam, device, config.models.precision)
        return cls(MaskGenerator(model), config, clipseg_network.input_size(config.models.clipseg.name))

    def __call__(self, items: Sequence[ImageItem]) -> None:
        """Fill in the foreground and the tiles."""
        load(items, self.config.images, file_threads(self.config))
        with timed(self.name, items):
            pending = alive(items)
            for start in range(0, len(pending), _IMAGES_AT_ONCE):
                self._segment_all(pending[start : start + _IMAGES_AT_ONCE])

    def _segment_all(self, items: list[ImageItem]) -> None:
        segmented: dict[int, Future[None]] = {}
        with ThreadPoolExecutor(self.threads) as pool:

            def segment(item: ImageItem, found: list[Annotation] | None) -> None:
                work = partial(self._segment, annotations=found)
                segmented[id(item)] = pool.submit(attempt, self.name, item, work)

            def annotate(some: list[ImageItem]) -> None:
                for item, found in self._annotate([item for item in some if id(item) not in segmented]):
                    # While SAM is at the next image, which on a GPU leaves the host idle.
                    segment(item, found)

            isolate(self.name, [item for item in items if self._asks(item)], annotate)
            for item in alive(items):
                if id(item) not in segmented:
                    segment(item, None)
            for future in segmented.values():
                future.result()

    def _segment(self, item: ImageItem, annotations: list[Annotation] | None) -> None:
        found = self._foreground(item, annotations)
        tiling = tile_image(found.boxes, found.parts, item.height, item.width, self.tile_side, self.config.tiling)
        if item.trace is not None:
            item.trace.foreground = found
        item.foreground = found.mask
        item.foreground_source = found.source
        item.num_components = len(found.boxes)
        item.tiles = tiling.tiles
        if tiling.widened:
            item.remark(
                f"step widened to keep {self.config.tiling.max_tiles} tiles (tiling.max_tiles) in components "
                f"{', '.join(map(str, tiling.widened[:5]))}"
            )

    def _foreground(self, item: ImageItem, annotations: list[Annotation] | None) -> Foreground:
        config = self.config.foreground
        if config.source != FULL_IMAGE and item.foreground_path is not None:
            given = load_foreground(item, self.config.images)
            if not given.any():
                item.remark("the given foreground is empty, so the whole image was taken")
            return foreground_from_mask(given, config)
        dis_mask = item.dis_mask
        if dis_mask is None:
            dis_mask = np.zeros((item.height, item.width), np.bool_)
        if item.trace is not None:
            item.trace.annotations = annotations
        return extract_foreground(dis_mask, annotations or [], config)

    def _asks(self, item: ImageItem) -> bool:
        """Whether SAM has a say. An empty DIS mask covers no annotation: SAM need not be asked."""
        if self.config.foreground.source != SAM_DIS or item.foreground_path is not None or item.image is None:
            return False
        return item.dis_mask is not None and bool(item.dis_mask.any())

    def _annotate(self, items: list[ImageItem]) -> Iterator[tuple[ImageItem, list[Annotation]]]:
        """SAM's annotations of one item after the other. When memory runs out over a single one, fewer points at once."""
        config = self.config.foreground
        images = [item.image for item in items if item.image is not None]
        masks = [item.dis_mask for item in items if item.dis_mask is not None]
        points = in_threads(self._points, masks, threads=self.threads)
        # An explanation shows all annotations.
        within = [item.dis_mask if item.trace is None else None for item in items]
        while True:
            try:
                found = self.generator.annotate_all(images, config, points, within, self.threads)
                yield from zip(items, found, strict=True)
                return
            except Exception as error:
                # Of several images the caller first tries fewer.
                fewest = config.points_per_batch == 1 and is_alone()
                if len(items) > 1 or fewest or not out_of_memory(error):
                    raise
            if not free_memory():
                config = config.model_copy(update={"points_per_batch": config.points_per_batch // 2})

    def _points(self, dis_mask: NDArray[np.bool_]) -> NDArray[np.float64] | None:
        """The grid points in the dilated DIS mask, or None for the full grid."""
        config = self.config.foreground
        if config.point_pruning == "none":
            return None
        height, width = dis_mask.shape
        grid = sam.point_grid(config.points_per_side)
        rows = np.minimum((grid[:, 1] * height).astype(np.intp), height - 1)
        columns = np.minimum((grid[:, 0] * width).astype(np.intp), width - 1)
        return grid[near(dis_mask, rows, columns, round(config.pruning_dilation * max(height, width)))]
