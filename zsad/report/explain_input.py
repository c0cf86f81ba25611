"""What ``zsad explain`` is given, looked at before torch is loaded: wrong input is refused at once."""

from __future__ import annotations

from pathlib import Path

from zsad.config import Config
from zsad.errors import ImageError, UsageError
from zsad.filesystem import is_local, read_bytes, redact
from zsad.images import FORMATS, image_size
from zsad.layout import EXPLAINED
from zsad.method.prompts import sample_prompts


def read_photograph(path: str, noun: str, config: Config) -> bytes:
    """The photograph's file.

    Args:
        path: path or URI of the photograph.
        noun: what it shows.
        config: with the prompts and the caps on files.

    Raises:
        UsageError: no noun, prompts that do not fit the configuration, or a file that is no readable photograph.
    """
    if not noun.strip():
        raise UsageError('--object is empty. Expected a noun for what the photograph shows, e.g. "metal washer".')
    sample_prompts(noun, config.prompts)
    try:
        data = read_bytes(path, config.images.max_file_bytes)
        image_size(data, config.images.max_pixels)
    except ImageError as error:
        raise unexplainable(path, error.kind, str(error)) from None
    return data


def unexplainable(path: str, kind: str, message: str) -> UsageError:
    """That a file is no photograph that can be explained."""
    # The message of a limit says what the limit is.
    beyond_limit = kind in ("file_too_large", "too_many_pixels", "extreme_aspect")
    expected = "" if beyond_limit else f" Expected a photograph: {', '.join(FORMATS)}."
    return UsageError(f"Cannot explain {redact(path)!r}: {message} ({kind}).{expected}")


def figure_path(image: str, output: str | None) -> Path:
    """Where the picture goes: ``output``, or ``NAME-explained.png`` in the current folder.

    Raises:
        UsageError: not a .png, in a folder that does not exist, a folder itself, or the photograph.
    """
    path = Path(f"{Path(file_name(image)).stem}{EXPLAINED}" if output is None else output).expanduser()
    if output is not None and (not is_local(output) or path.suffix.lower() != ".png"):
        raise UsageError(f"Cannot write the picture to {redact(output)!r}. Expected a local file that ends in .png.")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise UsageError(f"Cannot write the picture to {str(path)!r}. Expected a file in a folder that exists.")
    if (
        is_local(image)
        and path.exists()
        and Path(image).expanduser().exists()
        and path.samefile(Path(image).expanduser())
    ):
        raise UsageError(f"{str(path)!r} is the photograph itself. Give another file with --output.")
    return path


def file_name(path: str) -> str:
    """The last part of a path or URI."""
    return path.partition("?")[0].rstrip("/").rsplit("/", 1)[-1]
