"""Every dataset becomes one manifest table."""

from zsad.datasets.loading import DATASETS, load_manifest
from zsad.datasets.manifest import MANIFEST_SCHEMA
from zsad.datasets.nouns import DEFAULT_NOUNS, noun_for

__all__ = ["DATASETS", "DEFAULT_NOUNS", "MANIFEST_SCHEMA", "load_manifest", "noun_for"]
