"""A run in the formats of other programs. Predictions and maps are only read; one folder per export is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from zsad.errors import UsageError
from zsad.export.coco import write_coco
from zsad.export.maps import write_masks, write_tiff
from zsad.export.regions import Selection
from zsad.export.stream import decided_rows, scored_rows
from zsad.export.table import decisions_if_any, write_csv
from zsad.export.target import claim, complete
from zsad.filesystem import Uri, absolute, join
from zsad.storage import read_run, while_unchanged

__all__ = ["FORMATS", "Exported", "export_run"]


class Format(NamedTuple):
    """How one format is exported.

    Attributes:
        read: run -> what ``write`` needs of it; refuses a run that cannot be exported so.
        write: (run, what was read, folder) -> lines that say what was written; with regions also a ``Selection`` of them.
        has_regions: whether regions of the maps are exported.
    """

    read: Callable[[str], Any]
    write: Callable[..., str]
    has_regions: bool = False


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "tiff": Format(scored_rows, write_tiff),
        "masks": Format(decided_rows, write_masks, has_regions=True),
        "coco": Format(decided_rows, write_coco, has_regions=True),
        "csv": Format(decisions_if_any, write_csv),
    }
)


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        target: absolute path or URI of the folder.
        summary: a few lines for people.
    """

    target: str
    summary: str


def export_run(
    output: Uri, format_name: str, target: Uri | None = None, *, min_area: int = 1, flagged_only: bool = False
) -> Exported:
    """Export a run. Every file is written whole or not at all; the same again replaces the export.

    Args:
        output: folder or URI of the run.
        format_name: one of ``FORMATS``.
        target: a new or empty folder or URI, or an earlier export of this run in this format;
            ``OUT/exports/<format>`` when None.
        min_area: masks and coco: regions of fewer pixels are left out.
        flagged_only: masks and coco: images that are not flagged have no regions.

    Raises:
        UsageError: unknown format, regions chosen for a format that has none, no run there, no decisions yet (masks, coco), or a target that holds
            something else.
        ZsadError: a map is missing or damaged, or a file cannot be written.
    """
    if format_name not in FORMATS:
        raise UsageError(f"Unknown format {format_name!r}. Expected one of: {', '.join(FORMATS)}.")
    selection = Selection(min_area, flagged_only)
    if min_area < 1:
        raise UsageError(f"The smallest area is {min_area}; expected a number of pixels, 1 or more.")
    if selection != Selection() and not FORMATS[format_name].has_regions:
        with_regions = ", ".join(name for name, form in FORMATS.items() if form.has_regions)
        raise UsageError(
            f"Format {format_name!r} has no regions to choose from: --min-area and --flagged-only are for {with_regions}."
        )
    output = absolute(output)
    target = join(output, "exports", format_name) if target is None else absolute(target)
    form = FORMATS[format_name]

    def export() -> str:
        source = form.read(output)
        info = read_run(output)
        claim(output, target, format_name, info.fingerprint if info else None)
        return form.write(output, source, target, *([selection] if form.has_regions else []))

    summary = while_unchanged(output, export)
    complete(target)
    return Exported(target, summary)
