"""A dataset that lies elsewhere than when it was scored: the paths of its images and masks now."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote

import pandas as pd
import pyarrow as pa
from pyarrow import fs

from zsad.datasets.files import check_folder
from zsad.datasets.manifest_file import find_manifest_file
from zsad.datasets.paths import uris
from zsad.errors import UsageError
from zsad.filesystem import absolute, is_local, redact, resolve

_TABLES = (".csv", ".parquet", ".pq")


def relocate(predictions: pd.DataFrame, root: str, dataset: Mapping[str, Any] = MappingProxyType({})) -> pd.DataFrame:
    """Predictions with ``image_path`` and ``mask_path`` below another root; what lay elsewhere keeps its path.

    What stands before the ``image_id`` in a path is the root it was scored under, since the id is relative to that.
    A manifest may have ids of its own: there the root of the run comes first.

    Args:
        predictions: with the columns ``image_id``, ``image_path`` and ``mask_path``.
        root: folder, URI or manifest file of the dataset now.
        dataset: of the run (``RunInfo.dataset``), for its ``root`` and ``layout``.

    Raises:
        UsageError: no folder at ``root``, or no image lay below a folder that it could stand for.
    """
    folder = _folder(root)
    before = _earlier_folders(dataset.get("root"))
    by_root = dataset.get("layout") == "manifest"
    rows = zip(predictions["image_id"], predictions["image_path"], predictions["mask_path"], strict=True)
    places = [_split(image_id, image, mask, before, by_root) for image_id, image, mask in rows]
    if places and not any(image is not None for image, _ in places):
        raise UsageError(
            f"None of the {len(places)} images lay in a folder that --root {redact(root)!r} could stand for, e.g. "
            f"{redact(str(predictions['image_path'].iloc[0]))!r}. Expected the folder of the dataset; leave --root out "
            "where it has not moved."
        )
    columns = {}
    for name, relative in zip(("image_path", "mask_path"), zip(*places, strict=True), strict=False):
        found = zip(uris(folder, pa.array(relative, pa.string())).to_pylist(), predictions[name], strict=True)
        now = pd.Series([old if new is None else new for new, old in found], predictions.index, dtype=object)
        columns[name] = now.astype(predictions[name].dtype)
    return predictions.assign(**columns)


def _split(
    image_id: Any, image: Any, mask: Any, before: tuple[str, ...], by_root: bool
) -> tuple[str | None, str | None]:
    """Image and mask relative to the root they were under; None for what was under none."""
    path = _plain(image) if isinstance(image, str) else ""
    own = (path.removesuffix(str(image_id)),) if path.endswith(f"/{image_id}") else ()
    for folder in (*before, *own) if by_root else (*own, *before):
        if path.startswith(folder):
            return path.removeprefix(folder), _below(_plain(mask), folder) if isinstance(mask, str) else None
    return None, None


def _below(path: str, folder: str) -> str | None:
    return path.removeprefix(folder) if path.startswith(folder) else None


def _plain(uri: str) -> str:
    """A path as it is; a URI without its query and percent signs."""
    return uri if is_local(uri) else unquote(uri.partition("?")[0])


def _folder(root: str) -> str:
    """The folder that paths are relative to: the root itself, or that of a manifest file."""
    if root.partition("?")[0].lower().endswith(_TABLES) and _is_file(root):
        return find_manifest_file(root)[1]
    check_folder(root)
    return absolute(root)


def _is_file(root: str) -> bool:
    filesystem, path = resolve(root)
    try:
        return bool(filesystem.get_file_info(path).type == fs.FileType.File)
    except OSError:
        # Whoever looks next says what is wrong.
        return False


def _earlier_folders(root: Any) -> tuple[str, ...]:
    """The run's root with a slash at its end, and where that looks like a manifest file its folder."""
    if not isinstance(root, str) or not root:
        return ()
    plain = _plain(absolute(root)).rstrip("/")
    above = (plain.rpartition("/")[0] + "/",) if plain.lower().endswith(_TABLES) else ()
    return (f"{plain}/", *above)
