"""The files that show an event: where they lie, how they become whole, and who is told of them."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from pipeline.sinks.archive import Archive, Kept
from pipeline.sinks.finishing import fsync, utc
from pipeline.sinks.parts import Found, complete
from pipeline.types import EVIDENCE_NUMBERS, Event, Evidence, EvidenceKind

_ORDER: tuple[EvidenceKind, ...] = ("snapshot", "crop", "clip")
_SUFFIX: dict[EvidenceKind, str] = {"snapshot": "-snapshot.jpg", "crop": "-face.jpg", "clip": "-clip.mp4"}
PART = "-clip.part.mp4"
_PIECE = 1 << 20


class EvidenceStore:
    """Makes a file whole, gives it its name, enters it, tells of it: in this order, so that a death in between leaves
    something that is done again and comes to the same. Called by the storage's thread.
    """

    def __init__(self, directory: Path, source_id: str, run: str, tell: Callable[[Event], None]) -> None:
        self._directory = directory.absolute()
        self._source = source_id
        self._run = run
        self._tell = tell

    def path(self, event: Event, kind: EvidenceKind) -> Path:
        """``<day>/<event id>-clip.mp4`` and the like; the day is that on which the episode began (UTC)."""
        return self._directory / event.t_start[:10] / f"{event.id}{_SUFFIX[kind]}"

    def part_path(self, event: Event) -> Path:
        """Where the clip stands while it grows."""
        return self._directory / event.t_start[:10] / f"{event.id}{PART}"

    def keep_picture(self, archive: Archive, event: Event, kind: EvidenceKind, jpeg: bytes, wall_ns: int) -> None:
        """The first picture that was stored stays, also when a restarted process comes with another."""
        path = self.path(event, kind)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            new = path.with_name(f".{path.name}.new")
            with new.open("wb") as file:
                file.write(jpeg)
                file.flush()
                os.fsync(file.fileno())
            new.replace(path)
        self._enter(archive, event, kind, wall_ns, wall_ns, 1, event.stream_s)

    def keep_clip(self, archive: Archive, event: Event, found: Found | None) -> None:
        """found: the whole part, or None where an earlier process has given it its name already."""
        path = self.path(event, "clip")
        if found is None:
            if path.exists() and (kept := archive.file(str(path.relative_to(self._directory)))) is not None:
                self._told(event, "clip", path, kept.bytes, kept.sha256 or "")
            return
        first, last = found.part.contents.first, found.part.contents.last
        complete(found)
        self._enter(
            archive, event, "clip", first.wall_ns, last.wall_ns, found.part.contents.count, last.time_s, found.part.path
        )

    def _enter(
        self, archive: Archive, event: Event, kind: EvidenceKind, start_ns: int, end_ns: int, frames: int,
        last_time_s: float, part: Path | None = None,
    ) -> None:  # fmt: skip
        path = self.path(event, kind)
        nbytes, sha256 = _sum(part or path)
        kept = Kept(
            str(path.relative_to(self._directory)), kind, self._source, start_ns, end_ns, nbytes, frames, self._run,
            last_time_s, event.id, sha256,
        )  # fmt: skip
        archive.add(kept)
        if part is not None:
            part.replace(path)
        fsync(path.parent)
        self._told(event, kind, path, nbytes, sha256)

    def _told(self, event: Event, kind: EvidenceKind, path: Path, nbytes: int, sha256: str) -> None:
        self._tell(
            msgspec.structs.replace(
                event,
                phase="update",
                number=EVIDENCE_NUMBERS + _ORDER.index(kind),
                t_update=utc(time.time_ns()),
                evidence=(Evidence(kind, str(path), nbytes, sha256),),
            )
        )


def _sum(path: Path) -> tuple[int, str]:
    """Size and SHA-256."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
        return file.tell(), digest.hexdigest()
