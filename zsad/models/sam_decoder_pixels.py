"""SAM's image as the tokens of prompts read and write it in the mask decoder's transformer, by operations of torch."""

from __future__ import annotations

from typing import NamedTuple, Protocol, cast

import torch
from segment_anything.modeling import TwoWayTransformer
from segment_anything.modeling.transformer import Attention, TwoWayAttentionBlock
from torch import Tensor, nn


class Pixels(Protocol):
    """What the tokens of P prompts read and write: the image as each prompt sees it, from layer to layer."""

    def read(self, attention: Attention, queries: Tensor) -> Tensor:
        """Prompt tokens read the pixels: queries (P, T, C) -> (P, T, C)."""

    def write(self, attention: Attention, keys: Tensor, values: Tensor, norm: nn.LayerNorm) -> None:
        """The pixels read prompt tokens, keys and values (P, T, C), and are normalised."""


class Shared(NamedTuple):
    """What all prompts of an image have in common.

    In the first layer it is computed from the image and the positions, in later layers from the positions alone.

    Attributes:
        image: (I, N, C) tokens of I images.
        keys: (I or 1, heads, E, N) of each attention in which prompts read the image, the final one included.
        queries: (I or 1, heads, E, N) of each attention in which the image reads the prompts.
        values: (I, heads, N, E) of the first attention that reads the image.
    """

    image: Tensor
    keys: list[Tensor]
    queries: list[Tensor]
    values: Tensor


def share(transformer: TwoWayTransformer, image: Tensor, positions: Tensor) -> Shared:
    """The projections of an image and of positions, both (1, N, C), that no prompt changes."""
    layers = [cast(TwoWayAttentionBlock, layer) for layer in transformer.layers]
    reading = [layer.cross_attn_token_to_image for layer in layers] + [transformer.final_attn_token_to_image]
    writing = [layer.cross_attn_image_to_token for layer in layers]
    sources = [image + positions] + [positions] * len(layers)
    return Shared(
        image,
        [_pixels_last(one.k_proj(source), one.num_heads) for one, source in zip(reading, sources, strict=True)],
        [_pixels_last(one.q_proj(source), one.num_heads) for one, source in zip(writing, sources[:-1], strict=True)],
        _heads(reading[0].v_proj(image), reading[0].num_heads),
    )


def join(images: list[Shared]) -> Shared:
    """Several images as one. What later layers take is computed from the positions alone, so it is the same for all."""
    first = images[0]
    if len(images) == 1:
        return first
    return Shared(
        torch.cat([one.image for one in images]),
        [torch.cat([one.keys[0] for one in images]), *first.keys[1:]],
        [torch.cat([one.queries[0] for one in images]), *first.queries[1:]],
        torch.cat([one.values for one in images]),
    )


