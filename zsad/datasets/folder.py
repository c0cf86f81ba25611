"""Any tree of images, without labels, that show one kind of object."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from posixpath import splitext

import pyarrow as pa

from zsad.datasets.files import ending, is_image, list_files
from zsad.datasets.manifest import build
from zsad.datasets.paths import uris
from zsad.errors import UsageError
from zsad.filesystem import redact
from zsad.images import EXTENSIONS
from zsad.layout import EXPLAINED
from zsad.text import count

_MASKS = re.compile(r"(^|/)(ground_truth|Data/Masks)/")
_READ = ", ".join(sorted(EXTENSIONS))


def read_folder(root: str, *, object_name: str | None, allow_outside_root: bool = False) -> pa.Table:
    """A manifest of every image below ``root`` in natural order; ``object_name`` is the noun of all of them.

    Files whose names end unlike an image's are left out with a warning, and so are pictures of ``zsad explain`` beside
    their photographs. Warns of folders of masks, which are not known for masks here.

    Raises:
        UsageError: no ``object_name``; the root is missing, or holds no image.
    """
    if not object_name or not object_name.strip():
        raise UsageError(
            "A folder needs the noun of what its images show, since the prompts are built from it. "
            'Give it with --object, e.g. --object "metal washer".'
        )
    files = list_files(root, allow_outside_root=allow_outside_root)
    images = [file for file in files if is_image(file.path)]
    explained = _explained([file.path for file in images])
    if explained:
        images = [file for file in images if file.path not in explained]
        warnings.warn(
            f"Left out {count(len(explained), 'picture')} of zsad explain beside the photographs, e.g. "
            f"{min(explained)!r}.",
            stacklevel=2,
        )
    if not images:
        raise UsageError(
            f"No image in {redact(root)!r} ({count(len(files), 'other file')}). "
            f"Expected files that end in {_READ}; check --root."
        )
    masks = [file.path for file in images if _MASKS.search(file.path)]
    if masks:
        warnings.warn(
            f"{count(len(masks), 'image is', 'images are')} in folders of masks, e.g. {masks[0]!r}, as datasets of --dataset "
            "mvtec and visa have; as a folder they are scored like photographs.",
            stacklevel=2,
        )
    others = Counter(ending(file.path) for file in files if not is_image(file.path)).most_common()
    if others:
        shown = ", ".join(f"{repr(name) if name else 'no ending'} ({number:,})" for name, number in others[:5])
        warnings.warn(
            f"Left out {count(sum(number for _, number in others), 'file')} of {redact(root)!r} by ending: "
            f"{shown}{f' and {len(others) - 5} more' if len(others) > 5 else ''}. These are read: {_READ}.",
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


def _explained(images: list[str]) -> set[str]:
    """Those that are named as ``zsad explain`` names the picture of another of them."""
    drawn = [path for path in images if path.endswith(EXPLAINED)]
    stems = {splitext(path)[0] for path in images} if drawn else set()
    return {path for path in drawn if path.removesuffix(EXPLAINED) in stems}
