"""Seeded random models to measure with: real size, half size, and with outputs that look like a trained one's.

What a random model answers says nothing, but how long it takes does. Some costs depend on the answer, though: how
much of the image the masks cover, how smooth the maps are. The wrappers here run the real network, and shape what
it says.
"""

from __future__ import annotations

import copy
from functools import cache, partial
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import Tensor, nn
from transformers import CLIPSegConfig, CLIPSegForImageSegmentation

from zsad.config import ModelConfig, Precision
from zsad.models import clip, clipseg, clipseg_network, isnet, sam
from zsad.models.sam_network import MASKS_PER_POINT
from zsad.models.sam_network import build as build_sam
from zsad.models.sam_network import ready as ready_sam
from zsad.models.state_dicts import seeded

CLIP_NAME, CLIPSEG_NAME = "ViT-B-16-plus-240/laion400m_e31", "clipseg-rd64-refined"
CLIPSEG_SIDES = {"real": 352, "half": 352, "small": 256}
"""Input side of ``clipseg_model`` by size."""


class KnownTextsCLIP(clip.CLIPModel):
    """CLIP whose prompts are already encoded: a unit vector per prompt, drawn from a seed."""

    def embed_texts(self, texts: list[str]) -> Tensor:
        drawn = torch.randn(len(texts), self.embed_dim, generator=torch.Generator().manual_seed(len(texts)))
        return nn.functional.normalize(drawn, dim=-1).to(self.device)


def clip_model(size: str, device: str = "cpu", precision: Precision = "fp32") -> clip.CLIPModel:
    """CLIP of size ``real`` (ViT-B-16-plus-240), ``half`` (half its width and depth) or ``small``."""
    if size == "small":
        return clip.load(ModelConfig(name="random-clip"), device, precision)
    module = seeded(lambda: clip.build(CLIP_NAME) if size == "real" else _half_clip())
    with torch.no_grad():
        module.logit_scale.fill_(float(np.log(100)))
    clip.ready(module, device, precision)
    model = KnownTextsCLIP(CLIP_NAME, module, clip.SimpleTokenizer(), "", device, precision)
    model.embed_dim = module.text_projection.shape[1]
    return model


def clipseg_model(size: str, device: str = "cpu", precision: Precision = "fp32") -> clipseg.CLIPSegModel:
    """CLIPSeg of size ``real`` (rd64), ``half`` or ``small``, with logits that spread like a trained one's."""
    if size == "small":
        return clipseg.load(ModelConfig(name="random-clipseg"), device, precision)
    module = seeded(lambda: clipseg_network.build(CLIPSEG_NAME) if size == "real" else _half_clipseg())
    with torch.no_grad():
        module.decoder.transposed_convolution[-1].weight.mul_(100)
    clipseg_network.ready(module, device, precision)
    return clipseg.CLIPSegModel(CLIPSEG_NAME, module, "", device, precision)


def isnet_model(size: str, device: str = "cpu", precision: Precision = "fp32") -> isnet.ISNetModel:
    """IS-Net of size ``real``, ``half`` or ``small`` that finds the parts of ``pictures.photograph``."""
    width, side = {"real": (64, 1024), "half": (32, 1024), "small": (8, 320)}[size]
    network = isnet.ready(seeded(lambda: isnet.ISNet(width)), device, precision)
    return isnet.ISNetModel(_Brightness(network), side, device, precision, "")  # type: ignore[arg-type]


def sam_network(size: str) -> Sam:
    """The published SAM of size ``huge`` (ViT-H), ``real`` (ViT-B), ``half`` or ``small``, seeded."""
    names = {"huge": "sam-vit-h", "real": "sam-vit-b", "small": "mini-sam"}
    network: Sam = seeded(_half_sam if size == "half" else lambda: build_sam(names[size]))
    return network.eval().requires_grad_(False)


class LocalMasks(nn.Module):
    """A mask decoder whose random logits become discs with rough edges.

    Three discs per prompt, their radii up to a fifth of the image's width; the predicted IoUs pass the published threshold for about
    half of them. Which is drawn from the prompt's embedding, so it does not depend on batches.

    Args:
        decoder: the network whose cost is real.
    """

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, **inputs: Any) -> tuple[Tensor, Tensor]:
        low, iou = self.decoder(**inputs)
        return local_masks(low, iou, inputs["sparse_prompt_embeddings"])


