"""Segment Anything (Kirillov et al., 2023): automatic mask generation without its waste.

``SAMModel.annotate`` returns what the published ``SamAutomaticMaskGenerator`` returns (binary masks, no
crops, no minimum area), in the same order. It differs in the work done: the decoder shares what prompts of one
image have in common (``sam_decoder``), masks of low predicted IoU are dropped before upsampling, the others are
upsampled only where they live, and nothing is run-length encoded. Prompts of several images share decoder batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch
from numpy.typing import NDArray
from segment_anything.modeling import Sam
from segment_anything.utils.amg import build_point_grid
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor

from zsad.config import ForegroundConfig, ModelConfig, Precision
from zsad.coverage import covered_annotations, is_covered
from zsad.models.device import autocast, host_tensor, to_host
from zsad.models.graphs import CUDAGraphs
from zsad.models.sam_candidates import Candidates, Decoding, Run, ahead, concatenate, joined, shared_batches, suppress
from zsad.models.sam_decoder import prompts_at_once
from zsad.models.sam_masks import coverage, low_masks, measure, paint
from zsad.models.sam_network import MASKS_PER_POINT, build, ready
from zsad.models.sam_upsampling import Box, Upsampling, upsampling
from zsad.models.state_dicts import seeded
from zsad.models.streams import TwoStreams
from zsad.models.triton_support import triton_works
from zsad.models.weights import restore
from zsad.resize import Normalisation, resize_into

Placed = tuple[tuple[int, int], NDArray[np.float64]]
"""Height and width of an image, and points in it: (P, 2) x and y in pixels."""
_BATCHES_ON_GPU = 8
"""A GPU decodes so many batches as one, memory permitting: the tokens of 64 prompts leave most of it idle."""
_PROMPT_ON_GPU = 7e6, 2e7
"""Bytes that a GPU needs for each prompt of a batch, by kernels of half precision and by torch."""
_BATCHES_SELECTED = 2
"""Of a GPU's batches, so many of an image are decoded before their masks are selected from."""


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


@dataclass(frozen=True)
class Embedding:
    """An encoded image.

    Attributes:
        features: (1, C, h, w) float32 on the model's device.
        upsampling: from low-resolution logits to the image's pixels.
    """

    features: Tensor
    upsampling: Upsampling


