"""SAM's mask decoder (Kirillov et al., 2023, appendix A) for many prompts of one or several images, with less work.

The same function of the same parameters as the published ``MaskDecoder``, to float32 rounding, for inference: its
masks have no gradient. Two things are done otherwise:

- What does not depend on the prompt is computed once: in the first layer, keys, values and queries of the image.
- The image has thousands of tokens and a prompt has seven. So where an attention projects the image for the
  product with the prompt's tokens, those tokens are projected back instead: ``(x W) . t = x . (W t)``. The large
  products become half as wide, and no projected image is ever held.

The upscaling by transposed convolutions of stride 2 is one matrix product per pixel, with the channels last, and
only the small masks are brought into the order of pixels. In half precision on a GPU, kernels of our own take what touches
every pixel (``sam_decoder_fused``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
from segment_anything.modeling import MaskDecoder
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.transformer import TwoWayAttentionBlock
from torch import Tensor, nn
from torch.nn import functional as F

from zsad.models.sam_decoder_pixels import Pixels, Shared, SharedPixels, join, share
from zsad.models.transposed import split, to_pixel_order
from zsad.models.triton_support import kernel_dtype

_PROMPTS_ON_CPU = 16
_TOKENS_ON_CPU = 9216
"""The most prompts, and the most tokens of the image times prompts, at once: two prompts at 1024 x 1024 pixels.

