"""The weights of a run: their hashes, and whether they fit, before any worker starts."""

from __future__ import annotations

from importlib import import_module

from zsad.config import Config
from zsad.models.weights import is_trained, locate, sha256_of

FAMILIES = ("isnet", "sam", "clip", "clipseg")


def weights_hashes(config: Config) -> dict[str, str]:
    """sha256 of the weights by family; for random models of their state dict.

    Raises:
        UsageError: weights that cannot be had.
    """
    hashes = {}
    for family in FAMILIES:
        model = getattr(config.models, family)
        if is_trained(model.name, model.weights):
            hashes[family] = sha256_of(locate(model.name, model.weights))
        else:
            hashes[family] = import_module(f"zsad.models.{family}").load(model, "cpu", "fp32").sha256
    return hashes


def validate_weights(config: Config) -> None:
    """Load each model once on the CPU, so that weights that do not fit fail here and not on every worker.

    Raises:
        UsageError: says which entries are missing, unexpected or of another shape.
    """
    for family in FAMILIES:
        import_module(f"zsad.models.{family}").load(getattr(config.models, family), "cpu", "fp32")
