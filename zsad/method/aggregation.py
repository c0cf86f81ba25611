"""Prediction aggregation (paper section 2): tile predictions -> component scores, sample score, tile maps.

The tile maps are rearranged into the image by ``zsad.projection``, whose arithmetic storage shares.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def scale_tile_maps(
    maps: NDArray[np.float32], tile_scores: NDArray[np.float32], tile_scaling: bool = True
) -> NDArray[np.float32]:
    """Scale each tile's pixel map by its tile score, as the tile-level predictor is the more robust one.

    Args:
        maps: (T, S, S) float32 in [0, 1].
        tile_scores: (T,) float32 in (0, 1).
        tile_scaling: False leaves the maps as they are (ablation).

    Returns:
        (T, S, S) float32 in [0, 1].
    """
    return maps * tile_scores[:, None, None] if tile_scaling else maps


def component_scores(tile_scores: NDArray[np.float32], tile_components: NDArray[np.integer]) -> NDArray[np.float32]:
    """Mean tile score of each foreground component.

    Args:
        tile_scores: (T,) float32.
        tile_components: (T,) int, component index from 0; every component has a tile.

    Returns:
        (C,) float32.
    """
    counts = np.bincount(tile_components)
    return np.asarray(np.bincount(tile_components, weights=tile_scores) / counts, np.float32)


def sample_score(scores: NDArray[np.float32], top_fraction: float = 0.25) -> float:
    """Mean of the top share of component scores: of the ``top_count`` highest.

    Args:
        scores: (C,) float32, C >= 1.
        top_fraction: 0 gives the maximum, 1 the mean.
    """
    k = top_count(len(scores), top_fraction)
    return float(np.sort(scores.astype(np.float64))[::-1][:k].mean())


def top_count(number: int, top_fraction: float) -> int:
    """How many of so many components the sample score is the mean of: max(1, ceil(top_fraction * number))."""
    # The tolerance keeps a product such as 0.3 * 10 = 3.0000000000000004 from rounding up to 4.
    return max(1, math.ceil(top_fraction * number - 1e-9))
