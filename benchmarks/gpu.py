"""P11: images per second on a GPU. Not measured so far, and the table says so."""

from __future__ import annotations

from benchmarks.rows import Row


def run(quick: bool) -> list[Row]:
    """One row without a figure."""
    del quick
    return [
        Row(
            "P11",
            "one H200, bf16, 6 tiles",
            ">= 25 images/s with the full grid and SAM-B, >= 45 pruned, >= 18 with SAM-H",
            "not measured on GPU",
            None,
        )
    ]
