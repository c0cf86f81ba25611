"""Whether a GPU runs kernels of our own, which are written in Triton."""

from __future__ import annotations

import os
import warnings
from functools import cache
from typing import Any

import torch
from torch import Tensor

from zsad.models.graphs import out_of_memory

# Read when a kernel is compiled. Triton 3.9 warns where neither is asked for, and later ones do not fuse by themselves.
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")

_LARGE_SHARED_MEMORY = 160_000
"""Bytes that the largest tilings take of a multiprocessor's shared memory, and some more."""


def kernel_dtype(device: torch.device) -> torch.dtype | None:
    """The type that autocast asks for, where the kernels of half precision run on the device; else None.

    ``torch.compile`` makes its own kernels.
    """
    if device.type != "cuda" or not torch.is_autocast_enabled("cuda") or torch.compiler.is_compiling():
        return None
    return torch.get_autocast_dtype("cuda") if half_kernels_run(device) else None


def half_kernels_run(device: torch.device) -> bool:
    """Whether the kernels of half precision run on the device. GPUs before Ampere have too little shared memory for them."""
    return triton_works(device) and torch.cuda.get_device_capability(device) >= (8, 0)


@cache
def triton_works(device: torch.device) -> bool:
    """Whether Triton is there, which comes with torch for NVIDIA GPUs on Linux, and can compile: it needs a C compiler.

    Warns where it is not.
    """
    if device.type != "cuda":
        return False
    try:
        from zsad.models import sam_masks_gpu

        sam_masks_gpu.extents(torch.zeros(1, 1, 1, device=device), torch.zeros(1, device=device).long(), 0.0)
    except Exception as error:
        if out_of_memory(error):
            # Memory may be free again at the next call; an error is not cached.
            raise
        warnings.warn(f"SAM and CLIPSeg take longer, since Triton does not work here: {error}", stacklevel=2)
        return False
    return True


def has_large_shared_memory(tensor: Tensor) -> bool:
    """Whether the multiprocessors of the tensor's GPU have shared memory for the largest tilings: Hopper's and A100's."""
    if not tensor.is_cuda:
        return False
    properties: Any = torch.cuda.get_device_properties(tensor.device)
    return bool(properties.shared_memory_per_block_optin >= _LARGE_SHARED_MEMORY)
