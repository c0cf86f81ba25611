"""SAM's mask decoder in half precision on a GPU: what touches every pixel runs in three kernels (``sam_decoder_kernels``).

What is left to torch are the few tokens of each prompt. As in ``sam_decoder``, those are projected back to meet the
image, so that no projected image is held.
"""

from __future__ import annotations

from typing import cast

import torch
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.transformer import Attention
from torch import Tensor, nn
from torch.nn import functional as F

from zsad.models import sam_decoder_kernels as kernels


class FusedPixels:
    """The image as each prompt sees it, from layer to layer.

    Args:
        images: (I, N, C) tokens of the images.
        positions: (1, N, C) encoding of their positions.
        owner: (P,) int64, the image of each prompt.
        dtype: half precision.
    """

    def __init__(self, images: Tensor, positions: Tensor, owner: Tensor, dtype: torch.dtype) -> None:
        self.values = images.to(dtype).contiguous()
        self.places = images + positions
        self.positions = positions
        self.owner = owner
        self.dtype = dtype
        self.first = True

    def read(self, attention: Attention, queries: Tensor) -> Tensor:
        """Prompt tokens read the pixels: queries (P, T, C) -> (P, T, C)."""
        heads, length = attention.num_heads, queries.shape[1]
        query = _heads(attention.q_proj(queries), heads) / (attention.internal_dim // heads) ** 0.5
        folded = None if self.first else self._rows(_project(query, attention.k_proj.weight))
        keys = attention.k_proj(self.places).to(self.dtype)
        seen = kernels.read(self._by_column(query), folded, keys, self.values, self.owner)
        seen = seen.unflatten(1, (heads, kernels.LENGTH))[:, :, :length]
        weight = attention.v_proj.weight.unflatten(0, (heads, -1)).transpose(1, 2).flatten(0, 1)
        mixed = _project(seen, weight).transpose(1, 2)
        mixed = mixed + attention.v_proj.bias.float().view(heads, -1)
        return cast(Tensor, attention.out_proj(mixed.flatten(2)))

    def write(self, attention: Attention, keys: Tensor, values: Tensor, norm: nn.LayerNorm) -> None:
        """The pixels read prompt tokens, keys and values (P, T, C), and are normalised."""
        heads, length = attention.num_heads, keys.shape[1]
        key = _heads(attention.k_proj(keys), heads) / (attention.internal_dim // heads) ** 0.5
        folded = None if self.first else self._rows(_project(key, attention.q_proj.weight))
        spread = _project(_heads(attention.v_proj(values), heads), attention.out_proj.weight.T)
        # The weights of a pixel sum to 1 in every head, so this adds the bias once.
        spread = self._rows(spread + attention.out_proj.bias.float() / heads)
        queries = attention.q_proj(self.places).to(self.dtype)
        self.values = kernels.write(
            queries,
            self._by_column(key),
            folded,
            spread,
            length,
            self.values,
            self.owner,
            norm.weight,
            norm.bias,
            norm.eps,
        )
        # From here on each prompt has pixels of its own, which its tokens meet directly.
        self.places = self.positions
        self.first = False

    def masks(self, upscaling: nn.Sequential, weights: Tensor, grid: tuple[int, int]) -> Tensor:
        """Weights (P, M, C / 8) of the masks of pixels on an (h, w) grid -> (P, M, 4 h, 4 w) float32 logits."""
        first, second = cast(nn.ConvTranspose2d, upscaling[0]), cast(nn.ConvTranspose2d, upscaling[3])
        norm = cast(LayerNorm2d, upscaling[1])
        count = weights.shape[1]
        padded = F.pad(weights.to(self.dtype), (0, 0, 0, 4 - count)).transpose(1, 2)
        # (P, place, C / 8, place, mask): a place gives to its own masks only.
        own = torch.eye(4, dtype=self.dtype, device=padded.device)[:, None, :, None]
        mix = (padded[:, None, :, None] * own).flatten(3).flatten(1, 2)
        return kernels.upscale(
            self.values,
            self._split(first),
            cast(Tensor, first.bias).float(),
            norm.weight,
            norm.bias,
            norm.eps,
            self._split(second),
            cast(Tensor, second.bias).float(),
            mix.contiguous(),
            count,
            grid,
        )

    def _split(self, convolution: nn.ConvTranspose2d) -> Tensor:
        """The weight of a transposed convolution of kernel and stride 2 as a matrix (C, 4 C')."""
        return convolution.weight.permute(0, 2, 3, 1).flatten(1).to(self.dtype).contiguous()

    def _rows(self, by_head: Tensor) -> Tensor:
        """(P, heads, T, C) -> (P, heads x LENGTH, C), tokens that are missing 0."""
        padded = F.pad(by_head, (0, 0, 0, kernels.LENGTH - by_head.shape[2]))
        return padded.flatten(1, 2).to(self.dtype).contiguous()

    def _by_column(self, by_head: Tensor) -> Tensor:
        """(P, heads, T, E) -> (P, heads x LENGTH, heads x E), a head's rows 0 outside its own columns."""
        heads = by_head.shape[1]
        own = torch.eye(heads, dtype=by_head.dtype, device=by_head.device)[:, None, :, None]
        return self._rows((by_head[:, :, :, None] * own).flatten(3))


def _heads(projected: Tensor, heads: int) -> Tensor:
    """(P, T, heads x E) -> (P, heads, T, E)."""
    return projected.unflatten(2, (heads, -1)).transpose(1, 2)


def _project(by_head: Tensor, weight: Tensor) -> Tensor:
    """(P, heads, T, A) and a matrix of each head, (heads x A, B) -> (P, heads, T, B), as one product per head."""
    prompts, heads = by_head.shape[:2]
    together = by_head.transpose(0, 1).flatten(1, 2) @ weight.unflatten(0, (heads, -1))
    return together.unflatten(1, (prompts, -1)).transpose(0, 1)
