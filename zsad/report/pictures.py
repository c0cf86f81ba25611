"""The pictures of all images, several at once; what an earlier report drew is not drawn again."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, replace
from typing import Any

import pandas as pd

from zsad.config import ImagesConfig
from zsad.errors import ZsadError
from zsad.report.drawing import Drawn, Scale, Subject, draw, picture_name
from zsad.report.folder import ReportFolder
from zsad.storage import iter_maps

_PER_TASK = 64
_DRAWN = "drawn"
"""Folder with what was drawn, one file per finished task: a report that was interrupted goes on from there."""


def draw_all(
    output: str,
    map_parts: Sequence[str | None],
    subjects: Sequence[Subject],
    scale: Scale,
    limits: ImagesConfig,
    folder: ReportFolder,
    progress: Callable[[int, int], None],
) -> list[Drawn]:
    """Draw what is missing, remove what is not wanted any more.

    Args:
        output: folder or URI of the run.
        map_parts: the part with the anomaly map of each subject, None for none.
        subjects: one per image.
        scale: of the heatmaps' colours.
        limits: caps on the files that are read.
        folder: of the report.
        progress: called now and then with how many of how many new images are drawn.

    Returns:
        One ``Drawn`` per subject.

    Raises:
        ZsadError: the report's folder cannot be written to.
    """
    there = folder.names("pictures")
    known = _read_drawn(folder)
    drawn = {s.key: known[s.key] for s in subjects if s.key in known and _is_whole(known[s.key], s, there)}
    missing = pd.DataFrame({"part": map_parts, "number": range(len(subjects))})
    missing = missing[[subject.key not in drawn for subject in subjects]]
    tasks = [
        (None if part == "" else str(part), [subjects[i] for i in rows["number"].iloc[start : start + _PER_TASK]])
        for part, rows in missing.groupby(missing["part"].fillna(""), sort=True)
        for start in range(0, len(rows), _PER_TASK)
    ]
    done = 0
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        running = [pool.submit(_draw_task, output, part, group, scale, limits, folder) for part, group in tasks]
        try:
            for future in as_completed(running):
                results = future.result()
                drawn |= results
                done += len(results)
                progress(done, len(missing))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    found = [replace(drawn[s.key], large=drawn[s.key].large and s.large) for s in subjects]
    if tasks or known.keys() != drawn.keys() or any(known[s.key] != d for s, d in zip(subjects, found, strict=True)):
        _write_drawn(folder, f"{_DRAWN}/all.json", {s.key: item for s, item in zip(subjects, found, strict=True)})
    _prune(folder, subjects, found, there)
    return found


def _draw_task(
    output: str,
    part: str | None,
    subjects: Sequence[Subject],
    scale: Scale,
    limits: ImagesConfig,
    folder: ReportFolder,
) -> dict[str, Drawn]:
    ordered = sorted(subjects, key=lambda subject: -1 if subject.map_row_group is None else subject.map_row_group)
    results = {}
    for subject, anomaly_map, foreground, problem in _with_maps(output, part, ordered):
        item = draw(subject, anomaly_map, foreground, scale, limits, folder.put)
        results[subject.key] = replace(item, problems=(*item.problems, problem)) if problem else item
    _write_drawn(folder, f"{_DRAWN}/{ordered[0].key}.json", results)
    return results


def _with_maps(output: str, part: str | None, subjects: Sequence[Subject]) -> Iterator[tuple[Subject, Any, Any, str]]:
    """(subject, map, foreground, problem); after a map that cannot be read it goes on with the next."""
    waiting = list(subjects)
    while waiting:
        if part is None:
            yield waiting.pop(0), None, None, ""
            continue
        pointers = [(each.image_id, each.map_row_group) for each in waiting if each.map_row_group is not None]
        try:
            for stored in iter_maps(output, part, pointers):
                anomaly_map, foreground = stored.anomaly_map(), stored.foreground()
                yield waiting.pop(0), anomaly_map, foreground, ""
        except ZsadError as error:
            yield waiting.pop(0), None, None, f"No heatmap: {error}"


def _is_whole(drawn: Drawn, subject: Subject, there: set[str]) -> bool:
    """Whether all pictures of an image are there and none had a problem; else it is drawn again.

    So a photograph that could not be reached then is tried again.
    """
    if drawn.problems or (subject.large and not drawn.large):
        return False
    return all(name in there for name in _names(subject.key, drawn))


def _names(key: str, drawn: Drawn) -> list[str]:
    kinds = [kind for kind, present in (("photo", drawn.photo), ("heat", drawn.heat)) if present]
    return [picture_name(key, kind, large) for kind in kinds for large in ((False, True) if drawn.large else (False,))]


def _read_drawn(folder: ReportFolder) -> dict[str, Drawn]:
    known: dict[str, Drawn] = {}
    for name in sorted(folder.names(_DRAWN)):
        try:
            for key, values in json.loads(folder.get(name) or b"{}").items():
                lists = {"peak": values["peak"] and tuple(values["peak"]), "problems": tuple(values["problems"])}
                known[key] = Drawn(**values | lists)
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
    return known


def _write_drawn(folder: ReportFolder, name: str, drawn: dict[str, Drawn]) -> None:
    content = {key: asdict(item) for key, item in sorted(drawn.items())}
    folder.put(name, json.dumps(content, separators=(",", ":")).encode())


def _prune(folder: ReportFolder, subjects: Sequence[Subject], drawn: Sequence[Drawn], there: set[str]) -> None:
    wanted = {name for subject, item in zip(subjects, drawn, strict=True) for name in _names(subject.key, item)}
    for name in there - wanted:
        folder.delete(name)
    for name in folder.names(_DRAWN) - {f"{_DRAWN}/all.json"}:
        folder.delete(name)
