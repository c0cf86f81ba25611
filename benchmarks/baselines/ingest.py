"""From an encoded photograph to the four models' inputs with Pillow throughout, as the models' own code does it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor
from torch.nn import functional as F

from zsad.method.tiling import Tile


@dataclass(frozen=True)
class PillowIngest:
    """The preprocessing of the four models' own repositories.

    Attributes:
        sam_preprocess: SAM's normalisation and padding; sam_side: its input side.
        clip_transform, clipseg_transform: see ``baselines.scoring``.
        saliency_side: input side of IS-Net.
    """

    saliency_side: int
    sam_side: int
    sam_preprocess: Any
    clip_transform: Any
    clipseg_transform: Any

    def __call__(self, data: bytes, tiles: Sequence[Tile]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Inputs of IS-Net (3, S, S), SAM (1, 3, S, S), CLIP (T, 3, S, S) and CLIPSeg (T, 3, S, S)."""
        picture = Image.open(io.BytesIO(data)).convert("RGB")
        image = np.array(picture)
        side = (self.saliency_side, self.saliency_side)
        pixels = torch.tensor(image, dtype=torch.float32).permute(2, 0, 1)
        saliency = F.interpolate(pixels[None], side, mode="bilinear").type(torch.uint8)[0] / 255.0 - 0.5
        resized = torch.as_tensor(ResizeLongestSide(self.sam_side).apply_image(image)).permute(2, 0, 1).contiguous()
        parts = [picture.crop((tile.x0, tile.y0, tile.x1, tile.y1)) for tile in tiles]
        return (
            saliency,
            self.sam_preprocess(resized[None]),
            torch.stack([self.clip_transform(part) for part in parts]),
            torch.stack([self.clipseg_transform(part) for part in parts]),
        )
