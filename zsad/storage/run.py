"""``run.json`` and ``_SUCCESS``: what a run was, and that every input is accounted for."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import fs
from pydantic import ValidationError

from zsad.config import ImagesConfig
from zsad.errors import UsageError, ZsadError
from zsad.filesystem import join, redact, resolve
from zsad.fingerprint import differences
from zsad.layout import PREDICTIONS, RUN, SUCCESS, SUSPENDED_SUCCESS
from zsad.storage.files import delete, list_files, list_parts, write_atomically

_SECRET_KEY = re.compile(r"(?i)(^|_)(password|secret|token|credentials?|(access|secret|api)_key)$")
_HASH_SLICE = 1 << 16


@dataclass(frozen=True)
class RunInfo:
    """Content of ``run.json``. All values are plain JSON types; credentials are redacted when written.

    Attributes:
        fingerprint: ``zsad.fingerprint.fingerprint``.
        config: the resolved configuration.
        scored_fields: ``zsad.fingerprint.scored_fields``, what the fingerprint hashes.
        weights: sha256 by model family.
        versions: of the packages that matter.
        dataset: how the input was given (layout, root, split, object, ...).
        counts: images, ok, errors, ...
        timings: seconds, images per second, per-stage figures.
    """

    fingerprint: str
    config: Mapping[str, Any]
    scored_fields: Mapping[str, Any]
    weights: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    dataset: Mapping[str, Any] = field(default_factory=dict)
    counts: Mapping[str, Any] = field(default_factory=dict)
    timings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Success:
    """Content of ``_SUCCESS``.

    Attributes:
        counts: images, ok, errors of the manifest that is accounted for.
        manifest_hash: of that manifest.
    """

    counts: Mapping[str, int]
    manifest_hash: str


def write_run(output: str, info: RunInfo) -> None:
    """Write ``run.json`` atomically."""
    _write_json(join(output, RUN), asdict(info))


def read_run(output: str) -> RunInfo | None:
    """``run.json``, or None where there is none.

    Raises:
        UsageError: it is not readable as one.
    """
    return _read_as(RunInfo, join(output, RUN))


def describe_run(output: str) -> tuple[str | None, str | None]:
    """(dataset layout, a word on the weights) of a run, for the heading of a table of its scores.

    The word is None for trained weights, ``untrained``, or ``unknown`` where nothing says.
    """
    info = read_run(output)
    dataset = {} if info is None else info.dataset
    trained = dataset.get("trained")
    if trained is None:
        return dataset.get("layout"), "unknown"
    return dataset.get("layout"), None if trained else "untrained"


def images_config(info: RunInfo | None) -> ImagesConfig:
    """How a run decoded its images, and so how to decode them and their masks again; defaults for what it does not say.

    Raises:
        UsageError: ``run.json`` holds values out of range.
    """
    images = {} if info is None else info.config.get("images", {})
    try:
        return ImagesConfig(**{name: images[name] for name in ImagesConfig.model_fields if name in images})
    except ValidationError as error:
        reasons = "; ".join(f"images.{fault['loc'][0]}: {fault['msg']}" for fault in error.errors())
        raise UsageError(f"The configuration in {RUN} is not valid: {reasons}.") from None


def check_output(output: str, fingerprint: str, scored_fields: Mapping[str, Any]) -> RunInfo | None:
    """That ``output`` may be written to by a run of this fingerprint. Writes nothing.

    Returns:
        What ``run.json`` says when the folder holds an earlier run of this fingerprint. None when there is
        none, or one of another fingerprint that ended before it committed a row: nothing can be mixed then.

    Raises:
        UsageError: it is a file, holds something that is not a run, or a run of another configuration.
    """
    filesystem, path = resolve(output)
    shown = redact(output)
    try:
        kind = filesystem.get_file_info(path).type
    except OSError as error:
        raise UsageError(f"Cannot reach the output {shown!r}: {redact(str(error))}") from None
    if kind in (fs.FileType.File, fs.FileType.Unknown):
        what = "a file" if kind == fs.FileType.File else "neither a file nor a folder"
        raise UsageError(f"The output {shown!r} is {what}. Expected a folder; give another --output.")
    info = read_run(output)
    if info is None:
        present = [entry.base_name for entry in list_files(output) if not entry.base_name.startswith(".")]
        if present:
            raise UsageError(
                f"The output folder {shown!r} is not empty and holds no {RUN}, so it is no earlier run "
                f"(found {', '.join(present[:3])}{', ...' if len(present) > 3 else ''}). Give a new or empty --output."
            )
        return None
    if info.fingerprint != fingerprint:
        if not list_parts(output, PREDICTIONS):
            return None
        lines = differences(info.scored_fields, json.loads(json.dumps(scored_fields)))
        what = "\n  ".join(lines) or f"fingerprint: {info.fingerprint} -> {fingerprint}"
        raise UsageError(
            f"The output {shown!r} holds a run of another configuration (there -> now):\n  {what}\n"
            "Scores of the two cannot be mixed. Give another --output, or the configuration of that run."
        )
    return info


def write_success(output: str, counts: Mapping[str, int], manifest_hash: str) -> None:
    """Declare that every row of the manifest with this hash is accounted for; a suspended declaration goes."""
    _write_json(join(output, SUCCESS), asdict(Success(dict(counts), manifest_hash)))
    delete(output, SUSPENDED_SUCCESS)


def read_success(output: str) -> Success | None:
    """``_SUCCESS``, or None where there is none. Raises UsageError when it is not readable as one."""
    return _read_as(Success, join(output, SUCCESS))


def clear_success(output: str) -> None:
    """Remove ``_SUCCESS``, before a run that adds work."""
    for name in (SUCCESS, SUSPENDED_SUCCESS):
        delete(output, name)


def suspend_success(output: str) -> None:
    """Take ``_SUCCESS`` away while rows may stand twice in a raw read; ``resume_success`` brings it back.

    It is kept under a hidden name, so that after a kill in between another process can bring it back.
    """
    success = read_success(output)
    if success is not None:
        _write_json(join(output, SUSPENDED_SUCCESS), asdict(success))
        delete(output, SUCCESS)


def resume_success(output: str) -> None:
    """Bring back what ``suspend_success`` took away, if anything; a newer ``_SUCCESS`` stays."""
    suspended: Success | None = _read_as(Success, join(output, SUSPENDED_SUCCESS))
    if suspended is not None:
        if read_success(output) is None:
            write_success(output, suspended.counts, suspended.manifest_hash)
        delete(output, SUSPENDED_SUCCESS)


def manifest_hash(manifest: pa.Table) -> str:
    """sha256 over the names and values of all columns in row order; independent of Arrow's chunks.

    Args:
        manifest: string and integer columns.
    """
    digest = hashlib.sha256(json.dumps(manifest.column_names).encode())
    for start in range(0, max(manifest.num_rows, 1), _HASH_SLICE):
        for column in manifest.slice(start, _HASH_SLICE).columns:
            digest.update(_column_bytes(column))
    return digest.hexdigest()


def _column_bytes(column: pa.ChunkedArray) -> bytes:
    valid = pc.is_valid(column).to_numpy().astype(np.uint8).tobytes()
    if not pa.types.is_string(column.type) and not pa.types.is_large_string(column.type):
        return valid + column.cast(pa.int64()).fill_null(0).to_numpy().astype("<i8").tobytes()
    text = column.cast(pa.large_string()).fill_null("")
    lengths = pc.binary_length(text).to_numpy().astype("<i8").tobytes()
    return valid + lengths + b"".join(_text_bytes(chunk) for chunk in text.chunks)


def _text_bytes(chunk: pa.Array) -> bytes:
    if len(chunk) == 0:
        return b""
    offsets = np.frombuffer(chunk.buffers()[1], np.int64)[chunk.offset : chunk.offset + len(chunk) + 1]
    text = chunk.buffers()[2]
    return b"" if text is None else bytes(memoryview(text)[int(offsets[0]) : int(offsets[-1])])


def _write_json(uri: str, content: Any) -> None:
    text = json.dumps(_redacted(content), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    write_atomically(uri, lambda sink: sink.write(text.encode()))


def _read_as(kind: type, uri: str) -> Any:
    filesystem, path = resolve(uri)
    try:
        with filesystem.open_input_stream(path) as stream:
            return kind(**json.loads(stream.read()))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ZsadError(f"Cannot read {redact(uri)!r}: {redact(str(error))}") from error
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"{redact(uri)!r} is not readable: {error}. It is written by 'zsad score'; give another --output."
        ) from None


def _redacted(value: Any, key: str = "") -> Any:
    if isinstance(value, Mapping):
        return {name: _redacted(item, str(name)) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted(item, key) for item in value]
    if isinstance(value, str):
        return "***" if _SECRET_KEY.search(key) else redact(value)
    return value
