"""``kind: recorder``: one source's annotated video into an MP4 file, and nothing is lost by kill -9."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator
from itertools import chain, count, groupby
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from pipeline.errors import ConfigError, DiskFull, RuntimeFailure
from pipeline.sinks import fmp4
from pipeline.sinks.originals import Originals
from pipeline.sinks.parts import Found, PartWriter, claim, part_path, part_paths, read_part
from pipeline.sinks.recovery import abandoned, recover, recovered_name, utc_name
from pipeline.sinks.segments import Segments
from pipeline.sinks.settling import finished, settle
from pipeline.sinks.sink import Accepts, Packet, SinkContext, Stream, Wish
from pipeline.sinks.storage import Storage, StorageConfig, is_full

NEVER_S = float("-inf")

log = logging.getLogger(__name__)


class Config(StorageConfig):
    """path: the file to write, ``*.mp4`` in a directory that exists; or directory: one file a run and source,
    ``<source>-<UTC time>.mp4``, in a directory that is made where it is missing.

    overwrite: at a good end, replace what stands at ``path``; without it the start is refused.
    segment_s: in a directory, files of this length instead, which ``keep_days``, ``max_gb`` and ``when_full`` limit.
    overlay: ``burn``: boxes are drawn into the picture; ``track``: segments hold what the source sends, untouched, and
    the boxes are a subtitle file beside each.
    """

    accepts: ClassVar[Accepts] = "packets"

    path: Path | None = None
    directory: Path | None = None
    overwrite: bool = False
    segment_s: Annotated[float, Field(ge=1, le=86400)] | None = None
    overlay: Literal["burn", "track"] = "burn"

    @model_validator(mode="after")
    def _one_place(self) -> Config:
        if (self.path is None) == (self.directory is None):
            raise ValueError("a recorder needs either path or directory")
        if self.path is not None and self.path.suffix.lower() != ".mp4":
            raise ValueError(f"{str(self.path)!r} does not end in .mp4: recordings are MP4 files")
        if self.directory is not None and self.overwrite:
            raise ValueError("overwrite goes with path: in a directory every recording has a new name")
        if self.overlay == "track" and self.segment_s is None:
            raise ValueError("overlay: track goes with segment_s")
        if self.segment_s is not None and self.directory is None:
            raise ValueError("segment_s goes with directory")
        limits = sorted(self.model_fields_set & StorageConfig.model_fields.keys())
        if limits and self.segment_s is None:
            raise ValueError(f"{limits[0]} goes with segment_s: only segments are removed when they are old")
        return self

    @property
    def untouched(self) -> bool:
        return self.overlay == "track"

    def claims(self) -> frozenset[tuple[str, str]]:
        return frozenset([("file", os.path.realpath(self.path))]) if self.path else frozenset()

    def keeps_in(self) -> frozenset[str]:
        """Where it removes what is old."""
        return frozenset([os.path.realpath(self.directory)]) if self.directory and self.segment_s else frozenset()


class Recorder:
    """Stores each packet at once in a part; ``finish`` makes the file of it.

    What another run has left behind at the same place (last night's crash) is finished while this one records: as
    ``out.recovered-<UTC time>.mp4``, or in a directory as the file that it would have become.
    """

    accepts: ClassVar[Accepts] = "packets"
    lossless: ClassVar[bool] = True

    def __init__(self, config: Config, context: SinkContext) -> None:
        self._config = config
        self._context = context
        self._directory = config.directory or (config.path or Path()).parent
        self._source = context.source_id or context.name
        self._reset()

    def _reset(self) -> None:
        self._target = self._config.path
        self._own: dict[int, int] = {}
        """The parts of this run by number: the descriptor that keeps each locked."""
        self._number = 1
        self._stream: Stream | None = None
        self._writer: PartWriter | None = None
        self._done_s = NEVER_S
        self._recovery: threading.Thread | None = None
        self._strangers = contextlib.ExitStack()

    def open(self) -> float | None:
        """Raises ``ConfigError`` where the target exists, is being written by another run, or cannot be written."""
        self.close()
        self._reset()
        try:
            if self._config.directory:
                self._directory.mkdir(parents=True, exist_ok=True)
            left_behind = self._take_over()
            self._try_to_write()
        except OSError as error:
            raise ConfigError(
                f"sink {self._context.name}: cannot record to {self._directory}: {error.strerror}"
            ) from error
        if left_behind:
            self._recovery = threading.Thread(target=recover, args=(left_behind,), name="recovery", daemon=True)
            self._recovery.start()
        return None if self._done_s == NEVER_S else self._done_s

    def start(self, stream: Stream) -> None:
        self._end_part()
        self._stream = stream

    def wish(self, time_s: float) -> Wish:
        if time_s <= self._done_s:
            return Wish.NOTHING
        return Wish.PACKET if self._writer else Wish.KEYFRAME

    def write(self, packet: Packet) -> float | None:
        """Raises ``DiskFull``, and ``RuntimeFailure`` where the disk is gone; what was stored before stays playable."""
        if packet.time_s <= self._done_s:  # another sink was behind when the last process died
            return self._done_s
        try:
            if self._writer is None:
                self._writer = self._begin_part(packet)
            self._writer.append(packet)
        except OSError as error:
            raise (DiskFull if is_full(error) else RuntimeFailure)(
                f"sink {self._context.name}: cannot write the recording in {self._directory}: {error.strerror}; "
                "what was recorded before is kept"
            ) from error
        return packet.time_s

    def finish(self) -> None:
        """Raises ``RuntimeFailure`` with the parts still there, which can be played."""
        self._end_part()
        if self._recovery is not None:
            self._recovery.join()
        target = self._target
        try:
            found = list(self._found(target)) if target else []
            nothing = target is None or not (found or finished(target, self._context.run_id))
        except OSError as error:
            raise RuntimeFailure(f"sink {self._context.name}: the recording is lost: {error}") from error
        if target is None or nothing:
            log.info("sink %s: there was no frame of %s, so there is no file", self._context.name, self._source)
            return
        try:
            made = settle(found, target, overwrite=self._config.overwrite)
        except OSError as error:
            raise RuntimeFailure(
                f"sink {self._context.name}: cannot make {target}: {error.strerror}; the recording is in "
                + ", ".join(str(each.part.path) for each in found)
            ) from error
        if made:
            log.info("sink %s: recorded %s", self._context.name, ", ".join(map(str, made)))
        if len(made) > 1:
            log.info("sink %s: the picture's size changed, hence several files", self._context.name)

    def close(self) -> None:
        self._end_part()
        for fd in self._own.values():
            os.close(fd)
        self._own = {}
        if self._recovery is not None:
            self._recovery.join()
            self._recovery = None
        self._strangers.close()

    def _try_to_write(self) -> None:
        """Raises ``ConfigError`` or ``OSError`` now rather than at the first frame."""
        target = self._config.path or self._directory / f"{self._source}.mp4"
        if target.exists() and not target.is_file():
            raise ConfigError(f"sink {self._context.name}: {target} is not a file")
        trial = target.with_name(f".{target.name}.trial")
        trial.touch()
        trial.unlink()

    def _take_over(self) -> list[tuple[Path, list[Found]]]:
        """Finds what this run's earlier processes have stored; returns what other runs have left, and its names."""
        others: list[tuple[Path, list[Found]]] = []
        if self._config.directory:
            memory = self._memory()
            self._target = self._directory / memory.read_text() if memory.exists() else None
            for target in abandoned(self._directory, self._source) - {self._target}:
                with contextlib.suppress(BlockingIOError):  # another run is writing it
                    others.append((target, list(self._claim_all(target))))
        if self._target is not None:
            others += self._take_over_target(self._target)
        for _, found in others:
            for each in found:
                self._strangers.callback(os.close, each.fd)
        return [(target, found) for target, found in others if found]

    def _take_over_target(self, target: Path) -> list[tuple[Path, list[Found]]]:
        run_id = self._context.run_id
        try:
            found = list(self._claim_all(target))
        except BlockingIOError as error:
            raise ConfigError(f"sink {self._context.name}: another run is recording to {target}") from error
        own = [each for each in found if each.part.run_id == run_id]
        strangers = sorted((each for each in found if each.part.run_id != run_id), key=lambda each: each.part.run_id)
        done = finished(target, run_id)
        self._own = {each.part.number: each.fd for each in own}
        self._done_s = max([*(each.part.last_time_s for each in own), *(made.last_time_s for made in done), NEVER_S])
        self._number = 1 + max([*part_paths(target), *(made.number for made in done)], default=0)
        if target.exists() and not (own or done or self._config.overwrite):
            for each in strangers:
                self._strangers.callback(os.close, each.fd)
            raise ConfigError(
                f"sink {self._context.name}: {target} exists; name another file, or overwrite it "
                "(--overwrite; overwrite: true); what is started again and again, like a service, records in a "
                "directory (directory instead of path)"
            )
        groups = [list(group) for _, group in groupby(strangers, key=lambda each: each.part.run_id)]
        return [(recovered_name(target, group[0].part), group) for group in groups]

    def _claim_all(self, target: Path) -> Iterator[Found]:
        """Every part of ``target``, locked. Raises ``BlockingIOError`` where one is being written."""
        with contextlib.ExitStack() as undo:
            found: list[Found] = []
            for number, path in part_paths(target).items():
                if (each := claim(path, number)) is not None:
                    undo.callback(os.close, each.fd)
                    found.append(each)
            undo.pop_all()
        return iter(found)

    def _memory(self) -> Path:
        """Where a later process of this run finds the name that was chosen in the directory."""
        return self._context.state_dir / "recording"

    def _choose_target(self, packet: Packet) -> Path:
        stem = f"{self._source}-{utc_name(packet.wall_ns)}"
        paths = (self._directory / f"{stem}{suffix}.mp4" for suffix in chain([""], map("-{}".format, count(2))))
        target = next(path for path in paths if not path.exists() and not part_paths(path))
        new = self._memory().with_suffix(".new")
        new.write_text(target.name)
        new.replace(self._memory())
        return target

    def _begin_part(self, packet: Packet) -> PartWriter:
        """Goes on in the newest part where its pictures are of the same kind."""
        if self._stream is None:
            raise AssertionError("start comes before write")
        if self._target is None:
            self._target = self._choose_target(packet)
        last = max(self._own, default=0)
        found = next(self._found(self._target, last), None)
        if found is None or found.part.contents.codec != fmp4.codec(self._stream):
            found = None
            self._number = max(self._number, last + 1)
        else:
            self._number = last
            del self._own[last]
        said = {"run": self._context.run_id, "part": self._number, "source": self._source}
        return PartWriter(part_path(self._target, self._number), self._stream, said, found)

    def _found(self, target: Path, first: int = 1) -> Iterator[Found]:
        """This run's parts from number ``first`` on, as they stand on the disk now."""
        for number, fd in sorted(self._own.items()):
            if number >= first and (part := read_part(part_path(target, number), number)) is not None:
                yield Found(fd, part)

    def _end_part(self) -> None:
        if self._writer is not None:
            if (fd := self._writer.release()) is not None:  # it stays locked until the recording is done
                self._own[self._number] = fd
            self._writer = None


def create(config: Config, context: SinkContext) -> Recorder | Segments | Originals:
    if config.directory is None or config.segment_s is None:
        return Recorder(config, context)
    segments = Segments(Storage(config.directory, config, context), config.segment_s, context)
    return segments if context.packets is None else Originals(segments, context.packets, context)
