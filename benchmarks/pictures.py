"""Pictures to measure on: six parts on a bench, 1500 x 1000 pixels, with camera noise."""

from __future__ import annotations

import io

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zsad.method.tiling import Tile

HEIGHT, WIDTH = 1000, 1500


def photograph(seed: int = 0, height: int = HEIGHT, width: int = WIDTH, parts: int = 6) -> NDArray[np.uint8]:
    """(height, width, 3) uint8: bright discs with a texture on a darker, unevenly lit ground."""
    rng = np.random.default_rng(seed)
    light = cv2.resize(rng.uniform(50, 90, (4, 6)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    canvas = np.repeat(light[..., None], 3, axis=2)
    columns = -(-parts // 2)
    for index in range(parts):
        centre = (width * (2 * (index % columns) + 1) // (2 * columns), height * (2 * (index // columns) + 1) // 4)
        radius = int(min(width / columns, height / 2) * rng.uniform(0.2, 0.3))
        cv2.circle(canvas, centre, radius, rng.uniform(150, 230, 3).tolist(), -1, cv2.LINE_AA)
        for _ in range(12):
            offset = rng.normal(0, radius / 2.5, 2)
            spot = (int(centre[0] + offset[0]), int(centre[1] + offset[1]))
            cv2.circle(canvas, spot, max(1, radius // 20), rng.uniform(100, 200, 3).tolist(), -1, cv2.LINE_AA)
    canvas += rng.standard_normal(canvas.shape, np.float32) * 3
    return np.clip(canvas, 0, 255).astype(np.uint8)


def jpeg(image: NDArray[np.uint8], quality: int = 90) -> bytes:
    """The image as a camera stores it: JPEG with halved colour resolution."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality, subsampling="4:2:0")
    return stream.getvalue()


def six_tiles(height: int = HEIGHT, width: int = WIDTH) -> tuple[Tile, ...]:
    """Two rows of three square tiles that cover the image and overlap a little."""
    side = round(0.36 * width)
    xs, ys = [0, (width - side) // 2, width - side], [0, height - side]
    return tuple(Tile(x, y, x + side, y + side, index) for index, (y, x) in enumerate((y, x) for y in ys for x in xs))
