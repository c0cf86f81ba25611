"""The detector: the four steps in a row, in one process. The page to read first.

The distributed job runs the same steps as actor pools, so both give the same numbers.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from zsad.config import Config, load_config
from zsad.errors import ImageError, UsageError
from zsad.filesystem import redact
from zsad.images import from_pil
from zsad.method.tiling import Tile
from zsad.models.compiling import compile_networks
from zsad.models.weights import all_trained
from zsad.steps.instances import Instances
from zsad.steps.item import Failure, ImageItem, anomaly_map
from zsad.steps.saliency import Saliency
from zsad.steps.tile_maps import TileMaps
from zsad.steps.tile_scores import TileScores

ImageLike = str | os.PathLike[str] | bytes | Image.Image | NDArray[np.uint8]


class Step(Protocol):
    """A stage of a method: reads and fills in the fields of ``ImageItem``."""

    name: str

    def __call__(self, items: Sequence[ImageItem]) -> None: ...


@dataclass(frozen=True)
class Detection:
    """The result for one image.

    Attributes:
        score: sample score in (0, 1), higher = more anomalous; NaN when ``failure`` is set.
        anomaly_map: (H, W) float16 in [0, 1].
        foreground: (H, W) bool.
        foreground_source: ``sam+dis``, ``dis``, ``full_image`` or ``precomputed``.
        tiles: windows of the image that were scored, each with its component.
        tile_scores: (T,) float32 in (0, 1).
        component_scores: (C,) float32 in (0, 1).
        trained: False when any of the models has random weights; then the numbers mean nothing.
        failure: why the image could not be scored, else None.
        stage_ms: milliseconds per stage.
        remark: on an image that was scored all the same, such as a dark one; else None.
    """

    score: float
    anomaly_map: NDArray[np.float16]
    foreground: NDArray[np.bool_]
    foreground_source: str
    tiles: tuple[Tile, ...]
    tile_scores: NDArray[np.float32]
    component_scores: NDArray[np.float32]
    trained: bool
    failure: Failure | None
    stage_ms: dict[str, float]
    remark: str | None = None


class Detector:
    """Zero-shot anomaly detector for single images and small batches.

    >>> detector = Detector.from_preset("mini")
    >>> detection = detector.score("part.jpg", object="capsule")
    >>> detection.score, detection.anomaly_map.shape
    """

    def __init__(self, steps: Sequence[Step], config: Config) -> None:
        self.steps = tuple(steps)
        self.config = config

    @classmethod
    def from_preset(
        cls, preset: str = "vand2023", *, config: str | Path | None = None, overrides: Sequence[str] = ()
    ) -> Detector:
        """Build a detector from a preset, optionally with a YAML file and ``section.field=value`` overrides.

        Raises:
            UsageError: unknown preset or field, or weights that cannot be had.
        """
        return cls.from_config(load_config(preset, config, overrides))

    @classmethod
    def from_config(cls, config: Config) -> Detector:
        """Build a detector, with the models on ``config.runtime.device``.

        For the whole process, it sets ``THP_MEM_ALLOC_ENABLE`` unless that is set, and in float32 on a GPU it turns TF32
        off in cuDNN.

        Raises:
            UsageError: as ``from_preset``.
        """
        use_large_pages()
        return cls(build_steps(config), config)

    def score(self, image: ImageLike, object: str) -> Detection:
        """Score one image.

        Args:
            image: a path or URI, encoded bytes, a PIL image, (H, W, 3) uint8 RGB or (H, W) uint8 grey.
            object: noun for what the image shows, e.g. ``"printed circuit board"``.

        Raises:
            ImageError: the image cannot be scored; names the path where one was given.
            UsageError: an empty noun, or no image that can be scored: see ``as_item``.
        """
        detection = self.score_batch([image], object)[0]
        if detection.failure is not None:
            path = f"{redact(os.fspath(image))!r}: " if isinstance(image, str | os.PathLike) else ""
            raise ImageError(detection.failure.kind, path + detection.failure.message)
        return detection

    def score_batch(self, images: Iterable[ImageLike], object: str | Sequence[str]) -> list[Detection]:
        """Score several images; one that cannot be scored has ``failure`` set and stops no other.

        Args:
            images: as in ``score``; also one array (N, H, W, 3).
            object: one noun for all, or one per image.

        Raises:
            UsageError: one image instead of several, an empty noun, not as many nouns as images, or an image that
                ``as_item`` refuses.
        """
        if isinstance(images, str | bytes | os.PathLike | Image.Image) or _is_one_array(images):
            raise UsageError("Given one image; expected a list of images. For a single one there is Detector.score.")
        images = list(images)
        nouns = [object] * len(images) if isinstance(object, str) else _nouns(object)
        if len(nouns) != len(images):
            raise UsageError(f"Given {len(images)} images and {len(nouns)} objects; expected one object per image.")
        if any(not noun.strip() for noun in nouns):
            raise UsageError('The object is empty. Expected a noun for what the image shows, e.g. "metal washer".')
        trained = all_trained(self.config.models)
        detections = []
        size = self.config.runtime.batch_size
        for start in range(0, len(images), size):
            pairs = zip(images[start : start + size], nouns[start : start + size], strict=True)
            items = [self._item(image, noun) for image, noun in pairs]
            self.run(items)
            detections += [_detection(item, trained, self.config.aggregation.mask_background) for item in items]
        return detections

    def _item(self, image: ImageLike, noun: str) -> ImageItem:
        try:
            return as_item(image, noun, self.config.images.white_level)
        except ImageError as error:
            # Of an open PIL image whose pixels are read only now.
            item = ImageItem(path="", class_name=noun)
            item.fail("load", error)
            return item

    def run(self, items: Sequence[ImageItem]) -> None:
        """Run the steps over the items, in place."""
        for step in self.steps:
            step(items)


METHOD = (Saliency, Instances, TileScores, TileMaps)
"""The paper's method: its steps in order, one per foundation model."""


