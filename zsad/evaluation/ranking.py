"""The most anomalous images as text."""

from __future__ import annotations

from collections.abc import Sequence

from zsad.errors import UsageError
from zsad.filesystem import Uri
from zsad.storage import read_predictions
from zsad.text import printable

_COLUMNS = ["image_id", "category", "gt_label", "status", "pred_score", "anomaly_map_max"]


def format_top(
    output: Uri,
    number: int,
    weights: str | None = None,
    categories: Sequence[str] = (),
    finished: bool = True,
) -> str:
    """The ``number`` images of highest score, one a line, equal scores in order of id.

    Args:
        output: folder or URI of a run.
        number: how many.
        weights: a word that stands beside the scores, e.g. "untrained".
        categories: of these only; empty = of all.
        finished: whether the run has its ``_SUCCESS``.

    Raises:
        UsageError: no run there, an unknown category, or no image with a score.
    """
    predictions = read_predictions(output, _COLUMNS)
    known = [str(name) for name in sorted(predictions["category"].dropna().unique())]
    unknown = [name for name in categories if name not in known]
    if unknown:
        shown = ", ".join(known[:20]) or "none: the run has no categories"
        raise UsageError(f"No image of category {', '.join(map(repr, unknown))}. Expected of {shown}.")
    if categories:
        predictions = predictions[predictions["category"].isin(categories)]
    scored = predictions[predictions["status"] == "ok"]
    if scored.empty:
        raise UsageError(f"No image with a score in {str(output)!r} ({len(predictions)} rows). Run 'zsad score' first.")
    ranked = scored.sort_values(["pred_score", "image_id"], ascending=[False, True]).head(number)
    note = f", weights: {weights}" if weights else ""
    failed = len(predictions) - len(scored)
    lines = [
        f"{len(ranked)} of {len(scored)} scored images, highest score first{note}"
        + (f"; {failed} more could not be scored" if failed else "")
        + ("" if finished else "; the run is unfinished (no _SUCCESS), so images may be missing"),
        f"{'rank':>4}  {'score':>7}  {'map max':>7}  {'label':<9}  image",
    ]
    labels = ranked["gt_label"].map({0: "normal", 1: "anomalous"}).fillna("-")
    for rank, (row, label) in enumerate(zip(ranked.itertuples(index=False), labels, strict=True), start=1):
        lines.append(
            f"{rank:>4}  {row.pred_score:7.4f}  {row.anomaly_map_max:7.4f}  {label:<9}  {printable(row.image_id)}"
        )
    return "\n".join(lines)
