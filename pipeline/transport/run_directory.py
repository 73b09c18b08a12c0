"""The run directory: everything of one running site that lives in shared memory, under one lock.

A lock that is free means that nobody runs there, whatever is left in the directory: that is removed at the next start.
A killed supervisor's stages may still be ending then; each holds the directory itself open with a lock that it
inherited, and nobody removes it under them.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import shutil
import stat
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import StartupError

ENVIRONMENT = "FACEMASK_RUN_DIR"
_DESCRIPTION = "site.json"
ENDING_MAX_S = 20.0
"""How long a start waits for what a killed supervisor of the same site has left running."""
SWEPT_MAX_S = 0.5
"""Whoever clears away what the dead have left holds their locks for a moment; a start waits so long for a lock."""
_LOOK_EVERY_S = 0.05

log = logging.getLogger(__name__)


def base_directory() -> Path:
    """Where run directories lie: one folder a user, made with mode 0700; raises ``StartupError`` if it is not ours."""
    if ENVIRONMENT in os.environ:
        base = Path(os.environ[ENVIRONMENT])
    else:
        shared = Path("/dev/shm")  # noqa: S108  (shared memory is what it is for)
        base = (shared if shared.is_dir() else Path(tempfile.gettempdir())) / f"facemask-{os.getuid()}"
    try:
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StartupError(f"{base}: the run directory cannot be made: {error.strerror}") from error
    found = base.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise StartupError(f"{base}: must be a directory of user {os.getuid()} with mode 0700; remove it and try again")
    return base


class AlreadyRunning(StartupError):
    """A site of that name is running."""


@dataclass(frozen=True, slots=True)
class RunningSite:
    """What another shell can know of a running site."""

    name: str
    directory: Path
    description: dict[str, Any]


class RunDirectory:
    """Made and held by the supervisor; a context manager that removes everything at the end."""

    def __init__(self, name: str) -> None:
        self.name = name
        base = base_directory()
        self.path = base / name
        self._lock_path = base / f"{name}.lock"
        self._lock = -1
        self.presence = -1
        """A descriptor for every process of this run to inherit: the directory stays until the last one has ended."""

    def __enter__(self) -> RunDirectory:
        """Raises ``AlreadyRunning``, or ``StartupError`` where an earlier run of that name does not come to its end."""
        for stale in self.path.parent.glob("*.lock"):
            if stale != self._lock_path:
                _sweep(stale)
        self._lock = self._take_patiently()
        self._await_end()
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir(mode=0o700)
        self.presence = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(self.presence, fcntl.LOCK_SH)
        return self

    def _take_patiently(self) -> int:
        deadline_s = time.monotonic() + SWEPT_MAX_S
        while (descriptor := _take(self._lock_path)) is None:
            if time.monotonic() > deadline_s:
                raise AlreadyRunning(
                    f"a site named {self.name!r} is running already (see: run_pipeline.py status {self.name})"
                )
            time.sleep(_LOOK_EVERY_S)
        return descriptor

    def _await_end(self) -> None:
        deadline_s = time.monotonic() + ENDING_MAX_S
        if _in_use(self.path):
            log.info("an earlier run of %s was killed; waiting for its processes to end", self.name)
        while _in_use(self.path):
            if time.monotonic() > deadline_s:
                os.close(self._lock)
                raise StartupError(
                    f"processes of an earlier run of {self.name!r} have not ended within {ENDING_MAX_S:g} s; end them "
                    "(ps -ef | grep pipeline.child) and try again"
                )
            time.sleep(_LOOK_EVERY_S)

    def describe(self, description: dict[str, Any]) -> None:
        """What ``running`` tells others; holds no secrets. Raises ``OSError`` where there is no room."""
        new = self.path / f".{_DESCRIPTION}.new"
        new.write_text(json.dumps(description))
        new.rename(self.path / _DESCRIPTION)

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock_path.unlink(missing_ok=True)
        os.close(self.presence)
        os.close(self._lock)
        self._lock = self.presence = -1


def description_in(run_dir: Path) -> dict[str, Any]:
    """What the run in that directory tells others; raises ``FileNotFoundError`` where there is none (any more)."""
    found: dict[str, Any] = json.loads((run_dir / _DESCRIPTION).read_text())
    return found


def running() -> list[RunningSite]:
    """The sites of this user that run now; clears away what dead ones have left."""
    sites = []
    for lock in sorted(base_directory().glob("*.lock")):
        if _sweep(lock):
            continue
        directory = lock.with_suffix("")
        with contextlib.suppress(OSError, ValueError):
            sites.append(RunningSite(lock.stem, directory, description_in(directory)))
    return sites


def is_held(run_dir: Path) -> bool:
    """Whether the run in that directory still has its supervisor; what a dead one has left is not cleared away."""
    return _is_locked(run_dir.with_name(f"{run_dir.name}.lock"), fcntl.LOCK_SH)


def _take(lock: Path) -> int | None:
    """The lock's descriptor, or None when somebody holds it."""
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        # Whoever held it before may have removed the file while we opened it.
        with contextlib.suppress(FileNotFoundError):
            if os.fstat(descriptor).st_ino == lock.stat().st_ino:
                return descriptor
        os.close(descriptor)


def _sweep(lock: Path) -> bool:
    """Removes a dead site's directory unless its processes are still ending; False when it is alive."""
    descriptor = _take(lock)
    if descriptor is None:
        return False
    if not _in_use(lock.with_suffix("")):
        shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
        lock.unlink(missing_ok=True)
    os.close(descriptor)
    return True


def _in_use(directory: Path) -> bool:
    """Whether a process of a run still lives in its directory."""
    return _is_locked(directory, fcntl.LOCK_EX)


def _is_locked(path: Path, kind: int) -> bool:
    """Whether somebody's lock stands in the way of one of that kind; one that is not there has none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
