"""The command line. No logic here: each command calls one function of the floors below."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from enum import Enum
from typing import Annotated, NoReturn

import typer

from zsad.errors import UsageError
from zsad.process import as_command, exit_at_once

app = typer.Typer(
    name="zsad",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
models_app = typer.Typer(help="The models and their weights: list, download, verify.", no_args_is_help=True)
app.add_typer(models_app, name="models")


class Dataset(str, Enum):
    """Layouts that ``--dataset`` reads."""

    visa = "visa"
    mvtec = "mvtec"
    folder = "folder"
    manifest = "manifest"


class ExportFormat(str, Enum):
    """What ``zsad export`` writes."""

    tiff = "tiff"
    masks = "masks"
    coco = "coco"
    csv = "csv"


def _print_version(wanted: bool) -> None:
    if wanted:
        from zsad import __version__

        typer.echo(f"zsad {__version__}")
        raise typer.Exit()


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Zero-shot anomaly detection at dataset scale (Baugh et al., VAND 2023)."""


Output = Annotated[str, typer.Argument(metavar="OUT", help="Output folder or URI of a run.", show_default=False)]
Address = Annotated[
    str | None,
    typer.Option(
        help="local = Ray on this machine; auto = the cluster that it belongs to. Default: $RAY_ADDRESS or local."
    ),
]
MovedRoot = Annotated[
    str | None,
    typer.Option("--root", help="The dataset's folder or URI now, if it has moved since.", show_default=False),
]
DatasetLayout = Annotated[Dataset, typer.Option(help="Layout of the dataset.")]
Root = Annotated[str, typer.Option(help="Folder or s3://, gs:// URI of the dataset (or of the manifest file).")]
Preset = Annotated[str, typer.Option(help="vand2023, fast, strong or mini.")]
ObjectName = Annotated[
    str | None, typer.Option("--object", help="What a folder's photographs show, e.g. 'metal washer'.")
]
Category = Annotated[list[str] | None, typer.Option(help="Only this category (repeatable).")]
Split = Annotated[str, typer.Option(help="Only this split, where the dataset has splits; all = every one.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first N images.")]
ConfigFile = Annotated[str | None, typer.Option(help="YAML file with settings over the preset's.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.FIELD=VALUE", help="One setting (repeatable).")
]


@app.command(
    epilog='Example: zsad score --dataset folder --root photos/ --object "metal washer" --preset mini --output out/'
)
def score(
    dataset: DatasetLayout,
    root: Root,
    output: Annotated[str, typer.Option(help="Folder or URI for the results; the same again = resume.")],
    preset: Preset = "vand2023",
    object_name: ObjectName = None,
    category: Category = None,
    split: Split = "test",
    limit: Limit = None,
    config: ConfigFile = None,
    set_: Settings = None,
    address: Address = None,
    retry_errors: Annotated[
        bool, typer.Option("--retry-errors", help="Score images again that failed before.")
    ] = False,
    max_error_fraction: Annotated[
        float, typer.Option(min=0, max=1, help="Exit with 3 when a larger share of the images failed.")
    ] = 0.01,
    allow_outside_root: Annotated[
        bool, typer.Option("--allow-outside-root", help="Allow manifest paths and links that leave the root.")
    ] = False,
) -> None:
    """Score images: writes OUT/predictions and OUT/anomaly_maps. Run again to resume."""
    from zsad.pipeline.score import ScoreOptions
    from zsad.pipeline.score import score as run

    summary = run(
        ScoreOptions(
            dataset=dataset.value,
            root=root,
            output=output,
            preset=preset,
            config=config,
            overrides=tuple(set_ or ()),
            object_name=object_name,
            categories=tuple(category or ()),
            split=split,
            limit=limit,
            address=address,
            retry_errors=retry_errors,
            max_error_fraction=max_error_fraction,
            allow_outside_root=allow_outside_root,
        )
    )
    raise typer.Exit(summary.exit_code)


