"""``torch.compile`` of the networks, in place. Meant for GPUs: on a CPU it took minutes and was slower."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from zsad.models.clip import CLIPModel
from zsad.models.clipseg import CLIPSegModel
from zsad.models.isnet import ISNetModel
from zsad.models.sam import SAMModel


def compile_networks(
    model: ISNetModel | SAMModel | CLIPModel | CLIPSegModel, backend: str | Callable[..., Any] = "inductor"
) -> None:
    """Compile what a model spends its time in, when it is first called; parameters and names stay.

    IS-Net is left out, which as a CUDA graph was no slower, and so is SAM's mask decoder: its batches are composed of
    several images' prompts, and every composition would be compiled anew. The layers of CLIPSeg's decoder give way to
    kernels of our own where there are some.

    Args:
        backend: of ``torch.compile``: a name or a function.
    """
    for network in _networks(model):
        network.compile(backend=backend)


def _networks(model: ISNetModel | SAMModel | CLIPModel | CLIPSegModel) -> list[nn.Module]:
    if isinstance(model, ISNetModel):
        return []
    if isinstance(model, SAMModel):
        return [model.network.image_encoder]
    if isinstance(model, CLIPModel):
        return [model.module.visual]
    return [*model.module.clip.vision_model.encoder.layers, *model.module.decoder.layers]
