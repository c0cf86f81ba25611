"""P6: size and time of a stored anomaly map."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks import models
from benchmarks.measure import fastest
from benchmarks.pictures import photograph, six_tiles
from benchmarks.rows import Row
from zsad.config import load_config
from zsad.models import clipseg
from zsad.models.registry import is_trained
from zsad.projection import project
from zsad.steps.item import ImageItem
from zsad.steps.tile_maps import TileMaps
from zsad.storage import decode_map, encode_map

SIZE, RATIO, ENCODE, DECODE = 0.6e6, 4.0, 0.020, 0.015


def codec(quick: bool) -> list[Row]:
    """P6 on a 1500 x 1000 image with six tiles: smooth maps, and those of the mini CLIPSeg (trained) or a random one."""
    rows = [_measure("smooth maps", _smooth(352), quick)]
    if not quick:
        config = load_config("mini")
        trained = is_trained(config.models.clipseg.name, config.models.clipseg.weights)
        model = clipseg.load(config.models.clipseg) if trained else models.clipseg_model("real")
        row = _measure(f"maps of {'the mini' if trained else 'a random'} CLIPSeg", _segmented(model), quick)
        # An untrained network's maps are noise, which nothing compresses.
        note = "" if trained else "untrained: noise, for information only"
        rows.append(row if trained else replace(row, met=None, note=note))
    return rows


def _measure(name: str, tile_maps: NDArray[np.float16], quick: bool) -> Row:
    image, tiles = photograph(0), six_tiles()
    height, width = image.shape[:2]
    boxes = np.array([(tile.x0, tile.y0, tile.x1, tile.y1) for tile in tiles], np.int32)
    anomaly_map = project(tile_maps, boxes, height, width)
    kind, data = encode_map(tile_maps, anomaly_map)
    encode, decode = fastest(
        lambda: encode_map(tile_maps, anomaly_map),
        lambda: decode_map(kind, data, boxes, height, width),
        repeats=3 if quick else 30,
    )
    decoded = decode_map(kind, data, boxes, height, width)
    exact = np.array_equal(decoded.view(np.uint16), anomaly_map.view(np.uint16))
    ratio = anomaly_map.nbytes / len(data)
    good = len(data) <= SIZE and ratio >= RATIO and encode <= ENCODE and decode <= DECODE
    return Row(
        "P6",
        f"{name}, 1500 x 1000, 6 tiles",
        "<= 0.6 MB, >= 4x smaller than raw, encode <= 20 ms, decode <= 15 ms, exact",
        f"{len(data) / 1e6:.2f} MB, {ratio:.1f}x, encode {encode * 1e3:.1f} ms, decode {decode * 1e3:.1f} ms, "
        f"{'bit-exact' if exact else 'NOT exact'}",
        exact and (quick or good),
    )


def _segmented(model: clipseg.CLIPSegModel) -> NDArray[np.float16]:
    image = photograph(0)
    step = TileMaps(model, load_config("vand2023"))
    item = ImageItem("", "part", image=image, tiles=six_tiles(), height=image.shape[0], width=image.shape[1])
    item.tile_scores = np.linspace(0.2, 0.8, 6, dtype=np.float32)
    step([item])
    if item.tile_maps is None:
        raise RuntimeError(f"no maps: {item.failure}")
    return item.tile_maps


def _smooth(side: int) -> NDArray[np.float16]:
    """Six correlated maps through a sigmoid, as a patch-wise model makes them."""
    rng = np.random.default_rng(0)
    logits = np.stack([cv2.GaussianBlur(rng.standard_normal((side, side)), (0, 0), side / 15) for _ in range(6)])
    return (0.6 / (1 + np.exp(3 - logits * 2 / logits.std()))).astype(np.float16)