@app.command(
    epilog="Example: zsad plan --dataset visa --root VisA/ --preset vand2023 --gpus 8, with the arguments of zsad score."
)
def plan(
    dataset: DatasetLayout,
    root: Root,
    output: Annotated[str, typer.Option(help="Folder or URI of the results; what is committed there is done.")] = "",
    preset: Preset = "vand2023",
    object_name: ObjectName = None,
    category: Category = None,
    split: Split = "test",
    limit: Limit = None,
    config: ConfigFile = None,
    set_: Settings = None,
    retry_errors: Annotated[bool, typer.Option("--retry-errors", help="Count images that failed as work.")] = False,
    allow_outside_root: Annotated[
        bool, typer.Option("--allow-outside-root", help="Allow manifest paths and links that leave the root.")
    ] = False,
    gpus: Annotated[
        int | None, typer.Option(min=0, help="GPUs to plan for; those of this machine when left out.")
    ] = None,
    measured_in: Annotated[
        str | None, typer.Option(metavar="OUT", help="An earlier run whose measured times to use.")
    ] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="First measure a few images here, for this and later plans and runs.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """What zsad score would do: images, sizes, time, size of the output. Writes nothing to it."""
    from zsad.pipeline.plan import format_plan, to_json
    from zsad.pipeline.plan import plan as run
    from zsad.pipeline.score import ScoreOptions

    options = ScoreOptions(
        dataset=dataset.value,
        root=root,
        output=output,
        preset=preset,
        config=config,
        overrides=tuple(set_ or ()),
        object_name=object_name,
        categories=tuple(category or ()),
        split=split,
        limit=limit,
        retry_errors=retry_errors,
        allow_outside_root=allow_outside_root,
    )
    if calibrate:
        from zsad.pipeline.calibrate import calibrate as measure

        measure(options, sys.stderr)
    found = run(options, gpus, measured_in)
    typer.echo(to_json(found) if as_json else format_plan(found))


@app.command(epilog="Example: zsad compact out/")
def compact(
    output: Output,
    rows: Annotated[int, typer.Option(min=2, help="Most rows of a part of predictions.")] = 20_000,
    maps_mib: Annotated[int, typer.Option(min=1, help="Size of a part of the anomaly maps, in MiB.")] = 256,
) -> None:
    """Rewrite many small files of a run into few large ones; the table stays the same."""
    from zsad.pipeline.text import format_compaction
    from zsad.storage.compact import compact as run

    typer.echo(format_compaction(run(output, rows, maps_mib * 1024**2)))


@app.command(epilog="Example: zsad evaluate out/ --resolution 518")
def evaluate(
    output: Output,
    resolution: Annotated[str, typer.Option(help="native, or squares of 518, 400 or 240 pixels.")] = "native",
    split: Annotated[
        str | None, typer.Option(help="Only images of this split; all when left out.", show_default=False)
    ] = None,
    bootstrap: Annotated[
        int, typer.Option(min=0, metavar="N", help="Resamples for 95 % intervals at sample level, e.g. 1000; 0 = none.")
    ] = 0,
    threshold: Annotated[
        str | None,
        typer.Option(
            metavar="RULE",
            help="Decide instead of measuring, per class: quantile:0.99, budget:200, score:0.62 (no labels needed) or f1. "
            "Writes OUT/decisions.",
            show_default=False,
        ),
    ] = None,
    address: Address = None,
    shared_filesystem: Annotated[
        bool, typer.Option("--shared-filesystem", help="All nodes of the cluster see the same local files.")
    ] = False,
    root: MovedRoot = None,
) -> None:
    """Compare scores and maps with the labels: F1-max, AUROC, AP, AUPRO per class and mean."""
    from zsad.evaluation import format_table
    from zsad.filesystem import redact
    from zsad.pipeline.evaluate import evaluate_run, metrics_uri
    from zsad.storage import decisions_uri, describe_run, read_success

    if threshold is not None:
        from zsad.evaluation.thresholds import format_decisions
        from zsad.pipeline.evaluate import decide_run

        if resolution != "native" or bootstrap:
            raise UsageError("--threshold decides at native resolution; leave --resolution and --bootstrap out.")
        decisions = decide_run(output, threshold, split, address, shared_filesystem, root)
        typer.echo(format_decisions(decisions, describe_run(output)[1], finished=read_success(output) is not None))
        typer.echo(f"\nDecisions: {redact(decisions_uri(output))}")
        return
    metrics = evaluate_run(output, resolution, split, address, bootstrap, shared_filesystem, root)
    typer.echo(format_table(metrics, *describe_run(output), finished=read_success(output) is not None))
    typer.echo(f"\nMetrics: {redact(metrics_uri(output, resolution, split))}")


@app.command(epilog="Example: zsad top out/ -n 50")
def top(
    output: Output,
    number: Annotated[int, typer.Option("-n", "--number", min=1, help="How many images.")] = 20,
    category: Category = None,
) -> None:
    """The most anomalous images of a run, highest score first."""
    from zsad.evaluation.ranking import format_top
    from zsad.storage import describe_run, read_success

    finished = read_success(output) is not None
    typer.echo(format_top(output, number, describe_run(output)[1], tuple(category or ()), finished))


@app.command(epilog="Example: zsad export out/ --format masks --output masks/")
def export(
    output: Output,
    format_: Annotated[ExportFormat, typer.Option("--format", help="What to write.")],
    target: Annotated[
        str | None,
        typer.Option("--output", help="New or empty folder or URI; OUT/exports/FORMAT when left out."),
    ] = None,
    min_area: Annotated[
        int, typer.Option(min=1, metavar="N", help="masks, coco: leave regions of fewer pixels out.")
    ] = 1,
    flagged_only: Annotated[
        bool, typer.Option("--flagged-only", help="masks, coco: no regions in images that are not flagged.")
    ] = False,
) -> None:
    """Anomaly maps as TIFF, thresholded masks as PNG, regions as COCO JSON, or predictions as CSV."""
    from zsad.export import export_run
    from zsad.filesystem import redact
    from zsad.storage import read_success

    done = export_run(output, format_.value, target, min_area=min_area, flagged_only=flagged_only)
    if read_success(output) is None:
        typer.echo("The run is unfinished (no _SUCCESS), so images may be missing.")
    typer.echo(f"{done.summary}\n{redact(done.target)}")


@app.command(epilog='Example: zsad explain part.jpg --object "metal washer" --preset mini')
def explain(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="Path or URI of a photograph.", show_default=False)],
    object_name: Annotated[str, typer.Option("--object", help="What the photograph shows, e.g. 'metal washer'.")],
    preset: Preset = "vand2023",
    config: ConfigFile = None,
    set_: Settings = None,
    output: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.png", help="The picture; IMAGE-explained.png here when left out.", show_default=False
        ),
    ] = None,
) -> None:
    """Why an image has its score: a picture of every stage, after Fig. 1 of the paper, and a summary."""
    from zsad.config import load_config
    from zsad.report.explain_input import figure_path, read_photograph

    settings = load_config(preset, config, tuple(set_ or ()))
    path = figure_path(image, output)
    photograph = read_photograph(image, object_name, settings)
    # Torch takes seconds to load; wrong input does not wait for it.
    from zsad.detector import Detector, device_of
    from zsad.pipeline.cost import slow_warning
    from zsad.report.explain import explain as run
    from zsad.report.explain import open_photograph
    from zsad.report.explain_figure import write_figure
    from zsad.report.explain_text import format_explanation
    from zsad.text import printable

    item = open_photograph(image, object_name, settings, photograph)
    slow = slow_warning(settings, device_of(settings))
    if slow:
        typer.echo(f"Warning: {slow}", err=True)
    explanation = run(Detector.from_config(settings), item)
    write_figure(explanation, path)
    typer.echo(format_explanation(explanation))
    typer.echo(f"\nPicture      {printable(str(path))}")


@app.command(epilog="Example: zsad report out/")
def report(
    output: Output,
    to: Annotated[
        str | None, typer.Option(help="Folder or URI for the report; OUT/report when left out.", show_default=False)
    ] = None,
    details: Annotated[
        int,
        typer.Option(
            min=0, metavar="N", help="Large pictures per class: N top scores, N false positives, N false negatives."
        ),
    ] = 20,
    root: MovedRoot = None,
) -> None:
    """Write the results as HTML pages that open from disk: OUT/report/index.html. Run again to refresh."""
    from zsad.filesystem import redact
    from zsad.report.site import build_report, print_progress

    built = build_report(output, to, details, print_progress, root)
    for line in built.lines():
        typer.echo(redact(line))


@app.command(epilog="Example: zsad demo --output demo/")
def demo(
    output: Annotated[str, typer.Option(help="New or empty folder for the images and results.")] = "demo",
    per_kind: Annotated[int, typer.Option(min=1, help="Normal and anomalous images of each kind of part.")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the images.")] = 0,
) -> None:
    """Offline tour on the CPU: draws an inspection set, scores it with the mini models, evaluates."""
    from zsad.pipeline.demo import run_demo

    run_demo(output, per_kind, seed)


@models_app.command("list", epilog="Example: zsad models list")
def models_list() -> None:
    """All known models with size, licence and whether they are here."""
    from zsad.models.catalogue import format_catalogue

    typer.echo(format_catalogue())


@models_app.command("download", epilog="Example: zsad models download sam-vit-h clipseg-rd64-refined")
def models_download(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", show_default=False)] = None,
    preset: Annotated[str | None, typer.Option(help="All models of a preset.")] = None,
) -> None:
    """Download weights into the cache (resumes, checks sha256)."""
    from zsad.models.catalogue import download

    for line in download(_model_names(names, preset)):
        typer.echo(line)


@models_app.command("verify", epilog="Example: zsad models verify --preset vand2023")
def models_verify(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", show_default=False)] = None,
    preset: Annotated[str | None, typer.Option(help="All models of a preset.")] = None,
) -> None:
    """Check the sha256 of weights that are here; downloads nothing."""
    from zsad.models.catalogue import verify

    for line in verify(_model_names(names, preset)):
        typer.echo(line)


def _model_names(names: Sequence[str] | None, preset: str | None) -> list[str]:
    from zsad.config import load_config

    chosen = list(names or ())
    if preset is not None:
        chosen += [model.name for model in load_config(preset).models.by_family().values()]
    if not chosen:
        raise UsageError("No model named. Expected names from 'zsad models list', or --preset NAME.")
    return chosen


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 ok, 1 failed, 2 bad usage, 3 too many images failed.

    Ended from outside: 130 by Ctrl-C, 143 by SIGTERM.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    with as_command():
        for argument in given:
            _check_utf8(argument)
        app(args=given)


def _check_utf8(argument: str) -> None:
    try:
        argument.encode()
    except UnicodeEncodeError:
        raise UsageError(
            f"Given {argument!r}, which is not UTF-8. Expected UTF-8; rename such a file or folder."
        ) from None


def command(arguments: Sequence[str] | None = None) -> NoReturn:
    """``main`` as a program, which ends at once."""
    code = 0
    try:
        main(arguments)
    except SystemExit as end:
        code = int(end.code or 0)
    exit_at_once(code)


if __name__ == "__main__":
    command()
