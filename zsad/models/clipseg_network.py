"""CLIPSeg's networks (Lueddecke and Ecker, CVPR 2022): the published one and a small one, built and made ready.

The functions ``reductions``, ``film`` and ``decode`` are the route of tiles and prompts through one, differentiable,
with what tiles or prompts have in common computed once.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import CLIPSegConfig, CLIPSegForImageSegmentation

from zsad.errors import UsageError
from zsad.models.clipseg_decoder import FusedDecoder, run_layer, upscale
from zsad.models.device import place

if TYPE_CHECKING:
    from zsad.config import Precision

INPUT_SIZE = 352
MINI_INPUT_SIZE = 256
MINI = ("mini-clipseg", "random-clipseg")


def ready(module: CLIPSegForImageSegmentation, device: str, precision: Precision) -> CLIPSegForImageSegmentation:
    """Make a module ready for inference, in place; texts are few, and their weights stay float32."""
    return place(module, device, precision, [module.clip.vision_model, module.decoder])


def build(name: str) -> CLIPSegForImageSegmentation:
    """The untrained module of a model name, on the CPU, float32.

    Raises:
        UsageError: not a CLIPSeg model of the registry.
    """
    module = CLIPSegForImageSegmentation(model_config(name))
    # transformers draws the decoder's own layers with a standard deviation of 1: logits in the hundreds,
    # a saturated sigmoid and no gradient. PyTorch's usual initialisation keeps them near 0.
    decoder = module.decoder
    for layer in (decoder.film_mul, decoder.film_add, *decoder.reduces, *decoder.transposed_convolution):
        if not isinstance(layer, torch.nn.ReLU):
            layer.reset_parameters()
    return module


def input_size(name: str) -> int:
    """Side of the square input of a model, pixels, without loading it: the smallest tile side.

    Raises:
        UsageError: not a CLIPSeg model of the registry.
    """
    model_config(name)
    return MINI_INPUT_SIZE if name in MINI else INPUT_SIZE


def model_config(name: str) -> CLIPSegConfig:
    """Architecture written out, so that nothing is fetched for it (transformers' default is another one).

    ``clipseg-rd64-refined`` has the values of the published CIDAS/clipseg-rd64-refined. Its position
    table is CLIP's for 224 pixels (14 x 14 patches) and is interpolated to the 22 x 22 of the 352-pixel input.

    Raises:
        UsageError: not a CLIPSeg model of the registry.
    """
    text = {
        "vocab_size": 49408,
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
        "bos_token_id": 49406,
        "eos_token_id": 49407,
    }
    vision = {"patch_size": 16, "hidden_act": "quick_gelu"}
    if name == "clipseg-rd64-refined":
        return CLIPSegConfig(
            text_config=text | _transformer(width=512, layers=12, heads=8),
            vision_config=vision | {"image_size": 224} | _transformer(width=768, layers=12, heads=12),
            projection_dim=512,
            extract_layers=[3, 6, 9],
            reduce_dim=64,
            decoder_num_attention_heads=4,
            decoder_intermediate_size=2048,
            conditional_layer=0,
            use_complex_transposed_convolution=True,
        )
    if name in MINI:
        return CLIPSegConfig(
            text_config=text | _transformer(width=64, layers=2, heads=4),
            vision_config=vision | {"image_size": MINI_INPUT_SIZE} | _transformer(width=128, layers=4, heads=4),
            projection_dim=64,
            extract_layers=[1, 3],
            reduce_dim=48,
            decoder_num_attention_heads=4,
            decoder_intermediate_size=96,
            conditional_layer=0,
            use_complex_transposed_convolution=True,
        )
    raise UsageError(f"{name!r} is not a CLIPSeg model. Expected clipseg-rd64-refined or mini-clipseg.")


def _transformer(width: int, layers: int, heads: int) -> dict[str, int]:
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
    }


@torch.no_grad()
def position_table(module: CLIPSegForImageSegmentation, side: int) -> Tensor:
    """The position embeddings of the tokens of a square input: (1, tokens, width) float32, without gradients."""
    embeddings = module.clip.vision_model.embeddings
    tokens = (side // embeddings.patch_size) ** 2 + 1
    like = embeddings.class_embedding.expand(1, tokens, -1)
    return embeddings.interpolate_pos_encoding(like, side, side)


def reductions(module: CLIPSegForImageSegmentation, pixels: Tensor, positions: Tensor | None = None) -> list[Tensor]:
    """Vision activations of the layers that are read, each reduced, deepest first; later layers never run.

    Args:
        pixels: (N, 3, S, S) float32.
        positions: from ``position_table``; None = made from the parameters, as in training.

    Returns:
        one (N, tokens, reduce_dim) per layer in ``config.extract_layers``.
    """
    vision = module.clip.vision_model
    read = list(module.config.extract_layers)
    if positions is None:
        hidden = vision.embeddings(pixels, interpolate_pos_encoding=True)
    else:
        patches = vision.embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2)
        first = vision.embeddings.class_embedding.expand(len(pixels), 1, -1)
        hidden = torch.cat([first, patches], 1) + positions
    hidden = vision.pre_layrnorm(hidden)
    outputs: dict[int, Tensor] = {}
    for index, layer in enumerate(vision.encoder.layers[: max(read) + 1]):
        hidden = layer(hidden, None)
        outputs[index] = hidden
    return [reduce(outputs[index]) for index, reduce in zip(reversed(read), module.decoder.reduces, strict=True)]


def film(module: CLIPSegForImageSegmentation, prompt_embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """FiLM coefficients of prompts: (P, D) -> scale (P, reduce_dim), shift (P, reduce_dim)."""
    return module.decoder.film_mul(prompt_embeddings), module.decoder.film_add(prompt_embeddings)


def decode(
    module: CLIPSegForImageSegmentation,
    reduced: list[Tensor],
    scale: Tensor,
    shift: Tensor,
    output: Tensor | None = None,
    fused: FusedDecoder | None = None,
) -> Tensor:
    """The decoder on B (tile, prompt) pairs.

    Args:
        reduced: from ``reductions``, indexed by pair: each (B, tokens, reduce_dim).
        scale, shift: from ``film``, indexed by pair: (B, reduce_dim).
        output: (B, S, S) to write to, contiguous, where there are no gradients; None = a new one.
        fused: in place of the module's decoder, where there are no gradients; None = the module's.

    Returns:
        (B, S, S) logits.
    """
    decoder = module.decoder
    hidden = torch.addcmul(shift[:, None], scale[:, None], reduced[0])
    if fused is not None:
        return fused.upscale(fused.layers(hidden, reduced[1:]), output)
    learning = torch.is_grad_enabled()
    for index, layer in enumerate(decoder.layers):
        if index:
            hidden = reduced[index] + hidden
        hidden = layer(hidden, None) if learning else run_layer(layer, hidden)
    if not learning:
        return upscale(decoder.transposed_convolution, hidden, output)
    side = math.isqrt(hidden.shape[1] - 1)
    patches = hidden[:, 1:, :].transpose(1, 2).unflatten(2, (side, side))
    return decoder.transposed_convolution(patches).squeeze(1)
