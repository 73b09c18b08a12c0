"""The directories in which a run keeps files, held so that no other run removes them by limits of its own."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.specs import Site

LOCK = ".in-use"
"""A file in each; who holds its lock stands in it."""


class HeldDirectories:
    """Held by the supervisor, for all its stages; the kernel lets go of them when it dies."""

    def __init__(self) -> None:
        self._held: dict[str, int] = {}

    def take(self, site: Site) -> None:
        """Takes those of the site that are not held yet; raises ``ConfigError`` where another run has one."""
        for sink, place in _places(site):
            if place not in self._held:
                with contextlib.suppress(OSError):  # the sink says better what is wrong there
                    self._held[place] = _lock(sink, Path(place), site.name)

    def close(self) -> None:
        for descriptor in self._held.values():
            os.close(descriptor)
        self._held.clear()


def _places(site: Site) -> Iterator[tuple[str, str]]:
    used = dict.fromkeys(sink for pipeline in site.pipelines.values() for sink in pipeline.sinks)
    for sink in used:
        keeps_in = getattr(site.sinks[sink].config, "keeps_in", None)
        yield from ((sink, place) for place in (keeps_in() if keeps_in else ()))


def _lock(sink: str, directory: Path, name: str) -> int:
    directory.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip()
        os.close(descriptor)
        raise ConfigError(
            f"sinks.{sink}.directory: {holder or 'another run'} keeps its files in {directory}, and each would remove "
            "the other's; name another directory"
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"site {name} (process {os.getpid()})\n".encode(), 0)
    return descriptor
