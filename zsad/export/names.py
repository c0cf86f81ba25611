"""Image ids -> file names that are unique, portable, and never leave their folder."""

from __future__ import annotations

import hashlib
import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

_EXTENSION = re.compile(r"\.[A-Za-z0-9]{1,5}$")
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f-\x9f<>:"\\|?*]')
_MAX_COMPONENT = 120
_DEVICE = re.compile("con|prn|aux|nul|com[1-9]|lpt[1-9]", re.IGNORECASE)
"""Names that Windows keeps for devices, with any extension."""
_MAX_PATH = 800
"""In bytes: below what file systems and object stores take, with room for a suffix and a folder before it."""


def file_names(image_ids: Iterable[str], extension: str) -> dict[str, str]:
    """A relative POSIX path for every id: the id itself with another extension, wherever that is safe.

    So ``bottle/test/broken/000.png`` becomes ``bottle/test/broken/000.tiff``. Where characters had to be
    replaced, or two ids would get one name (also by case or Unicode form), a hash of the id follows the name.

    Args:
        image_ids: distinct ids.
        extension: with its dot, e.g. ".tiff".

    Returns:
        id -> path without ``..``, leading slash, control characters or characters that Windows forbids.
    """
    stems = {image_id: _safe(image_id, extension) for image_id in image_ids}
    taken = Counter(_folded(stem) for stem, _ in stems.values())
    names = {
        image_id: stem + (f"-{_hash(image_id)}" if changed or taken[_folded(stem)] > 1 else "")
        for image_id, (stem, changed) in stems.items()
    }
    # An id may look like another one with its hash.
    while True:
        taken = Counter(_folded(name) for name in names.values())
        alike = [image_id for image_id, name in names.items() if taken[_folded(name)] > 1]
        if not alike:
            return {image_id: name + extension for image_id, name in names.items()}
        for image_id in alike:
            names[image_id] += f"-{_hash(image_id)}"


def _safe(image_id: str, extension: str) -> tuple[str, bool]:
    """A safe path without extension, and whether more than the extension was changed."""
    wanted = _EXTENSION.sub("", image_id)
    *folders, name = wanted.split("/")
    # A folder may not bear the name that an image beside it gets.
    parts = [_component(part + "_" if part.lower().endswith(extension) else part) for part in folders]
    stem = posixpath.join(*parts, _component(name))
    if len(stem.encode()) > _MAX_PATH:
        stem = _hash(image_id)
    return stem, stem != wanted


def _component(part: str) -> str:
    part = _FORBIDDEN.sub("_", part).rstrip(". ")
    part = part.encode()[:_MAX_COMPONENT].decode(errors="ignore")
    if _DEVICE.fullmatch(part.partition(".")[0]):
        part += "_"
    return part if part.strip(".") else "_"


def _folded(stem: str) -> str:
    return unicodedata.normalize("NFKC", stem).casefold()


def _hash(image_id: str) -> str:
    return hashlib.sha256(image_id.encode()).hexdigest()[:16]
