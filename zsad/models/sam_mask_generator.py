"""Masks of everything in an image, by SAM (Kirillov et al., 2023): automatic mask generation without its waste.

``MaskGenerator.annotate`` returns what the published ``SamAutomaticMaskGenerator`` returns (binary masks, no
crops, no minimum area), in the same order. It differs in the work done: the decoder shares what prompts of one
image have in common (``sam_decoder``), masks of low predicted IoU are dropped before upsampling, the others are
upsampled only where they live, and nothing is run-length encoded. Prompts of several images share decoder batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zsad.config import ForegroundConfig
from zsad.coverage import covered_annotations, is_covered
from zsad.errors import ImageError
from zsad.models.device import to_host
from zsad.models.sam import Embedding, Placed, SAMModel, point_grid
from zsad.models.sam_batches import Batches, Run, plan_batches
from zsad.models.sam_candidates import Candidates, Decoding, ahead, concatenate, joined, suppress
from zsad.models.sam_masks import coverage, low_masks, measure, paint
from zsad.models.sam_network import MASKS_PER_POINT
from zsad.models.sam_upsampling import Box, Upsampling
from zsad.models.streams import TwoStreams
from zsad.models.triton_support import half_kernels_run
from zsad.threads import begun_in_threads

_BATCHES_ON_GPU = 8
"""The most configured batches that a GPU decodes as one: the tokens of 64 prompts leave most of it idle."""
_PROMPT_ON_GPU = 7e6, 2e7
"""Bytes that a GPU needs for each prompt of a batch, by kernels of half precision and by torch."""
_BATCHES_SELECTED = 2
"""The number of an image's full batches that a GPU decodes before masks are selected from them."""


@dataclass(frozen=True)
class Annotation:
    """One mask of an image.

    Attributes:
        box: x0, y0, x1, y1 in pixels, end exclusive: the tight bounding box; all 0 for an empty mask.
        mask: (y1 - y0, x1 - x0) bool, inside the box.
        area: pixels of the mask.
        predicted_iou: the model's own estimate of the mask's quality.
        stability_score: IoU of the masks at a raised and a lowered threshold, in [0, 1]; NaN if both are empty.
        point: the prompt, (x, y) in pixels.
    """

    box: Box
    mask: NDArray[np.bool_]
    area: int
    predicted_iou: float
    stability_score: float
    point: tuple[float, float]


class _Embeddings:
    """The embeddings of images by their index, each made when it is first asked for.

    Args:
        encoded: index and embedding of one image after the other.
    """

    def __init__(self, encoded: Iterator[tuple[int, Embedding]]) -> None:
        self._encoded = encoded
        self._made: dict[int, Embedding] = {}

    def __getitem__(self, image: int) -> Embedding:
        while image not in self._made:
            following, embedding = next(self._encoded)
            self._made[following] = embedding
        return self._made[image]


