"""Numbers in messages."""

from __future__ import annotations


def count(number: int, one: str, many: str) -> str:
    """``1 row has``, ``2,000 rows have``."""
    return f"{number:,} {one if number == 1 else many}"
