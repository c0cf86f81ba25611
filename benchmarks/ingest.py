"""P9: from an encoded photograph to the inputs of the four models."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from benchmarks import models
from benchmarks.baselines.ingest import PillowIngest
from benchmarks.baselines.scoring import clip_transform, clipseg_transform
from benchmarks.measure import fastest
from benchmarks.pictures import jpeg, photograph, six_tiles
from benchmarks.rows import Row
from zsad.images import decode
from zsad.method.tiling import crop
from zsad.models import clip, isnet

GOAL = 0.015
MAX_PIXELS = 100_000_000


def inputs(quick: bool) -> list[Row]:
    """P9 with the input sizes of preset ``vand2023`` (1024, 1024, 240, 352 pixels)."""
    image, tiles = photograph(0), six_tiles()
    data = jpeg(image)
    network: Any = models.sam_network("small" if quick else "real")
    clip_model, clipseg_model = models.clip_model("half"), models.clipseg_model("half")
    saliency = isnet.ISNetModel(torch.nn.Identity(), 1024, "cpu", "fp32", "")  # type: ignore[arg-type]
    sam_model = models.sam_model(network)

    def ours() -> tuple[torch.Tensor, ...]:
        pixels = decode(data, MAX_PIXELS)
        parts = [crop(pixels, tile) for tile in tiles]
        return (
            saliency.preprocess([pixels])[0],
            sam_model.preprocess(pixels),
            clip_model.preprocess(parts),
            clipseg_model.preprocess(parts),
        )

    transform = clip_transform(clip.preprocess_config(models.CLIP_NAME))
    baseline = PillowIngest(
        1024, network.image_encoder.img_size, network.preprocess, transform, clipseg_transform(clipseg_model.input_size)
    )
    mine, theirs = fastest(ours, lambda: baseline(data, tiles), repeats=3 if quick else 20)
    (decoding,) = fastest(lambda: decode(data, MAX_PIXELS), repeats=3 if quick else 20)
    differences = [float((a - b).abs().max()) for a, b in zip(ours(), baseline(data, tiles), strict=True)]
    same = max(differences) <= 1e-5
    return [
        Row(
            "P9",
            f"{image.shape[1]} x {image.shape[0]} JPEG of {len(data) / 1e6:.2f} MB, one decode, inputs of four models, "
            f"{len(tiles)} tiles",
            "<= 15 ms CPU",
            f"{1e3 * mine:.1f} ms (decode {1e3 * decoding:.1f}), Pillow throughout {1e3 * theirs:.1f} ms, "
            f"largest difference {np.max(differences):.1e}",
            same and (quick or mine <= GOAL),
        )
    ]
