"""CLIP's convolutional towers (Radford et al., 2021, section 2.4) with less work, for inference.

The same function of the same parameters as open_clip's ``ModifiedResNet``, to rounding:

- A batch norm after a convolution scales and shifts every channel, which the convolution's own weights can do.
- Of the tower's attention pooling only one token is returned, the mean of all tokens, so only the query of that token
  is computed. The published layer projects every token to a key and a value. Here the query is multiplied by the weights
  of the keys instead, ``(x W) . q = x . (W q)``, and the weighted sum of tokens by those of the values.
"""

from __future__ import annotations

from typing import cast

import torch
from open_clip.modified_resnet import AttentionPool2d, ModifiedResNet
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


class AttentionPool(AttentionPool2d):
    """``AttentionPool2d`` that computes only the token it returns: its parameters and state dict are the published ones."""

    @classmethod
    def of(cls, published: AttentionPool2d) -> AttentionPool:
        """A layer with the very parameters of ``published``."""
        pool = cls.__new__(cls)
        pool.__dict__ = dict(published.__dict__)
        return pool

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, D)."""
        tokens = x.flatten(2).transpose(1, 2)
        tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], 1) + self.positional_embedding.to(x.dtype)
        key, value = self._by_head(self.k_proj), self._by_head(self.v_proj)
        # (heads, N, C / heads): with the heads first, no weight is copied for every image.
        query = self.q_proj(tokens[:, 0]).unflatten(1, (self.num_heads, -1)).transpose(0, 1) / key.shape[1] ** 0.5
        # The keys' bias adds the same to every token, which the softmax does not see.
        weights = ((query @ key).transpose(0, 1) @ tokens.transpose(1, 2)).softmax(-1)
        seen = (weights.to(tokens.dtype) @ tokens).transpose(0, 1) @ value.transpose(1, 2)
        return cast(Tensor, self.c_proj(seen.transpose(0, 1).flatten(1) + self.v_proj.bias))

    def _by_head(self, projection: nn.Linear) -> Tensor:
        """(C, C) -> (heads, C / heads, C)."""
        return projection.weight.unflatten(0, (self.num_heads, -1))


def fold_batch_norms(tower: ModifiedResNet) -> None:
    """Fold the batch norms of a tower into its convolutions, and exchange its pooling, in place.

    Args:
        tower: float32, with its weights and the trained statistics of its batch norms loaded.
    """
    tower.eval()
    for block in list(tower.modules()):
        before: tuple[str, nn.Module] = ("", block)
        for name, layer in list(block.named_children()):
            if isinstance(layer, nn.BatchNorm2d):
                # open_clip declares every batch norm right after the convolution whose output it takes.
                setattr(block, before[0], fuse_conv_bn_eval(cast(nn.Conv2d, before[1]), layer))
                setattr(block, name, nn.Identity())
            before = (name, layer)
    tower.attnpool = AttentionPool.of(tower.attnpool)