@dataclass(frozen=True)
class SAMModel:
    """SAM with automatic mask generation.

    Attributes:
        network: in evaluation mode, on ``device``.
        device: torch device.
        precision: ``fp32``, or ``bf16``/``fp16`` by autocast in the image encoder and the mask decoder.
        sha256: of the weights file, or of the state dict of seeded random weights.
    """

    network: Sam
    device: str
    precision: Precision
    sha256: str

    @property
    def input_size(self) -> int:
        """Side of the square input in pixels."""
        return int(self.network.image_encoder.img_size)

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

        An image has its full decoder batches to itself. What is left of all images shares batches, so that there
        are no more than there would be if the prompts were those of one image. An embedding is kept of each image, the
        masks of less than a batch of those that share it with the next one, and all masks of one. On a GPU a batch is up
        to eight of the configured ones, two of them are selected from together, and two more such pairs are in the making.

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
        size = self._batch_size(config)
        grids = [point_grid(config.points_per_side) if own is None else np.asarray(own, np.float64) for own in points]
        pixels = [grid * image.shape[1::-1] for grid, image in zip(grids, images, strict=True)]
        asked = [index for index, own in enumerate(pixels) if len(own)]
        resized = self._resized([images[index] for index in asked], threads)
        placed = [((images[index].shape[0], images[index].shape[1]), pixels[index]) for index in asked]
        self._streams.follow()
        with self._streams.small():
            # Each time that the host waits for the GPU here, there is nothing else to wait for.
            prompts = dict(zip(asked, self._prompts(placed, size), strict=True))
            plans = {
                index: self._upsampling(native_size) for index, (native_size, _) in zip(asked, placed, strict=True)
            }
        self._streams.follow()

        full = {index: self._full_batches(len(prompts[index]), size) for index in asked}
        shared: dict[int, list[list[Run]]] = {index: [] for index in asked}
        for batch in shared_batches([len(own) for own in pixels], size, self._prompts_at_once() or 1):
            # The images come in order, so this one is the first to need the batch.
            shared[batch[0][0]].append(batch)
        # Some, so that few prompts are not filled up to many; each has CUDA graphs of its own.
        shared_sizes = config.points_per_batch, size // 2, size
        embeddings: dict[int, Embedding] = {}

        def embedding_of(index: int) -> Embedding:
            while index not in embeddings:
                following = asked[len(embeddings)]
                with self._streams.large():
                    embeddings[following] = self._encode(next(resized)[0], plans[following])
            return embeddings[index]

        def decodings() -> Iterator[Decoding]:
            for index in asked:
                for batch in shared[index]:
                    own = [prompts[image][start:stop] for image, start, stop in batch]
                    count = sum(map(len, own))
                    together = [embedding_of(image) for image, _, _ in batch]
                    yield self._start(together, [own], min((one for one in shared_sizes if one >= count), default=size))
                for batches in full[index]:
                    parts = [[prompts[index][start:stop]] for start, stop in batches]
                    yield self._start([embedding_of(index)], parts, None)

        # The host knows what is selected once all that was launched before on the same stream is done. So a GPU encodes
        # the next images and decodes their masks on another one meanwhile.
        decoded = ahead(decodings(), 0 if self._on_cpu() else 2)
        left: list[list[Candidates]] = [[] for _ in images]
        for index in range(len(images)):
            if index not in prompts:
                yield []
                continue
            with self._streams.small():
                for batch in shared[index]:
                    counts = [MASKS_PER_POINT * (stop - start) for _, start, stop in batch]
                    lows, ious = (values.split(counts) for values in next(decoded).wait())
                    for (image, start, _), low, iou in zip(batch, lows, ious, strict=True):
                        left[image].append(self.select(embeddings[image], low, iou, start, config))
                    # They are large, and this function goes on.
                    del lows, ious, low, iou
                embedding = embedding_of(index)
                found = [self.select(embedding, *next(decoded).wait(), first, config) for (first, _), *_ in full[index]]
                kept = suppress(concatenate(found + left[index]), config.box_nms_threshold)
                left[index].clear()
                annotations = self.paint(
                    embedding, kept, pixels[index], None if within is None else within[index], config.min_coverage
                )
            yield annotations

    def preprocess(self, image: NDArray[np.uint8]) -> tuple[Tensor, tuple[int, int]]:
        """The published resize of the longer side to the input size, mean and std, and padding with 0.

        Args:
            image: (H, W, 3) uint8 RGB.

        Returns:
            (1, 3, S, S) float32 on the host, and height and width of the image in its upper left corner.
        """
        side = self.input_size
        height, width = ResizeLongestSide.get_preprocess_shape(image.shape[0], image.shape[1], side)
        pixels = host_tensor((1, 3, side, side), self.device)
        output = pixels.numpy()[0]
        output[:, height:] = 0
        output[:, :height, width:] = 0
        resize_into(output, image, "bilinear", self._normalisation, (height, width))
        return pixels, (height, width)

    @cached_property
    def _normalisation(self) -> Normalisation:
        mean, std = (tuple(values.flatten().tolist()) for values in (self.network.pixel_mean, self.network.pixel_std))
        return Normalisation(1, mean, std)

    @cached_property
    def _positions(self) -> Tensor:
        """The encoding of the embedding's own pixels, (1, C, h, w) float32, the same for every image.

        Without autocast, as that of the points.
        """
        with torch.autocast(torch.device(self.device).type, enabled=False):
            positions: Tensor = self.network.prompt_encoder.get_dense_pe()
        return positions

    def encode(self, image: NDArray[np.uint8]) -> Embedding:
        """Resize the longer side to the input size, normalise, pad, encode: (H, W, 3) uint8 -> embedding.

        On a GPU not while ``annotate_all`` goes on, which encodes on a stream of its own.
        """
        return self._encode(self.preprocess(image)[0], self._upsampling((image.shape[0], image.shape[1])))

    def _resized(self, images: Sequence[NDArray[np.uint8]], threads: int) -> Iterator[tuple[Tensor, tuple[int, int]]]:
        """``preprocess`` of each; other than on a CPU, which has enough to do, threads begin at once."""
        if threads == 1 or self._on_cpu():
            return map(self.preprocess, images)
        pool = ThreadPoolExecutor(threads)
        resized = pool.map(self.preprocess, images)
        pool.shutdown(wait=False)
        return resized

    def _encode(self, pixels: Tensor, plan: Upsampling) -> Embedding:
        """``encode`` of what ``preprocess`` made of an image, (1, 3, S, S)."""
        return Embedding(self._features(pixels.to(self.device, non_blocking=True)), plan)

    def _upsampling(self, native_size: tuple[int, int]) -> Upsampling:
        """From low-resolution logits to an image of this height and width."""
        height, width = self.network.prompt_encoder.mask_input_size
        input_size = ResizeLongestSide.get_preprocess_shape(*native_size, self.input_size)
        return upsampling((height, width), self.input_size, input_size, native_size, self.device)

    def _full_batches(self, prompts: int, size: int) -> list[list[tuple[int, int]]]:
        """Start and stop of an image's full batches, those together whose masks are selected from together."""
        batches = [(start, start + size) for start in range(0, prompts - size + 1, size)]
        together = 1 if self._on_cpu() else _BATCHES_SELECTED
        return [batches[first : first + together] for first in range(0, len(batches), together)]

    def _start(
        self, embeddings: Sequence[Embedding], batches: Sequence[Sequence[Tensor]], shared_size: int | None
    ) -> Decoding:
        """``decode`` of batches of the same images; a GPU does it on a stream of its own, and is not waited for."""
        features = [one.features for one in embeddings]
        with self._streams.large(*features, *(own for batch in batches for own in batch)):
            low, iou = joined([self.decode(embeddings, own, shared_size) for own in batches])
            return Decoding(low, iou, self._streams.large_so_far())

    @cached_property
    def _streams(self) -> TwoStreams:
        return TwoStreams(self.device)

    def _batch_size(self, config: ForegroundConfig) -> int:
        """Prompts of a decoder batch; on a GPU several times the configured ones, in a tenth of its memory."""
        if torch.device(self.device).type != "cuda":
            return config.points_per_batch
        memory = torch.cuda.get_device_properties(self.device).total_memory
        by_torch = self.precision == "fp32" or not triton_works(torch.device(self.device))
        # Of 64 prompts, whatever is configured: when memory runs out, fewer are.
        batches = int(memory / 10 / (64 * _PROMPT_ON_GPU[by_torch]))
        return config.points_per_batch * max(1, min(_BATCHES_ON_GPU, batches))

    def _on_cpu(self) -> bool:
        return torch.device(self.device).type == "cpu"

    @cached_property
    def _features(self) -> CUDAGraphs:
        return CUDAGraphs(partial(_features, self.network, self.precision))

    @cached_property
    def _decoded(self) -> CUDAGraphs:
        # Of full batches, and of shared ones of three sizes with 1, 2, 4 or 8 images.
        return CUDAGraphs(partial(_decoded, self.network, self.precision, self._positions, self._no_mask), keep=13)

    @cached_property
    def _no_mask(self) -> Tensor:
        """The encoding of no mask as a prompt, (1, C, h, w) float32."""
        dense: Tensor = self.network.prompt_encoder(points=None, boxes=None, masks=None)[1]
        return dense

    def _prompts(self, points: Sequence[Placed], size: int) -> list[Tensor]:
        """``encode_points`` of the points of each image."""
        if self._on_cpu():
            # In their batches: others round otherwise.
            return [
                torch.cat([self.encode_points([(native_size, part)]) for part in _split(own, size)])
                for native_size, own in points
            ]
        # At once: every call waits for the GPU several times.
        return list(self.encode_points(points).split([len(own) for _, own in points])) if points else []

    def encode_points(self, points: Sequence[Placed]) -> Tensor:
        """The points of images, P in all, as prompts (P, 2, C) float32: the point and the padding."""
        resized = ResizeLongestSide(self.input_size)
        coordinates = np.concatenate([resized.apply_coords(own, native_size) for native_size, own in points])
        prompts = torch.from_numpy(coordinates)[:, None].to(self.device)
        labels = torch.ones(prompts.shape[:2], dtype=torch.int, device=self.device)
        # Without autocast: positions need more digits than half precision has.
        sparse: Tensor = self.network.prompt_encoder(points=(prompts, labels), boxes=None, masks=None)[0]
        return sparse

    def decode(
        self, embeddings: Sequence[Embedding], prompts: Sequence[Tensor], shared_size: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Three masks per prompt.

        Args:
            embeddings: the encoded images.
            prompts: per image (P_i, 2, C) of ``encode_points``; P is their sum.
            shared_size: size of batches that images share; None for one image that has a batch to itself.

        Returns:
            Low-resolution logits (3 P, h, w) and predicted IoUs (3 P,), both float32.
        """
        features = [one.features for one in embeddings]
        counts = [len(own) for own in prompts]
        sparse = torch.cat(list(prompts))
        masks = MASKS_PER_POINT * len(sparse)
        owner = []
        if shared_size is not None:
            if self._prompts_at_once() is None:
                # Of few shapes, so of the same kernels: a mask must not depend on who exactly shares the batch.
                missing = max(0, shared_size - len(sparse))
                sparse = torch.cat([sparse, sparse[-1:].expand(missing, -1, -1)])
                counts[-1] += missing
                features += features[-1:] * ((1 << (len(features) - 1).bit_length()) - len(features))
            whose = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
            owner = [whose.to(self.device, non_blocking=True)]
        low, predicted_iou = self._decoded(torch.cat(features), sparse, *owner)
        return low[:masks], predicted_iou[:masks]

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
        """
        chosen = torch.arange(len(low), device=low.device)
        if config.pred_iou_threshold > 0:
            chosen = (predicted_iou > config.pred_iou_threshold).nonzero()[:, 0]
        plan = embedding.upsampling
        stability, boxes = measure(low, chosen, self.network.mask_threshold, config.stability_offset, plan)
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
        threshold, plan = self.network.mask_threshold, embedding.upsampling
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

    def _prompts_at_once(self) -> int | None:
        height, width = self.network.prompt_encoder.image_embedding_size
        return prompts_at_once(height * width, self.device)


def load(config: ModelConfig, device: str = "cpu", precision: Precision = "fp32") -> SAMModel:
    """Build SAM and load the configured weights.

    Args:
        config: name ``sam-vit-h``, ``sam-vit-l``, ``sam-vit-b`` (1024 x 1024), ``mini-sam`` (288 x 288) or
            ``random-sam``, optionally with a weights file.
        device: torch device.
        precision: ``fp32``, ``bf16`` or ``fp16``.

    Raises:
        UsageError: another name, weights missing, or weights of another shape.
    """
    network = seeded(lambda: build(config.name))
    sha256 = restore(network, config)
    return SAMModel(ready(network, device, precision), device, precision, sha256)


def _features(network: Sam, precision: Precision, pixels: Tensor) -> Tensor:
    """(1, 3, S, S) -> (1, C, h, w) float32."""
    with autocast(pixels.device.type, precision):
        features: Tensor = network.image_encoder(pixels)
    return features.float()


def _decoded(
    network: Sam,
    precision: Precision,
    positions: Tensor,
    no_mask: Tensor,
    features: Tensor,
    sparse: Tensor,
    *owner: Tensor,
) -> tuple[Tensor, Tensor]:
    """(I, C, h, w) of images, prompts (P, 2, C) and perhaps the image of each -> (3 P, h, w) and (3 P,), float32."""
    with autocast(features.device.type, precision):
        low, predicted_iou = network.mask_decoder(
            image_embeddings=features,
            image_pe=positions,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=no_mask,
            multimask_output=True,
            owner=owner[0] if owner else None,
        )
    return low.flatten(0, 1).float(), predicted_iou.flatten().float()


def point_grid(points_per_side: int) -> NDArray[np.float64]:
    """(points_per_side ** 2, 2) prompts, x and y in [0, 1], row by row, at the centres of a regular grid."""
    grid: NDArray[np.float64] = build_point_grid(points_per_side)
    return grid


def _split(points: NDArray[np.float64], size: int) -> list[NDArray[np.float64]]:
    return [points[start : start + size] for start in range(0, len(points), size)]
