"""The answer that is a file: read piece by piece as it is taken, with ranges, by which players seek."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import mimetypes
import os
import re
import stat
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import NamedTuple

from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from pipeline.sinks.web.disk import Disk, DiskTrouble
from pipeline.sinks.web.streams import disconnected, first_of

PIECE_BYTES = 256 << 10
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")

log = logging.getLogger(__name__)


class File(NamedTuple):
    """A file as it was when it was found; ``tag`` changes with its content."""

    path: Path
    size_bytes: int
    modified_s: float
    tag: str

    def read(self, start: int, end: int) -> bytes:
        """From ``start`` to before ``end``. Raises ``OSError``, also where another file has that name by now."""
        with self.path.open("rb", 0) as file:
            if _tag(os.fstat(file.fileno())) != self.tag:
                raise FileNotFoundError(0, "another file has its name now")
            data = os.pread(file.fileno(), end - start, start)
        if len(data) != end - start:
            raise OSError(0, "it has become shorter")
        return data


def look_at(find: Callable[..., Path | None], *names: str) -> File | None:
    """The file that ``find`` finds; None where there is none. Touches the disk."""
    path = find(*names)
    try:
        status = path.stat() if path else None
    except FileNotFoundError:  # it has just become too old
        return None
    if path is None or status is None or not stat.S_ISREG(status.st_mode):
        return None
    return File(path, status.st_size, status.st_mtime, _tag(status))


def _tag(status: os.stat_result) -> str:
    told = f"{status.st_dev} {status.st_ino} {status.st_size} {status.st_mtime_ns}"
    return f'"{hashlib.sha256(told.encode()).hexdigest()[:32]}"'


class Download:
    """An ASGI answer: the file, or the one range of it that was asked for. Several at once are answered as none.

    closing: set when the server ends.
    """

    def __init__(self, file: File, disk: Disk, closing: asyncio.Event) -> None:
        self._file = file
        self._disk = disk
        self._closing = closing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        file = self._file
        asked = self._range(Headers(scope=scope))
        status = 200 if asked is None else 206 if asked else 416
        part = range(file.size_bytes) if asked is None else asked
        headers = {
            "content-type": mimetypes.guess_type(file.path.name)[0] or "application/octet-stream",
            "content-length": str(len(part)),
            "accept-ranges": "bytes",
            "etag": file.tag,
            "last-modified": formatdate(file.modified_s, usegmt=True),
            "cache-control": "private, max-age=3600",
        }
        if asked is not None:
            headers["content-range"] = f"bytes {f'{part[0]}-{part[-1]}' if part else '*'}/{file.size_bytes}"
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        if scope["method"] == "HEAD" or not part:
            await send({"type": "http.response.body", "body": b""})
        else:
            await first_of(disconnected(receive), self._send(send, part), self._closing.wait())

    def _range(self, headers: Headers) -> range | None:
        """The bytes that were asked for, empty where there are none such; None: all, without a range."""
        match = _RANGE.fullmatch(headers.get("range", ""))
        if match is None or not any(match.groups()) or headers.get("if-range", self._file.tag) != self._file.tag:
            return None
        first, last = match.groups()
        if not first:
            return range(self._file.size_bytes)[-int(last) :] if int(last) else range(0)
        if last and int(last) < int(first):
            return None
        return range(self._file.size_bytes)[int(first) : int(last) + 1 if last else None]

    async def _send(self, send: Send, part: range) -> None:
        """What the disk does not give any more is not sent: the connection then ends before its content."""
        for start in range(part.start, part.stop, PIECE_BYTES):
            end = min(start + PIECE_BYTES, part.stop)
            try:
                data = await self._disk.do(self._file.read, start, end)
            except DiskTrouble as error:
                log.warning("%s: %s", self._file.path, error)
                return
            await send({"type": "http.response.body", "body": data, "more_body": end < part.stop})
