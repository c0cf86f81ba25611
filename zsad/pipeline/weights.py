"""The weights of a run: their hashes, and whether they and the prompts fit, before any worker starts."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import import_module

from zsad.config import Config
from zsad.method.prompts import localising_prompts, sample_prompts
from zsad.models.catalogue import download_progress
from zsad.models.registry import is_trained
from zsad.models.weights import locate, sha256_of


def weights_hashes(config: Config) -> dict[str, str]:
    """sha256 of the weights by family; for random models of their state dict. Downloads what is missing.

    Raises:
        UsageError: weights that cannot be had.
    """
    hashes = {}
    for family, model in config.models.by_family().items():
        if is_trained(model.name, model.weights):
            path = locate(model.name, model.weights, progress=download_progress(model.name, sys.stderr))
            hashes[family] = sha256_of(path)
        else:
            hashes[family] = import_module(f"zsad.models.{family}").load(model, "cpu", "fp32").sha256
    return hashes


def validate_models(config: Config, nouns: Iterable[str]) -> None:
    """Load each model once on the CPU and tokenise all prompts, so that what does not fit fails here.

    Args:
        config: the configuration.
        nouns: the distinct class names of the work.

    Raises:
        UsageError: weights with missing, unexpected or mis-shaped entries, or a prompt that is too long.
    """
    models = {
        family: import_module(f"zsad.models.{family}").load(model, "cpu", "fp32")
        for family, model in config.models.by_family().items()
    }
    models["clipseg"].tokenize(localising_prompts(config.prompts)[0])
    for noun in nouns:
        normal, anomalous = sample_prompts(noun, config.prompts)
        models["clip"].tokenize(normal + anomalous)
        if config.pixel_level.prompts == "sample":
            models["clipseg"].tokenize(anomalous)
