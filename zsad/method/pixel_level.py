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
    mean is sum(w) / (sum(w) + sum(w exp(-z))), which is 0 where that overflows and 1 where it underflows.

    Args:
        logits: (T, P, S, S) float32.
        weights: P positive weights.

    Returns:
        (T, S, S) float32 in [0, 1].
    """
    weight = torch.tensor(weights, dtype=logits.dtype).to(logits.device, non_blocking=True)
    if average == "max":
        return torch.sigmoid(logits.amax(dim=1))
    by_prompt = weight.view(1, -1, 1, 1)
    if average == "arithmetic":
        return (torch.sigmoid(logits) * by_prompt).sum(dim=1) / weight.sum()
    # In place: of 18 prompts every copy is 9 MB per tile. No matrix product, which autocast would round.
    excess = (by_prompt.log() - logits).exp_().sum(dim=1)
    return weight.sum() / (weight.sum() + excess)
