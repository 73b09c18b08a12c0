"""``kind: clips``: evidence of what the rules say: the best face, an annotated picture, a clip from before to after."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from concurrent.futures import Future
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import msgspec
from pydantic import Field

from pipeline.errors import ConfigError
from pipeline.sinks import fmp4
from pipeline.sinks.episodes import Episode, Episodes
from pipeline.sinks.evidence import PART, EvidenceStore
from pipeline.sinks.parts import Found, PartWriter, claim, read_part
from pipeline.sinks.sink import Accepts, Packet, SinkContext, Stream, Wish
from pipeline.sinks.storage import Storage, StorageConfig
from pipeline.transport.packet_ring import PacketRing
from pipeline.types import I420, Event, EvidenceKind, Result

if TYPE_CHECKING:
    from pipeline.sinks.canvas import Canvas

CROP_AFTER_S = 1.0
"""So long after an event the best view of the face is looked for; then it is stored."""
BYTES_PER_S = 1_000_000
"""Room in shared memory for each second of pre-roll; where the video takes more, the pre-roll is shorter."""
GOP_S = 2.0
"""A clip begins with a keyframe, so one is asked for this often."""
NEVER_S = float("-inf")

log = logging.getLogger(__name__)


class Config(StorageConfig):
    """directory: a folder a day is made in it, with ``<event id>-clip.mp4``, ``-snapshot.jpg`` and ``-face.jpg``.

    pre_s, post_s: the clip begins so long before the event and ends so long after its end. max_s: its longest.
    """

    accepts: ClassVar[Accepts] = "packets"

    directory: Path
    pre_s: Annotated[float, Field(ge=0, le=60)] = 5.0
    post_s: Annotated[float, Field(ge=0, le=60)] = 5.0
    max_s: Annotated[float, Field(ge=1, le=3600)] = 120.0
    keep_days: Annotated[float, Field(gt=0)] | None = 30
    max_gb: Annotated[float, Field(gt=0)] | None = 10
    when_full: Literal["stop", "drop_oldest"] = "drop_oldest"

    def keeps_in(self) -> frozenset[str]:
        """Where it removes what is old."""
        return frozenset([os.path.realpath(self.directory)])


class Clips:
    """Keeps the newest packets in shared memory, and copies them into a clip when an event comes; nothing is encoded
    again. What grows lies on the disk and says which event it is of, so that a clip is completed by a restarted
    process, and by the next run where this one is killed as a whole.
    """

    accepts: ClassVar[Accepts] = "packets"
    lossless: ClassVar[bool] = True

    def __init__(self, config: Config, context: SinkContext) -> None:
        # here, because every process reads the configuration, and this brings FFmpeg and OpenCV with it
        from pipeline.sinks.faces import BestFaces

        self._config = config
        self._source = context.source_id or context.name
        self._context = context
        self._storage = Storage(config.directory, config, context)
        self._store = EvidenceStore(config.directory, self._source, context.run_id, context.tell)
        self._episodes = Episodes(context.state_dir / "episodes.json")
        self._faces = BestFaces()
        self._ring: PacketRing | None = None
        self._reset()

    def _reset(self) -> None:
        self.heard = 0
        self._stream: Stream | None = None
        self._writers: dict[str, PartWriter] = {}
        self._found: dict[str, Found] = {}
        self._working: list[Future[None]] = []
        self._ending: list[tuple[Future[None], Episode]] = []
        self._done_s = self._keyframe_s = NEVER_S
        self._canvas: Canvas | None = None

    def open(self) -> float | None:
        """Raises ``ConfigError`` where the directory cannot be used, ``StartupError`` without room in shared memory."""
        self.close()
        self._reset()
        try:
            self._storage.open()
            self._take_over()
        except OSError as error:
            raise ConfigError(
                f"sink {self._context.name}: cannot keep evidence in {self._config.directory}: {error.strerror}"
            ) from error
        newest = self._ring.newest() if self._ring else None
        self._done_s = newest.time_s if newest else NEVER_S
        return newest.time_s if newest else None

    def _take_over(self) -> None:
        """What earlier processes of this run were about, and what other runs have left."""
        self._episodes.load()
        self.heard = self._episodes.heard
        path = self._context.state_dir / "packets"
        if path.exists():
            self._ring = PacketRing.attach(path)
        else:
            self._ring = PacketRing.create(path, round((self._config.pre_s + GOP_S) * BYTES_PER_S))
        for episode in self._episodes.open:
            if self._store.path(episode.event, "clip").exists():
                self._end_clip(episode)
        for found, event in self._left_behind():
            if self._episodes.find(event.id) is not None:
                self._found[event.id] = found
            else:
                self._working.append(self._keep_clip(event, found))

    def _left_behind(self) -> Iterator[tuple[Found, Event]]:
        for path in sorted(self._config.directory.glob(f"*/*{PART}")):
            try:
                said = fmp4.description(path) or {}
                event = msgspec.convert(said["event"], Event) if said.get("source") == self._source else None
            except (ValueError, KeyError) as error:
                log.warning("%s: is damaged, or of another version, and left alone: %s", path, error)
                continue
            if event is not None and (found := claim(path, 1)) is not None:
                yield found, event

    def start(self, stream: Stream) -> None:
        assert self._ring is not None, "open comes before start"
        codec = fmp4.codec(stream)
        if codec != self._ring.description:
            for episode in self._episodes.open:  # pictures of another size are another clip
                if not episode.clip:
                    self._end_clip(episode)
            self._ring.begin(codec)
        self._stream = stream

    def wish(self, time_s: float) -> Wish:
        if time_s <= self._done_s:
            return Wish.NOTHING
        return Wish.KEYFRAME if time_s >= self._keyframe_s + GOP_S else Wish.PACKET

    def hear(self, event: Event) -> None:
        episode = self._episodes.find(event.id)
        if event.phase == "new" and episode is None and (event.track is not None or event.faces is not None):
            limit_s = event.stream_s - self._config.pre_s + self._config.max_s
            self._episodes.open.append(Episode(event=event, began_s=event.stream_s, limit_s=limit_s))
        elif episode is not None:
            episode.event = event
            if event.phase == "end":
                episode.ends_s = event.stream_s + self._config.post_s
        self._episodes.hear(self.heard + 1)

    # -- pictures

    def look(self, image: I420, result: Result, *, drawn: bool) -> None:
        if not drawn:
            self._faces.look(image, result)
            return
        frame = result.frame
        for episode in self._episodes.open:
            if not episode.snapshot:
                self._keep_picture(episode, "snapshot", self._snapshot(image), frame.wall_ns)
            if not episode.crop and frame.time_s >= episode.began_s + CROP_AFTER_S:
                self._keep_crop(episode, frame.wall_ns)

    def _snapshot(self, image: I420) -> bytes:
        from pipeline.sinks.canvas import Canvas

        if self._canvas is None or self._canvas.layout != image.layout:
            self._canvas = Canvas(image.layout)
        image.copy_to(self._canvas.image)
        return self._canvas.jpeg()

    def _keep_crop(self, episode: Episode, wall_ns: int) -> None:
        track = episode.event.track
        jpeg = self._faces.jpeg(track, episode.began_s) if track is not None else None
        if jpeg is not None:
            self._keep_picture(episode, "crop", jpeg, wall_ns)

    def _keep_picture(self, episode: Episode, kind: EvidenceKind, jpeg: bytes, wall_ns: int) -> None:
        event = episode.event
        self._working.append(
            self._storage.do(
                lambda archive: self._store.keep_picture(archive, event, kind, jpeg, wall_ns), room_at_s=event.stream_s
            )
        )
        if kind == "snapshot":
            episode.snapshot = True
        else:
            episode.crop = True

    # -- clips

    def write(self, packet: Packet) -> float | None:
        """Raises ``RuntimeFailure`` where the disk is gone, or full and nothing may be removed."""
        assert self._ring is not None, "open comes before write"
        if packet.time_s <= self._done_s:
            return self._done_s
        if packet.keyframe:
            self._keyframe_s = packet.time_s
        self._ring.append(
            packet.data, keyframe=packet.keyframe, seq=packet.seq, pts=packet.pts, time_s=packet.time_s,
            wall_ns=packet.wall_ns,
        )  # fmt: skip
        for episode in self._episodes.open:
            if not episode.clip:
                self._write(episode, packet)
        self._forget_complete()
        return packet.time_s

    def _write(self, episode: Episode, packet: Packet) -> None:
        writer = self._writers.get(episode.event.id)
        if writer is None:
            self._begin_clip(episode, packet)
        elif packet.time_s <= episode.last_s:
            self._append(writer, packet)
        if packet.time_s >= episode.last_s:
            self._end_clip(episode)

    def _begin_clip(self, episode: Episode, packet: Packet) -> None:
        """From the pre-roll on, or where an earlier process has stopped."""
        assert self._stream is not None
        assert self._ring is not None
        event = episode.event
        found = self._found.pop(event.id, None)
        if found is not None and found.part.contents.codec != fmp4.codec(self._stream):
            self._found[event.id] = found
            self._end_clip(episode)
            return
        path = self._store.part_path(event)
        self._make_folder(path.parent, packet.time_s)
        said = {"run": self._context.run_id, "part": 1, "source": self._source, "event": msgspec.to_builtins(event)}
        writer = self._writers[event.id] = PartWriter(path, self._stream, said, found)
        if found is not None:
            before = self._ring.after(found.part.last_time_s)
        else:
            before = self._ring.since(episode.began_s - self._config.pre_s)
        for each in [Packet(*stored[1:8]) for stored in before] or [packet]:
            if each.time_s <= episode.last_s:
                self._append(writer, each)

    def _make_folder(self, path: Path, time_s: float) -> None:
        while True:
            try:
                path.mkdir(parents=True, exist_ok=True)
                return
            except OSError as error:
                self._storage.make_room(error, time_s)

    def _append(self, writer: PartWriter, packet: Packet) -> None:
        while True:
            try:
                writer.append(packet)
                return
            except OSError as error:
                self._storage.make_room(error, packet.time_s)

    def _end_clip(self, episode: Episode) -> None:
        """What is missing yet is stored now."""
        event = episode.event
        writer = self._writers.pop(event.id, None)
        found = self._found.pop(event.id, None)
        fd = writer.release() if writer else None
        if fd is not None:
            found = self._written(fd, event)
        if not episode.crop:
            began_ns = round(datetime.fromisoformat(event.t_start).timestamp() * 1e9)
            self._keep_crop(episode, found.part.contents.last.wall_ns if found else began_ns)
        episode.clip = True
        self._ending.append((self._keep_clip(event, found), episode))
        self._storage.retire()

    def _written(self, fd: int, event: Event) -> Found | None:
        path = self._store.part_path(event)
        try:
            part = read_part(path, 1)
        except (OSError, ValueError) as error:
            log.error("sink %s: the clip %s is lost: %s", self._context.name, path, getattr(error, "strerror", error))
            part = None
        if part is None:
            os.close(fd)
            return None
        return Found(fd, part)

    def _forget_complete(self) -> None:
        """An episode whose evidence is stored is no longer this sink's business, nor that of a restarted one."""
        for future, episode in list(self._ending):
            if future.done():
                self._ending.remove((future, episode))
                self._episodes.forget(episode)
        self._working = [future for future in self._working if not future.done()]

    def _keep_clip(self, event: Event, found: Found | None) -> Future[None]:
        def keep(archive: object) -> None:
            try:
                self._store.keep_clip(archive, event, found)  # type: ignore[arg-type]
            finally:
                if found is not None:
                    os.close(found.fd)

        return self._storage.do(keep)

    def finish(self) -> None:
        for episode in self._episodes.open:
            if not episode.clip:
                self._end_clip(episode)
        for future in [*self._working, *(future for future, _ in self._ending)]:
            future.result()
        self._forget_complete()

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()
        for found in self._found.values():
            os.close(found.fd)
        self._writers, self._found = {}, {}
        self._storage.close()
        if self._ring is not None:
            self._ring.close()
            self._ring = None


def create(config: Config, context: SinkContext) -> Clips:
    return Clips(config, context)
