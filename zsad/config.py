"""Configuration: one section per step of the method, presets and overrides.

Every reading that the paper leaves open is a field here; its default is the reading we settled on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from zsad.errors import UsageError
from zsad.images import MOST_PIXELS

_MERGE = "tag:yaml.org,2002:merge"
"""Tag of YAML's ``<<``, which may stand in a mapping several times."""

Precision = Literal["fp32", "bf16", "fp16"]


def _takes_number(annotation: Any) -> bool:
    return annotation in (int, float) or any(map(_takes_number, get_args(annotation)))


class Section(BaseModel):
    """Common settings of all sections: immutable, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_value(cls, value: object, info: ValidationInfo) -> object:
        """Refuse true and false where pydantic would take them for 1 and 0."""
        if isinstance(value, bool) and _takes_number(cls.model_fields[info.field_name or ""].annotation):
            raise ValueError("expected a number; YAML reads yes, no, on and off as true and false")
        return value


class ImagesConfig(Section):
    """Limits on what is decoded, and what is white in it."""

    max_pixels: int = Field(100_000_000, ge=1, le=MOST_PIXELS)
    """Most pixels of an image; one with more is an error row, refused before it is decoded."""
    max_file_bytes: int = Field(512 * 1024**2, ge=1)
    """Largest file that is read."""
    max_aspect: float = Field(20.0, ge=1)
    """Images with a larger long/short ratio are error rows."""
    white_level: float | None = Field(None, gt=0, strict=True)
    """The value that is white in PNG and TIFF files of more than 8 bits, such as 4095 for a camera of 12. Unset, it is
    the largest of the type (65535), and for floating point the largest of the image."""


class ForegroundConfig(Section):
    """Foreground extraction (paper section 2): which SAM annotations lie on the DIS mask."""

    source: Literal["sam+dis", "dis", "full_image"] = "sam+dis"
    """Where the fallback chain sam+dis -> dis -> full_image starts."""
    binarise_threshold: float = Field(0.5, ge=0, le=1)
    """The saliency, stretched to 0..1 in each image, is foreground above this (IS-Net; paper is silent)."""
    empty_guard: float = Field(0.5, ge=0, le=1)
    """The raw sigmoid must exceed this somewhere, or the DIS mask counts as empty. 0 turns it off."""
    min_coverage: float = Field(0.80, gt=0, le=1)
    """Share of a SAM annotation that the DIS mask must cover for it to be kept (paper: 80 %)."""
    closing_radius: int = Field(5, ge=0)
    """Radius, in native pixels, of the disc that closes gaps in the foreground; 0 = none (paper is silent)."""
    min_component_fraction: float = Field(0.001, ge=0, lt=1)
    """Components smaller than this share of the image are dropped, the largest never (paper is silent)."""
    min_part_inside: float = Field(0.50, ge=0, le=1)
    """A kept annotation counts as part of a component from this share of its area inside it (paper is silent)."""
    points_per_side: int = Field(32, ge=1)
    """SAM is prompted at a grid of so many points along each side, as its automatic mask generator does by default."""
    points_per_batch: int = Field(64, ge=1)
    """Points that SAM decodes at once on a CPU; on a GPU up to eight times as many, as its memory allows."""
    pred_iou_threshold: float = Field(0.88, le=1)
    """``pred_iou_thresh`` of SAM's automatic mask generator."""
    stability_threshold: float = Field(0.95, ge=0, le=1)
    """Its ``stability_score_thresh``."""
    stability_offset: float = Field(1.0, ge=0)
    """Its ``stability_score_offset``."""
    box_nms_threshold: float = Field(0.7, ge=0, le=1)
    """Its ``box_nms_thresh``."""
    point_pruning: Literal["none", "dis"] = "none"
    """``dis`` prompts SAM only at points inside the dilated DIS mask: faster, not exact."""
    pruning_dilation: float = Field(0.05, ge=0, le=1)
    """How far, as a fraction of the longer image side, the DIS mask is dilated to each side (by a square) for pruning."""