def build_steps(config: Config, names: Sequence[str] | None = None) -> tuple[Step, ...]:
    """The steps of the method with their models loaded.

    Args:
        config: the configuration.
        names: build only these steps; None = all.

    Raises:
        UsageError: weights that cannot be had or do not fit.
    """
    device = device_of(config)
    steps = tuple(step.from_config(config, device) for step in METHOD if names is None or step.name in names)
    if config.runtime.compile and device == "cuda":
        for step in steps:
            compile_networks(step.model)
    return steps


def use_large_pages() -> None:
    """Let torch ask the system for pages of 2 MiB; heard only before its first tensor.

    Activations are tens of megabytes, handed out anew for every batch, and a page of 4 KiB is cleared at a time.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def device_of(config: Config) -> str:
    """``cpu`` or ``cuda``; ``auto`` takes the GPU when this process has one.

    Raises:
        UsageError: ``cuda`` is asked for and there is none.
    """
    if config.runtime.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if config.runtime.device == "cuda" and not torch.cuda.is_available():
        raise UsageError("runtime.device is cuda, but torch sees no GPU here. Expected a GPU, or device=cpu.")
    return config.runtime.device


def as_item(image: ImageLike, noun: str, white_level: float | None = None) -> ImageItem:
    """An ``ImageItem`` of any image that ``Detector.score`` accepts; ``white_level`` as in ``zsad.images.from_pil``.

    Raises:
        UsageError: another type, an array that is not (H, W, 3) or (H, W) uint8, or no pixels.
        ImageError: a PIL image whose pixels cannot be had.
    """
    if isinstance(image, bytes):
        return ImageItem(path="", class_name=noun, data=image)
    if isinstance(image, str | os.PathLike):
        return ImageItem(path=os.fspath(image), class_name=noun)
    if isinstance(image, Image.Image):
        # Pillow cannot convert one without pixels.
        shape = (image.height, image.width, 3)
        image = from_pil(image, white_level) if 0 not in image.size else np.zeros(shape, np.uint8)
    if isinstance(image, np.ndarray) and image.size == 0:
        raise UsageError(f"Cannot score an image without pixels: its shape is {image.shape}. Is it an empty crop?")
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=-1)
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        # torch warns about arrays that it could write to but must not.
        return ImageItem(path="", class_name=noun, image=np.require(image, requirements=["C", "W"]))
    given = f"{image.dtype} array of shape {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
    raise UsageError(
        f"Cannot score a {given}. Expected a path, encoded bytes, a PIL image, (H, W, 3) uint8 RGB or (H, W) uint8 grey."
    )


def _is_one_array(images: object) -> bool:
    return isinstance(images, np.ndarray) and images.ndim in (2, 3)


def _nouns(given: object) -> list[str]:
    """One noun per image. Raises UsageError for anything but texts in an order."""
    ordered = isinstance(given, Iterable) and not isinstance(given, Set | Mapping)
    nouns = list(given) if isinstance(given, Iterable) else []
    if not ordered or not all(isinstance(noun, str) for noun in nouns):
        raise UsageError(
            f"The object is {given!r}. Expected a noun for what the images show, or a list of one for each."
        )
    return nouns


def _detection(item: ImageItem, trained: bool, mask_background: bool) -> Detection:
    empty = np.zeros(0, np.float32)
    values = np.zeros((item.height, item.width), np.float16)
    if item.failure is None:
        values = anomaly_map(item, mask_background)
    return Detection(
        score=float("nan") if item.score is None or item.failure is not None else item.score,
        anomaly_map=values,
        foreground=np.zeros(values.shape, np.bool_) if item.foreground is None else item.foreground,
        foreground_source=item.foreground_source or "",
        tiles=item.tiles,
        tile_scores=empty if item.tile_scores is None else item.tile_scores,
        component_scores=empty if item.component_scores is None else item.component_scores,
        trained=trained,
        failure=item.failure,
        stage_ms=dict(item.stage_ms),
        remark=item.note,
    )