@dataclass(frozen=True)
class MaskGenerator:
    """SAM's automatic mask generation.

    Attributes:
        model: SAM.
    """

    model: SAMModel

    def annotate(
        self, image: NDArray[np.uint8], config: ForegroundConfig, points: NDArray[np.floating] | None = None
    ) -> list[Annotation]:
        """``annotate_all`` of one image (H, W, 3)."""
        return next(self.annotate_all([image], config, [points]))

    @torch.no_grad()
    def annotate_all(
        self,
        images: Sequence[NDArray[np.uint8]],
        config: ForegroundConfig,
        points: Sequence[NDArray[np.floating] | None],
        within: Sequence[NDArray[np.bool_] | None] | None = None,
        threads: int = 1,
    ) -> Iterator[list[Annotation]]:
        """Masks of everything in one image after the other, on a CPU bit for bit those that it has alone.

        A full decoder batch holds prompts of one image only. The prompts that are left over share further batches, so
        that there are no more batches than if all prompts were those of one image. In memory are the embeddings of the
        images, all masks of the current image, and less than a batch of masks of the images that share one with it. On a
        GPU a batch is up to eight times the configured one. Masks are selected from two batches at a time, while the next
        two pairs of batches are decoded.

        Args:
            images: each (H, W, 3) uint8 RGB.
            config: grid, batch size and thresholds.
            points: per image (P, 2) prompts, x and y in [0, 1]; None = ``point_grid(config.points_per_side)``.
            within: per image an (H, W) mask; annotations of which it covers less than ``config.min_coverage`` are
                left out. None = all are wanted.
            threads: images that are resized at once while a GPU encodes others.

        Yields:
            Per image the annotations, by decreasing predicted IoU.
        """
        grids = [point_grid(config.points_per_side) if own is None else np.asarray(own, np.float64) for own in points]
        pixels = [grid * image.shape[1::-1] for grid, image in zip(grids, images, strict=True)]
        placed = {
            index: ((image.shape[0], image.shape[1]), own)
            for index, (image, own) in enumerate(zip(images, pixels, strict=True))
            if len(own)
        }
        resized = self._resized([images[index] for index in placed], threads)
        batches = self._batches([len(own) for own in pixels], config)
        prompts, plans = self._prepare(placed, batches.size)
        embeddings = _Embeddings(self._encode_all(resized, plans))
        # The host knows what is selected once all that was launched before on the same stream is done. So a GPU encodes
        # the next images and decodes their masks on another one meanwhile.
        decoded = ahead(self._decode_all(batches, prompts, embeddings), 0 if self._on_cpu() else 2)
        left: list[list[Candidates]] = [[] for _ in images]
        for index in range(len(images)):
            if index not in prompts:
                yield []
                continue
            with self._streams.small():
                for batch in batches.shared[index]:
                    self._select_shared(batch, next(decoded), embeddings, left, config)
                embedding = embeddings[index]
                found = [
                    self.select(embedding, *next(decoded).wait(), first, config)
                    for (first, _), *_ in batches.full[index]
                ]
                kept = suppress(concatenate(found + left[index]), config.box_nms_threshold)
                left[index].clear()
                annotations = self.paint(
                    embedding, kept, pixels[index], None if within is None else within[index], config.min_coverage
                )
            yield annotations

    def _resized(self, images: Sequence[NDArray[np.uint8]], threads: int) -> Iterator[Tensor]:
        """``preprocess`` of each; other than on a CPU, which has enough to do, threads begin at once."""
        if threads == 1 or self._on_cpu():
            return map(self.model.preprocess, images)
        return begun_in_threads(self.model.preprocess, images, threads)

    def _batches(self, counts: Sequence[int], config: ForegroundConfig) -> Batches:
        """The decoder batches of images with so many prompts."""
        size = self._batch_size(config)
        # Three sizes, so that few prompts are not filled up to many; each has CUDA graphs of its own.
        shared_sizes = (config.points_per_batch, size // 2, size)
        together = 1 if self._on_cpu() else _BATCHES_SELECTED
        return plan_batches(counts, size, shared_sizes, together, self.model.prompt_group or 1)

    def _batch_size(self, config: ForegroundConfig) -> int:
        """Prompts of a decoder batch; on a GPU several times the configured ones, in a tenth of its memory."""
        if torch.device(self.model.device).type != "cuda":
            return config.points_per_batch
        memory = torch.cuda.get_device_properties(self.model.device).total_memory
        by_torch = self.model.precision == "fp32" or not half_kernels_run(torch.device(self.model.device))
        # Of 64 prompts, whatever is configured: when memory runs out, fewer are.
        batches = int(memory / 10 / (64 * _PROMPT_ON_GPU[by_torch]))
        return config.points_per_batch * max(1, min(_BATCHES_ON_GPU, batches))

    def _prepare(self, placed: Mapping[int, Placed], size: int) -> tuple[dict[int, Tensor], dict[int, Upsampling]]:
        """Prompts (P, 2, C) and upsampling of each image. No later work begins before this is done."""
        self._streams.follow()
        with self._streams.small():
            # Each time that the host waits for the GPU here, there is nothing else to wait for.
            prompts = dict(zip(placed, self._prompts(list(placed.values()), size), strict=True))
            plans = {index: self.model.upsampling_to(native_size) for index, (native_size, _) in placed.items()}
        self._streams.follow()
        return prompts, plans

    def _prompts(self, points: Sequence[Placed], size: int) -> list[Tensor]:
        """``encode_points`` of the points of each image."""
        if self._on_cpu():
            # In their batches: others round otherwise.
            return [
                torch.cat([self.model.encode_points([(native_size, part)]) for part in _split(own, size)])
                for native_size, own in points
            ]
        # At once: every call waits for the GPU several times.
        return list(self.model.encode_points(points).split([len(own) for _, own in points])) if points else []

    def _encode_all(
        self, resized: Iterator[Tensor], plans: Mapping[int, Upsampling]
    ) -> Iterator[tuple[int, Embedding]]:
        """Index and embedding of one image after the other; a GPU is not waited for."""
        for index, plan in plans.items():
            with self._streams.large():
                embedding = self.model.encode_pixels(next(resized), plan)
            yield index, embedding

    def _decode_all(
        self, batches: Batches, prompts: Mapping[int, Tensor], embeddings: _Embeddings
    ) -> Iterator[Decoding]:
        """One batch after the other: of each image those that it is the first to share, then its full ones."""
        for index in prompts:
            for batch in batches.shared[index]:
                own = [prompts[image][start:stop] for image, start, stop in batch]
                together = [embeddings[image] for image, _, _ in batch]
                yield self._start(together, [own], batches.shared_size(sum(map(len, own))))
            for pairs in batches.full[index]:
                parts = [[prompts[index][start:stop]] for start, stop in pairs]
                yield self._start([embeddings[index]], parts, None)

    def _start(
        self, embeddings: Sequence[Embedding], batches: Sequence[Sequence[Tensor]], shared_size: int | None
    ) -> Decoding:
        """``SAMModel.decode`` of batches of the same images; on a GPU on a stream of its own, and not waited for."""
        features = [one.features for one in embeddings]
        with self._streams.large(*features, *(own for batch in batches for own in batch)):
            low, iou = joined([self.model.decode(embeddings, own, shared_size) for own in batches])
            return Decoding(low, iou, self._streams.record_large())

    def _select_shared(
        self,
        batch: list[Run],
        decoding: Decoding,
        embeddings: _Embeddings,
        left: list[list[Candidates]],
        config: ForegroundConfig,
    ) -> None:
        """``select`` from a batch that images share, into ``left`` of each."""
        counts = [MASKS_PER_POINT * (stop - start) for _, start, stop in batch]
        lows, ious = (values.split(counts) for values in decoding.wait())
        for (image, start, _), low, iou in zip(batch, lows, ious, strict=True):
            left[image].append(self.select(embeddings[image], low, iou, start, config))

    def select(
        self, embedding: Embedding, low: Tensor, predicted_iou: Tensor, first_point: int, config: ForegroundConfig
    ) -> Candidates:
        """The published filters of one batch of masks, in their order: predicted IoU, stability, boxes.

        The published generator then drops boxes at the edge of a crop that is not the image's edge; with
        the whole image as its only crop there are none.

        Args:
            embedding: the encoded image.
            low: (3 P, h, w) float32 low-resolution logits.
            predicted_iou: (3 P,) float32.
            first_point: index of the first of the P prompts.
            config: thresholds; 0 or less turns a filter off.

        Raises:
            ImageError: a predicted IoU is NaN, which every filter would drop.
        """
        if bool(predicted_iou.isnan().any()):
            raise ImageError(
                "not_finite", "SAM's predicted IoU is NaN; are these the right weights? Try models.precision=fp32"
            )
        chosen = torch.arange(len(low), device=low.device)
        if config.pred_iou_threshold > 0:
            chosen = (predicted_iou > config.pred_iou_threshold).nonzero()[:, 0]
        plan = embedding.upsampling
        stability, boxes = measure(low, chosen, self.model.network.mask_threshold, config.stability_offset, plan)
        if config.stability_threshold > 0:
            stable = (stability >= config.stability_threshold).nonzero()[:, 0]
            chosen, stability, boxes = chosen[stable], stability[stable], boxes[stable]
        points = first_point + chosen // MASKS_PER_POINT
        return Candidates(low_masks(low, chosen, boxes, plan), predicted_iou[chosen], stability, boxes, points)

    def paint(
        self,
        embedding: Embedding,
        candidates: Candidates,
        points: NDArray[np.float64],
        within: NDArray[np.bool_] | None = None,
        min_coverage: float = 0.0,
    ) -> list[Annotation]:
        """The candidates as annotations on the host.

        Args:
            embedding: the encoded image.
            candidates: in the order of the annotations.
            points: (P, 2), all prompts in pixels.
            within: (H, W) bool; annotations of which it covers less than ``min_coverage`` are left out. None = none are.
            min_coverage: in [0, 1].
        """
        threshold, plan = self.model.network.mask_threshold, embedding.upsampling
        counts = None if within is None else coverage(candidates.low, candidates.boxes, threshold, plan, within)
        facts = [candidates.predicted_iou, candidates.stability, candidates.points, *candidates.boxes.unbind(1)]
        # As numbers that hold them all: one transfer.
        found = to_host(torch.stack([fact.double() for fact in (*facts, *(() if counts is None else counts))]))
        kept = list(range(found.shape[1]))
        if counts is not None:
            areas, common = found[-2:].astype(int).tolist()
            kept = [i for i in kept if is_covered(common[i], areas[i], min_coverage)]
        boxes: list[Box] = [(x0, y0, x1, y1) for x0, y0, x1, y1 in found[3:7, kept].astype(int).T.tolist()]
        masks = paint(candidates.low, boxes, threshold, plan, kept)
        painted = [int(np.count_nonzero(mask)) for mask in masks] if counts is None else [areas[i] for i in kept]
        prompts = points[found[2, kept].astype(int)].tolist()
        annotations = [
            Annotation(box, mask, area, iou, stability, (x, y))
            for box, mask, area, iou, stability, (x, y) in zip(
                boxes, masks, painted, *found[:2, kept].tolist(), prompts, strict=True
            )
        ]
        if within is None or counts is not None:
            return annotations
        return [annotations[i] for i in covered_annotations(annotations, within, min_coverage)]

    @cached_property
    def _streams(self) -> TwoStreams:
        return TwoStreams(self.model.device)

    def _on_cpu(self) -> bool:
        return torch.device(self.model.device).type == "cpu"


def _split(points: NDArray[np.float64], size: int) -> list[NDArray[np.float64]]:
    return [points[start : start + size] for start in range(0, len(points), size)]
