"""The report: a folder with one HTML page that opens from disk, without a server and without a network."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import resources
from itertools import chain

import jinja2
import numpy as np
import pandas as pd

from zsad.datasets.moved import relocate
from zsad.errors import UsageError
from zsad.evaluation.table import COLUMNS
from zsad.filesystem import Uri, absolute, join, redact
from zsad.layout import REPORT_MARK, REPORT_OF
from zsad.report.drawing import Scale
from zsad.report.figures import draw_curves, f1_thresholds, overall_threshold, read_metrics
from zsad.report.folder import ReportFolder
from zsad.report.overlay import heat
from zsad.report.pictures import draw_all
from zsad.report.records import (
    choose_large,
    colour_scale,
    detail_scripts,
    index_script,
    rank,
    row_scripts,
    subjects,
)
from zsad.report.summary import summarise_run
from zsad.storage import describe_run, images_config, read_predictions, read_run, read_success, write_atomically
from zsad.storage.files import list_files
from zsad.text import count, printable

DETAILS = 20
"""Default of how many images per class and kind get large pictures."""
ASSETS = ("report.css", "page.js", "gallery.js", "detail.js", "icon.svg")


@dataclass(frozen=True)
class Report:
    """What was built.

    Attributes:
        page: path or URI of ``index.html``.
        images: rows of the run.
        problems: images of which something could not be drawn.
        seconds: it took.
    """

    page: str
    images: int
    problems: int
    seconds: float

    def lines(self) -> list[str]:
        """What to tell the user."""
        text = f"{count(self.images, 'image')} in {self.seconds:.1f} s"
        if self.problems:
            views = "its detail view says" if self.problems == 1 else "their detail views say"
            text += f"; {self.problems:,} could not be drawn in full ({views} why)"
        return [text, f"Report: {self.page}"]


def build_report(
    output: Uri,
    destination: Uri | None = None,
    details: int = DETAILS,
    progress: Callable[[int, int], None] = lambda done, total: None,
    root: str | None = None,
) -> Report:
    """Build or refresh the report of a run, finished or not. Pictures that are there are not drawn again.

    Args:
        output: folder or URI of the run.
        destination: folder or URI for the report; None = ``OUT/report``.
        details: large pictures per class for so many of the highest scores, of the false positives and of
            the false negatives; all other images have small ones.
        progress: called now and then with how many of how many new images are drawn.
        root: of the dataset, where it has moved since it was scored.

    Raises:
        UsageError: no run there, nothing scored yet, ``details`` below 0, or a destination that holds other things.
        ZsadError: the results are damaged, or the report cannot be written.
    """
    if details < 0:
        raise UsageError(f"Given --details {details}. Expected 0 or more.")
    start = time.monotonic()
    output = absolute(output)
    predictions = read_predictions(output)
    if predictions.empty:
        raise UsageError(f"No predictions in {redact(output)!r}. Nothing has been scored there yet.")
    info, dataset = read_run(output), describe_run(output)[0]
    folder = ReportFolder(join(output, "report") if destination is None else absolute(destination))
    _claim(output, folder)
    if root is not None:
        predictions = relocate(predictions, root, {} if info is None else info.dataset)
    ranked = rank(predictions)
    thresholds, scale = f1_thresholds(ranked), colour_scale(ranked)
    wanted = subjects(ranked, choose_large(ranked, thresholds, details), scale)
    parts = [None if pd.isna(part) else str(part) for part in ranked["map_part"]]
    drawn = draw_all(output, parts, wanted, scale, images_config(info), folder, progress)

    scores = ranked["pred_score"].dropna().to_numpy(np.float64)
    aggregation = {} if info is None else info.config.get("aggregation", {})
    facts = {
        "thresholds": thresholds,
        "overall": overall_threshold(ranked),
        "range": [float(scores.min()), float(scores.max())] if scores.size else [0.0, 1.0],
        "scale": [scale.low, scale.high],
        "topFraction": aggregation.get("top_fraction"),
    }
    stale = folder.names("data")
    for name, text in chain(
        row_scripts(ranked, [subject.key for subject in wanted]),
        detail_scripts(ranked, drawn),
        [("data/index.js", index_script(ranked, drawn, facts))],
    ):
        folder.put(name, text.encode())
        stale.discard(name)
    for name in stale:
        folder.delete(name)
    for name in ASSETS:
        folder.put(f"assets/{name}", (resources.files("zsad.report") / "page" / name).read_bytes())
    curves, more_classes = draw_curves(ranked)
    page = (
        _environment()
        .get_template("index.html.j2")
        .render(
            summary=summarise_run(ranked, info, read_success(output)),
            tables=read_metrics(output, ranked, dataset),
            columns=COLUMNS,
            curves=curves,
            more_classes=more_classes,
            scale=scale,
            stops=_stops(scale),
            thresholds=thresholds,
            labelled=bool(ranked["gt_label"].notna().any()),
            details=details,
        )
    )
    uri = join(folder.uri, "index.html")
    write_atomically(uri, lambda sink: sink.write(page.encode()))
    return Report(uri, len(ranked), sum(bool(item.problems) for item in drawn), time.monotonic() - start)


def _claim(output: str, folder: ReportFolder) -> None:
    """Make the folder that of a report, or refuse: whatever a report did not write there would be deleted."""
    shown, own = redact(folder.uri), join(output, "report").rstrip("/")
    uri = folder.uri.rstrip("/")
    if uri != own and f"{uri}/".startswith(f"{output.rstrip('/')}/"):
        raise UsageError(
            f"Cannot write the report to {shown!r}: it lies among the results. Expected a folder elsewhere."
        )
    if folder.get(REPORT_MARK) is None:
        present = [info.base_name for info in list_files(folder.uri) if not info.base_name.startswith(".")]
        if present:
            raise UsageError(
                f"Cannot write the report to {shown!r}: it holds files of something else, such as {present[0]!r}. "
                "Expected a new or empty folder, or an earlier report."
            )
    folder.put(REPORT_MARK, json.dumps({REPORT_OF: redact(output)}).encode())


def print_progress(done: int, total: int) -> None:
    """One line in place on a terminal; on another stream only the last line."""
    if sys.stderr.isatty() or done == total:
        print(f"\rPictures: {done:,} of {total:,}", end="\n" if done == total else "", file=sys.stderr, flush=True)


def _environment() -> jinja2.Environment:
    loader = jinja2.PackageLoader("zsad.report", "page")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["visible"] = partial(printable, replacement="\N{REPLACEMENT CHARACTER}")
    return environment


def _stops(scale: Scale) -> list[tuple[str, str]]:
    """(offset, colour) of the legend's gradient."""
    shares = np.linspace(0, 1, 9, dtype=np.float32)
    colours = heat((scale.low + shares * (scale.high - scale.low))[None], scale.low, scale.high)[0]
    return [
        (f"{share:.3f}", "#{:02x}{:02x}{:02x}".format(*rgb))
        for share, rgb in zip(shares, colours.tolist(), strict=True)
    ]
