"""CSV and Parquet files that list images: reading them and telling apart what their columns say."""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv, parquet

from zsad.errors import UsageError
from zsad.filesystem import redact, resolve
from zsad.text import count

_OURS = "pred_score"
"""A file with this column is a table of our own predictions. No warning names its columns that are not read."""
_INDEX = re.compile(r"|index|level_[0-9]+|Unnamed: [0-9]+.*|__index_level_[0-9]+__")
"""What pandas calls the number of a row."""
_SPREADSHEETS = (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods")
_ARCHIVES = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
"""What spreadsheets of now and of before 2007 begin with."""
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_SAVE_AS = "Expected a CSV file; save it as 'CSV UTF-8 (comma delimited)'."
_HEADER_BYTES = 1 << 16
_QUOTED = re.compile(rb'"[^"]*"')
_NORMAL = ("0", "0.0", "normal", "good", "ok", "pass", "false")
_ANOMALOUS = ("1", "1.0", "anomaly", "anomalous", "bad", "nok", "ng", "fail", "true")


def read_table(uri: str, required: Sequence[str], optional: Sequence[str]) -> pa.Table:
    """The named columns of a CSV or Parquet file (told by ``.parquet`` or ``.pq``) as nullable strings.

    A CSV whose header has no comma may have semicolons or tabs between its columns, as spreadsheets of many countries do.

    Columns that are absent are left out; empty texts are null; other columns are not read, with a warning unless they are
    those of our predictions or an index of pandas.

    Raises:
        UsageError: the file is missing, unreadable, UTF-16 or a spreadsheet, has no row, or lacks a required column.
    """
    filesystem, path = resolve(uri)
    if path.lower().endswith(_SPREADSHEETS):
        raise UsageError(f"{redact(uri)!r} is a spreadsheet. {_SAVE_AS}")
    is_parquet = path.lower().endswith((".parquet", ".pq"))
    try:
        with filesystem.open_input_file(path) as file:
            _check_kind(file.read(4), uri)
            file.seek(0)
            parse = csv.ParseOptions(delimiter=_delimiter(file), newlines_in_values=True)
            names = parquet.read_schema(file).names if is_parquet else _csv_header(filesystem, path, parse)
            missing = [name for name in required if name not in names]
            if missing:
                raise UsageError(
                    f"{redact(uri)!r} has no column {', '.join(map(repr, missing))}. Expected "
                    f"{', '.join(required)}{', optionally ' + ', '.join(optional) if optional else ''}; "
                    f"found {', '.join(map(repr, names))}. "
                    "The first line of a CSV names the columns, separated by commas, semicolons or tabs."
                )
            columns = [name for name in (*required, *optional) if name in names]
            _name_unread(names, columns, [name for name in optional if name not in names], uri)
            table = parquet.read_table(file, columns=columns) if is_parquet else _read_csv(file, columns, parse)
    except (OSError, pa.ArrowException) as error:
        raise UsageError(
            f"Cannot read {redact(uri)!r}: {redact(str(error))[:300]}. Expected a readable CSV (UTF-8, "
            "separated by commas, semicolons or tabs, with a header) or Parquet file."
        ) from None
    if not len(table):
        raise UsageError(f"{redact(uri)!r} lists no image: it has a header and no row.")
    for position, name in enumerate(table.column_names):
        text = table[name].cast(pa.string())
        table = table.set_column(position, name, pc.if_else(pc.equal(text, ""), None, text))
    return table


def read_labels(values: pa.ChunkedArray, where: str) -> pa.ChunkedArray:
    """Labels as texts -> int8: 0 normal, 1 anomalous, null unknown.

    Raises:
        UsageError: a value is neither; lists the first five.
    """
    text = pc.utf8_lower(pc.utf8_trim_whitespace(values))
    normal = pc.is_in(text, pa.array(_NORMAL))
    anomalous = pc.is_in(text, pa.array(_ANOMALOUS))
    known = pc.or_(normal, anomalous)
    strange = pc.unique(values.filter(pc.and_(pc.invert(known), pc.is_valid(values)))).to_pylist()
    if strange:
        raise UsageError(
            f"Unknown labels in {redact(where)!r}: {', '.join(repr(value) for value in strange[:5])}. "
            f"Expected {', '.join(_NORMAL[2:-1])} or 0; {', '.join(_ANOMALOUS[2:-1])} or 1; or nothing when unknown."
        )
    return pc.if_else(known, pc.cast(anomalous, pa.int8()), None).cast(pa.int8())


def _name_unread(names: Sequence[str], read: Sequence[str], absent: Sequence[str], uri: str) -> None:
    """Warn of columns that are not read; those that look like a mistyped name of an absent one come first."""
    unread = [name for name in names if name not in read and not _INDEX.fullmatch(name)]
    if not unread or _OURS in names:
        return
    close = {name: difflib.get_close_matches(name.lower(), absent, 1) for name in unread}
    unread.sort(key=lambda name: not close[name])
    shown = [f"{name!r} (did you mean {close[name][0]!r}?)" if close[name] else repr(name) for name in unread[:10]]
    warnings.warn(
        f"{count(len(unread), 'column')} of {redact(uri)!r} not read: {', '.join(shown)}"
        f"{f' and {len(unread) - 10} more' if len(unread) > 10 else ''}.",
        stacklevel=3,
    )


def _check_kind(head: bytes, uri: str) -> None:
    """Raises UsageError where a file begins as one that only calls itself CSV or Parquet."""
    if head.startswith(_UTF_16):
        raise UsageError(f"{redact(uri)!r} is UTF-16. {_SAVE_AS}")
    if head.startswith(_ARCHIVES):
        raise UsageError(f"{redact(uri)!r} is a spreadsheet or an archive, whatever its name ends in. {_SAVE_AS}")


def _read_csv(file: pa.NativeFile, columns: Sequence[str], parse: csv.ParseOptions) -> pa.Table:
    convert = csv.ConvertOptions(
        include_columns=columns,
        column_types=dict.fromkeys(columns, pa.string()),
        strings_can_be_null=True,
        quoted_strings_can_be_null=True,
        null_values=[""],
    )
    try:
        return csv.read_csv(file, parse_options=parse, convert_options=convert)
    except pa.ArrowInvalid:
        # One thread is slower, but its error says in which row.
        file.seek(0)
        return csv.read_csv(file, csv.ReadOptions(use_threads=False), parse, convert)


def _delimiter(file: pa.NativeFile) -> str:
    """What stands between the names in the first line; the file is read from its beginning again."""
    header = _QUOTED.sub(b"", file.read(_HEADER_BYTES).partition(b"\n")[0])
    file.seek(0)
    return next((one for one in (",", ";", "\t") if one.encode() in header), ",")


def _csv_header(filesystem: pa.fs.FileSystem, path: str, parse: csv.ParseOptions) -> list[str]:
    with (
        filesystem.open_input_stream(path) as stream,
        csv.open_csv(stream, csv.ReadOptions(use_threads=False), parse) as reader,
    ):
        return list(reader.schema.names)
