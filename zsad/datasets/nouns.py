"""The noun of a category: what the prompts call the object (paper section 2, ``[o]``)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

DEFAULT_NOUNS: Mapping[str, str] = MappingProxyType(
    {
        "pcb1": "printed circuit board",
        "pcb2": "printed circuit board",
        "pcb3": "printed circuit board",
        "pcb4": "printed circuit board",
        "macaroni1": "macaroni",
        "macaroni2": "macaroni",
        "pipe_fryum": "pipe fryum",
        "chewinggum": "chewing gum",
        "metal_nut": "metal nut",
    }
)
"""Categories whose folder name is not the noun. Paper is silent on the nouns: WinCLIP's are used."""


def noun_for(category: str, class_names: Mapping[str, str] | None = None) -> str:
    """The noun of ``category``: from ``class_names``, the default table, or the name with ``_`` as space."""
    return (class_names or {}).get(category) or DEFAULT_NOUNS.get(category) or category.replace("_", " ").strip()
