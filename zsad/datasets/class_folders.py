"""Datasets kept as folders: ``<class>/{train,test}/{good,<defect>}``, ``<class>/ground_truth/<defect>``."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping

import pyarrow as pa

from zsad.datasets.files import File, is_image, list_files
from zsad.datasets.manifest import build
from zsad.datasets.nouns import noun_for
from zsad.datasets.paths import uris
from zsad.errors import UsageError
from zsad.filesystem import redact

_SPLITS = ("train", "test")


def read_class_folders(
    root: str, *, class_names: Mapping[str, str], expected: str, below: str = "", allow_outside_root: bool = False
) -> pa.Table:
    """A manifest of every image below ``root`` in the layout of MVTec AD.

    ``good`` folders hold normal images, every other folder anomalous ones. The mask of
    ``test/<defect>/NNN.*`` is ``ground_truth/<defect>/NNN.*`` or ``NNN_mask.*``; null where there is none.

    Args:
        expected: the layout in words, for the message.
        below: folder under ``root`` in which the class folders lie; identities stay relative to ``root``.

    Raises:
        UsageError: the root is missing, or holds no image in this layout.
    """
    files = list_files(root, allow_outside_root=allow_outside_root)
    depth = len(below.split("/")) if below else 0
    images: list[tuple[File, str, str, str]] = []
    masks: dict[tuple[str, str, str], str] = {}
    for file in files:
        if not is_image(file.path) or (below and not file.path.startswith(below + "/")):
            continue
        parts = file.path.split("/")[depth:]
        if len(parts) != 4:
            continue
        category, split, defect, name = parts
        if split == "ground_truth":
            masks[category, defect, posixpath.splitext(name)[0].removesuffix("_mask")] = file.path
        elif split in _SPLITS:
            images.append((file, category, split, defect))
    if not images:
        raise UsageError(
            f"No dataset in {redact(root)!r}. Expected {expected}; found "
            f"{_what_is_there(files)}. Point --root at the folder that holds the class folders."
        )
    labels = [int(defect != "good") for _, _, _, defect in images]
    mask_paths = [
        masks.get((category, defect, posixpath.splitext(posixpath.basename(file.path))[0])) if label else None
        for (file, category, _, defect), label in zip(images, labels, strict=True)
    ]
    paths = pa.array([file.path for file, *_ in images], pa.string())
    return build(
        {
            "image_id": paths,
            "image_path": uris(root, paths),
            "category": [category for _, category, _, _ in images],
            "class_name": [noun_for(category, class_names) for _, category, _, _ in images],
            "split": [split for _, _, split, _ in images],
            "gt_label": labels,
            "mask_path": uris(root, pa.array(mask_paths, pa.string())),
            "file_size": [file.size for file, *_ in images],
            "file_mtime": [file.mtime for file, *_ in images],
        }
    )


def _what_is_there(files: list[File]) -> str:
    if not files:
        return "an empty folder"
    top = list(dict.fromkeys(file.path.split("/")[0] for file in files))
    return ", ".join(top[:5]) + (f" and {len(top) - 5} more" if len(top) > 5 else "")
