"""Every goal that can be measured on this machine, as one table.

python -m benchmarks                        # all, at real sizes; writes benchmarks/RESULTS.md and .json
python -m benchmarks --only P3 P6
python -m benchmarks --quick                # small, no timing gates: do the comparisons still agree?
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from benchmarks.measure import machine, one_thread
from benchmarks.rows import Row, as_json, markdown

GOALS: Mapping[str, str] = MappingProxyType(
    {
        "P1": "scoring:scoring_stage",
        "P2": "scoring:counters",
        "P3": "segmentation:annotations",
        "P4": "segmentation:pruning",
        "P5": "evaluation:metrics",
        "P6": "maps:codec",
        "P7": "job:efficiency",
        "P8": "scoring:device_batches",
        "P9": "ingest:inputs",
        "P10": "job:memory",
        "P11": "gpu:run",
        "batch": "scoring:batches",
        "resume": "resume:run",
        "ceiling": "ceiling:run",
    }
)
"""Goal -> module and function of this package."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write the table. Returns 1 when a goal is missed or a benchmark fails, else 0."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=GOALS, metavar="GOAL", help=f"of {', '.join(GOALS)}")
    parser.add_argument("--quick", action="store_true", help="small and short; judges equality, not time")
    parser.add_argument("--output", type=Path, help="Markdown file to write, with a JSON file beside it")
    options = parser.parse_args(arguments)
    one_thread()
    output = options.output or (None if options.quick or options.only else Path(__file__).with_name("RESULTS.md"))
    described = machine()
    rows: list[Row] = []
    for goal in options.only or GOALS:
        rows += measure(goal, options.quick)
        # After every goal: a run that is interrupted keeps what it has measured.
        if output:
            write(output, rows, described)
    print(markdown(rows, described))
    return int(any(row.met is False for row in rows))


def write(output: Path, rows: Sequence[Row], described: str) -> None:
    """The table as Markdown, and beside it as JSON."""
    output.write_text(f"# Benchmarks\n\n`python -m benchmarks`: {markdown(rows, described)}\n", "utf-8")
    output.with_suffix(".json").write_text(json.dumps(as_json(rows, described), indent=1) + "\n", "utf-8")


def measure(goal: str, quick: bool) -> list[Row]:
    """The rows of one goal; a benchmark that fails is a row that is not met."""
    module, _, function = GOALS[goal].partition(":")
    start = time.monotonic()
    try:
        rows: list[Row] = getattr(importlib.import_module(f"benchmarks.{module}"), function)(quick)
    except Exception as error:
        traceback.print_exc()
        rows = [Row(goal, "the benchmark failed", "", f"{type(error).__name__}: {error}"[:200], False)]
    print(f"{goal}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    return rows


if __name__ == "__main__":
    sys.exit(main())
