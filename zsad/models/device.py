"""Where a network computes, in which precision, and how its inputs and results cross to the device and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from zsad.config import Precision

Network = TypeVar("Network", bound=nn.Module)

DTYPES: Mapping[Precision, torch.dtype] = MappingProxyType(
    {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
)
_PINNED = 1 << 28
"""The most bytes of a result that is copied through pinned memory: more would keep that much from everybody else."""
_IMAGES_ON_CPU = 4
"""The most images that a vision tower takes at once on a CPU.

So the largest activations of CLIPSeg and CLIP ViT-B stay below the 32 MiB that malloc keeps by itself.
"""
_CAST = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
"""Layers that use all they hold in products, whose operands autocast casts."""


def place(
    network: Network,
    device: str,
    precision: Precision,
    parts: Iterable[nn.Module] = (),
    also: tuple[type[nn.Module], ...] = (),
) -> Network:
    """Make a network ready for inference, in place: evaluation mode, on its device.

    Args:
        network: with its weights loaded.
        device: torch device.
        precision: ``fp32``, or ``bf16``/``fp16`` by autocast.
        parts: of the network; those of their weights that autocast would cast at every call are cast here, once.
        also: layers of a network's own that, like torch's linear and convolutional ones, use all they hold in products.

    Returns:
        The network.
    """
    on_gpu = torch.device(device).type == "cuda"
    if precision != "fp32":
        # On a CPU torch takes another kernel for an attention whose weights have the type of its input.
        cast = (*_CAST, *also, *((nn.MultiheadAttention,) if on_gpu else ()))
        for layer in (layer for part in parts for layer in part.modules() if isinstance(layer, cast)):
            layer.to(DTYPES[precision])
    elif on_gpu:
        # Left alone, cuDNN rounds the inputs of float32 convolutions to TF32, whose mantissa has ten bits.
        torch.backends.cudnn.allow_tf32 = False
    return network.eval().to(device)


def autocast(device: str, precision: Precision) -> torch.autocast:
    """Autocast to a half precision; does nothing in ``fp32``.

    It keeps no casts: those made while a CUDA graph is captured are in the graph's memory.
    """
    enabled = precision != "fp32"
    dtype = DTYPES[precision] if enabled else None
    return torch.autocast(torch.device(device).type, dtype, enabled=enabled, cache_enabled=False)


def images_at_once(count: int, device: str) -> int:
    """How many of ``count`` images a vision tower is to take at once: all on a GPU, a few on a CPU.

    On one thread more are no faster, and their activations are so large that every layer gets new memory from the
    system, which takes up to a fifth of the whole pass (``python -m benchmarks --only batch``).
    """
    return max(1, min(count, _IMAGES_ON_CPU) if torch.device(device).type == "cpu" else count)


def host_tensor(shape: Sequence[int], device: str) -> Tensor:
    """An uninitialised float32 tensor on the host, pinned where a GPU will read it.

    Pinned memory is copied without waiting (``non_blocking``), and torch hands it out again only once it was read.
    """
    return torch.empty(shape, dtype=torch.float32, pin_memory=torch.device(device).type == "cuda")


def to_host(tensor: Tensor) -> NDArray[Any]:
    """The values of a tensor of a type that numpy has, on the host; of a tensor on a CPU, its own memory."""
    if not tensor.is_cuda:
        return tensor.numpy()
    pinned = tensor.numel() * tensor.element_size() <= _PINNED
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=pinned)
    host.copy_(tensor, non_blocking=True)
    torch.cuda.current_stream(tensor.device).synchronize()
    return host.numpy()