def local_masks(low: Tensor, iou: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
    """(P, 3, h, w) logits and (P, 3) predicted IoUs of a random decoder -> those of ``LocalMasks``."""
    # A few decimals only, so that the last bits of the decoder decide nothing.
    code = prompts[:, 0].double().abs().sum(1)
    draws = torch.stack([(code * prime) % 1 for prime in (1e3, 7e3, 3e4, 5e2, 2e3)], 1).float()
    if low.is_cuda:
        # To make them here would take longer than the decoder takes.
        bank = _bank(low.shape[2], low.shape[3], low.device)
        local = bank[(draws[:, 0] * len(bank)).long()]
    else:
        # One prompt at a time, so that the arrays stay in the caches.
        local = torch.cat([_discs(*parts) for parts in zip(low.float().split(1), draws.split(1), strict=True)])
    apart = torch.arange(3, device=low.device) / 3
    return local, 0.76 + 0.24 * (draws[:, 3:4] + apart) % 1 + 0 * iou


@cache
def _bank(height: int, width: int, device: torch.device) -> Tensor:
    """(256, 3, height, width) float32: the discs of 256 prompts, drawn from a seed."""
    generator = torch.Generator().manual_seed(0)
    noise, draws = torch.randn(256, 3, height, width, generator=generator), torch.rand(256, 5, generator=generator)
    return torch.cat([_discs(*parts) for parts in zip(noise.split(1), draws.split(1), strict=True)]).to(device)


def _discs(low: Tensor, draws: Tensor) -> Tensor:
    """(P, 3, h, w) float32 logits and (P, 5) numbers in [0, 1) -> three discs per prompt, with the logits as noise."""
    height, width = low.shape[2:]
    on = low.device
    centre_x, centre_y = draws[:, 0, None, None, None] * width, draws[:, 1, None, None, None] * height
    radius = width * 0.2 * (draws[:, 2, None] * torch.tensor([0.5, 0.8, 1.0], device=on))[..., None, None]
    y, x = torch.arange(height, device=on)[:, None], torch.arange(width, device=on)[None]
    distance = ((y - centre_y) ** 2 + (x - centre_x) ** 2).sqrt()
    with torch.autocast(on.type, enabled=False):
        mean = low.mean((2, 3), keepdim=True)
        length = torch.linalg.vector_norm(low, dim=(2, 3), keepdim=True)
        scale = 3 / (length**2 / (height * width) - mean**2).sqrt()
    return (low * scale).add_(20 * radius - mean * scale).sub_(20 * distance)


class DrawnEmbedding(nn.Module):
    """In place of an image encoder: an embedding of its shape, drawn from a seed."""

    def __init__(self, encoder: ImageEncoderViT) -> None:
        super().__init__()
        self.img_size = encoder.img_size
        side, channels = encoder.img_size // encoder.patch_embed.proj.stride[0], encoder.neck[0].out_channels
        self.embedding = torch.randn(1, channels, side, side, generator=torch.Generator().manual_seed(0))

    def forward(self, images: Tensor) -> Tensor:
        return self.embedding.expand(len(images), -1, -1, -1)


def sam_model(network: Sam, wrapped: bool = True, device: str = "cpu", precision: Precision = "fp32") -> sam.SAMModel:
    """Ours around a copy of a published network; ``wrapped`` puts ``LocalMasks`` around its decoder."""
    network = ready_sam(copy.deepcopy(network), device, precision)
    if wrapped:
        network.mask_decoder = LocalMasks(network.mask_decoder)  # type: ignore[assignment]
    return sam.SAMModel(network, device, precision, "")


class _Brightness(nn.Module):
    """Runs IS-Net, and answers with what is brighter than the middle of the range."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        grey = images.float().mean(1).contiguous()
        if grey.is_cuda:
            # A CUDA graph holds what runs on the device only.
            coarse = nn.functional.avg_pool2d(grey[:, None], 8)
            return 40 * nn.functional.interpolate(coarse, grey.shape[1:], mode="bilinear") + 0 * logits
        smooth: NDArray[np.float32] = np.stack([cv2.GaussianBlur(one, (0, 0), 4) for one in grey.numpy()])
        return torch.from_numpy(40 * smooth)[:, None].to(logits.device) + 0 * logits


def _half_clip() -> nn.Module:
    return clip.CLIP(
        embed_dim=320,
        vision_cfg={"image_size": 240, "layers": 6, "width": 448, "patch_size": 16},
        text_cfg={"context_length": 77, "vocab_size": 49408, "width": 320, "heads": 5, "layers": 6},
    )


def _half_clipseg() -> CLIPSegForImageSegmentation:
    config = clipseg_network.model_config(CLIPSEG_NAME).to_dict()
    for tower, width, heads in (("text_config", 256, 4), ("vision_config", 384, 6)):
        config[tower] |= {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": 6}
        config[tower]["num_attention_heads"] = heads
    config |= {"projection_dim": 256, "extract_layers": [1, 3, 4], "reduce_dim": 32}
    config |= {"decoder_num_attention_heads": 2, "decoder_intermediate_size": 1024}
    module = CLIPSegForImageSegmentation(CLIPSegConfig(**config))
    decoder = module.decoder
    for layer in (decoder.film_mul, decoder.film_add, *decoder.reduces, *decoder.transposed_convolution):
        if not isinstance(layer, nn.ReLU):
            layer.reset_parameters()
    return module


def _half_sam() -> Sam:
    width = 128
    return Sam(
        image_encoder=ImageEncoderViT(
            img_size=1024,
            patch_size=16,
            embed_dim=384,
            depth=6,
            num_heads=6,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            out_chans=width,
            use_rel_pos=True,
            window_size=14,
            global_attn_indexes=(2, 5),
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=width, image_embedding_size=(64, 64), input_image_size=(1024, 1024), mask_in_chans=16
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=MASKS_PER_POINT,
            transformer=TwoWayTransformer(depth=2, embedding_dim=width, mlp_dim=1024, num_heads=4),
            transformer_dim=width,
            iou_head_hidden_dim=width,
        ),
        pixel_mean=[123.675, 116.28, 103.53],
        pixel_std=[58.395, 57.12, 57.375],
    )
