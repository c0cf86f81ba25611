"""Whether a GPU runs kernels of our own, which are written in Triton."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

import torch


def half_precision(device: torch.device) -> torch.dtype | None:
    """The type that autocast asks for, where the kernels of half precision run on the device; else None.

    ``torch.compile`` makes its own kernels.
    """
    if device.type != "cuda" or not torch.is_autocast_enabled("cuda") or torch.compiler.is_compiling():
        return None
    return torch.get_autocast_dtype("cuda") if has_kernels(device) else None


@cache
def has_kernels(device: torch.device) -> bool:
    """Triton comes with torch for NVIDIA GPUs on Linux; GPUs before Ampere have too little shared memory."""
    if torch.version.cuda is None or find_spec("triton") is None:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)
