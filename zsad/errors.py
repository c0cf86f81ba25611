"""Errors that say what was given, what was expected and how to fix it."""

from __future__ import annotations


class ZsadError(Exception):
    """Any failure this program can explain in one message (exit code 1)."""


class UsageError(ZsadError):
    """Wrong usage, configuration, input or weights; found before any work starts (exit code 2)."""


class ImageError(ZsadError):
    """One image cannot be scored. It becomes a row with ``status=error`` and never stops a batch.

    Attributes:
        kind: short identifier of the reason, e.g. ``truncated`` or ``too_many_pixels`` (column ``error_type``).
        transient: whether it may pass by itself, so that another try is worth while.
    """

    def __init__(self, kind: str, message: str, transient: bool = False) -> None:
        super().__init__(message)
        self.kind = kind
        self.transient = transient

    def __reduce__(self) -> tuple[type[ImageError], tuple[str, str, bool]]:
        return type(self), (self.kind, str(self), self.transient)
