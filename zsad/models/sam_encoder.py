"""SAM's image encoder (Kirillov et al., 2023) with torch's fused attention.

The published attention adds a relative position term to every logit, for which it holds all logits: 0.8 GB per
global layer at 1024 pixels. The term is a sum over the key's row and column, ``q . R_h[row] + q . R_w[column]``.

On a GPU it is a scalar product of what the query has to say about every row and column with the key's own row and
column as indicators. So both are appended to the channels of query and key, and a stock kernel does the rest. On a
CPU, where that makes up to three times the products, the kernel gets the terms of some queries at a time as a mask;
how many depends on the threads, so the last bits may. In half precision on a GPU, a kernel of our own makes the terms of its
own queries, and windows need not be cut out; another one adds and normalises (``sam_encoder_kernels``).
"""

from __future__ import annotations

from typing import cast

import torch
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import Attention, Block, PatchEmbed, get_rel_pos
from torch import Tensor
from torch.nn import functional as F

from zsad.models.triton_support import kernel_dtype

_LOGITS_ON_CPU = 2**20
"""Logits held at once for each of torch's threads: 4 MiB in float32, which stay in the caches."""


_TABLES = ("_row_table", "_column_table", "_places")


class FusedAttention(Attention):
    """The published ``Attention``: the same parameters and, to rounding, the same function."""

    _row_table: Tensor
    _column_table: Tensor
    _places: Tensor

    @classmethod
    def of(cls, published: Attention) -> FusedAttention:
        """An attention with the very parameters of ``published``, which do not change from now on."""
        fused = cls.__new__(cls)
        fused.__dict__ = dict(published.__dict__) | {"_buffers": {}, "_non_persistent_buffers_set": set()}
        if fused.use_rel_pos:
            # Looked up once: the published way makes the indices on the host at every call.
            height, width = (len(table) // 2 + 1 for table in (fused.rel_pos_h, fused.rel_pos_w))
            with torch.no_grad():
                for name, values in zip(_TABLES, fused._tables(height, width), strict=True):
                    fused.register_buffer(name, values, persistent=False)
        return fused

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        batch, height, width, _ = x.shape
        projected = self.qkv(x).view(batch, height * width, 3, self.num_heads, -1)
        query, key, value = projected.permute(2, 0, 3, 1, 4).unbind(0)
        if self.use_rel_pos:
            native = self._row_table.shape[0] == height and self._column_table.shape[0] == width
            row_table, column_table, places = (
                (self._row_table, self._column_table, self._places) if native else self._tables(height, width)
            )
            grid = query.unflatten(2, (height, width))
            rows = torch.einsum("bnhwc,hkc->bnhwk", grid, row_table).flatten(2, 3)
            columns = torch.einsum("bnhwc,wkc->bnhwk", grid, column_table).flatten(2, 3)
            if _on_cpu(x.device):
                seen = _attend_in_parts(query * self.scale, key, value, rows, columns)
            else:
                seen = _attend(query * self.scale, key, value, rows, columns, places)
        else:
            seen = F.scaled_dot_product_attention(query, key, value, scale=self.scale)
        attended: Tensor = self.proj(seen.transpose(1, 2).reshape(batch, height, width, -1))
        return attended

    def in_windows(self, x: Tensor, window: int, half: torch.dtype) -> Tensor | None:
        """Attention within windows of a whole grid, by ``sam_encoder_kernels``.

        Args:
            x: (B, H, W, C).
            window: side of the windows in tokens; 0 for one of the whole grid.
            half: the type to compute in.

        Returns:
            (B, H, W, C); None where the position terms are not those of such windows.
        """
        from zsad.models.sam_encoder_kernels import attend

        window = window or max(x.shape[1:3])
        if not self.use_rel_pos or {len(self.rel_pos_h), len(self.rel_pos_w)} != {2 * window - 1}:
            return None
        # A token of padding is all 0 before the projection.
        bias = self.qkv.weight.new_zeros(len(self.qkv.weight)) if self.qkv.bias is None else self.qkv.bias
        projected, terms = self.qkv(x).to(half), (self.rel_pos_h.to(half), self.rel_pos_w.to(half))
        seen = attend(projected.contiguous(), bias.to(half), *terms, window, self.num_heads, self.scale)
        attended: Tensor = self.proj(seen)
        return attended

    def _tables(self, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
        """What the position terms are made of, for a grid of keys.

        Returns:
            R_h (H, H, E) and R_w (W, W, E) of every pair of rows and of columns, and the row and column of every key as
            indicators, (H W, H + W).
        """
        rows, columns = get_rel_pos(height, height, self.rel_pos_h), get_rel_pos(width, width, self.rel_pos_w)
        of_row = torch.eye(height, dtype=rows.dtype, device=rows.device).repeat_interleave(width, 0)
        of_column = torch.eye(width, dtype=rows.dtype, device=rows.device).repeat(height, 1)
        return rows, columns, torch.cat([of_row, of_column], -1)


class FusedBlock(Block):
    """The published ``Block`` with ``FusedAttention``: the same parameters and, to rounding, the same function."""

    @classmethod
    def of(cls, published: Block) -> FusedBlock:
        """A block with the very parameters of ``published``, which do not change from now on."""
        fused = cls.__new__(cls)
        fused.__dict__ = dict(published.__dict__) | {"_modules": dict(published._modules)}
        fused.attn = FusedAttention.of(published.attn)
        return fused

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        half = kernel_dtype(x.device)
        fused = None if half is None else self._fused(x, half)
        if fused is None:
            fused = super().forward(x)
        return fused

    def _fused(self, x: Tensor, half: torch.dtype) -> Tensor | None:
        """``forward`` by kernels in half precision; None where the attention's terms do not suit."""
        from zsad.models.sam_encoder_kernels import add_and_normalise

        # The sums of the blocks are float32, as under autocast.
        x = x.float().contiguous()
        norm1, norm2 = self.norm1, self.norm2
        _, normalised = add_and_normalise(x, None, norm1.weight, norm1.bias, norm1.eps, half)
        seen = self.attn.in_windows(normalised, self.window_size, half)
        if seen is None:
            return None
        x, normalised = add_and_normalise(x, seen, norm2.weight, norm2.bias, norm2.eps, half)
        return x + cast(Tensor, self.mlp(normalised))


class FusedPatchEmbed(PatchEmbed):
    """The published ``PatchEmbed``, on a GPU as one matrix product: the same parameters and, to rounding, the same function."""

    @classmethod
    def of(cls, published: PatchEmbed) -> FusedPatchEmbed:
        """With the very parameters of ``published``."""
        fused = cls.__new__(cls)
        fused.__dict__ = dict(published.__dict__)
        return fused

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, H, W, C)."""
        proj = self.proj
        if _on_cpu(x.device) or proj.kernel_size != proj.stride or proj.padding != (0, 0):
            whole: Tensor = super().forward(x)
            return whole
        height, width = proj.kernel_size
        # cuDNN has no fast convolution of such a stride.
        patches = x.to(proj.weight.dtype).unflatten(3, (-1, width)).unflatten(2, (-1, height))
        patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(3)
        return F.linear(patches, proj.weight.flatten(1), proj.bias)


def _on_cpu(device: torch.device) -> bool:
    return device.type == "cpu"


def _attend(query: Tensor, key: Tensor, value: Tensor, rows: Tensor, columns: Tensor, places: Tensor) -> Tensor:
    """Attention of every query to H x W keys, with its position terms in the channels.

    Args:
        query, key, value: (B, heads, H W, E), the query scaled.
        rows, columns: (B, heads, H W, H) and (B, heads, H W, W), the terms of each query.
        places: (H W, H + W), the row and column of each key as indicators.

    Returns:
        (B, heads, H W, E).
    """
    channels = value.shape[-1]
    extended_query = torch.cat([query, rows, columns], -1)
    extended_key = torch.cat([key, places.to(key.dtype).expand(*key.shape[:2], -1, -1)], -1)
    # The fused kernels want as many channels in the values.
    value = F.pad(value, (0, places.shape[-1]))
    return F.scaled_dot_product_attention(extended_query, extended_key, value, scale=1.0)[..., :channels]


def _attend_in_parts(query: Tensor, key: Tensor, value: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """``_attend``, with the position terms of some heads and queries at a time as a mask."""
    keys = key.shape[2]
    logits = _LOGITS_ON_CPU * torch.get_num_threads()
    queries = max(1, min(keys, logits // keys))
    heads = max(1, logits // (queries * keys))
    parts = []
    for q, k, v, r, c in zip(
        *(one.flatten(0, 1).split(heads) for one in (query, key, value, rows, columns)), strict=True
    ):
        seen = []
        for start in range(0, keys, queries):
            some = slice(start, start + queries)
            terms = (r[:, some, :, None] + c[:, some, None, :]).flatten(2)
            # Four dimensions, or torch takes another, slower kernel.
            seen.append(F.scaled_dot_product_attention(q[None, :, some], k[None], v[None], terms[None], scale=1.0)[0])
        parts.append(torch.cat(seen, 1))
    return torch.cat(parts).view(query.shape)


def fuse_attention(encoder: ImageEncoderViT) -> None:
    """Replace the blocks and the patch embedding of a published encoder by fused ones, in place.

    Its weights have to be loaded before.
    """
    encoder.patch_embed = FusedPatchEmbed.of(encoder.patch_embed)
    for index, block in enumerate(encoder.blocks):
        encoder.blocks[index] = FusedBlock.of(block)
