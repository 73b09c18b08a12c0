"""Downloads a model's original files over HTTP(S): resumed where they broke off, and checked before they are used."""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote, urlsplit

from pipeline.errors import ConfigError, RuntimeFailure, StartupError, without_login
from pipeline.inference.importing.install import install, original_of, originals_needed
from pipeline.inference.model_card import ModelCard, OriginalFile

Progress = Callable[[str, int, int], None]
"""Called with a file's name, the bytes that are here, and the bytes that it has."""

_CHUNK_BYTES = 1 << 16
_ATTEMPTS = 4
_PAUSE_S = 1.0
_TIMEOUT_S = 30.0
_RANGE = re.compile(r"bytes (\d+)-\d+/(?:\d+|\*)")


class _BrokenOffError(Exception):
    """The connection ended before the file did; what came is kept."""


def fetch_model(
    card: ModelCard,
    card_path: Path,
    target: Path,
    base_url: str | None = None,
    progress: Progress | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Path]:
    """Downloads the original files, makes the runtimes' files from them and puts these into ``target``.

    base_url: instead of the card's. What was downloaded before a failure is kept in ``target/.download`` and used by
    the next call. Raises ``RuntimeFailure`` where a file cannot be had or is not the right one, ``StartupError`` where
    it cannot be written, ``ConfigError`` for an address that is none.
    """
    original = original_of(card, card_path)
    originals = originals_needed(card, original)
    url = checked_url(base_url or original.base_url)
    folder = target / ".download"
    contents = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, wanted in originals.items():
            contents[name] = _fetch(url + quote(name), folder / name, wanted, progress, sleep)
        files = install(card, card_path, contents, target)
        for name in originals:
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()
    except OSError as error:
        raise StartupError(f"{folder}: cannot be written: {error.strerror or error}") from error
    return files


def checked_url(url: str) -> str:
    """``url`` with a slash at its end; raises ``ConfigError`` unless it is HTTP or HTTPS without a password."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"--url: {without_login(url)!r} is not an http:// or https:// address of a folder")
    if parts.query or parts.fragment or parts.username or parts.password:
        raise ConfigError("--url: it may hold no login, no '?' and no '#'")
    return url if url.endswith("/") else url + "/"


def _fetch(
    url: str, part: Path, wanted: OriginalFile, progress: Progress | None, sleep: Callable[[float], None]
) -> bytes:
    """The checked content of one file; ``part`` holds what has come of it."""
    with part.open("a+b") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StartupError(f"{part}: another download of this file is running") from error
        for attempt in range(_ATTEMPTS):
            try:
                _continue(url, stream, part.name, wanted.size_bytes, progress)
                break
            except _BrokenOffError as error:
                if attempt == _ATTEMPTS - 1:
                    here = stream.seek(0, 2)
                    raise RuntimeFailure(
                        f"{url}: {error}; {here} of {wanted.size_bytes} bytes are here: the same command goes on there"
                    ) from error
                sleep(_PAUSE_S * 2**attempt)
        stream.seek(0)
        content = stream.read()
        digest = hashlib.sha256(content).hexdigest()
        if digest != wanted.sha256:
            stream.truncate(0)
            raise RuntimeFailure(f"{url}: gave another file: sha256 is {digest}, the card says {wanted.sha256}")
        return content


def _continue(url: str, stream: BinaryIO, name: str, size_bytes: int, progress: Progress | None) -> None:
    """Downloads what ``stream`` lacks; returns when it has ``size_bytes``, raises ``_BrokenOffError`` before that."""
    here = stream.seek(0, 2)
    if here > size_bytes:
        here = stream.truncate(0)
    if progress:
        progress(name, here, size_bytes)
    if here == size_bytes:
        return
    request = urllib.request.Request(url, headers={"User-Agent": "facemask-pipeline"})  # noqa: S310 - checked_url
    if here:
        request.add_header("Range", f"bytes={here}-")
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:  # noqa: S310 - checked_url
            for count in _receive(response, stream, here):
                if count > size_bytes:
                    stream.truncate(0)
                    raise RuntimeFailure(f"{url}: gave another file: longer than the {size_bytes} bytes on the card")
                if progress:
                    progress(name, count, size_bytes)
    except urllib.error.HTTPError as error:
        error.close()
        raise _http_failure(url, error, stream) from error
    except urllib.error.URLError as error:
        raise _BrokenOffError(f"cannot be reached: {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenOffError(f"broke off: {str(error) or type(error).__name__}") from error
    if stream.seek(0, 2) < size_bytes:
        raise _BrokenOffError("broke off")


def _receive(response: http.client.HTTPResponse, stream: BinaryIO, here: int) -> Iterator[int]:
    """Appends what comes to ``stream``; yields how many bytes it then has. Starts anew where the server does."""
    if response.status == http.HTTPStatus.PARTIAL_CONTENT:
        if not _starts_at(response, here):
            stream.truncate(0)
            raise _BrokenOffError("the server sent another part than the one that was asked for")
    elif here:
        here = stream.truncate(0)
    while chunk := response.read(_CHUNK_BYTES):
        stream.write(chunk)
        here += len(chunk)
        yield here


def _starts_at(response: http.client.HTTPResponse, offset: int) -> bool:
    match = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
    return match is not None and int(match[1]) == offset


def _http_failure(url: str, error: urllib.error.HTTPError, stream: BinaryIO) -> Exception:
    """What to do about a refusal: try again what may pass, give up on the rest."""
    if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        stream.truncate(0)
        return _BrokenOffError("the server has a shorter file")
    if error.code >= http.HTTPStatus.INTERNAL_SERVER_ERROR or error.code == http.HTTPStatus.TOO_MANY_REQUESTS:
        return _BrokenOffError(f"HTTP {error.code} {error.reason}")
    return RuntimeFailure(f"{url}: HTTP {error.code} {error.reason}; --url names another folder with these files")
