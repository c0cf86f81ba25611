"""The fingerprint of a run: a hash of everything that changes scores, so that rows of two methods are never mixed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from zsad.config import Config
from zsad.images import DECODER, RESIZE
from zsad.projection import PROJECTION

METHOD_VERSION = 2
"""Raised whenever a change of code changes scores by more than float32's rounding: old and new rows are never mixed."""
HALF_PRECISION_VERSION = 6
"""As ``METHOD_VERSION``, for changes that alter scores in half precision only; see the history of this line."""


def fingerprint(
    config: Config,
    weights: Mapping[str, str],
    object_name: str | None = None,
    foreground: str | None = None,
) -> str:
    """Hash of everything that changes scores.

    That is: the method's fields and version, prompts and nouns, weights, precision, decoder. Not: paths,
    batch and pool sizes.

    Args:
        config: the configuration.
        weights: sha256 of the weights by model family (``isnet``, ``sam``, ``clip``, ``clipseg``).
        object_name: the noun given with ``--object``, if any.
        foreground: hash of precomputed foregrounds, if any.

    Returns:
        64 hexadecimal digits.
    """
    canonical = json.dumps(scored_fields(config, weights, object_name, foreground), sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def scored_fields(
    config: Config,
    weights: Mapping[str, str],
    object_name: str | None = None,
    foreground: str | None = None,
) -> dict[str, Any]:
    """What ``fingerprint`` hashes, as plain JSON types (kept in run.json to say what differs)."""
    fields = config.model_dump(mode="json", exclude={"preset", "runtime", "models"})
    fields["foreground"].pop("points_per_batch")
    fields["models"] = {
        family: {"name": model.name, "sha256": weights[family]} for family, model in config.models.by_family().items()
    }
    fields["precision"] = config.models.precision
    if config.models.precision != "fp32":
        fields["half_precision"] = HALF_PRECISION_VERSION
    fields["object"] = object_name
    fields["precomputed_foreground"] = foreground
    fields["method_version"] = METHOD_VERSION
    fields["decoder"] = DECODER
    fields["resize"] = RESIZE
    fields["projection"] = PROJECTION
    return fields


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Lines ``section.field: old -> new`` for every leaf that differs between two nested mappings."""
    lines = []
    for key in sorted(set(old) | set(new)):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            lines.append(f"{prefix}{key}: {before!r} -> {after!r}")
    return lines
