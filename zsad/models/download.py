"""Resumable https download of one file, checked before it gets its final name."""

from __future__ import annotations

import hashlib
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse
from pathlib import Path

from filelock import FileLock

from zsad.errors import UsageError

Progress = Callable[[int, int | None], None]
"""Called with (bytes so far, bytes in all or None) after every block."""

BLOCK = 1 << 20
TIMEOUT_SECONDS = 30.0


class DownloadError(Exception):
    """The file could not be fetched (network, server); what arrived is kept for the next attempt."""


def offline() -> bool:
    """True when ``ZSAD_OFFLINE`` or ``HF_HUB_OFFLINE`` forbids the network."""
    return any(
        os.environ.get(name, "").lower() in ("1", "true", "yes", "on") for name in ("ZSAD_OFFLINE", "HF_HUB_OFFLINE")
    )


def resolve_url(source: str) -> str:
    """The https URL of a source: an URL itself, or ``hf://owner/name[@revision]/path`` on the hub.

    ``HF_ENDPOINT`` (a mirror) is honoured for ``hf://``.

    Raises:
        UsageError: the source is neither, or not encrypted (plain http is accepted on loopback only).
    """
    if source.startswith("hf://"):
        from huggingface_hub import hf_hub_url

        parts = source[len("hf://") :].split("/", 2)
        if len(parts) != 3 or not all(parts):
            raise UsageError(f"Cannot read the source {source!r}. Expected hf://owner/name/path/of/file.")
        name, _, revision = parts[1].partition("@")
        return hf_hub_url(f"{parts[0]}/{name}", parts[2], revision=revision or None)
    _check_scheme(source)
    return source


def fetch(url: str, target: Path, sha256: str | None, attempts: int = 3, progress: Progress | None = None) -> str:
    """Download ``url`` to ``target``: into ``target.part`` first, checked, then renamed in one step.

    An interrupted download goes on where it stopped, if the server can and the remote file is the same
    (its ETag or date is kept beside the part). Two processes asking for one file download it once.

    Args:
        url: https (or loopback http) address.
        target: final path; its folder is created.
        sha256: expected hash, or None to accept what comes.
        attempts: tries before giving up, each going on where the last one stopped.

    Returns:
        sha256 of the file.

    Raises:
        DownloadError: it could not be fetched.
        UsageError: the hash is wrong; the bytes are removed and nothing is left under ``target``.
    """
    _check_scheme(url)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    with FileLock(str(target) + ".lock"):
        if target.exists():
            return hash_file(target)
        for attempt in range(attempts):
            try:
                _transfer(url, part, progress)
                break
            except (OSError, HTTPException) as error:
                final = isinstance(error, urllib.error.HTTPError) and 400 <= error.code < 500
                if final or attempt == attempts - 1:
                    raise DownloadError(f"{url}: {error}") from None
                time.sleep(min(2.0**attempt, 10.0) * 0.2)
        found = hash_file(part)
        _validator_path(part).unlink(missing_ok=True)
        if sha256 is not None and found != sha256:
            part.unlink()
            raise UsageError(
                f"{url} has sha256 {found}, expected {sha256}. The file was removed; nothing is installed. "
                f"Try again; if it stays so, the server holds another file than the registry describes."
            )
        os.replace(part, target)
        return found


def hash_file(path: Path) -> str:
    """sha256 of a file, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _transfer(url: str, part: Path, progress: Progress | None) -> None:
    done = part.stat().st_size if part.exists() else 0
    note = _validator_path(part)
    validator = note.read_text("utf-8") if note.exists() else ""
    headers = {"User-Agent": "zsad", "Accept-Encoding": "identity"}
    if done and validator:
        # If-Range: a server whose file has changed answers 200 with all of it instead of the rest.
        headers |= {"Range": f"bytes={done}-", "If-Range": validator}
    opener = urllib.request.build_opener(_SafeRedirect())
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 (scheme checked by the caller)
    try:
        response = opener.open(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        part.unlink()
        raise ConnectionError("the part on disk is longer than the file; starting again") from None
    with response:
        resumed = response.status == 206 and _range_start(response) == done
        if not resumed:
            done = 0
        length = response.headers.get("Content-Length")
        total = done + int(length) if length is not None else None
        note.write_text(_validator(response), "utf-8")
        with part.open("ab" if resumed else "wb") as stream:
            while block := response.read(BLOCK):
                stream.write(block)
                done += len(block)
                if progress is not None:
                    progress(done, total)
    if total is not None and done != total:
        raise ConnectionError(f"connection closed after {done} of {total} bytes")


def _validator(response: HTTPResponse) -> str:
    etag = response.headers.get("ETag", "")
    # A weak ETag may not be used in If-Range (RFC 9110, 13.1.5).
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified", "")


def _validator_path(part: Path) -> Path:
    return part.with_name(part.name + ".etag")


def _range_start(response: HTTPResponse) -> int | None:
    unit, _, rest = response.headers.get("Content-Range", "").partition(" ")
    start = rest.partition("-")[0]
    return int(start) if unit == "bytes" and start.isdigit() else None


def _check_scheme(url: str) -> None:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost", "::1")):
        return
    raise UsageError(f"Refusing to download {url!r}: expected an https address.")


class _SafeRedirect(urllib.request.HTTPRedirectHandler):
    """Follows redirects to https only."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]
        _check_scheme(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)
