"""Normalising pixels: a byte has 256 values, so what becomes of it is looked up."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def normalise(pixels: NDArray[np.uint8], table: NDArray[np.float32]) -> Tensor:
    """Bytes to what a network reads, channels first.

    Args:
        pixels: (h, w, 3) uint8.
        table: (3, 256) float32: per channel, what each value becomes.

    Returns:
        (3, h, w) float32 on the CPU.
    """
    output = np.empty((3, *pixels.shape[:2]), np.float32)
    for plane, values, place in zip(cv2.split(pixels), table, output, strict=True):
        cv2.LUT(plane, values, place)
    return torch.from_numpy(output)
