"""Pixel-level predictor (paper section 2): segmentations of the localising prompts -> one map per tile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor


def average_prompts(
    logits: Tensor, weights: Sequence[float], average: Literal["harmonic", "arithmetic", "max"] = "harmonic"
) -> Tensor:
    """Average the probability maps sigmoid(logits) over the prompts.

    Paper: "a harmonic average across the prompt segmentations to focus on the regions which
    consistently give a higher activation". Because 1/sigmoid(z) = 1 + exp(-z), the weighted harmonic
    mean is sigmoid(log sum(w) - logsumexp(log w - z)), which does not under- or overflow.

    Args:
        logits: (T, P, S, S) float32.
        weights: P positive weights.

    Returns:
        (T, S, S) float32 in [0, 1].
    """
    weight = torch.tensor(weights, dtype=logits.dtype).to(logits.device, non_blocking=True).view(1, -1, 1, 1)
    if average == "max":
        return torch.sigmoid(logits.amax(dim=1))
    if average == "arithmetic":
        return (torch.sigmoid(logits) * weight).sum(dim=1) / weight.sum()
    # torch.logsumexp, but in place: of 18 prompts every copy is 9 MB per tile.
    terms = weight.log() - logits
    limits = torch.finfo(terms.dtype)
    highest = terms.amax(dim=1, keepdim=True).clamp_(limits.min, limits.max)
    total = terms.sub_(highest).exp_().sum(dim=1)
    return torch.sigmoid(weight.sum().log() - total.log_().add_(highest.squeeze(1)))
