"""The scoring stage as the models' own documentation shows it: tile by tile, prompt by prompt.

Text is encoded once and kept, as anyone would do after the first image: open_clip's for every class, CLIPSeg's as
``conditional_embeddings``. Each prompt is one stock call of ``CLIPSegForImageSegmentation``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from open_clip.transform import image_transform_v2
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import Compose, InterpolationMode, Normalize, Resize, ToTensor

from zsad.method.tiling import Tile


@dataclass(frozen=True)
class Script:
    """What the straightforward script holds between images.

    Attributes:
        clip: open_clip model; clip_transform: its preprocessing; scale: its temperature.
        normal, anomalous: (P, D) unit text embeddings.
        clipseg: transformers model; clipseg_transform: its processor's steps.
        localising: (19, D) text embeddings of CLIPSeg, one per listed prompt.
    """

    clip: Any
    clip_transform: Any
    scale: float
    normal: Tensor
    anomalous: Tensor
    clipseg: Any
    clipseg_transform: Any
    localising: Tensor

    @torch.no_grad()
    def score(self, image: NDArray[Any], tiles: Sequence[Tile]) -> tuple[list[float], Tensor]:
        """Tile scores, and the (H, W) float32 anomaly map, of an image whose tiles lie inside it."""
        picture = Image.fromarray(image)
        total, count = torch.zeros(image.shape[:2]), torch.zeros(image.shape[:2])
        scores = []
        for tile in tiles:
            part = picture.crop((tile.x0, tile.y0, tile.x1, tile.y1))
            score = self._tile_score(part)
            average = self._tile_map(part) * score
            side = (tile.y1 - tile.y0, tile.x1 - tile.x0)
            # In float32, torch places its samples so that a steep map comes out up to 4e-5 off.
            resized = F.interpolate(average[None, None].double(), side, mode="bilinear", align_corners=False)[0, 0]
            total[tile.y0 : tile.y1, tile.x0 : tile.x1] += resized
            count[tile.y0 : tile.y1, tile.x0 : tile.x1] += 1
            scores.append(score)
        return scores, total / count.clamp(min=1)

    def _tile_score(self, part: Image.Image) -> float:
        embedding = self.clip.encode_image(self.clip_transform(part)[None])
        embedding = F.normalize(embedding, dim=-1)
        similarity = torch.cat([(embedding @ text.T).mean(1) for text in (self.normal, self.anomalous)])
        return float((self.scale * similarity).softmax(0)[1])

    def _tile_map(self, part: Image.Image) -> Tensor:
        pixels = self.clipseg_transform(part)[None]
        maps = [
            torch.sigmoid(self.clipseg(pixel_values=pixels, conditional_embeddings=prompt[None]).logits.squeeze())
            for prompt in self.localising
        ]
        return len(maps) / (1 / torch.stack(maps)).sum(0)


def clip_transform(config: Any) -> Any:
    """open_clip's own preprocessing."""
    return image_transform_v2(config, is_train=False)


def clipseg_transform(side: int) -> Any:
    """The steps of CLIPSeg's processor."""
    return Compose(
        [
            Resize((side, side), InterpolationMode.BILINEAR),
            ToTensor(),
            Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