class SharedPixels:
    """``Pixels`` by operations of torch.

    Args:
        shared: the images.
        owner: (P,) int64, the image of each prompt; None for one image.
    """

    def __init__(self, shared: Shared, owner: Tensor | None) -> None:
        self._shared, self._owner = shared, owner
        self._layer = 0
        # (P, N, C); None as long as each prompt still sees the image itself.
        self._pixels: Tensor | None = None

    def read(self, attention: Attention, queries: Tensor) -> Tensor:
        """Prompt tokens read the image: queries (P, T, C) -> (P, T, C)."""
        shared, owner, pixels = self._shared, self._owner, self._pixels
        heads = attention.num_heads
        prompts, length, _ = queries.shape
        query = _heads(attention.q_proj(queries), heads) / (attention.internal_dim // heads) ** 0.5
        keys = shared.keys[self._layer]
        if pixels is None and owner is not None:
            weights = (query @ keys[owner]).softmax(-1)
            mixed = (weights @ shared.values[owner]).transpose(1, 2)
            return cast(Tensor, attention.out_proj(mixed.reshape(prompts, length, -1)))
        # (heads, P T, N): what all prompts see alike.
        logits = (_flat(query) @ keys[0]).view(heads, prompts, length, -1)
        if pixels is None:
            mixed = logits.softmax(-1).flatten(1, 2) @ shared.values[0]
            mixed = mixed.view(heads, prompts, length, -1).permute(1, 2, 0, 3)
        else:
            key_weight = _by_head(attention.k_proj.weight, heads)
            value_weight = _by_head(attention.v_proj.weight, heads)
            folded = (query @ key_weight).flatten(1, 2)
            own = folded @ pixels.transpose(1, 2)
            weights = own.view(prompts, heads, length, -1).add_(logits.transpose(0, 1)).softmax(-1)
            seen = (weights.flatten(1, 2) @ pixels).view(prompts, heads, length, -1)
            mixed = (seen @ value_weight.transpose(1, 2)).transpose(1, 2)
            mixed = mixed + attention.v_proj.bias.view(heads, -1)
        return cast(Tensor, attention.out_proj(mixed.reshape(prompts, length, -1)))

    def write(self, attention: Attention, keys: Tensor, values: Tensor, norm: nn.LayerNorm) -> None:
        """Pixels read the prompt tokens, keys and values (P, T, C), and are normalised."""
        # In a method of its own, whose large arrays are let go before the norm makes another.
        self._pixels = norm(self._written(attention, keys, values))
        self._layer += 1

    def _written(self, attention: Attention, keys: Tensor, values: Tensor) -> Tensor:
        """The pixels with what they read of the prompt tokens, (P, N, C)."""
        shared, owner, pixels = self._shared, self._owner, self._pixels
        heads = attention.num_heads
        prompts, length, _ = keys.shape
        key = _heads(attention.k_proj(keys), heads) / (attention.internal_dim // heads) ** 0.5
        queries = shared.queries[self._layer]
        if pixels is None and owner is not None:
            logits = key @ queries[owner]
        else:
            # (heads, P T, N): what all prompts see alike.
            logits = _flat(key) @ queries[0]
            logits = logits.view(heads, prompts, length, -1).transpose(0, 1)
        if pixels is None:
            pixels = shared.image if owner is None else shared.image[owner]
        else:
            folded = (key @ _by_head(attention.q_proj.weight, heads)).flatten(1, 2)
            logits = (folded @ pixels.transpose(1, 2)).view(prompts, heads, length, -1).add_(logits)
        # Pixels last: over a last axis of seven tokens, torch's softmax on a CPU takes twenty times as long.
        weights = logits.softmax(2).flatten(1, 2).transpose(1, 2)
        value = _heads(attention.v_proj(values), heads)
        spread = (value @ _by_head(attention.out_proj.weight.T, heads)).flatten(1, 2)
        # The weights of a pixel sum to 1 in every head, so this adds the bias once.
        spread = spread + attention.out_proj.bias / heads
        return torch.baddbmm(pixels, weights, spread)

    def seen(self) -> Tensor:
        """The pixels as each prompt sees them, (P, N, C), once written."""
        return cast(Tensor, self._pixels)


def _heads(projected: Tensor, heads: int) -> Tensor:
    """(P, T, heads x E) -> (P, heads, T, E)."""
    return projected.unflatten(2, (heads, -1)).transpose(1, 2)


def _pixels_last(projected: Tensor, heads: int) -> Tensor:
    """(I, N, heads x E) -> (I, heads, E, N), contiguous."""
    return projected.transpose(1, 2).unflatten(1, (heads, -1)).contiguous()


def _flat(by_prompt: Tensor) -> Tensor:
    """(P, heads, T, E) -> (heads, P T, E)."""
    return by_prompt.transpose(0, 1).flatten(1, 2)


def _by_head(weight: Tensor, heads: int) -> Tensor:
    """(heads x E, C) -> (heads, E, C)."""
    return weight.unflatten(0, (heads, -1))
