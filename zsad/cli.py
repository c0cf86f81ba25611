"""The command line. No logic here: each command calls one function of the floors below."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from zsad.errors import UsageError, ZsadError

app = typer.Typer(
    name="zsad",
    help="Zero-shot anomaly detection at dataset scale (Baugh et al., VAND 2023).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
models_app = typer.Typer(help="The models and their weights: list, download, verify.", no_args_is_help=True)
app.add_typer(models_app, name="models")


class Dataset(str, Enum):
    """Layouts that ``--dataset`` reads."""

    visa = "visa"
    mvtec = "mvtec"
    folder = "folder"
    manifest = "manifest"


Output = Annotated[str, typer.Argument(metavar="OUT", help="Output folder or URI of a run.", show_default=False)]
Address = Annotated[
    str | None,
    typer.Option(
        help="local = Ray on this machine; auto or ray://host:10001 = a cluster. Default: $RAY_ADDRESS or local."
    ),
]


@app.command(
    epilog='Example: zsad score --dataset folder --root photos/ --object "metal washer" --preset mini --output out/'
)
def score(
    dataset: Annotated[Dataset, typer.Option(help="Layout of the dataset.")],
    root: Annotated[str, typer.Option(help="Folder or s3://, gs:// URI of the dataset (or of the manifest file).")],
    output: Annotated[str, typer.Option(help="Folder or URI for the results; the same again = resume.")],
    preset: Annotated[str, typer.Option(help="vand2023, fast, strong or mini.")] = "vand2023",
    object_name: Annotated[
        str | None, typer.Option("--object", help="What a folder's photographs show, e.g. 'metal washer'.")
    ] = None,
    category: Annotated[list[str] | None, typer.Option(help="Only this category (repeatable).")] = None,
    split: Annotated[
        str, typer.Option(help="Only this split, where the dataset has splits; all = every one.")
    ] = "test",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N images.")] = None,
    config: Annotated[str | None, typer.Option(help="YAML file with settings over the preset's.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.FIELD=VALUE", help="One setting (repeatable).")
    ] = None,
    address: Address = None,
    retry_errors: Annotated[
        bool, typer.Option("--retry-errors", help="Score images again that failed before.")
    ] = False,
    max_error_fraction: Annotated[
        float, typer.Option(min=0, max=1, help="Exit with 3 when a larger share of the images failed.")
    ] = 0.01,
    allow_outside_root: Annotated[
        bool, typer.Option("--allow-outside-root", help="Allow manifest paths that leave the root.")
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
    address: Address = None,
) -> None:
    """Compare scores and maps with the labels: F1-max, AUROC, AP, AUPRO per class and mean."""
    from zsad.evaluation import format_table
    from zsad.filesystem import redact
    from zsad.pipeline.evaluate import evaluate_run, metrics_uri
    from zsad.storage import describe_run, read_success

    metrics = evaluate_run(output, resolution, split, address, bootstrap)
    typer.echo(format_table(metrics, *describe_run(output), finished=read_success(output) is not None))
    typer.echo(f"\nMetrics: {redact(metrics_uri(output, resolution, split))}")


@app.command(epilog="Example: zsad top out/ -n 50")
def top(
    output: Output,
    number: Annotated[int, typer.Option("-n", "--number", min=1, help="How many images.")] = 20,
) -> None:
    """The most anomalous images of a run, highest score first."""
    from zsad.evaluation.ranking import format_top
    from zsad.storage import describe_run

    typer.echo(format_top(output, number, describe_run(output)[1]))


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
    """Run the command line and exit: 0 ok, 1 failed, 2 bad usage, 3 too many images failed."""
    warnings.showwarning = _show_warning
    try:
        app(args=None if arguments is None else list(arguments))
    except UsageError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)
    except ZsadError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(1)


def _show_warning(message: Warning | str, category: type[Warning], filename: str, *_: object, **__: object) -> None:
    """Our own warnings in one line; those of libraries are for their developers."""
    if category is UserWarning and Path(__file__).parent in Path(filename).parents:
        print(f"Warning: {message}", file=sys.stderr)


if __name__ == "__main__":
    main()