class TilingConfig(Section):
    """Image tiling (paper section 2): one square crop per component, more along elongated ones."""

    min_side: int | None = Field(None, ge=1)
    """Smallest tile side in native pixels; null = the input size of the pixel-level model (352)."""
    elongated_aspect: float = Field(1.5, ge=1)
    """A component is elongated when its box is longer than so many times its width (paper: 1.5) ..."""
    elongated_parts: int = Field(20, ge=0)
    """... and it has more than so many parts, see ``min_part_inside`` (paper: 20)."""
    elongated_step: float = Field(0.5, gt=0, le=1)
    """Step along the long axis as a fraction of the short side."""
    max_tiles: int = Field(64, ge=1)
    """Most tiles of one component; a wider step keeps to it, and the row says so (paper is silent)."""


class PromptsConfig(Section):
    """Prompt generator (paper section 2 and Fig. 2; WinCLIP's compositional ensemble)."""

    states: Literal["extended", "winclip"] = "extended"
    """``extended`` adds the states of Fig. 2 to WinCLIP's; ``winclip`` leaves them out."""
    normal_states: tuple[str, ...] | None = Field(None, min_length=1)
    """Replaces the normal states; each holds ``[o]`` where the noun goes."""
    anomalous_states: tuple[str, ...] | None = Field(None, min_length=1)
    """The same for the anomalous states."""
    localising: tuple[str, ...] | None = Field(None, min_length=1)
    """Replaces the 19 localising prompts of Fig. 2 (c), which do not name the object."""
    duplicates: Literal["weight", "drop"] = "weight"
    """A localising prompt listed twice carries double weight (``weight``) or counts once (``drop``)."""
    class_names: dict[str, str] = Field(default_factory=dict)
    """Noun per category, over the default table."""

    @field_validator("normal_states", "anomalous_states")
    @classmethod
    def _states_name_the_object(cls, states: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for state in states or ():
            if "[o]" not in state:
                raise ValueError(
                    f"the state {state!r} does not say where the object's name goes; expected [o] in it, e.g. 'damaged [o]'"
                )
        return states

    @field_validator("localising")
    @classmethod
    def _prompts_are_plain(cls, prompts: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for prompt in prompts or ():
            if not prompt.strip() or "[o]" in prompt:
                raise ValueError(
                    f"the prompt {prompt!r} is empty or has [o] in it; localising prompts are the same for all objects, "
                    "e.g. 'a scratch'"
                )
        return prompts


class TileLevelConfig(Section):
    """Tile-level predictor (paper section 2): CLIP similarity to the two prompt sets."""

    prompt_pooling: Literal["mean_similarity", "mean_embedding"] = "mean_similarity"
    """Mean of the similarities to the prompts (paper), or similarity to the renormalised mean prompt (WinCLIP)."""
    temperature: Literal["checkpoint"] | PositiveFloat = "checkpoint"
    """Factor on the similarities before the softmax; ``checkpoint`` = exp(logit_scale), about 100."""


class PixelLevelConfig(Section):
    """Pixel-level predictor (paper section 2): CLIPSeg averaged over the localising prompts."""

    prompt_average: Literal["harmonic", "arithmetic", "max"] = "harmonic"
    """How the maps of the prompts become one (paper: harmonic mean)."""
    prompts: Literal["localising", "sample"] = "localising"
    """``sample`` uses the anomalous sample-level prompts instead (the paper advises against it)."""


class AggregationConfig(Section):
    """Prediction aggregation (paper section 2)."""

    tile_scaling: bool = True
    """Scale the pixel map of a tile by its tile score."""
    top_fraction: float = Field(0.25, ge=0, le=1)
    """Share of the highest component scores averaged to the sample score; at least one (0 = max, 1 = mean)."""
    mask_background: bool = False
    """Whether the anomaly map is 0 outside the foreground, inside tiles as well (paper is silent)."""


class ModelConfig(Section):
    """One foundation model: its name in ``zsad models list`` and, optionally, a weights file."""

    name: str
    weights: str | None = None


class ModelsConfig(Section):
    """The four foundation models."""

    precision: Precision = "fp32"
    """What the models compute in. Half precision is faster and differs in the scores: an option."""
    isnet: ModelConfig = ModelConfig(name="isnet-general-use")
    sam: ModelConfig = ModelConfig(name="sam-vit-h")
    clip: ModelConfig = ModelConfig(name="ViT-B-16-plus-240/laion400m_e31")
    clipseg: ModelConfig = ModelConfig(name="clipseg-rd64-refined")

    def by_family(self) -> dict[str, ModelConfig]:
        """The four models by family: ``isnet``, ``sam``, ``clip``, ``clipseg``."""
        return {"isnet": self.isnet, "sam": self.sam, "clip": self.clip, "clipseg": self.clipseg}


class PoolConfig(Section):
    """One actor pool. Null = chosen from the cluster's resources."""

    size: int | None = Field(None, ge=1)
    """Number of actors."""
    num_gpus: float | None = Field(None, ge=0)
    """Share of a GPU per actor."""


class RuntimeConfig(Section):
    """How the work is run. Nothing here changes a score beyond float rounding; not in the fingerprint."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """``auto`` = the GPUs where there are any."""
    topology: Literal["auto", "fused", "pools"] = "auto"
    """``fused`` = all models in each actor; ``pools`` = an actor pool per model; ``auto`` = ``pools`` from two GPUs on."""
    compile: bool = False
    """Whether CLIP, CLIPSeg and SAM's encoder on a GPU go through ``torch.compile``, which takes up to half a minute per network
    at the start of every actor. On a CPU it was slower than without, and is not done."""
    batch_size: int = Field(8, ge=1)
    """Images per step call."""
    device_batch: int = Field(32, ge=1)
    """Tiles per forward of CLIP and CLIPSeg: at least so many when they are there, less than twice as many."""
    rows_per_part: int | None = Field(None, ge=1)
    """Images per Parquet part (target); null = about 100 parts a run, within 16 to 2048 images
    and three minutes' work of the slowest pool."""
    threads: int | None = Field(None, ge=1)
    """Images of a batch that an actor reads and decodes at once, and that it prepares and finishes at once beside a GPU; null
    = 2, and beside a GPU as many as its share of the CPUs, at least 2 and at most 8."""
    no_progress_seconds: float = Field(3600.0, gt=0)
    """A run in which no batch finishes for so long is ended with an error instead of waiting for ever."""
    memory_gib: float | None = Field(None, gt=0)
    """Memory declared per actor; null = none."""
    gpus: int | None = Field(None, ge=1)
    """GPUs to ask an autoscaled cluster for, and to wait for until they are free, before the pools are sized; null = those
    there now."""
    shared_filesystem: bool = False
    """Whether local paths are the same on every node of a cluster (NFS and the like)."""
    fused: PoolConfig = PoolConfig()
    saliency: PoolConfig = PoolConfig()
    instances: PoolConfig = PoolConfig()
    tile_scores: PoolConfig = PoolConfig()
    tile_maps: PoolConfig = PoolConfig()


class Config(Section):
    """The whole configuration of a run."""

    preset: str = "custom"
    images: ImagesConfig = ImagesConfig()
    foreground: ForegroundConfig = ForegroundConfig()
    tiling: TilingConfig = TilingConfig()
    prompts: PromptsConfig = PromptsConfig()
    tile_level: TileLevelConfig = TileLevelConfig()
    pixel_level: PixelLevelConfig = PixelLevelConfig()
    aggregation: AggregationConfig = AggregationConfig()
    models: ModelsConfig = ModelsConfig()
    runtime: RuntimeConfig = RuntimeConfig()


def preset_names() -> list[str]:
    """Names of the presets in the package, sorted."""
    folder = resources.files("zsad") / "presets"
    return sorted(entry.name[: -len(".yaml")] for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_config(preset: str = "vand2023", path: str | Path | None = None, overrides: Iterable[str] = ()) -> Config:
    """A preset, then a YAML file, then ``section.field=value`` overrides, each over the one before.

    Args:
        preset: one of ``preset_names()``.
        path: optional YAML file with the sections of ``Config``.
        overrides: e.g. ``["foreground.min_coverage=0.9", "models.precision=bf16"]``; values are YAML.

    Raises:
        UsageError: unknown preset, section or field, a value out of range, an unreadable file, or settings that name
            another preset.
    """
    if preset not in preset_names():
        raise UsageError(f"Unknown preset {preset!r}. Expected one of: {', '.join(preset_names())}.")
    text = (resources.files("zsad") / "presets" / f"{preset}.yaml").read_text("utf-8")
    values: dict[str, Any] = _merge({"preset": preset}, _parse(text, f"preset {preset}"))
    if path is not None:
        try:
            text = Path(path).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            # The text of an OSError names the file once more.
            reason = (error.strerror if isinstance(error, OSError) else None) or error
            raise UsageError(f"Cannot read the configuration file {str(path)!r}: {reason}.") from None
        values = _merge(values, _parse(text, str(path)))
    overrides = overrides if isinstance(overrides, str) else list(overrides)
    if isinstance(overrides, str) or not all(isinstance(override, str) for override in overrides):
        raise UsageError(
            f'The overrides are {overrides!r}. Expected a list of texts, e.g. ["foreground.min_coverage=0.9"].'
        )
    for override in overrides:
        values = _merge(values, _parse_override(override))
    if values["preset"] != preset:
        raise UsageError(
            f"Preset {preset!r} was asked for, but the settings over it say preset={values['preset']!r}. A setting cannot "
            "change the preset; name it with --preset (in Python, as the first argument of load_config)."
        )
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise UsageError(_explain(error)) from None


def _parse(text: str, source: str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(text)
        repeated = _repeated_key(yaml.compose(text, Loader=yaml.SafeLoader), set())
    except (yaml.YAMLError, RecursionError) as error:
        raise UsageError(f"{source} is not valid YAML: {error}") from None
    if repeated is not None:
        raise UsageError(f"{source} names {repeated} twice, of which YAML would take the last. Put them together.")
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UsageError(f"{source} holds {type(values).__name__}; expected sections such as 'foreground:'.")
    return values


def _repeated_key(node: yaml.Node | None, visited: set[int]) -> str | None:
    """The first key that a mapping of the document holds twice, with its line; an anchor is looked at once."""
    if id(node) in visited:
        return None
    visited.add(id(node))
    inner = list(node.value) if isinstance(node, yaml.SequenceNode) else []
    seen: set[tuple[str, str]] = set()
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
            if (key.tag, key.value) in seen:
                return f"{key.value!r} (line {key.start_mark.line + 1})"
            seen.add((key.tag, key.value))
        inner.append(value)
    return next(filter(None, (_repeated_key(value, visited) for value in inner)), None)


def _parse_override(override: str) -> dict[str, Any]:
    key, separator, value = override.partition("=")
    if not separator or not key.strip():
        raise UsageError(
            f"Cannot read --set {override!r}. Expected section.field=value, e.g. foreground.min_coverage=0.9."
        )
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError:
        raise UsageError(f"Cannot read the value of --set {override!r}: not valid YAML.") from None
    for part in reversed(key.strip().split(".")):
        parsed = {part: parsed}
    return dict(parsed)


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def _explain(error: ValidationError) -> str:
    # A field of several types has a problem with each of them.
    problems: dict[tuple[str, str], list[str]] = {}
    for problem in error.errors():
        location, given = _field(problem["loc"]), problem.get("input")
        if problem["type"] == "extra_forbidden":
            start, text = "unknown field. ", _known_fields(location[:-1])
        elif problem["type"] == "model_type":
            start, text = f"given {given!r}, but it is a section. ", _known_fields(location)
        elif problem["type"] == "tuple_type":
            start, text = f"given {given!r}; ", f"expected a list, e.g. [{given}, ...]."
        elif problem["type"] == "too_short" and given:
            continue  # the entries have problems of their own
        else:
            start, text = f"given {given!r}; ", problem["msg"].removeprefix("Value error, ") + "."
        problems.setdefault((".".join(location), start), []).append(text)
    lines = [f"{field}: {start}{' Or: '.join(texts)}" for (field, start), texts in problems.items()]
    return "Wrong configuration:\n  " + "\n  ".join(lines)


def _field(location: Sequence[str | int]) -> list[str]:
    """Section, field and entry of a problem's location, without the names that pydantic gives to types."""
    parts: list[str] = []
    kind: Any = Config
    for part in location:
        is_section = isinstance(kind, type) and issubclass(kind, Section)
        if is_section or isinstance(part, int) or get_origin(kind) is dict:
            parts.append(str(part))
        field = kind.model_fields.get(part) if is_section else None
        kind = field.annotation if field is not None else None
    return parts


def _known_fields(location: Sequence[str]) -> str:
    section: Any = Config
    for part in location:
        section = section.model_fields[part].annotation
    return f"Expected one of: {', '.join(section.model_fields)}."
