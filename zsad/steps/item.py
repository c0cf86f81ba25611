"""What travels through the steps: one ``ImageItem`` per image, filled in step by step."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torchvision.io  # noqa: F401 - decodes JPEG files where it is loaded
from numpy.typing import NDArray

from zsad.config import ImagesConfig
from zsad.errors import ImageError
from zsad.filesystem import read_bytes, redact
from zsad.images import decode, decode_mask, pixel_count
from zsad.method.tiling import Tile
from zsad.projection import project
from zsad.steps.isolation import attempt
from zsad.steps.trace import Trace

_MAX_MESSAGE = 300
_DARK = 65
"""An image gets a remark if no value reaches this: 14-bit values in a 16-bit file end at 64 of 255."""


@dataclass(frozen=True)
class Failure:
    """Why an image has no score: the stage, a short kind and a message without secrets."""

    stage: str
    kind: str
    message: str


@dataclass
class ImageItem:
    """One image on its way through the steps. ``None`` means: not computed yet.

    Attributes:
        path: path or URI; read by ``load`` unless ``data`` or ``image`` is given.
        class_name: noun put into the prompts.
        foreground_path: optional precomputed foreground that replaces IS-Net and SAM.
        data: encoded bytes; image: (H, W, 3) uint8 decoded pixels. One of both is enough.
        height, width: size after EXIF orientation.
        dis_mask: (H, W) bool, set by saliency.
        foreground: (H, W) bool; foreground_source; num_components; tiles: set by instances.
        note: remarks of any step on an image that can be scored all the same.
        tile_scores: (T,) float32; component_scores: (C,) float32; score: set by tile_scores.
        tile_maps: (T, S, S) float16, set by tile_maps.
        failure: set by the step that could not go on; later steps leave the item alone.
        stage_ms: milliseconds per stage.
        trace: when given, the steps keep their intermediate results in it.
    """

    path: str
    class_name: str
    foreground_path: str | None = None
    data: bytes | None = None
    image: NDArray[np.uint8] | None = None
    height: int = 0
    width: int = 0
    dis_mask: NDArray[np.bool_] | None = None
    foreground: NDArray[np.bool_] | None = None
    foreground_source: str | None = None
    num_components: int = 0
    tiles: tuple[Tile, ...] = ()
    note: str | None = None
    tile_scores: NDArray[np.float32] | None = None
    component_scores: NDArray[np.float32] | None = None
    score: float | None = None
    tile_maps: NDArray[np.float16] | None = None
    failure: Failure | None = None
    stage_ms: dict[str, float] = field(default_factory=dict)
    trace: Trace | None = None

    def remark(self, text: str) -> None:
        """Add ``text`` to the note on an image that is scored all the same, once."""
        if self.note is None:
            self.note = text
        elif text not in self.note:
            self.note += f"; {text}"

    def fail(self, stage: str, error: Exception) -> None:
        """Record ``error`` as the reason why this image has no score."""
        kind = error.kind if isinstance(error, ImageError) else type(error).__name__
        lines = redact(str(error)).strip().splitlines() or [kind]
        self.failure = Failure(stage, kind, lines[0][:_MAX_MESSAGE])


def read(items: Sequence[ImageItem], config: ImagesConfig, threads: int = 1) -> None:
    """Read the files that are not read yet; what fails becomes a failure of stage ``load``.

    Args:
        items: ``data`` is filled in.
        config: cap on file size.
        threads: files read at once.
    """

    def read_one(item: ImageItem) -> None:
        if item.image is None and item.data is None:
            item.data = read_bytes(item.path, config.max_file_bytes)

    _each("load", items, read_one, threads)


def load(items: Sequence[ImageItem], config: ImagesConfig, threads: int = 1) -> None:
    """Read and decode the images that are not decoded yet; what fails becomes a failure of stage ``load``.

    Args:
        items: filled in place: ``data``, ``image``, ``height``, ``width``.
        config: caps on file size, pixels and aspect.
        threads: files read and decoded at once.
    """

    def load_one(item: ImageItem) -> None:
        if item.image is None:
            if item.data is None:
                item.data = read_bytes(item.path, config.max_file_bytes)
            item.image = decode(item.data, config.max_pixels, config.white_level)
        item.height, item.width = item.image.shape[:2]
        aspect = max(item.height, item.width) / min(item.height, item.width)
        if aspect > config.max_aspect:
            raise ImageError(
                "extreme_aspect",
                f"{item.width} x {item.height} pixels: aspect {aspect:.1f}; the cap is {config.max_aspect:g} "
                "(images.max_aspect)",
            )
        if item.image[::8, ::8].max() < _DARK and (brightest := int(item.image.max())) < _DARK:
            item.remark(
                f"dark: no value above {brightest} of 255 (images.white_level says what is white in files of over 8 bits)"
            )

    # Later steps only ask again whether all are there.
    decoded = all(item.image is not None for item in items)
    _each("load", items, load_one, 1 if decoded else threads)


def require_numbers(values: NDArray[np.float32], what: str) -> None:
    """Check that values of a model are finite; weights that do not fit or a faulty GPU give others.

    Args:
        values: float32 of any shape, at least one value.
        what: names them in the message.

    Raises:
        ImageError: kind ``not_finite``; ``values`` hold NaN or infinity.
    """
    # The maximum is NaN or infinity if any value is. Minus infinity need not be looked for: the sigmoid or normalisation
    # that every one of these values has passed makes 0 or NaN of it.
    if not np.isfinite(values.max()):
        raise ImageError(
            "not_finite", f"{what} holds NaN or infinity; are these the right weights? Try models.precision=fp32"
        )


def fitting(items: Sequence[ImageItem], max_pixels: int) -> int:
    """How many of the first items, read but not yet decoded, have together at most ``max_pixels``; at least one."""
    total = 0
    for count, item in enumerate(items):
        total += _pixels(item, max_pixels)
        if count and total > max_pixels:
            return count
    return len(items)


def _pixels(item: ImageItem, max_pixels: int) -> int:
    if item.failure is not None or item.data is None:
        return 0
    try:
        return item.height * item.width or pixel_count(item.data, max_pixels)
    except ImageError:
        # It will not be decoded either.
        return 0


def _each(stage: str, items: Sequence[ImageItem], work: Callable[[ImageItem], object], threads: int) -> None:
    with timed(stage, items):
        pending = alive(items)
        if threads == 1 or len(pending) == 1:
            for item in pending:
                attempt(stage, item, work)
            return
        # Not those of ``in_threads``: files that are slow to come must not hold up what a model waits for.
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda item: attempt(stage, item, work), pending))


def load_foreground(item: ImageItem, config: ImagesConfig) -> NDArray[np.bool_]:
    """The precomputed (H, W) bool foreground of ``item.foreground_path``.

    Raises:
        ImageError: missing, unreadable, or of another size than the image.
    """
    if item.foreground_path is None:
        raise ValueError("the item has no foreground_path")
    try:
        mask = decode_mask(read_bytes(item.foreground_path, config.max_file_bytes), config.max_pixels)
    except ImageError as error:
        words = f"the foreground {redact(item.foreground_path)!r}: {error}"
        raise ImageError(error.kind, words, transient=error.transient) from None
    if mask.shape != (item.height, item.width):
        raise ImageError(
            "foreground_size",
            f"the foreground is {mask.shape[1]} x {mask.shape[0]} pixels, the image {item.width} x {item.height}",
        )
    return mask


def anomaly_map(item: ImageItem, mask_background: bool) -> NDArray[np.float16]:
    """The (H, W) float16 anomaly map of an item that has been through all steps.

    Args:
        item: with ``tile_maps`` and ``tiles``.
        mask_background: whether the map is 0 outside the foreground.

    Raises:
        ValueError: a step is missing.
    """
    if item.tile_maps is None:
        raise ValueError("the item has not been through all steps")
    boxes = np.array([(tile.x0, tile.y0, tile.x1, tile.y1) for tile in item.tiles], np.int32)
    return project(item.tile_maps, boxes, item.height, item.width, item.foreground if mask_background else None)


def alive(items: Sequence[ImageItem]) -> list[ImageItem]:
    """The items without a failure."""
    return [item for item in items if item.failure is None]


@contextmanager
def timed(stage: str, items: Sequence[ImageItem]) -> Any:
    """Add the wall time of the block to ``stage_ms`` of the items without a failure at its beginning, in equal shares."""
    begun = alive(items)
    start = time.perf_counter()
    yield
    each = (time.perf_counter() - start) * 1000 / max(len(begun), 1)
    for item in begun:
        item.stage_ms[stage] = item.stage_ms.get(stage, 0.0) + each
