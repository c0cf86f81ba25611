"""Segment Anything (Kirillov et al., 2023): images and points to masks at low resolution.

The decoder shares what prompts of one image have in common (``sam_decoder``), and takes those of several images at
once. ``sam_mask_generator`` makes annotations of what is decoded here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch
from numpy.typing import NDArray
from segment_anything.modeling import Sam
from segment_anything.utils.amg import build_point_grid
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor

from zsad.config import ModelConfig, Precision
from zsad.models.device import autocast, host_tensor
from zsad.models.graphs import CUDAGraphs
from zsad.models.sam_decoder import prompts_at_once
from zsad.models.sam_network import MASKS_PER_POINT, build, ready
from zsad.models.sam_upsampling import Upsampling, upsampling
from zsad.models.state_dicts import seeded
from zsad.models.weights import restore
from zsad.resize import Normalisation, resize_into

Placed = tuple[tuple[int, int], NDArray[np.float64]]
"""Height and width of an image, and points in it: (P, 2) x and y in pixels."""


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
    """SAM, ready to encode images and to decode prompts.

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

    def preprocess(self, image: NDArray[np.uint8]) -> Tensor:
        """The published resize of the longer side to the input size, mean and std, and padding with 0.

        Args:
            image: (H, W, 3) uint8 RGB.

        Returns:
            (1, 3, S, S) float32 on the host, the image in its upper left corner.
        """
        side = self.input_size
        height, width = ResizeLongestSide.get_preprocess_shape(image.shape[0], image.shape[1], side)
        pixels = host_tensor((1, 3, side, side), self.device)
        output = pixels.numpy()[0]
        output[:, height:] = 0
        output[:, :height, width:] = 0
        resize_into(output, image, "bilinear", self._normalisation, (height, width))
        return pixels

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

        On a GPU not while ``MaskGenerator.annotate_all`` goes on, which encodes on a stream of its own.
        """
        return self.encode_pixels(self.preprocess(image), self.upsampling_to((image.shape[0], image.shape[1])))

    def encode_pixels(self, pixels: Tensor, plan: Upsampling) -> Embedding:
        """``encode`` of what ``preprocess`` made of an image, (1, 3, S, S)."""
        return Embedding(self._features(pixels.to(self.device, non_blocking=True)), plan)

    def upsampling_to(self, native_size: tuple[int, int]) -> Upsampling:
        """From low-resolution logits to an image of this height and width."""
        height, width = self.network.prompt_encoder.mask_input_size
        input_size = ResizeLongestSide.get_preprocess_shape(*native_size, self.input_size)
        return upsampling((height, width), self.input_size, input_size, native_size, self.device)

    @cached_property
    def _features(self) -> CUDAGraphs:
        return CUDAGraphs(partial(encode_features, self.network, self.precision))

    @cached_property
    def _decoded(self) -> CUDAGraphs:
        # Of full batches, and of shared ones of three sizes with 1, 2, 4 or 8 images.
        return CUDAGraphs(
            partial(decode_prompts, self.network, self.precision, self._positions, self._no_mask), keep=13
        )

    @cached_property
    def _no_mask(self) -> Tensor:
        """The encoding of no mask as a prompt, (1, C, h, w) float32."""
        dense: Tensor = self.network.prompt_encoder(points=None, boxes=None, masks=None)[1]
        return dense

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
            if self.prompt_group is None:
                # Of few shapes, so of the same kernels: a mask must not depend on who exactly shares the batch.
                missing = max(0, shared_size - len(sparse))
                sparse = torch.cat([sparse, sparse[-1:].expand(missing, -1, -1)])
                counts[-1] += missing
                features += features[-1:] * ((1 << (len(features) - 1).bit_length()) - len(features))
            # Not by torch, whose threads take milliseconds to begin while others resize images.
            whose = torch.from_numpy(np.repeat(np.arange(len(counts)), counts))
            owner = [whose.to(self.device, non_blocking=True)]
        low, predicted_iou = self._decoded(torch.cat(features), sparse, *owner)
        return low[:masks], predicted_iou[:masks]

    @property
    def prompt_group(self) -> int | None:
        """How many prompts of one image the decoder computes together; None: all prompts of all images."""
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


def encode_features(network: Sam, precision: Precision, pixels: Tensor) -> Tensor:
    """(1, 3, S, S) -> (1, C, h, w) float32."""
    with autocast(pixels.device.type, precision):
        features: Tensor = network.image_encoder(pixels)
    return features.float()


def decode_prompts(
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