More were slower, as their arrays leave the caches; fewer, as the products of a prompt's own few tokens are small.
"""


def prompts_at_once(tokens: int, device: str | torch.device) -> int | None:
    """How many prompts of one image the decoder computes together; None: all prompts of all images.

    Args:
        tokens: of the image.
        device: where the decoder runs.
    """
    if torch.device(device).type != "cpu":
        return None
    return max(1, min(_PROMPTS_ON_CPU, _TOKENS_ON_CPU // tokens))


class SharedMaskDecoder(MaskDecoder):
    """``MaskDecoder`` for prompts that share images: parameters and state dict are those of the published one."""

    @classmethod
    def of(cls, published: MaskDecoder) -> SharedMaskDecoder:
        """A decoder with the very parameters of ``published``."""
        shared = cls.__new__(cls)
        shared.__dict__ = dict(published.__dict__)
        return shared

    def forward(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
        multimask_output: bool,
        owner: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Masks and predicted IoUs of P prompts.

        On a CPU the images of a call do not change each other's last bits. Elsewhere they are computed together, and
        only as many prompts in all give the same kernels.

        Args:
            image_embeddings: (I, C, h, w).
            image_pe: (1, C, h, w) positional encoding.
            sparse_prompt_embeddings: (P, T, C), image by image.
            dense_prompt_embeddings: (1 or P, C, h, w), the same for every prompt; the first is read.
            multimask_output: the three masks of an ambiguous prompt, or the single one.
            owner: (P,) int64, the image of each prompt; None for one image that has the call to itself.

        Returns:
            Logits (P, M, 4 h, 4 w) and predicted IoUs (P, M), M = 3 or 1.
        """
        grid = (image_embeddings.shape[2], image_embeddings.shape[3])
        positions = _tokens(image_pe)
        chosen = range(1, self.num_mask_tokens) if multimask_output else range(1)
        half = kernel_dtype(image_embeddings.device)
        if half is not None and self._suits_kernels(sparse_prompt_embeddings):
            embedded = _tokens(image_embeddings + dense_prompt_embeddings[:1])
            return self._decode_fused(embedded, positions, sparse_prompt_embeddings, owner, grid, chosen, half)
        # One by one: a larger matrix product may round otherwise.
        images = [
            share(self.transformer, one, positions)
            for one in _tokens(image_embeddings + dense_prompt_embeddings[:1]).split(1)
        ]
        at_once = prompts_at_once(grid[0] * grid[1], image_embeddings.device)
        if at_once is None:
            groups = [(join(images), sparse_prompt_embeddings)]
            upscaled_at_once = max(1, len(sparse_prompt_embeddings))
        else:
            counts = (
                [len(sparse_prompt_embeddings)] if owner is None else owner.bincount(minlength=len(images)).tolist()
            )
            own = zip(images, sparse_prompt_embeddings.split(counts), strict=True)
            groups = [(image, group) for image, prompts in own for group in prompts.split(at_once)]
            owner = None
            # They take several times the memory.
            upscaled_at_once = max(1, at_once // 4)
        # Masks of a few prompts at a time go straight to their place: to put them together later takes as long again.
        output, ious, done = None, [], 0
        for shared, group in groups:
            parts, iou = self._decode(shared, group, owner, chosen, upscaled_at_once)
            ious.append(iou)
            for masks in parts:
                if output is None:
                    shape = (len(sparse_prompt_embeddings), len(chosen), 4 * grid[0], 4 * grid[1])
                    output = masks.new_empty(shape)
                to_pixel_order(masks, output[done : done + len(masks)].flatten(0, 1), grid, 2, 2)
                done += len(masks)
        return cast(Tensor, output), torch.cat(ious)

    def _decode(
        self,
        shared: Shared,
        sparse_prompt_embeddings: Tensor,
        owner: Tensor | None,
        chosen: range,
        upscaled_at_once: int,
    ) -> tuple[Iterator[Tensor], Tensor]:
        """``forward`` of some prompts: masks (p, M, 16 N) of a few at a time, not in pixel order, made as they are asked for.

        ``owner`` (P,) int64 is the image of each prompt, None for those of one image.
        """
        pixels = SharedPixels(shared, owner)
        tokens = self._transform(self._with_output(sparse_prompt_embeddings), pixels)
        weights, ious = self._outputs(tokens, chosen)
        some = zip(pixels.seen().split(upscaled_at_once), weights.split(upscaled_at_once), strict=True)
        return (weight @ self._upscale(of_some).transpose(1, 2) for of_some, weight in some), ious

    def _decode_fused(
        self,
        images: Tensor,
        positions: Tensor,
        sparse_prompt_embeddings: Tensor,
        owner: Tensor | None,
        grid: tuple[int, int],
        chosen: range,
        half: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        """``forward`` of images (I, N, C) by kernels, in half precision."""
        from zsad.models.sam_decoder_fused import FusedPixels

        if owner is None:
            owner = torch.zeros(len(sparse_prompt_embeddings), dtype=torch.int64, device=images.device)
        pixels = FusedPixels(images, positions, owner, half)
        tokens = self._transform(self._with_output(sparse_prompt_embeddings), pixels)
        weights, ious = self._outputs(tokens, chosen)
        return pixels.masks(cast(nn.Sequential, self.output_upscaling), weights, grid), ious

    def _suits_kernels(self, sparse_prompt_embeddings: Tensor) -> bool:
        """Whether the sizes are such as ``sam_decoder_kernels`` take."""
        attention = self.transformer.final_attn_token_to_image
        length = 1 + self.num_mask_tokens + sparse_prompt_embeddings.shape[1]
        sizes = (self.transformer_dim // 4, attention.num_heads * 8, attention.internal_dim)
        return length <= 8 and all(size >= 16 and size & (size - 1) == 0 for size in sizes)

    def _with_output(self, sparse_prompt_embeddings: Tensor) -> Tensor:
        """Tokens of prompts (P, 2, C) -> with those of the IoUs and the masks before them, (P, T, C)."""
        output = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        return torch.cat((output.expand(len(sparse_prompt_embeddings), -1, -1), sparse_prompt_embeddings), 1)

    def _outputs(self, tokens: Tensor, chosen: range) -> tuple[Tensor, Tensor]:
        """Tokens (P, T, C) -> the weights of the chosen masks, (P, M, C / 8), and their predicted IoUs, (P, M)."""
        weights = torch.stack([self.output_hypernetworks_mlps[i](tokens[:, 1 + i]) for i in chosen], 1)
        return weights, self.iou_prediction_head(tokens[:, 0])[:, chosen.start : chosen.stop]

    def _transform(self, prompts: Tensor, pixels: Pixels) -> Tensor:
        """The two-way transformer: prompts (P, T, C) -> (P, T, C), and ``pixels`` as the last layer leaves them."""
        transformer = self.transformer
        tokens = prompts
        for module in transformer.layers:
            layer = cast(TwoWayAttentionBlock, module)
            if layer.skip_first_layer_pe:
                tokens = layer.self_attn(q=tokens, k=tokens, v=tokens)
            else:
                tokens = tokens + layer.self_attn(q=tokens + prompts, k=tokens + prompts, v=tokens)
            tokens = layer.norm1(tokens)
            tokens = layer.norm2(tokens + pixels.read(layer.cross_attn_token_to_image, tokens + prompts))
            tokens = layer.norm3(tokens + layer.mlp(tokens))
            pixels.write(layer.cross_attn_image_to_token, tokens + prompts, tokens, layer.norm4)
        last = pixels.read(transformer.final_attn_token_to_image, tokens + prompts)
        normalised: Tensor = transformer.norm_final_attn(tokens + last)
        return normalised

    def _upscale(self, pixels: Tensor) -> Tensor:
        """(P, N, C) -> (P, 16 N, C / 8): every pixel split into 2 x 2, twice."""
        layers = cast(nn.Sequential, self.output_upscaling)
        first, second = cast(nn.ConvTranspose2d, layers[0]), cast(nn.ConvTranspose2d, layers[3])
        norm = cast(LayerNorm2d, layers[1])
        prompts = len(pixels)
        values = split(first, pixels)
        values = layers[2](F.layer_norm(values, values.shape[-1:], norm.weight, norm.bias, norm.eps))
        values = layers[4](split(second, values))
        return values.view(prompts, -1, values.shape[-1])


def _tokens(image: Tensor) -> Tensor:
    """(I, C, h, w) -> (I, h w, C)."""
    return image.flatten(2).transpose(1, 2).contiguous()
