"""SAM's image encoder (Kirillov et al., 2023) with torch's fused attention.

The published attention adds a relative position term to every logit, for which it holds all logits: 0.8 GB per
global layer at 1024 pixels. The term is a sum over the key's row and column, ``q . R_h[row] + q . R_w[column]``: a
scalar product of what the query has to say about every row and column with the key's own row and column as
indicators. So both are appended to the channels of query and key, and a stock kernel does the rest.
"""

from __future__ import annotations

import torch
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import Attention, get_rel_pos
from torch import Tensor
from torch.nn import functional as F


class FusedAttention(Attention):
    """The published ``Attention``: the same parameters and, to rounding, the same function."""

    @classmethod
    def of(cls, published: Attention) -> FusedAttention:
        """An attention with the very parameters of ``published``."""
        fused = cls.__new__(cls)
        fused.__dict__ = dict(published.__dict__)
        return fused

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        batch, height, width, _ = x.shape
        projected = self.qkv(x).view(batch, height * width, 3, self.num_heads, -1)
        query, key, value = projected.permute(2, 0, 3, 1, 4).unbind(0)
        channels = value.shape[-1]
        extended = query * self.scale
        if self.use_rel_pos:
            grid = query.unflatten(2, (height, width))
            rows = torch.einsum("bnhwc,hkc->bnhwk", grid, get_rel_pos(height, height, self.rel_pos_h))
            columns = torch.einsum("bnhwc,wkc->bnhwk", grid, get_rel_pos(width, width, self.rel_pos_w))
            extended = torch.cat([extended, rows.flatten(2, 3), columns.flatten(2, 3)], -1)
            to_rows = torch.eye(height, dtype=key.dtype, device=key.device).repeat_interleave(width, 0)
            to_columns = torch.eye(width, dtype=key.dtype, device=key.device).repeat(height, 1)
            place = torch.cat([to_rows, to_columns], -1)
            key = torch.cat([key, place.expand(batch, self.num_heads, -1, -1)], -1)
            # The fused kernels want as many channels in the values.
            value = F.pad(value, (0, height + width))
        seen = F.scaled_dot_product_attention(extended, key, value, scale=1.0)[..., :channels]
        attended: Tensor = self.proj(seen.transpose(1, 2).reshape(batch, height, width, -1))
        return attended


def fuse_attention(encoder: ImageEncoderViT) -> None:
    """Give every block of a published encoder the fused attention, in place; its parameters stay."""
    for block in encoder.blocks:
        block.attn = FusedAttention.of(block.attn)
