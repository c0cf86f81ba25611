"""Weights on this machine: where a file lies, its download and check, and loading into a module."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from zsad.errors import UsageError
from zsad.filesystem import replace_file
from zsad.models.download import DownloadError, Progress, fetch, hash_file, offline, resolve_url
from zsad.models.registry import WeightsEntry, entry, is_trained, size_text
from zsad.models.state_dicts import load_into, load_state_dict, sha256_of_state_dict

if TYPE_CHECKING:
    from torch import Tensor, nn

    from zsad.config import ModelConfig, ModelsConfig

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


def cache_folder() -> Path:
    """``$ZSAD_CACHE`` or ``~/.cache/zsad``."""
    return Path(os.environ.get("ZSAD_CACHE") or Path.home() / ".cache" / "zsad").expanduser()


def all_trained(models: ModelsConfig) -> bool:
    """Whether all four models have trained weights; False = some are random and scores mean nothing."""
    return all(is_trained(model.name, model.weights) for model in models.by_family().values())


def find(name: str) -> Path | None:
    """Where the weights lie now, without downloading or checking; None when they are nowhere."""
    for _, path in _places(entry(name), None):
        if path is not None and path.is_file():
            return path
    return None


def locate(
    name: str,
    explicit: str | Path | None = None,
    download: bool = True,
    progress: Progress | None = None,
) -> Path:
    """The checked weights file: explicit path, ``$ZSAD_WEIGHTS``, cache, then a resumable download.

    The sha256 is checked everywhere but for an explicit path, which is the user's own choice (its hash
    enters the fingerprint like any other).

    Raises:
        UsageError: unknown name, a random model (it has no file), nothing found and nothing downloadable,
            or a wrong sha256.
    """
    item = entry(name)
    if explicit is not None:
        path = Path(explicit).expanduser()
        if not path.is_file():
            raise UsageError(f"Weights of {name}: no file {str(explicit)!r}, given in the configuration.")
        return path
    if item.source == "random":
        raise UsageError(f"{name} is seeded random and has no weights file; give one with 'weights:'.")
    found = find(name)
    if found is not None:
        _check(item, found)
        return found
    reason = "the file is missing from the installed package"
    if item.source != "bundled":
        reason = "not downloaded, as asked" if not download else "offline mode is on"
        if download and not offline():
            target = _cached(item.filename)
            try:
                sha256 = fetch(resolve_url(item.source), target, trusted_sha256(item), progress=progress)
            except DownloadError as error:
                reason = f"the download failed: {error}"
            except OSError as error:
                reason = f"the cache cannot be written: {error}"
            else:
                _remember(target, sha256)
                if item.sha256 is None:
                    replace_file(_record(item), lambda file: file.write(f"{sha256}\n".encode()))
                return target
    raise UsageError(_missing(item, reason))


def locate_tokenizer(name: str, explicit: str | Path | None = None) -> Path | None:
    """Folder with the tokenizer files of a model whose text side needs its own; None when it does not.

    Looked for beside the explicit weights (``NAME-tokenizer/``), in ``$ZSAD_WEIGHTS``, in the cache, then
    downloaded.

    Raises:
        UsageError: missing and not downloadable; says what to fetch and where to put it.
    """
    item = entry(name)
    if item.tokenizer is None:
        return None
    folder = Path(item.filename).stem + "-tokenizer"
    places = [path.parent / folder for _, path in _places(item, explicit) if path is not None]
    for place in places:
        if all((place / file).is_file() for file in TOKENIZER_FILES):
            return place
    reason = "offline mode is on"
    if not offline():
        try:
            for file in TOKENIZER_FILES:
                fetch(resolve_url(f"hf://{item.tokenizer}/{file}"), places[-1] / file, None)
            return places[-1]
        except (DownloadError, OSError) as error:
            reason = f"the download failed: {error}"
    looked = "".join(f"\n  looked in {place}" for place in places)
    raise UsageError(
        f"The tokenizer files of {name} ({', '.join(TOKENIZER_FILES)}) are missing; {reason}.{looked}\n"
        f"  fetch them with: zsad models download {name}\n"
        f"  or put both files of the hub repository {item.tokenizer} into {places[-1]}"
    )


def trusted_sha256(item: WeightsEntry) -> str | None:
    """The pinned hash, or the one recorded at the first download, or None before that."""
    if item.sha256 is not None:
        return item.sha256
    try:
        return _record(item).read_text("utf-8").strip()
    except OSError:
        return None


def sha256_of(path: str | Path) -> str:
    """sha256 of a file; remembered in the cache folder by path, size and modification time."""
    path = Path(path).resolve()
    status = path.stat()
    try:
        known = json.loads(_memory(path).read_text("utf-8"))
        if known["size"] == status.st_size and known["mtime_ns"] == status.st_mtime_ns:
            return str(known["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    digest = hash_file(path)
    _remember(path, digest)
    return digest


def restore(
    module: nn.Module,
    config: ModelConfig,
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
) -> str:
    """Load the weights that a configuration names into a module; a random model keeps what it has.

    Args:
        module: built under ``seeded`` if the model may be random.
        convert: optional change of the file's layout into the module's.

    Returns:
        sha256 of the file, or of the module's state dict for a random model.

    Raises:
        UsageError: see ``locate``, ``load_state_dict`` and ``load_into``.
    """
    if not is_trained(config.name, config.weights):
        return sha256_of_state_dict(module.state_dict())
    path = locate(config.name, config.weights)
    state = load_state_dict(path)
    load_into(module, convert(state) if convert else state, config.name)
    return sha256_of(path)


def _places(item: WeightsEntry, explicit: str | Path | None) -> list[tuple[str, Path | None]]:
    """Where a file is looked for, in order; the last one is where a download goes."""
    if item.source == "bundled" and explicit is None:
        return [("package", Path(__file__).parent / "bundled" / item.filename)]
    folder = os.environ.get("ZSAD_WEIGHTS")
    return [
        ("'weights' in the configuration", Path(explicit).expanduser() if explicit is not None else None),
        ("$ZSAD_WEIGHTS", Path(folder).expanduser() / item.filename if folder else None),
        ("cache", _cached(item.filename)),
    ]


def _cached(filename: str) -> Path:
    return cache_folder() / "weights" / filename


def _record(item: WeightsEntry) -> Path:
    return _cached(item.filename + ".sha256")


def _check(item: WeightsEntry, path: Path) -> None:
    expected = trusted_sha256(item)
    if expected is None or (found := sha256_of(path)) == expected:
        return
    advice = "Replace it, or give it as an explicit path ('weights:') if it is meant."
    if path == _cached(item.filename):
        aside = path.with_name(path.name + ".wrong")
        try:
            os.replace(path, aside)
        except FileNotFoundError:
            # Another worker that found the same file wrong was faster.
            aside = path
        advice = f"It was moved to {aside}; run again to download it anew."
    raise UsageError(f"{path} has sha256 {found}, expected {expected} for {item.name}. {advice}")


def _missing(item: WeightsEntry, reason: str) -> str:
    looked = "".join(f"\n  looked in {label}: {path or 'not set'}" for label, path in _places(item, None))
    size = size_text(item.size_bytes)
    lines = f"Weights {item.name} ({item.filename}, {size}) not found; {reason}.{looked}"
    if item.source == "bundled":
        return lines + "\n  install the package again"
    return (
        f"{lines}\n  fetch with: zsad models download {item.name}"
        f"\n  or by hand: {resolve_url(item.source)}\n  saved as: {_cached(item.filename)}"
    )


def _memory(path: Path) -> Path:
    return cache_folder() / "hashes" / (hashlib.sha256(str(path).encode()).hexdigest() + ".json")


def _remember(path: Path, sha256: str) -> None:
    path = path.resolve()
    status = path.stat()
    known = {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": sha256}
    try:
        replace_file(_memory(path), lambda file: file.write(json.dumps(known).encode()))
    except OSError:
        # A read-only cache only costs hashing again.
        return
