"""What a kind of object is: its noun, how it is built, how it lies in the picture, what can go wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from zsad.datasets.synthetic.surface import Surface

Build = Callable[[np.random.Generator, np.random.Generator, float], Surface]
"""(look shared by one picture, generator of one object, length in pixels) -> surface."""

METAL = ("scratch", "dent", "stain", "contamination")
FOOD = ("crack", "break", "stain", "hole", "contamination")


@dataclass(frozen=True)
class Kind:
    """A kind of object.

    Attributes:
        name: folder name in the data set; with spaces for ``_`` it is the noun.
        build: draws one object without defects.
        defects: names of the defects that this object can have.
        count: fewest and most objects in one picture.
        slender: length divided by width; above 3 the objects lie along the picture.
        tumbled: whether objects lie at any angle.
    """

    name: str
    build: Build
    defects: tuple[str, ...]
    count: tuple[int, int] = (1, 1)
    slender: float = 1.0
    tumbled: bool = True

    @property
    def noun(self) -> str:
        """The noun for the prompts, e.g. ``metal washer``."""
        return self.name.replace("_", " ")
