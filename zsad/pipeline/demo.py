"""The demo: draw an inspection set, score it with the mini models, evaluate, say where everything is."""

from __future__ import annotations

import sys
from pathlib import Path

from zsad.datasets.synthetic import write_synthetic_visa
from zsad.errors import UsageError
from zsad.evaluation import format_table
from zsad.evaluation.ranking import format_top
from zsad.pipeline.evaluate import evaluate_run
from zsad.pipeline.score import ScoreOptions, score
from zsad.report.contact_sheet import write_pictures
from zsad.report.site import build_report
from zsad.storage import describe_run


def run_demo(folder: str, per_kind: int, seed: int) -> None:
    """Run the demo into ``folder``; images in ``folder/images-seedS-nN``, results in ``folder/results-seedS-nN``.

    Args:
        folder: local; an earlier demo of the same seed and size there is resumed.
        per_kind: normal and anomalous images of each kind of part.
        seed: of the images.

    Raises:
        UsageError: the folder holds something else.
    """
    base = Path(folder).expanduser().absolute()
    images, results = base / f"images-seed{seed}-n{per_kind}", base / f"results-seed{seed}-n{per_kind}"
    if base.exists() and (not base.is_dir() or not _is_demo(base)):
        raise UsageError(f"{folder!r} is not empty and not an earlier demo. Give a new folder with --output.")
    if not (images / "split_csv" / "1cls.csv").is_file():
        print(f"Drawing the inspection set into {images}", file=sys.stderr, flush=True)
        write_synthetic_visa(images, normal=per_kind, anomalous=per_kind, seed=seed)
    score(ScoreOptions(dataset="visa", root=str(images), output=str(results), preset="mini"))
    metrics = evaluate_run(str(results))
    _, weights = describe_run(str(results))
    print()
    print(format_table(metrics, "synthetic inspection set", weights))
    print()
    print(format_top(str(results), 5, weights))
    print(f"\nImages:   {images}\nResults:  {results}\nPictures: {write_pictures(str(results))}")
    print(f"Report:   {build_report(str(results)).page}")
    print(f"Next:     zsad top {results}    zsad evaluate {results} --resolution 518")


def _is_demo(base: Path) -> bool:
    return all(entry.name.startswith(("images-seed", "results-seed", ".")) for entry in base.iterdir())
