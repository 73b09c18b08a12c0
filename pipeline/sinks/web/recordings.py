"""Which recordings there are. A recording's name says where the recorder has put it, so that nobody has to search."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

_WHOLE = re.compile(r"(?!\.)(?!.*\.part(-\d+)?\.mp4)[^/\0]+\.mp4")
"""What still grows is not shown."""
_SEGMENT = re.compile(r"[a-z0-9_-]+-(\d{4})(\d{2})(\d{2})T\d{6}Z-\d{8}T\d{6}[+-]\d{4}(?:-\d+)?\.mp4")
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_NAME_BYTES_MAX = 255


class Recordings:
    """Every method touches the disk, and may be called in any thread."""

    def __init__(self, places: Sequence[Path]) -> None:
        """places: the files and folders that recorders write."""
        self._places = places

    def find(self, name: str) -> Path | None:
        """By its name alone: nothing is listed, and no link followed."""
        if len(name.encode()) > _NAME_BYTES_MAX:
            return None
        for place in self._places:
            path = place if place.name == name else _path_in(place, name)
            if path and _regular(path) and (path == place or path.parent == place or not path.parent.is_symlink()):
                return path
        return None

    def listed(self) -> list[dict[str, Any]]:
        """Newest first."""
        found: dict[str, os.stat_result] = {}
        for place in self._places:
            for path in _candidates(place):
                if (status := _regular(path)) is not None:
                    found.setdefault(path.name, status)
        return [
            {"name": name, "bytes": s.st_size, "modified_s": round(s.st_mtime), "url": f"/api/v1/recordings/{name}"}
            for name, s in sorted(found.items(), key=lambda item: -item[1].st_mtime)
        ]


def _path_in(folder: Path, name: str) -> Path | None:
    """Where a recorder that keeps its files in ``folder`` has put that one: segments into a folder for their day."""
    if not _WHOLE.fullmatch(name):
        return None
    segment = _SEGMENT.fullmatch(name)
    return folder / "-".join(segment.groups()) / name if segment else folder / name


def _regular(path: Path) -> os.stat_result | None:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # it may just have become too old
        status = path.lstat()
        return status if stat.S_ISREG(status.st_mode) else None
    return None


def _candidates(place: Path) -> Iterator[Path]:
    """What may be a recording there."""
    if not place.is_dir():
        yield place
        return
    days = [path for path in place.iterdir() if _DAY.fullmatch(path.name) and not path.is_symlink()]
    for folder in (place, *days):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            yield from (path for path in folder.iterdir() if path == _path_in(place, path.name))
