"""The text of ``zsad explain``: the same facts as the picture, for the terminal."""

from __future__ import annotations

from zsad.filesystem import redact
from zsad.report.explain import Alignment, Explanation
from zsad.text import printable

_SHOWN_COMPONENTS, _SHOWN_PROMPTS = 20, 5


def format_explanation(explanation: Explanation) -> str:
    """Score, foreground, components, the most similar prompts, times and weights of one image."""
    item, trace = explanation.item, explanation.trace
    untrained = ", ".join(explanation.untrained)
    weights = f"random, untrained ({untrained}): the numbers mean nothing" if untrained else "trained"
    annotations = "not asked" if trace.annotations is None else str(len(trace.annotations))
    fraction = 0.0 if item.foreground is None else float(item.foreground.mean())
    best, tile = explanation.best, item.tiles[explanation.best]
    lines = [
        f"Score        {explanation.score:.6f}  (0 to 1, higher = more anomalous)",
        f"             {explanation.rule}; a component's score is the mean of its tiles",
        f'Image        {printable(redact(item.path))}, {item.width} x {item.height} pixels, "{item.class_name}"',
        f"Weights      {weights}; preset {explanation.config.preset}",
        f"Foreground   {item.foreground_source}: {fraction:.1%} of the image; SAM annotations {annotations}, "
        f"kept {len(explanation.kept)}",
        *([f"Remark       {item.note}"] if item.note else []),
        "",
        f"{'component':>9}  {'score':>8}  {'tiles':>5}  bounding box (x0, y0, x1, y1)",
        *_component_lines(explanation),
        "",
        f"Tile of the highest score: one of {len(item.tiles)}, component {tile.component}, "
        f"({tile.x0}, {tile.y0}, {tile.x1}, {tile.y1}), score {explanation.tile_scores[best]:.6f}",
        f"  cosine similarity to the prompts, as it enters the score: anomalous {explanation.anomalous.pooled:.6f}, "
        f"normal {explanation.normal.pooled:.6f}, temperature {trace.temperature or 0:.4g}",
        *_prompt_lines("anomalous", explanation.anomalous),
        *_prompt_lines("normal", explanation.normal),
        "",
        "Milliseconds "
        + ", ".join(f"{stage} {spent:.0f}" for stage, spent in item.stage_ms.items())
        + f"; together {sum(item.stage_ms.values()):.0f}",
    ]
    return "\n".join(lines)


def _component_lines(explanation: Explanation) -> list[str]:
    scores = explanation.component_scores
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    tiles = [tile.component for tile in explanation.item.tiles]
    boxes = [] if explanation.trace.foreground is None else explanation.trace.foreground.boxes.tolist()
    lines = [f"{i:>9}  {scores[i]:.6f}  {tiles.count(i):>5}  {tuple(boxes[i])}" for i in order[:_SHOWN_COMPONENTS]]
    return lines + ([f"  and {len(order) - _SHOWN_COMPONENTS} lower ones"] if len(order) > _SHOWN_COMPONENTS else [])


def _prompt_lines(kind: str, alignment: Alignment) -> list[str]:
    lines = [f"  most similar {kind} prompts of {len(alignment.prompts)}:"]
    return lines + [f"    {similarity:.4f}  {prompt}" for prompt, similarity in alignment.top(_SHOWN_PROMPTS)]
