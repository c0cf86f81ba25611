"""What ``zsad models`` shows and does: the registry as text, downloads, checks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from zsad.models.weights import REGISTRY, entry, find, locate, locate_tokenizer, sha256_of, size_text, trusted_sha256


def format_catalogue() -> str:
    """One paragraph per model: name, family, size, licence, sha256, where it lies."""
    lines = []
    for item in REGISTRY.values():
        place = "random, no file" if item.source == "random" else str(find(item.name) or "not here")
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
        path = locate(name)
        locate_tokenizer(name)
        yield f"{name}: {path}"


def verify(names: Sequence[str]) -> Iterator[str]:
    """Check the files that are here; yields a line per model.

    Raises:
        UsageError: a file is missing or has a wrong sha256.
    """
    for name in names:
        if entry(name).source == "random":
            yield f"{name}: random weights, nothing to verify"
            continue
        path = locate(name, download=False)
        known = trusted_sha256(entry(name))
        if known is None:
            yield f"{name}: {path} has sha256 {sha256_of(path)}, but none is known to compare with"
        else:
            yield f"{name}: ok, sha256 {known} ({path})"


