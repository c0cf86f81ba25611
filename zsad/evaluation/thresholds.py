"""From scores to decisions: a threshold per class, with labels or without.

A class is decided on by itself, since the scores of two nouns are not on one scale. Whatever has a score
at or above the threshold is flagged, so equal scores are always decided equally.

- ``quantile:Q``: the Q-quantile of the class's scores, taken from above (NumPy's method ``higher``).
- ``budget:N``: the N highest scores of the run. Several classes share N in proportion to their scored
  images (largest remainder; where equal, the class with the higher highest score, then in order of name).
- ``score:S``: the score S, the same for every class.
- ``f1``: where F1 on the labelled images of the class is highest.

``quantile`` and ``budget`` are upper limits: where equal scores stand on both sides of the limit, all of
them stay unflagged. If that leaves nothing, the threshold is the next number above the highest score, printed
with a ``>`` before it.

The threshold of pixels follows the same rule over all values of the class's anomaly maps: the Q-quantile;
the share of the pixels that the budget, or the images flagged by ``score``, are of the images; the highest F1 against
the masks.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import ceil

import numpy as np
import pandas as pd

from zsad.errors import UsageError, ZsadError
from zsad.evaluation.histograms import PixelHistogram, bin_values
from zsad.evaluation.metrics import Curve, curve_from_counts, curve_from_scores, f1_max
from zsad.evaluation.parts import PartState, category_of, scored
from zsad.storage.decisions import DECISIONS_SCHEMA
from zsad.text import printable

_QUANTILE = re.compile(r"quantile:(0?\.[0-9]{1,15})")
_BUDGET = re.compile(r"budget:([0-9]{1,15})")
_SCORE = re.compile(r"score:([01]|[0-9]?\.?[0-9]{1,20}(?:e-?[0-9]{1,2})?)")


@dataclass(frozen=True)
class Rule:
    """How thresholds are found.

    Attributes:
        text: as given, e.g. ``quantile:0.99``.
        quantile: in (0, 1), exact; None for other rules.
        budget: images to flag at most, at least 1; None for other rules.
        score: from which on an image is flagged, in [0, 1]; None for other rules.
    """

    text: str
    quantile: Fraction | None = None
    budget: int | None = None
    score: float | None = None

    @property
    def needs_labels(self) -> bool:
        return self.quantile is None and self.budget is None and self.score is None


@dataclass(frozen=True)
class Thresholds:
    """Of one class; None where the labels leave one undefined.

    Attributes:
        sample: an image is flagged where ``pred_score >= sample``; a float32 value.
        pixel: a pixel is anomalous where ``map >= pixel``; a float16 value.
    """

    sample: float | None
    pixel: float | None


def parse_rule(text: str) -> Rule:
    """``quantile:Q`` (0 < Q < 1), ``budget:N`` (N >= 1), ``score:S`` (0 <= S <= 1) or ``f1``; else raises UsageError."""
    if text == "f1":
        return Rule(text)
    if (match := _QUANTILE.fullmatch(text)) and (quantile := Fraction(match[1])) > 0:
        return Rule(text, quantile=quantile)
    if (match := _BUDGET.fullmatch(text)) and (budget := int(match[1])) > 0:
        return Rule(text, budget=budget)
    if (match := _SCORE.fullmatch(text)) and (score := float(match[1])) <= 1:
        return Rule(text, score=score)
    raise UsageError(
        f"Unknown threshold {text!r}. Expected quantile:Q with Q between 0 and 1, e.g. quantile:0.99; budget:N, "
        "the number of images that may be flagged, e.g. budget:200; score:S with S from 0 to 1, e.g. score:0.62; or f1, "
        "which needs labels."
    )


def rows_to_count(predictions: pd.DataFrame, rule: Rule) -> pd.DataFrame:
    """The rows whose maps ``evaluable_parts`` is to hand out for a rule.

    Without labels every scored image counts, all its pixels as normal ones, so that no mask is read.

    Raises:
        UsageError: no image has a score, or ``f1`` without normal and anomalous images in any class.
    """
    valid = scored(predictions)
    if valid.empty:
        raise UsageError(f"None of the {len(predictions)} images has a score, so there is nothing to decide.")
    if not rule.needs_labels:
        return predictions.assign(gt_label=0)
    if not (valid.groupby(category_of(valid))["gt_label"].nunique() == 2).any():
        raise UsageError(
            "The threshold 'f1' needs labels: no class has both a normal and an anomalous image with a score. "
            "Without labels use quantile:0.99 or budget:200."
        )
    return predictions


def decide(predictions: pd.DataFrame, state: PartState, rule: Rule, fingerprint: str | None) -> pd.DataFrame:
    """A decision for every prediction.

    Args:
        predictions: from ``zsad.evaluation.load_predictions``.
        state: the merged parts of ``rows_to_count(predictions, rule)`` at native resolution.
        fingerprint: of the run, recorded in every row.

    Returns:
        A DataFrame with the columns of ``DECISIONS_SCHEMA``, in the order of ``predictions``.

    Raises:
        ZsadError: a score is NaN.
    """
    thresholds = class_thresholds(predictions, state, rule)
    category = category_of(predictions)
    of_class = {name: category.map({key: getattr(each, name) for key, each in thresholds.items()}) for name in _LEVELS}
    sample, pixel = (of_class[name].astype(np.float32) for name in _LEVELS)
    score = predictions["pred_score"].astype(np.float32)
    decided = (predictions["status"] == "ok") & sample.notna()
    rows = predictions.assign(
        threshold=sample,
        pred_label=(score >= sample).astype("Int8").where(decided),
        pixel_threshold=pixel,
        rule=rule.text,
        fingerprint=fingerprint,
    )
    return rows[DECISIONS_SCHEMA.names].reset_index(drop=True)


_LEVELS = ("sample", "pixel")


def class_thresholds(predictions: pd.DataFrame, state: PartState, rule: Rule) -> dict[str, Thresholds]:
    """Thresholds of every class with a scored image; arguments and errors as ``decide``."""
    valid = scored(predictions)
    groups = {str(name): group for name, group in valid.groupby(category_of(valid), sort=True)}
    shares = _shares(
        rule.budget,
        {name: len(group) for name, group in groups.items()},
        {name: float(group["pred_score"].max()) for name, group in groups.items()},
    )
    result = {}
    for name, group in groups.items():
        histogram = state.classes[name].histogram if name in state.classes else PixelHistogram()
        try:
            result[name] = _thresholds(group, histogram, rule, shares[name])
        except ZsadError as error:
            raise ZsadError(f"Class {name!r}: {error}.") from None
    return result


def _thresholds(group: pd.DataFrame, histogram: PixelHistogram, rule: Rule, share: int) -> Thresholds:
    rows = group[group["gt_label"].notna()] if rule.needs_labels else group.assign(gt_label=0)
    scores, labels = rows["pred_score"].to_numpy(np.float32), rows["gt_label"].to_numpy(np.int64)
    images = curve_from_scores(scores, labels)
    pixels = curve_from_counts(bin_values(), histogram.positives, histogram.negatives)
    if rule.needs_labels:
        return Thresholds(f1_max(images).threshold, f1_max(pixels).threshold)
    if rule.quantile is not None:
        limits = [curve.num_negatives - ceil(rule.quantile * (curve.num_negatives - 1)) for curve in (images, pixels)]
    elif rule.score is not None:
        flagged = int((scores >= np.float32(rule.score)).sum())
        pixel = _at_most(pixels, flagged * pixels.num_negatives // images.num_negatives, np.float16)
        return Thresholds(float(np.float32(rule.score)), pixel)
    else:
        limits = [share, share * pixels.num_negatives // images.num_negatives]
    return Thresholds(_at_most(images, limits[0], np.float32), _at_most(pixels, limits[1], np.float16))


def _at_most(curve: Curve, limit: int, kind: type[np.float16] | type[np.float32]) -> float:
    """The lowest score that at most ``limit`` items reach; the next ``kind`` above the highest if there is none."""
    allowed = int(np.searchsorted(curve.true_positives + curve.false_positives, limit, side="right"))
    if allowed:
        return float(curve.thresholds[allowed - 1])
    return float(np.nextafter(kind(curve.thresholds[0]), kind(np.inf)))


def _shares(budget: int | None, sizes: Mapping[str, int], highest: Mapping[str, float]) -> dict[str, int]:
    """``budget`` split in proportion to ``sizes``; sums to it, or to all images where it exceeds them.

    Of classes with equal remainders, those with the ``highest`` scores get one more.
    """
    total = sum(sizes.values())
    budget = min(budget or 0, total)
    shares = {name: budget * size // total for name, size in sizes.items()}
    by_remainder = sorted(sizes, key=lambda name: (-(budget * sizes[name] % total), -highest[name], name))
    for name in by_remainder[: budget - sum(shares.values())]:
        shares[name] += 1
    return shares


def format_decisions(decisions: pd.DataFrame, weights: str | None = None, finished: bool = True) -> str:
    """The decisions as text: per class and in all, how many images are flagged and at which threshold.

    A threshold that no score of its class reaches is the next number above the highest one, which looks the same with
    four digits, so that one is shown with a ">" before it. Where labels are known, precision and recall of the
    decisions follow.

    Args:
        decisions: from ``decide``.
        weights: a word that stands beside the figures, e.g. "untrained".
        finished: whether the run has its ``_SUCCESS``.
    """
    rule = str(decisions["rule"].iloc[0])
    each = "one threshold for all classes" if rule.startswith("score:") else "a threshold per class"
    heading = f"Decisions by {rule}, {each}; flagged: score >= threshold."
    notes = [f"Weights: {weights}."] if weights else []
    if any(_beyond(group) for _, group in decisions.groupby(category_of(decisions))):
        no_share = "the class's share of the budget is 0, or " if rule.startswith("budget:") else ""
        notes.append(
            f'">": nothing is flagged, since {no_share}the images of the highest score are more than the limit allows.'
        )
    notes += [] if finished else ["The run is unfinished (no _SUCCESS), so images may be missing."]
    has_labels = bool(decisions["gt_label"].notna().any())
    names = category_of(decisions).astype(str)
    shown = {name: printable(name)[:16] for name in sorted(names.unique())}
    width = max(len(text) for text in [*shown.values(), "class"])
    header = f"{'class':{width}}{'images':>8}{'failed':>8}{'flagged':>9}{'threshold':>11}{'pixel thr.':>12}"
    header += f"{'precision':>11}{'recall':>8}" if has_labels else ""
    lines = [*textwrap.wrap(" ".join([heading, *notes]), 80), "", header, "-" * len(header)]
    for name, text in shown.items():
        lines.append(f"{text:{width}}{_row(decisions[names == name], has_labels)}")
    return "\n".join([*lines, "-" * len(header), f"{'all':{width}}{_row(decisions, has_labels)}"])


def _row(rows: pd.DataFrame, has_labels: bool) -> str:
    flagged = rows["pred_label"] == 1
    thresholds = [_the_one(rows, name) for name in ("threshold", "pixel_threshold")]
    sample, pixel = ("-" if value is None else f"{value:.4f}" for value in thresholds)
    sample = f"> {sample}" if _beyond(rows) else sample
    text = f"{len(rows):>8}{(rows['status'] != 'ok').sum():>8}{flagged.sum():>9}{sample:>11}{pixel:>12}"
    if not has_labels:
        return text
    known = rows["gt_label"].notna() & rows["pred_label"].notna()
    hits = (flagged & (rows["gt_label"] == 1)).sum()
    share = [_percent(hits, (flagged & known).sum()), _percent(hits, (known & (rows["gt_label"] == 1)).sum())]
    return f"{text}{share[0]:>11}{share[1]:>8}"


def _beyond(rows: pd.DataFrame) -> bool:
    """Whether the rows have one threshold, not of the user's own, and no score reaches it."""
    if str(rows["rule"].iloc[0]).startswith("score:"):
        return False
    return _the_one(rows, "threshold") is not None and not (rows["pred_label"] == 1).any()


def _the_one(rows: pd.DataFrame, name: str) -> float | None:
    """The threshold that all scored rows have; None where they differ or one has none."""
    values = scored(rows)[name].unique()
    return float(values[0]) if len(values) == 1 and pd.notna(values[0]) else None


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}" if whole else "-"
