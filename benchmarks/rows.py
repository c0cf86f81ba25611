"""What a benchmark reports: one row per goal, and the table made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """One measured goal.

    Attributes:
        goal: a key of ``benchmarks.__main__.GOALS``, or a short name.
        what: what was measured, at which size.
        target: the goal in words.
        measured: the figures.
        met: whether the goal is met; None where nothing is judged (smoke runs, figures for information).
        note: how it was measured, as far as that is not obvious.
    """

    goal: str
    what: str
    target: str
    measured: str
    met: bool | None
    note: str = ""


def markdown(rows: Sequence[Row], machine: str) -> str:
    """The table as Markdown, the machine above it and the notes below."""
    lines = [machine, "", "| goal | what | target | measured | met |", "|---|---|---|---|---|"]
    for row in rows:
        verdict = {True: "yes", False: "**no**", None: "-"}[row.met]
        lines.append(f"| {row.goal} | {row.what} | {row.target} | {row.measured} | {verdict} |")
    notes = [f"- {row.goal}, {row.what}: {row.note}" for row in rows if row.note]
    return "\n".join([*lines, *(["", *notes] if notes else [])])


def as_json(rows: Sequence[Row], machine: str) -> dict[str, Any]:
    """The same as plain JSON types."""
    return {"machine": machine, "rows": [asdict(row) for row in rows]}
