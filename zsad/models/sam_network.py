"""SAM's networks (Kirillov et al., 2023): the published architectures and a small one, built and made ready."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import torch
from segment_anything.build_sam import build_sam_vit_b, build_sam_vit_h, build_sam_vit_l
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

from zsad.config import Precision
from zsad.errors import UsageError
from zsad.models.device import place
from zsad.models.sam_decoder import SharedMaskDecoder
from zsad.models.sam_encoder import FusedAttention, fuse_attention

MASKS_PER_POINT = 3


def build(name: str) -> Sam:
    """The untrained published network of a model name, on the CPU, float32.

    Raises:
        UsageError: not a SAM model of the registry.
    """
    if name not in _BUILDERS:
        raise UsageError(f"models.sam.name: given {name!r}; expected one of: {', '.join(_BUILDERS)}.")
    return _BUILDERS[name]()


def ready(network: Sam, device: str, precision: Precision) -> Sam:
    """Make a published network ready for inference, in place, once its weights are loaded.

    Its attention becomes the fused one, and its mask decoder one that computes only once what prompts have in common.
    """
    network.mask_decoder = SharedMaskDecoder.of(network.mask_decoder)
    fuse_attention(network.image_encoder)
    network.requires_grad_(False)
    if torch.device(device).type == "cuda" and precision != "fp32":
        # The encoder's tokens have their channels together in memory, which is also the layout that tensor cores need.
        network.image_encoder.neck.to(memory_format=torch.channels_last)
    parts = [network.image_encoder, network.mask_decoder]
    return place(network, device, precision, parts, also=(FusedAttention,))


def _mini_sam() -> Sam:
    """SAM of the published classes at small size: input 288, ViT of width 96 and depth 4, decoder width 64.

    Patches of 12 pixels, so that the masks (96 x 96) still follow objects of a few pixels' width.
    """
    image_size, patch_size, width = 288, 12, 64
    grid = image_size // patch_size
    return Sam(
        image_encoder=ImageEncoderViT(
            img_size=image_size,
            patch_size=patch_size,
            embed_dim=96,
            depth=4,
            num_heads=4,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
            out_chans=width,
            use_rel_pos=True,
            window_size=8,
            global_attn_indexes=(1, 3),
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=width,
            image_embedding_size=(grid, grid),
            input_image_size=(image_size, image_size),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=MASKS_PER_POINT,
            transformer=TwoWayTransformer(depth=2, embedding_dim=width, mlp_dim=4 * width, num_heads=4),
            transformer_dim=width,
            iou_head_hidden_dim=width,
        ),
        pixel_mean=[123.675, 116.28, 103.53],
        pixel_std=[58.395, 57.12, 57.375],
    )


_BUILDERS: Mapping[str, Callable[[], Sam]] = MappingProxyType(
    {
        "sam-vit-h": build_sam_vit_h,
        "sam-vit-l": build_sam_vit_l,
        "sam-vit-b": build_sam_vit_b,
        "mini-sam": _mini_sam,
        "random-sam": _mini_sam,
    }
)
