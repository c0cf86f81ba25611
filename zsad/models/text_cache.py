"""Encoded prompts on disk: the 924 prompts of a noun are encoded once on a machine, not once in every process."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from zsad.filesystem import replace_file
from zsad.models.weights import cache_folder

if TYPE_CHECKING:
    from zsad.models.clip import CLIPModel
    from zsad.models.clipseg import CLIPSegModel


def cached_texts(
    model: CLIPModel | CLIPSegModel, texts: Sequence[str], encode: Callable[[], NDArray[np.float32]]
) -> NDArray[np.float32]:
    """``encode()``, or what it gave earlier for the same model, weights, precision, kind of device and texts.

    Of several processes that ask at once, one encodes. A cache that cannot be used costs encoding, no more; a
    model without a hash of its weights is never cached.

    Args:
        model: whose text side encodes.
        texts: the prompts, in order.
        encode: gives their (P, D) float32 embeddings.
    """
    if not model.sha256:
        return encode()
    path = _path(model, texts)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            found = _read(path)
            if found is None:
                found = encode()
                # NaN, from a faulty GPU say, would be read from the file ever after.
                if np.isfinite(found).all():
                    _write(path, found)
            return found
    except OSError:
        return encode()


def _path(model: CLIPModel | CLIPSegModel, texts: Sequence[str]) -> Path:
    import torch

    # The same file of weights can be loaded into models of several names, which may differ in the activation.
    which = [model.name, model.sha256, model.precision, torch.device(model.device).type]
    what = [*which, torch.__version__, *map(version, ("open_clip_torch", "transformers")), list(texts)]
    return cache_folder() / "texts" / f"{hashlib.sha256(json.dumps(what).encode()).hexdigest()}.npy"


def _read(path: Path) -> NDArray[np.float32] | None:
    try:
        return np.asarray(np.load(path, allow_pickle=False), np.float32)
    except (OSError, ValueError, EOFError):
        return None


def _write(path: Path, embeddings: NDArray[np.float32]) -> None:
    replace_file(path, lambda file: np.save(file, embeddings, allow_pickle=False))
