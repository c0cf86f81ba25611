"""What ``zsad models`` shows and does: the registry as text, downloads, checks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TextIO

from zsad.errors import UsageError
from zsad.models.download import hash_file
from zsad.models.registry import REGISTRY, entry, size_text
from zsad.models.weights import find, locate, locate_tokenizer, trusted_sha256


def format_catalogue() -> str:
    """One paragraph per model: name, family, size, licence, sha256, where it lies."""
    lines = []
    for item in REGISTRY.values():
        place = "random, no file" if item.source == "random" else str(find(item.name) or "no")
        sha256 = trusted_sha256(item)
        lines += [
            f"{item.name}  ({item.family}, {size_text(item.size_bytes) if item.source != 'random' else 'untrained'})",
            f"    licence: {item.licence}",
            f"    sha256:  {sha256 or ('-' if item.source == 'random' else 'recorded at the first download')}",
            f"    here:    {place}",
        ]
        if item.note:
            lines.append(f"    note:    {item.note}")
    return "\n".join(lines)


def download(names: Sequence[str]) -> Iterator[str]:
    """Fetch weights (and tokenizers) into the cache; yields a line per model. Raises UsageError as ``locate``."""
    for name in names:
        if entry(name).source == "random":
            yield f"{name}: random weights, nothing to download"
            continue
        path = locate(name, progress=download_progress(name, sys.stderr))
        locate_tokenizer(name)
        yield f"{name}: {path}"


def verify(names: Sequence[str]) -> Iterator[str]:
    """Hash the files that are here, anew and in full; changes nothing; yields a line per model.

    Raises:
        UsageError: at the end, when a file was missing or had a wrong sha256.
    """
    wrong = []
    for name in names:
        try:
            yield _verified(name)
        except UsageError as error:
            wrong.append(name)
            yield f"{name}: {error}"
    if wrong:
        raise UsageError(f"{len(wrong)} of {len(names)} models are missing or not as expected: {', '.join(wrong)}.")


def _verified(name: str) -> str:
    """A line on the file of a model. Raises UsageError as ``verify``."""
    item = entry(name)
    if item.source == "random":
        return f"{name}: random weights, nothing to verify"
    path = find(name) or locate(name, download=False)
    known, found = trusted_sha256(item), hash_file(path)
    if known is not None and known != found:
        raise UsageError(
            f"{path} has sha256 {found}, expected {known} for {name}. Remove it and run: zsad models download {name}"
        )
    return f"{name}: sha256 {found} {'ok' if known else 'found, but none is known to compare with'} ({path})"


def download_progress(name: str, stream: TextIO) -> Callable[[int, int | None], None]:
    """A callback for ``locate`` that prints a line for every tenth of a download."""
    printed = -1

    def show(done: int, total: int | None) -> None:
        nonlocal printed
        step = 10 * done // total if total else done // 2**28
        if step != printed:
            printed = step
            share = f" ({100 * done // total}%)" if total else ""
            print(f"Downloading {name}: {size_text(done)} of {size_text(total)}{share}", file=stream, flush=True)

    return show
