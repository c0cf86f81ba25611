"""The photograph: table, light, shadow and camera around the objects."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from zsad.datasets.synthetic.surface import Float, Surface, clouds, noise, normal, spread

Generator = np.random.Generator
_HEADROOM = 1.3
"""Brightest scene value that the camera still tells apart."""


@dataclass(frozen=True)
class Placed:
    """An object in the picture: centre (x, y) in pixels, angle in degrees, and what is wrong with it."""

    surface: Surface
    x: float
    y: float
    angle: float
    fault: Float | None
    fault_id: int


def table(rng: Generator, shape: tuple[int, int], dark: bool) -> Float:
    """A background (H, W, 3) in [0, 1]: plain, paper, wood, cloth, stone or a brushed sheet."""
    rows, columns = shape
    base = rng.uniform(0.1, 0.3) if dark else rng.uniform(0.55, 0.85)
    warm = rng.normal(0, 0.03)
    colour = np.clip(base * np.array([1 + warm, 1, 1 - warm]) + rng.normal(0, 0.02, 3), 0.03, 0.95)
    kind = int(rng.integers(6))
    if kind == 0:
        texture = 0.012 * noise(rng, shape, rng.uniform(1, 3))
    elif kind == 1:
        texture = 0.018 * noise(rng, shape, 1.5) + 0.015 * clouds(rng, shape, 60, 3)
    elif kind == 2:
        colour = np.array([0.55, 0.4, 0.26]) * rng.uniform(0.6, 1.35)
        warp = clouds(rng, shape, max(shape) / 3, 2) * 3
        y = np.arange(rows, dtype=np.float32)[:, None]
        rings = np.sin(y / rng.uniform(9, 22) + warp)
        texture = 0.05 * rings + 0.06 * noise(rng, shape, 2, 90) + 0.04 * noise(rng, shape, 9, 300)
    elif kind == 3:
        pitch = rng.uniform(2.2, 4.5)
        x = np.arange(columns, dtype=np.float32)[None, :]
        y = np.arange(rows, dtype=np.float32)[:, None]
        texture = 0.07 * np.sin(x * (3.1 / pitch)) * np.sin(y * (3.1 / pitch)) + 0.04 * clouds(rng, shape, 40, 4)
    elif kind == 4:
        texture = 0.04 * clouds(rng, shape, rng.uniform(20, 90), 5)
    else:
        texture = 0.05 * noise(rng, shape, 1.2, 120) + 0.02 * noise(rng, shape, 40)
    return spread(1 + texture.astype(np.float32)) * colour.astype(np.float32)


def compose(
    rng: Generator, shape: tuple[int, int], objects: list[Placed], dark: bool, shadows: bool = True
) -> tuple[Float, np.ndarray, np.ndarray]:
    """Objects on a table under one lamp; without ``shadows`` the same picture, but nothing darkens the table.

    Returns:
        (image (H, W, 3) float32 about [0, 1], mask (H, W) uint8 of fault ids, foreground (H, W) bool).
    """
    image = table(rng, shape, dark)
    layers = np.zeros((*shape, 4), np.float32)
    mask = np.zeros(shape, np.uint8)
    azimuth, elevation = rng.uniform(0, 2 * np.pi), np.deg2rad(rng.uniform(35, 70))
    light = np.array([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)])
    colour = np.zeros((*shape, 3), np.float32)
    thickness = np.zeros(shape, np.float32)
    for placed in objects:
        _place(placed, colour, layers, thickness, mask)
    alpha = layers[..., 3]
    hardness, strength = rng.random(), rng.uniform(0.35, 0.75)
    if shadows:
        image *= spread(_shadow(alpha, thickness, light, hardness, strength))
    left, top, width, height = cv2.boundingRect((alpha > 0).astype(np.uint8))
    window = np.s_[top : top + height, left : left + width]
    lit = _light(rng, colour[window], layers[window], light)
    image[window] += spread(np.ascontiguousarray(alpha[window])) * (lit - image[window])
    return image * spread(_lamp(rng, shape)), mask, alpha > 0.5


def photograph(rng: Generator, image: Float, quality: int) -> bytes:
    """What a camera makes of a scene: exposure, white balance, blur, noise, JPEG."""
    gain = rng.uniform(0.85, 1.12) * (1 + rng.normal(0, 0.02, 3))
    pixels = cv2.convertScaleAbs(image[..., ::-1], alpha=255 / _HEADROOM)
    blur = rng.uniform(0.0, 1.1) * max(image.shape) / 1200
    if blur > 0.25:
        pixels = cv2.GaussianBlur(pixels, (0, 0), blur)
    steps = np.arange(256)[:, None] * (_HEADROOM / 255) * gain[::-1]
    over = np.maximum(steps - 0.85, 0)
    response = np.minimum(steps, 0.85) + 0.15 * (1 - np.exp(-over / 0.15))
    exposed = cv2.LUT(pixels, (255 * response).astype(np.float32)[None])
    level = 255 * rng.uniform(0.003, 0.018)
    rows, columns = pixels.shape[:2]
    hue = cv2.resize(normal(rng, (rows // 2, columns // 2, 3)), (columns, rows), interpolation=cv2.INTER_NEAREST)
    speckle = normal(rng, (rows, columns))
    grainy = spread(speckle) * np.float32(0.8 * level) + hue * np.float32(0.45 * level)
    grainy *= exposed * np.float32(1 / 255) + np.float32(0.5)
    pixels = np.clip(exposed + grainy, 0, 255).astype(np.uint8)
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def _place(placed: Placed, colour: Float, layers: Float, thickness: Float, mask: np.ndarray) -> None:
    surface = placed.surface
    rows, columns = surface.shape
    reach = int(np.ceil(np.hypot(rows, columns) / 2)) + 2
    radians = np.deg2rad(placed.angle)
    half_w = int(abs(np.cos(radians)) * columns / 2 + abs(np.sin(radians)) * rows / 2) + 3
    half_h = int(abs(np.sin(radians)) * columns / 2 + abs(np.cos(radians)) * rows / 2) + 3
    half_w, half_h = min(half_w, reach), min(half_h, reach)
    left, top = int(placed.x) - half_w, int(placed.y) - half_h
    turn = cv2.getRotationMatrix2D(((columns - 1) / 2, (rows - 1) / 2), placed.angle, 1.0)
    turn[:, 2] += np.array((placed.x - left - (columns - 1) / 2, placed.y - top - (rows - 1) / 2))
    size = (2 * half_w, 2 * half_h)
    height, width = mask.shape
    window = np.s_[max(top, 0) : min(top + size[1], height), max(left, 0) : min(left + size[0], width)]
    inner = np.s_[window[0].start - top : window[0].stop - top, window[1].start - left : window[1].stop - left]
    bare = cv2.warpAffine(surface.colour, turn, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[inner]
    other = cv2.warpAffine(cv2.merge([surface.height, surface.gloss, surface.metal, surface.cover]), turn, size)[inner]
    alpha = other[..., 3].copy()
    np.copyto(colour[window], bare, where=((alpha > 0) | (layers[window][..., 3] == 0))[..., None])
    # Height, gloss and metal are not faded at the outline: a faded height would draw a false rim there.
    other[..., 3] = np.maximum(layers[window][..., 3], alpha)
    np.copyto(layers[window], other, where=(alpha > 0.02)[..., None])
    thickness[window] = np.maximum(thickness[window], surface.thickness * alpha)
    if placed.fault is not None:
        wrong = cv2.warpAffine(placed.fault, turn, size)[inner] > 0.4
        mask[window][wrong] = placed.fault_id


def _shadow(alpha: Float, thickness: Float, light: np.ndarray, hardness: float, strength: float) -> Float:
    """Light that reaches the table (H, W) in (0, 1]: a cast shadow and a dark seam where objects touch it."""
    rows, columns = alpha.shape
    small = cv2.resize(alpha, (columns // 2, rows // 2), interpolation=cv2.INTER_AREA)
    tall = float(thickness.max()) / 2
    length = min(tall / max(float(light[2]), 0.3) * 1.6, max(rows, columns) * 0.04) + 1.5
    cast = np.zeros_like(small)
    steps = int(np.clip(length / 2, 3, 10))
    for step in range(1, steps + 1):
        move = -light[:2] / max(float(np.hypot(*light[:2])), 1e-6) * length * step / steps
        shift = np.array([[1, 0, move[0]], [0, 1, move[1]]], np.float64)
        cast = np.maximum(cast, cv2.warpAffine(small, shift, (small.shape[1], small.shape[0])))
    cast = cv2.GaussianBlur(cast, (0, 0), 0.6 + (1 - hardness) * length * 0.5)
    seam = cv2.GaussianBlur(small, (0, 0), max(length * 0.25, 1.2))
    dark = 1 - (1 - strength * cast) * (1 - 0.3 * seam)
    return 1 - cv2.resize(dark, (columns, rows), interpolation=cv2.INTER_LINEAR)


def _light(rng: Generator, colour: Float, layers: Float, light: np.ndarray) -> Float:
    height = layers[..., 0]
    slope_x = cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=3, scale=1 / 8)
    slope_y = cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=3, scale=1 / 8)
    np.clip(slope_x, -2.5, 2.5, out=slope_x)
    np.clip(slope_y, -2.5, 2.5, out=slope_y)
    facing = 1 / np.sqrt(1 + slope_x * slope_x + slope_y * slope_y)
    lx, ly, lz = (np.float32(value) for value in light)
    ambient = np.float32(rng.uniform(0.35, 0.6))
    diffuse = np.maximum((lz - slope_x * lx - slope_y * ly) * facing, 0) / lz
    shade = ambient * (0.6 + 0.4 * facing) + (1 - ambient) * np.minimum(diffuse, 1.7)
    half = light + np.array([0, 0, 1])
    half /= np.linalg.norm(half)
    towards = (np.float32(half[2]) - slope_x * np.float32(half[0]) - slope_y * np.float32(half[1])) * facing
    glance = np.maximum(towards, 0)
    for _ in range(5):
        glance *= glance
    metal = np.ascontiguousarray(layers[..., 2])
    phase = rng.uniform(0, 6.3, 2)
    bright = clouds(rng, height.shape, max(height.shape) * 0.5, 2)
    shine = layers[..., 1] * glance * np.float32(rng.uniform(0.25, 0.6))
    if not metal.any():
        return colour * spread(shade) + spread(shine)
    mirrored = np.sin(np.float32(3.2) * slope_x + (np.float32(phase[0]) + np.float32(0.6) * bright))
    mirrored *= np.cos(np.float32(2.6) * slope_y + np.float32(phase[1]))
    shade *= 1 + metal * (np.float32(0.28) * mirrored - np.float32(0.05))
    tinted = 1 - spread(metal) * (1 - colour)
    return colour * spread(shade) + spread(shine) * tinted


def _lamp(rng: Generator, shape: tuple[int, int]) -> Float:
    """Uneven lighting (H, W): a gradient towards the lamp and darker corners."""
    x = np.linspace(-1, 1, 32, dtype=np.float32)[None, :]
    y = np.linspace(-1, 1, 32, dtype=np.float32)[:, None]
    turn, fall = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.18)
    field = 1 + fall * (x * np.cos(turn) + y * np.sin(turn)) - rng.uniform(0, 0.1) * (x * x + y * y)
    return cv2.resize(field.astype(np.float32), (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)
