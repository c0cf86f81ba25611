"""Numbers and names in the words and lines that people read."""

from __future__ import annotations


def count(number: int, singular: str, plural: str | None = None) -> str:
    """``1 image``, ``2,000 images``, ``3 categories``; ``plural`` where no such rule gives it: ``2 rows have``."""
    if number == 1:
        return f"{number} {singular}"
    if plural is None:
        plural = f"{singular[:-1]}ies" if singular.endswith("y") else f"{singular}s"
    return f"{number:,} {plural}"


def duration(seconds: float) -> str:
    """Seconds for people: ``42s``, ``9m58s``, ``3h05m``, ``2d04h``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def size(number: float) -> str:
    """Bytes for people: ``812 B``, ``1.5 MB``, ``3.2 TB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" or number >= 100 else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def printable(text: object, replacement: str = "?") -> str:
    """``str(text)`` with control characters replaced, so that no name can move the cursor or reorder a line."""
    return "".join(character if character.isprintable() else replacement for character in str(text))
