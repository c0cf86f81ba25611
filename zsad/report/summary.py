"""What a run was, in the words of the page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from zsad.storage import RunInfo, Success
from zsad.text import duration


@dataclass(frozen=True)
class RunSummary:
    """The texts of the page's head and of its "Run" section.

    Attributes:
        title: dataset and preset.
        cards: (figure, what it is) in large letters.
        warnings: what a reader has to know before believing a figure.
        facts: (name, value) about the run.
        stages: (stage, mean milliseconds per image).
        errors: (stage, type, images), most frequent first.
        weights: (family, model, sha256).
        settings: (section.field, value) of the resolved configuration.
    """

    title: str
    cards: list[tuple[str, str]]
    warnings: list[str]
    facts: list[tuple[str, str]]
    stages: list[tuple[str, str]]
    errors: list[tuple[str, str, int]]
    weights: list[tuple[str, str, str]]
    settings: list[tuple[str, str]]


def summarise_run(ranked: pd.DataFrame, info: RunInfo | None, success: Success | None) -> RunSummary:
    """The summary of a run.

    Args:
        ranked: its rows, from ``zsad.report.records.rank``.
        info: ``run.json``; None where there is none.
        success: ``_SUCCESS``; None for an unfinished run.
    """
    dataset: Mapping[str, Any] = {} if info is None else info.dataset
    config: Mapping[str, Any] = {} if info is None else info.config
    runs = [] if info is None else info.timings.get("runs", [])
    timings: Mapping[str, Any] = runs[-1] if runs else {}
    root = str(dataset.get("root") or "").rstrip("/").rsplit("/", 1)[-1]
    failed = ranked[ranked["status"] != "ok"]
    return RunSummary(
        title=root or "Run",
        cards=_cards(ranked, len(failed), timings),
        warnings=_warnings(dataset, info, success),
        facts=_facts(dataset, config, timings, info, success),
        stages=_stages(ranked),
        errors=_errors(failed),
        weights=[
            (family, str((config.get("models", {}).get(family) or {}).get("name", "-")), str(sha))
            for family, sha in ({} if info is None else info.weights).items()
        ],
        settings=list(_leaves(config)),
    )


def _errors(failed: pd.DataFrame) -> list[tuple[str, str, int]]:
    kinds = failed[["error_stage", "error_type"]].fillna("-").astype(str)
    counts = Counter(zip(kinds["error_stage"], kinds["error_type"], strict=True))
    return [(stage, kind, number) for (stage, kind), number in counts.most_common()]


def _cards(ranked: pd.DataFrame, failed: int, timings: Mapping[str, Any]) -> list[tuple[str, str]]:
    classes = ranked["category"].nunique()
    cards = [(f"{len(ranked):,}", "images"), (f"{classes:,}", "class" if classes == 1 else "classes")]
    if ranked["gt_label"].notna().any():
        cards.append((f"{int((ranked['gt_label'] == 1).sum()):,}", "labelled anomalous"))
    cards.append((f"{failed:,}", "failed"))
    rate = timings.get("images_per_second")
    if rate:
        cards.append((f"{float(rate):.3g}", "images per second"))
    return cards


def _warnings(dataset: Mapping[str, Any], info: RunInfo | None, success: Success | None) -> list[str]:
    warnings = []
    if dataset.get("trained") is False:
        warnings.append("The models had untrained (random) weights: scores and heatmaps mean nothing.")
    if success is None:
        warnings.append("The run is unfinished (no _SUCCESS), so images may be missing.")
    if info is None:
        warnings.append("There is no run.json, so configuration and weights are not known.")
    return warnings


def _facts(
    dataset: Mapping[str, Any],
    config: Mapping[str, Any],
    timings: Mapping[str, Any],
    info: RunInfo | None,
    success: Success | None,
) -> list[tuple[str, str]]:
    seconds = timings.get("seconds")
    named = [
        ("Dataset", dataset.get("layout")),
        ("Root", dataset.get("root")),
        ("Split", dataset.get("split")),
        ("Object", dataset.get("object")),
        ("Categories", ", ".join(map(str, dataset.get("categories") or []))),
        ("Limit", dataset.get("limit")),
        ("Preset", config.get("preset")),
        ("Fingerprint", info.fingerprint if info else None),
        ("Hash of the image list", success.manifest_hash if success else None),
        ("Duration of the last run", None if seconds is None else duration(float(seconds))),
        ("Images in the last run", timings.get("images")),
        ("Versions", ", ".join(f"{name} {version}" for name, version in (info.versions if info else {}).items())),
    ]
    return [(name, str(value)) for name, value in named if value not in (None, "")]


def _stages(ranked: pd.DataFrame) -> list[tuple[str, str]]:
    times = pd.DataFrame([stages for stages in ranked["stage_ms"] if isinstance(stages, dict)])
    means = times.mean() if len(times) else pd.Series(dtype=float)
    return [(str(stage), f"{ms:,.1f}") for stage, ms in means.items() if pd.notna(ms)]


def _leaves(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    found = []
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            found += _leaves(value, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", "-" if value is None else str(value)))
    return found
