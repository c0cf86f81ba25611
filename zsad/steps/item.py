"""What travels through the steps: one ``ImageItem`` per image, filled in step by step."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
import torchvision.io  # noqa: F401 - decodes JPEG files where it is loaded
from numpy.typing import NDArray

from zsad.config import ImagesConfig
from zsad.errors import ImageError, UsageError
from zsad.filesystem import BACK_OFF, read_bytes, redact
from zsad.images import decode, decode_mask, pixel_count
from zsad.method.tiling import Tile
from zsad.models.graphs import forget_graphs, out_of_memory
from zsad.projection import project
from zsad.steps.trace import Trace

T = TypeVar("T")

_MAX_MESSAGE = 300
_DARK = 65
"""An image without a brighter value is remarked on: 14 bits in a file of 16 end at 64."""
_MEMORY_BACK_OFF = (0.5, 2.0)
"""Seconds before the second and the third try when others held the memory; I/O has ``filesystem.BACK_OFF``."""


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

    _each("load", items, load_one, threads)


def require_numbers(values: NDArray[np.float32], what: str) -> None:
    """Raises ImageError where ``values`` hold NaN or infinity, as weights that do not fit or a faulty GPU give them."""
    if not np.isfinite(values.max()) or not np.isfinite(values.min()):
        raise ImageError(
            "not_finite", f"{what} holds NaN or infinity; are these the right weights? Try models.precision=fp32"
        )


def fitting(items: Sequence[ImageItem], max_pixels: int) -> int:
    """How many of the first items, read but not decoded, have ``max_pixels`` in all at most; at least one."""
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
        if threads > 1 and len(pending) > 1:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(lambda item: attempt(stage, item, work), pending))
        else:
            for item in pending:
                attempt(stage, item, work)


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


def attempt(stage: str, item: ImageItem, work: Callable[[ImageItem], object]) -> None:
    """Run ``work(item)``; an exception becomes the item's failure, unless it condemns the whole process.

    What may pass by itself is tried again before.
    """
    try:
        persistently(lambda: work(item))
    except Exception as error:
        if condemns_process(error):
            raise
        item.fail(stage, error)


def isolate(stage: str, items: Sequence[ImageItem], work: Callable[[list[ImageItem]], object]) -> None:
    """Run ``work`` on all items at once; on failure on each half, down to the image that causes it.

    That one is tried again where it may pass by itself.

    ``work`` can be repeated on a half: it assigns its results after it has succeeded, or passes over what it has done.
    """
    if not items:
        return
    try:
        if len(items) == 1:
            persistently(lambda: work(list(items)))
        else:
            work(list(items))
        return
    except Exception as error:
        if condemns_process(error):
            raise
        if len(items) == 1:
            items[0].fail(stage, error)
            return
        exhausted = out_of_memory(error)
    # After the except block, which keeps what the failed call had allocated alive.
    if exhausted:
        free_memory()
    middle = len(items) // 2
    isolate(stage, items[:middle], work)
    isolate(stage, items[middle:], work)


def in_device_batches(count: int, size: int, forward: Callable[[slice], T]) -> list[T]:
    """Call ``forward`` on consecutive slices of ``count`` elements; halve ``size`` when memory runs out."""
    results: list[T] = []
    start = 0
    while start < count:
        try:
            results.append(forward(slice(start, min(start + size, count))))
            start += size
        except Exception as error:
            if size == 1 or not out_of_memory(error):
                raise
            size //= 2
        else:
            continue
        # After the except block, which keeps what the failed call had allocated alive.
        free_memory()
    return results


def even_batch(count: int, target: int) -> int:
    """Size of device batches of ``count`` elements: as even as can be, none under ``target`` where that is possible."""
    return max(1, -(-count // max(1, count // target)))


def persistently(work: Callable[[], T]) -> T:
    """``work()``; on an error that may pass by itself again after a while: out of memory twice, I/O four times."""
    tries = 0
    while True:
        try:
            return work()
        except Exception as error:
            waits = BACK_OFF if isinstance(error, ImageError) else _MEMORY_BACK_OFF
            if not is_transient(error) or tries >= len(waits):
                raise
            wait = waits[tries]
        tries += 1
        # After the except block, which keeps what the failed call had allocated alive.
        free_memory()
        time.sleep(wait * np.random.default_rng().uniform(0.5, 1.5))


def is_transient(error: Exception) -> bool:
    """Whether the error may pass by itself: memory that others hold now, a store out of reach just now."""
    return out_of_memory(error) or (isinstance(error, ImageError) and error.transient)


def free_memory() -> None:
    """Give back what is kept of the GPU for later: recorded graphs and their memory, and torch's own."""
    forget_graphs()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def condemns_process(error: Exception) -> bool:
    """Whether no other image can succeed in this process either: wrong usage, a missing package, or a lost GPU."""
    return isinstance(error, UsageError | ImportError) or lost_device(error)


def lost_device(error: Exception) -> bool:
    """Whether the process has lost its CUDA context; only another process gets a new one."""
    return not out_of_memory(error) and "CUDA error" in str(error)


@contextmanager
def timed(stage: str, items: Sequence[ImageItem]) -> Any:
    """Add the wall time of the block to ``stage_ms`` of the items without a failure at its beginning, in equal shares."""
    begun = alive(items)
    start = time.perf_counter()
    yield
    each = (time.perf_counter() - start) * 1000 / max(len(begun), 1)
    for item in begun:
        item.stage_ms[stage] = item.stage_ms.get(stage, 0.0) + each
