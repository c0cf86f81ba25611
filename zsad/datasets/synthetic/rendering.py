"""One inspection photograph of a kind, with its truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zsad.datasets.synthetic import kinds_a, kinds_b
from zsad.datasets.synthetic.defects import DEFECTS, SURFACE_DEFECTS, mount_all
from zsad.datasets.synthetic.kinds import Kind
from zsad.datasets.synthetic.scene import Placed, compose, photograph
from zsad.datasets.synthetic.surface import Float, Surface
from zsad.errors import UsageError
from zsad.images import decode

KINDS_A: tuple[str, ...] = tuple(kind.name for kind in kinds_a.KINDS)
"""Kinds for training."""
KINDS_B: tuple[str, ...] = tuple(kind.name for kind in kinds_b.KINDS)
"""Kinds for evaluation; no kind and no noun is in both lists."""

Generator = np.random.Generator
_MOST_PIXELS = 100_000_000
_FEWEST_PIXELS = 12
"""A defect smaller than this in the picture is made again."""


@dataclass(frozen=True)
class Sample:
    """A rendered photograph.

    Attributes:
        image: (H, W, 3) uint8 RGB, as decoded from ``jpeg``.
        mask: (H, W) uint8, 0 normal, else the position of the defect in ``DEFECTS`` plus one.
        foreground: (H, W) bool, the objects without their shadows.
        defects: names of the defects in the picture; empty for a normal one.
        kind: name of the kind.
        noun: what the prompts call it.
        jpeg: the encoded photograph.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    foreground: NDArray[np.bool_]
    defects: tuple[str, ...]
    kind: str
    noun: str
    jpeg: bytes


def kind_named(name: str) -> Kind:
    """The kind of this name. Raises UsageError, listing all, when there is none."""
    for kind in (*kinds_a.KINDS, *kinds_b.KINDS):
        if kind.name == name:
            return kind
    raise UsageError(f"Unknown kind {name!r}. Expected one of {', '.join((*KINDS_A, *KINDS_B))}.")


def render(kind: str, rng: Generator, anomalous: bool, *, long_side: int | None = None, shadows: bool = True) -> Sample:
    """Render one photograph; the same state of ``rng`` gives the same pixels.

    Args:
        kind: a name of ``KINDS_A`` or ``KINDS_B``.
        rng: source of everything that varies.
        anomalous: whether one or two defects are made.
        long_side: longer side in pixels; drawn between 400 and 1600 when not given.
        shadows: False gives the same picture without what the objects cast on the table.

    Raises:
        UsageError: unknown kind.
    """
    return render_kind(kind_named(kind), rng, anomalous, long_side=long_side, shadows=shadows)


def render_kind(
    what: Kind, rng: Generator, anomalous: bool, *, long_side: int | None = None, shadows: bool = True
) -> Sample:
    """As ``render``, of any kind."""
    shape, cells, length = _layout(what, rng, long_side)
    look_seed = int(rng.integers(2**32))
    chosen = rng.permutation(len(cells))[: 1 + int(rng.random() < 0.2)] if anomalous else np.empty(0, int)
    objects: list[Placed] = []
    defects: list[str] = []
    for number, (x, y) in enumerate(cells):
        size = length * rng.uniform(0.95, 1.0)
        surface = what.build(np.random.default_rng(look_seed), rng, size)
        name, fault = "", None
        if number in chosen:
            name, surface, fault = _spoil(what, surface, rng, max(shape) * 0.018)
            defects.append(name)
        else:
            mount_all(surface, rng, None, 0.0)
        tumble = rng.uniform(0, 360) if what.tumbled and what.slender < 3 and len(cells) > 1 else rng.normal(0, 2.5)
        if what.tumbled and len(cells) == 1 and what.slender < 1.2:
            tumble = rng.uniform(0, 360)
        tumble += 180 * int(rng.random() < 0.5) if what.tumbled else 0
        slack = length * 0.02
        objects.append(
            Placed(
                surface,
                x + rng.normal(0, slack),
                y + rng.normal(0, slack),
                tumble,
                fault,
                DEFECTS.index(name) + 1 if name else 0,
            )
        )
    bright = float(np.mean([np.mean(placed.surface.colour[placed.surface.cover > 0.5]) for placed in objects]))
    dark = rng.random() < (0.85 if bright > 0.55 else 0.1 if bright < 0.3 else 0.45)
    image, mask, foreground = compose(rng, shape, objects, dark, shadows)
    if anomalous and np.count_nonzero(mask) < _FEWEST_PIXELS:
        return render_kind(what, rng, anomalous, long_side=long_side, shadows=shadows)
    jpeg = photograph(rng, image, int(rng.integers(72, 98)))
    pixels = decode(jpeg, _MOST_PIXELS)
    return Sample(pixels, mask, foreground, tuple(sorted(set(defects))), what.name, what.noun, jpeg)


def _spoil(what: Kind, surface: Surface, rng: Generator, smallest: float) -> tuple[str, Surface, Float]:
    """Make one defect; returns its name, the object with it, and its coverage (H, W)."""
    name = what.defects[int(rng.integers(len(what.defects)))]
    severity = float(np.exp(rng.uniform(np.log(0.3), 0)))
    if name in ("missing", "misplaced"):
        return name, surface, mount_all(surface, rng, name, severity)
    mount_all(surface, rng, None, 0.0)
    across = min(surface.shape) * (1.5 if what.slender >= 3 else 1.0)
    extent = max(across * float(np.exp(rng.uniform(np.log(0.15), np.log(0.75)))), smallest)
    while True:
        spoilt = surface.copy()
        touched = SURFACE_DEFECTS[name](spoilt, rng, extent, severity)
        if np.count_nonzero(touched > 0.4) >= _FEWEST_PIXELS:
            return name, spoilt, touched
        extent *= 1.2


def _layout(
    what: Kind, rng: Generator, long_side: int | None
) -> tuple[tuple[int, int], list[tuple[float, float]], float]:
    """((H, W), centres (x, y), length of an object in pixels): objects on a jittered grid, never touching."""
    long = long_side or int(np.exp(rng.uniform(np.log(400), np.log(1600))))
    many = int(rng.integers(what.count[0], what.count[1] + 1))
    if what.slender >= 3:
        columns, lines = 1, many
        width, height = long, int(long * min(max(0.3, many * 1.9 / what.slender), 1.0))
    else:
        aspect = rng.uniform(1.0, 1.45)
        columns = max(round(float(np.sqrt(many * aspect))), 1)
        lines = -(-many // columns)
        width, height = long, int(long / aspect)
        if rng.random() < 0.2:
            width, height, columns, lines = height, width, lines, columns
    cell_w, cell_h = width / columns, height / lines
    if what.slender >= 3:
        length = min(cell_w * 0.88, cell_h * what.slender * 0.62)
    elif many == 1:
        length = min(cell_w * 0.92, cell_h * 0.9 * (what.slender if what.slender > 1.2 else 1.0)) * rng.uniform(
            0.72, 1.0
        )
    else:
        length = min(cell_w, cell_h) * rng.uniform(0.82, 0.95) * (0.9 if what.slender > 1.2 else 1.0)
    spots = [((column + 0.5) * cell_w, (line + 0.5) * cell_h) for line in range(lines) for column in range(columns)]
    kept = rng.permutation(len(spots))[:many]
    return (height, width), [spots[number] for number in sorted(kept)], length
