"""Surfaces to be lit: colour, height, gloss and coverage of one object, and the shapes they are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Float = NDArray[Any]
"""Layers are float32 throughout; arithmetic with Python numbers keeps them so."""
Points = Sequence[Any] | NDArray[Any]
Colour = tuple[float, float, float]

_QUANTILES = np.array([NormalDist().inv_cdf((step + 0.5) / 256) for step in range(256)], np.float32)
_QUANTILES.setflags(write=False)


@dataclass(frozen=True)
class Stamp:
    """A component to be mounted on a surface: centre (x, y) in pixels, angle in degrees."""

    surface: Surface
    x: float
    y: float
    angle: float = 0.0


@dataclass
class Surface:
    """One object before lighting.

    colour (H, W, 3) in [0, 1]; height (H, W) in pixels above the table; gloss and metal (H, W) in [0, 1];
    cover (H, W) in [0, 1], the anti-aliased outline. ``stamps`` are mounted last, so that one can be left
    out or moved.
    """

    colour: Float
    height: Float
    gloss: Float
    metal: Float
    cover: Float
    thickness: float
    inner: Colour
    """Colour of the material where it is broken open."""
    stamps: list[Stamp] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, int]:
        return self.cover.shape[0], self.cover.shape[1]

    def copy(self) -> Surface:
        """A surface whose arrays are its own, with the same components still to be mounted."""
        return Surface(
            self.colour.copy(),
            self.height.copy(),
            self.gloss.copy(),
            self.metal.copy(),
            self.cover.copy(),
            self.thickness,
            self.inner,
            list(self.stamps),
        )

    def mount(self, stamp: Stamp) -> Float:
        """Draw a component; returns its coverage (H, W)."""
        part = stamp.surface
        rows, columns = part.shape
        turn = cv2.getRotationMatrix2D(((columns - 1) / 2, (rows - 1) / 2), stamp.angle, 1.0)
        reach = int(np.hypot(rows, columns) / 2) + 2
        left, top = int(stamp.x) - reach, int(stamp.y) - reach
        turn[:, 2] += np.array((stamp.x - left - (columns - 1) / 2, stamp.y - top - (rows - 1) / 2))
        size = (2 * reach, 2 * reach)
        height, width = self.shape
        window = np.s_[max(top, 0) : min(top + size[1], height), max(left, 0) : min(left + size[0], width)]
        inner = np.s_[
            max(-top, 0) : max(-top, 0) + window[0].stop - window[0].start,
            max(-left, 0) : max(-left, 0) + window[1].stop - window[1].start,
        ]
        coverage = np.zeros(self.shape, np.float32)
        if window[0].stop <= window[0].start or window[1].stop <= window[1].start:
            return coverage
        colour = cv2.warpAffine(part.colour, turn, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[inner]
        other = cv2.warpAffine(cv2.merge([part.height, part.gloss, part.metal, part.cover]), turn, size)[inner]
        alpha = other[..., 3]
        self.colour[window] += spread(np.ascontiguousarray(alpha)) * (colour - self.colour[window])
        self.height[window] += alpha * other[..., 0]
        self.gloss[window] += alpha * (other[..., 1] - self.gloss[window])
        self.metal[window] += alpha * (other[..., 2] - self.metal[window])
        self.cover[window] = np.maximum(self.cover[window], alpha)
        coverage[window] = alpha
        return coverage


def make(  # the one constructor that all kinds share
    distance: Float,
    colour: Float | Colour,
    *,
    bevel: float,
    gloss: float = 0.2,
    metal: float = 0.0,
    thickness: float = 8.0,
    inner: Colour | None = None,
    level: float = 0.0,
) -> Surface:
    """A surface inside ``distance`` < 0 (signed distance in pixels) with edges rounded over ``bevel`` pixels."""
    shape = distance.shape
    if not isinstance(colour, np.ndarray):
        fill = np.empty((*shape, 3), np.float32)
        fill[:] = colour
        colour = fill
    middle = tuple(float(value) for value in colour[shape[0] // 2, shape[1] // 2])
    return Surface(
        colour=np.ascontiguousarray(colour, np.float32),
        height=level + rounded(distance, bevel),
        gloss=np.full(shape, gloss, np.float32),
        metal=np.full(shape, metal, np.float32),
        cover=cover(distance),
        thickness=thickness,
        inner=inner or (middle[0] * 0.8, middle[1] * 0.8, middle[2] * 0.8),
    )


def grid(height: float, width: float) -> tuple[Float, Float]:
    """x (1, W) and y (H, 1) in pixels from the centre."""
    rows, columns = max(int(height), 4), max(int(width), 4)
    x = np.arange(columns, dtype=np.float32) - (columns - 1) / 2
    y = np.arange(rows, dtype=np.float32) - (rows - 1) / 2
    return x[None, :].astype(np.float32), y[:, None].astype(np.float32)


def cover(distance: Float) -> Float:
    """Anti-aliased coverage of a signed distance in pixels."""
    return np.clip(0.5 - distance, 0, 1).astype(np.float32)


def rounded(distance: Float, bevel: float) -> Float:
    """Height of a body whose edge is a quarter circle of radius ``bevel``."""
    rise = 1 - np.clip(-distance / max(bevel, 0.5), 0, 1)
    return (bevel * np.sqrt(1 - rise * rise)).astype(np.float32)


def box(x: Float, y: Float, half_width: float, half_height: float, radius: float = 0.0) -> Float:
    """Signed distance of a rounded rectangle."""
    dx = np.abs(x) - half_width + radius
    dy = np.abs(y) - half_height + radius
    outside = np.sqrt(np.maximum(dx, 0) ** 2 + np.maximum(dy, 0) ** 2)
    return (outside + np.minimum(np.maximum(dx, dy), 0) - radius).astype(np.float32)


def disc(x: Float, y: Float, radius: float) -> Float:
    """Signed distance of a disc."""
    return (np.sqrt(x * x + y * y) - radius).astype(np.float32)


def polygon(shape: tuple[int, int], points: Points) -> Float:
    """Coverage (H, W) of a filled polygon given in pixels, anti-aliased."""
    canvas = np.zeros(shape, np.uint8)
    fixed = np.round(np.asarray(points, np.float64) * 16).astype(np.int32)
    cv2.fillPoly(canvas, [fixed[:, None]], 255, cv2.LINE_AA, 4)
    return canvas.astype(np.float32) / 255


def line(shape: tuple[int, int], points: Points, width: float) -> Float:
    """Coverage (H, W) of a polyline ``width`` pixels wide, anti-aliased; thin ones are fainter, not wider."""
    canvas = np.zeros(shape, np.uint8)
    fixed = np.round(np.asarray(points, np.float64) * 16).astype(np.int32)
    cv2.polylines(canvas, [fixed[:, None]], False, 255, max(round(width), 1), cv2.LINE_AA, 4)
    return canvas.astype(np.float32) * (min(width, 1.0) / 255)


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Float:
    """Normal deviates in 256 steps: several times faster than exact ones, and enough for a texture."""
    drawn = np.frombuffer(rng.bytes(int(np.prod(shape))), np.uint8)
    return _QUANTILES[drawn].reshape(shape)


def noise(rng: np.random.Generator, shape: tuple[int, int], scale: float, scale_x: float | None = None) -> Float:
    """Smooth noise (H, W) of unit variance whose features are ``scale`` pixels large (``scale_x`` across)."""
    rows = max(int(shape[0] / max(scale, 1)) + 3, 4)
    columns = max(int(shape[1] / max(scale_x or scale, 1)) + 3, 4)
    small = normal(rng, (rows, columns))
    if rows >= shape[0] and columns >= shape[1]:
        return small[: shape[0], : shape[1]]
    large = cv2.resize(small, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)
    return large * 1.4


def clouds(rng: np.random.Generator, shape: tuple[int, int], scale: float, octaves: int = 4) -> Float:
    """Fractal noise (H, W), about unit variance, largest features ``scale`` pixels."""
    total = np.zeros(shape, np.float32)
    for octave in range(octaves):
        if scale / 2**octave < 1:
            break
        total += noise(rng, shape, scale / 2**octave) * 0.6**octave
    return total


def tint(rng: np.random.Generator, colour: Colour, spread: float = 0.04) -> Colour:
    """A colour near ``colour``: brightness varies more than hue."""
    light = 1 + rng.normal(0, spread)
    red, green, blue = (float(np.clip(c * light + rng.normal(0, spread / 3), 0.02, 0.98)) for c in colour)
    return red, green, blue


def paint(
    surface: Surface,
    coverage: Float,
    colour: Colour,
    *,
    height: float = 0.0,
    gloss: float | None = None,
    metal: float | None = None,
) -> None:
    """Cover part of a surface with a colour, raised by ``height`` pixels."""
    rows, columns = np.flatnonzero(coverage.any(1)), np.flatnonzero(coverage.any(0))
    if not len(rows):
        return
    window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    amount = np.ascontiguousarray(coverage[window], np.float32)
    surface.colour[window] += spread(amount) * (np.asarray(colour, np.float32) - surface.colour[window])
    surface.height[window] += amount * height
    if gloss is not None:
        surface.gloss[window] += amount * (gloss - surface.gloss[window])
    if metal is not None:
        surface.metal[window] += amount * (metal - surface.metal[window])


def near(surface: Surface, x: float, y: float, reach: float) -> tuple[Surface, Float, Float]:
    """A view of the surface around (x, y), measured from its centre, with offsets from there.

    What is painted on the view is painted on the surface.
    """
    rows, columns = surface.shape
    cx, cy = x + (columns - 1) / 2, y + (rows - 1) / 2
    span = int(reach) + 2
    left, top = min(max(int(cx) - span, 0), columns - 1), min(max(int(cy) - span, 0), rows - 1)
    window = np.s_[top : max(int(cy) + span, top + 1), left : max(int(cx) + span, left + 1)]
    view = Surface(
        surface.colour[window],
        surface.height[window],
        surface.gloss[window],
        surface.metal[window],
        surface.cover[window],
        surface.thickness,
        surface.inner,
    )
    dx = (np.arange(view.shape[1], dtype=np.float32) + np.float32(left - cx))[None, :]
    dy = (np.arange(view.shape[0], dtype=np.float32) + np.float32(top - cy))[:, None]
    return view, dx, dy


def spread(plane: Float) -> Float:
    """A plane (H, W) as (H, W, 3): multiplying by it is several times faster than broadcasting."""
    return cv2.merge([plane, plane, plane])


def grain(surface: Surface, texture: Float, colour: float, height: float = 0.0) -> None:
    """Vary a surface's brightness (relative) and height (pixels) by a texture (H, W)."""
    surface.colour *= spread(np.ascontiguousarray(1 + colour * texture, np.float32))
    surface.height += height * texture


def pierce(surface: Surface, coverage: Float) -> None:
    """Take material away through the whole thickness."""
    surface.cover *= 1 - coverage
    surface.height *= 1 - coverage


def scuffs(body: Surface, rng: np.random.Generator, size: float) -> Surface:
    """The normal look of handled parts: faint blotches and hair lines too small to be defects."""
    grain(body, clouds(rng, body.shape, size * 0.25, 4), 0.035, 0.12)
    for _ in range(int(rng.integers(2, 7))):
        start = rng.uniform(0, 1, 2) * (body.shape[1], body.shape[0])
        turn = rng.uniform(0, 2 * np.pi)
        end = start + rng.uniform(0.03, 0.12) * size * np.array([np.cos(turn), np.sin(turn)])
        grain(body, line(body.shape, [start, end], 0.6), rng.uniform(-0.07, 0.09))
    return body
