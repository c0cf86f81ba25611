"""The training loop that all four models share: AdamW, one-cycle rate, checkpoints, resuming."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

Step = Callable[[np.random.Generator, int], tuple[Tensor, dict[str, float]]]
"""(generator of this step, step number) -> loss and what to print."""


@dataclass(frozen=True)
class Plan:
    """How long and how fast.

    Attributes:
        name: of the checkpoint file; seed: of everything random; steps: optimiser steps;
        rate: highest learning rate; decay: weight decay of matrices;
        restart: share of the steps after which the rate rises and falls once more.
    """

    name: str
    seed: int
    steps: int
    rate: float
    decay: float = 0.02
    restart: float = 1.0


def train(plan: Plan, module: nn.Module, step: Step, folder: Path) -> float:
    """Train ``module`` in place; a checkpoint in ``folder`` is resumed. Returns CPU minutes spent, all sessions.

    Every step draws from a generator of its own number, so a resumed run sees the data of an unbroken one.
    """
    checkpoint = folder / f"{plan.name}.ckpt"
    optimiser = torch.optim.AdamW(
        _groups(module.named_parameters(), plan.decay), lr=plan.rate, betas=(0.9, 0.98), fused=True
    )
    first, spent = 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        module.load_state_dict(state["module"])
        optimiser.load_state_dict(state["optimiser"])
        first, spent = state["step"], state["minutes"]
    module.train()
    start, saved = time.process_time(), time.monotonic()
    shown: dict[str, list[float]] = {}
    for number in range(first, plan.steps):
        for group in optimiser.param_groups:
            group["lr"] = plan.rate * _shape(number / plan.steps, plan.restart)
        torch.manual_seed(plan.seed * 1_000_003 + number)
        loss, figures = step(np.random.default_rng([plan.seed, number]), number)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimiser.step()
        for key, value in {"loss": float(loss.detach()), **figures}.items():
            shown.setdefault(key, []).append(value)
        minutes = spent + (time.process_time() - start) / 60
        if (number + 1) % 50 == 0:
            means = "  ".join(f"{key} {np.nanmean(values):.3f}" for key, values in shown.items())
            print(f"{plan.name} {number + 1}/{plan.steps}  {minutes:.1f} min  {means}", flush=True)
            shown = {}
        if time.monotonic() - saved > 60 or number + 1 == plan.steps:
            saved = time.monotonic()
            temporary = checkpoint.with_suffix(".tmp")
            torch.save(
                {
                    "module": module.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "step": number + 1,
                    "minutes": minutes,
                },
                temporary,
            )
            os.replace(temporary, checkpoint)
    module.eval()
    return spent + (time.process_time() - start) / 60


def _shape(progress: float, restart: float) -> float:
    warm = 0.04
    progress = progress / restart if progress < restart else (progress - restart) / (1 - restart)
    if progress < warm:
        return (progress + 1e-3) / warm
    return 0.5 * (1 + float(np.cos(np.pi * (progress - warm) / (1 - warm)))) * 0.99 + 0.01


def _groups(named: Iterable[tuple[str, nn.Parameter]], decay: float) -> list[dict[str, object]]:
    matrices, others = [], []
    for _, parameter in named:
        if parameter.requires_grad:
            (matrices if parameter.ndim >= 2 else others).append(parameter)
    return [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
