"""Any tree of images, without labels, that show one kind of object."""

from __future__ import annotations

import warnings
from collections import Counter

import pyarrow as pa

from zsad.datasets.files import ending, is_image, list_files
from zsad.datasets.manifest import build
from zsad.datasets.paths import uris
from zsad.datasets.text import count
from zsad.errors import UsageError
from zsad.filesystem import redact
from zsad.images import EXTENSIONS

_READ = ", ".join(sorted(EXTENSIONS))


def read_folder(root: str, *, object_name: str | None, allow_outside_root: bool = False) -> pa.Table:
    """A manifest of every image below ``root`` in natural order; ``object_name`` is the noun of all of them.

    Files whose names end unlike an image's are left out with a warning.

    Raises:
        UsageError: no ``object_name``; the root is missing, or holds no image.
    """
    if not object_name or not object_name.strip():
        raise UsageError(
            "A folder needs the noun of what its images show, since the prompts are built from it. "
            'Give it with --object, e.g. --object "metal washer".'
        )
    files = list_files(root, follow_outside=allow_outside_root)
    images = [file for file in files if is_image(file.path)]
    if not images:
        raise UsageError(
            f"No image in {redact(root)!r} ({count(len(files), 'other file', 'other files')}). "
            f"Expected files that end in {_READ}; check --root."
        )
    if len(images) < len(files):
        others = Counter(ending(file.path) for file in files if not is_image(file.path)).most_common()
        shown = ", ".join(f"{repr(name) if name else 'no ending'} ({number:,})" for name, number in others[:5])
        warnings.warn(
            f"Left out {count(len(files) - len(images), 'file', 'files')} of {redact(root)!r} by ending: {shown}"
            f"{f' and {len(others) - 5} more' if len(others) > 5 else ''}. These are read: {_READ}.",
            stacklevel=2,
        )
    paths = pa.array([file.path for file in images], pa.string())
    return build(
        {
            "image_id": paths,
            "image_path": uris(root, paths),
            "class_name": pa.array([object_name.strip()] * len(images), pa.string()),
            "file_size": [file.size for file in images],
            "file_mtime": [file.mtime for file in images],
        }
    )
