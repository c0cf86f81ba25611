"""A dataset that lies elsewhere than when it was scored: the paths of its images and masks now."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

import pandas as pd
import pyarrow as pa

from zsad.datasets.manifest_file import find_manifest_file
from zsad.datasets.paths import uris
from zsad.errors import UsageError
from zsad.filesystem import absolute, is_local, redact


def relocate(predictions: pd.DataFrame, root: str, earlier: str | None = None) -> pd.DataFrame:
    """Predictions with ``image_path`` and ``mask_path`` below another root; what lay elsewhere keeps its path.

    The root that a path was scored under is what stands in it before the ``image_id``, which is relative to the root
    but where a manifest gives ids of its own; there it is ``earlier``.

    Args:
        predictions: with the columns ``image_id``, ``image_path`` and ``mask_path``.
        root: folder, URI or manifest file of the dataset now.
        earlier: that of the run, if known.

    Raises:
        UsageError: no image lay below such a root, or nothing is at ``root``.
    """
    folder = _folder(root)
    before = None if earlier is None else _plain(_parent_of_file(absolute(earlier))).rstrip("/") + "/"
    rows = zip(predictions["image_id"], predictions["image_path"], predictions["mask_path"], strict=True)
    places = [_split(image_id, image, mask, before) for image_id, image, mask in rows]
    if places and not any(image is not None for image, _ in places):
        raise UsageError(
            f"None of the {len(places)} images lay in a folder that --root {redact(root)!r} could stand for, e.g. "
            f"{redact(str(predictions['image_path'].iloc[0]))!r}. Expected the folder of the dataset; leave --root out where "
            "it has not moved."
        )
    columns = {}
    for name, relative in zip(("image_path", "mask_path"), zip(*places, strict=True), strict=False):
        found = zip(uris(folder, pa.array(relative, pa.string())).to_pylist(), predictions[name], strict=True)
        now = pd.Series([old if new is None else new for new, old in found], predictions.index, dtype=object)
        columns[name] = now.astype(predictions[name].dtype)
    return predictions.assign(**columns)


def _split(image_id: Any, image: Any, mask: Any, before: str | None) -> tuple[str | None, str | None]:
    """Image and mask relative to the root they were under; None for what was under none."""
    path = _plain(image) if isinstance(image, str) else ""
    if path.endswith(f"/{image_id}"):
        before = path.removesuffix(str(image_id))
    return _below(path, before), _below(_plain(mask), before) if isinstance(mask, str) else None


def _below(path: str, before: str | None) -> str | None:
    return path.removeprefix(before) if before is not None and path.startswith(before) else None


def _plain(uri: str) -> str:
    """A path as it is; a URI without its query and percent signs."""
    return uri if is_local(uri) else unquote(uri.partition("?")[0])


def _folder(root: str) -> str:
    """The root that paths are relative to: the folder itself, or that of a manifest file."""
    return find_manifest_file(root)[1] if _is_table(root) else absolute(root)


def _parent_of_file(root: str) -> str:
    return root.rpartition("/")[0] if _is_table(root) else root


def _is_table(root: str) -> bool:
    return root.partition("?")[0].lower().endswith((".csv", ".parquet", ".pq"))
