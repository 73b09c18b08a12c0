"""``kind: recorder``: one source's annotated video into an MP4 file, and nothing is lost by kill -9."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from itertools import chain, count, groupby
from pathlib import Path
from typing import ClassVar

from pydantic import model_validator

from pipeline.errors import ConfigError, RuntimeFailure
from pipeline.sinks.joining import finished, settle, unfinished
from pipeline.sinks.parts import Part, PartWriter, claim, part_path, part_paths, read_part
from pipeline.sinks.recovery import abandoned, recover, recovered_name, utc_name
from pipeline.sinks.sink import Accepts, Packet, SinkConfig, SinkContext, Stream, Wish

log = logging.getLogger(__name__)


class Config(SinkConfig):
    """path: the file to write, ``*.mp4`` in a directory that exists; or directory: one file a run and source,
    ``<source>-<UTC time>.mp4``, in a directory that is made where it is missing.

    overwrite: at a good end, replace what stands at ``path``; without it the start is refused.
    """

    accepts: ClassVar[Accepts] = "packets"

    path: Path | None = None
    directory: Path | None = None
    overwrite: bool = False

    @model_validator(mode="after")
    def _one_place(self) -> Config:
        if (self.path is None) == (self.directory is None):
            raise ValueError("a recorder needs either path or directory")
        if self.path is not None and self.path.suffix.lower() != ".mp4":
            raise ValueError(f"{str(self.path)!r} does not end in .mp4: recordings are MP4 files")
        if self.directory is not None and self.overwrite:
            raise ValueError("overwrite goes with path: in a directory every recording has a new name")
        return self

    def claims(self) -> frozenset[tuple[str, str]]:
        return frozenset([("file", os.path.realpath(self.path))]) if self.path else frozenset()


class Recorder:
    """Stores each packet at once in a part; ``finish`` joins the parts into the one file.

    What another run has left behind at the same place (last night's crash) is joined while this one records: into
    ``out.recovered-<UTC time>.mp4``, or in a directory into the file that it would have become.
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
        self._parts: list[Part] = []
        self._stream: Stream | None = None
        self._writer: PartWriter | None = None
        self._number = 1
        self._done_s: float | None = None
        self._recovery: threading.Thread | None = None
        self._locks = contextlib.ExitStack()

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
        stored_s = [part.last_time_s for part in self._parts] + ([] if self._done_s is None else [self._done_s])
        return max(stored_s, default=None)

    def start(self, stream: Stream) -> None:
        self._end_part()
        self._stream = stream

    def wish(self, time_s: float) -> Wish:  # noqa: ARG002
        return Wish.PACKET

    def write(self, packet: Packet) -> float | None:
        """Raises ``RuntimeFailure`` where the disk is full or gone; what was stored before stays playable."""
        if self._done_s is not None and packet.time_s <= self._done_s:
            return self._done_s
        try:
            if self._writer is None:
                self._writer = self._new_part(packet)
            self._writer.append(packet)
        except OSError as error:
            raise RuntimeFailure(
                f"sink {self._context.name}: cannot write the recording in {self._directory}: {error.strerror}; "
                "what was recorded before is kept"
            ) from error
        return packet.time_s

    def finish(self) -> None:
        """Raises ``RuntimeFailure`` with the parts still there, which can be played."""
        self._end_part()
        if self._recovery is not None:
            self._recovery.join()
        run_id, target = self._context.run_id, self._target
        parts = [part for part in _parts_of(target) if part.run_id == run_id] if target else []
        if target is None or not (parts or finished(target, run_id)):
            log.info("sink %s: there was no frame of %s, so there is no file", self._context.name, self._source)
            return
        try:
            made = settle(parts, target, overwrite=self._config.overwrite)
        except OSError as error:
            raise RuntimeFailure(
                f"sink {self._context.name}: cannot make {target}: {error.strerror}; the recording is in "
                + ", ".join(str(part.path) for part in parts)
            ) from error
        if made:
            log.info("sink %s: recorded %s", self._context.name, ", ".join(map(str, made)))
        if len(made) > 1:
            log.info("sink %s: the picture's size changed, hence several files", self._context.name)

    def close(self) -> None:
        self._end_part()
        if self._recovery is not None:
            self._recovery.join()
            self._recovery = None
        self._locks.close()

    def _try_to_write(self) -> None:
        """Raises ``ConfigError`` or ``OSError`` now rather than at the first frame."""
        target = self._config.path or self._directory / f"{self._source}.mp4"
        if target.exists() and not target.is_file():
            raise ConfigError(f"sink {self._context.name}: {target} is not a file")
        trial = unfinished(target)
        trial.touch()
        trial.unlink()

    def _take_over(self) -> list[tuple[Path, list[Part]]]:
        """Finds what this run's earlier processes have stored; returns what other runs have left, and its names."""
        others: list[tuple[Path, list[Part]]] = []
        if self._config.directory:
            memory = self._memory()
            self._target = self._directory / memory.read_text() if memory.exists() else None
            for target in abandoned(self._directory, self._source) - {self._target}:
                with contextlib.suppress(BlockingIOError):  # another run is writing it
                    others.append((target, self._claim_all(target)))
            others = [(target, parts) for target, parts in others if parts]
        if self._target is None:
            return others
        try:
            parts = self._claim_all(self._target)
        except BlockingIOError as error:
            raise ConfigError(f"sink {self._context.name}: another run is recording to {self._target}") from error
        self._parts = [part for part in parts if part.run_id == self._context.run_id]
        done = finished(self._target, self._context.run_id)
        self._done_s = max((said.last_time_s for said in done.values()), default=None)
        if self._target.exists() and not (self._parts or done or self._config.overwrite):
            raise ConfigError(
                f"sink {self._context.name}: {self._target} exists; name another file, or overwrite it "
                "(--overwrite; overwrite: true)"
            )
        strangers = sorted((part for part in parts if part not in self._parts), key=lambda part: part.run_id)
        for _, group in groupby(strangers, key=lambda part: part.run_id):
            left = list(group)
            others.append((recovered_name(self._target, left), left))
        self._number = 1 + max(part_paths(self._target), default=0)
        return others

    def _claim_all(self, target: Path) -> list[Part]:
        """Every part of ``target``, locked until ``close``. Raises ``BlockingIOError`` where one is being written."""
        parts: list[Part] = []
        for number, path in part_paths(target).items():
            fd, part = claim(path, number)
            self._locks.callback(os.close, fd)
            if part is not None:
                parts.append(part)
        return parts

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

    def _new_part(self, packet: Packet) -> PartWriter:
        if self._stream is None:
            raise AssertionError("start comes before write")
        if self._target is None:
            self._target = self._choose_target(packet)
        # another sink of this source was behind when the last process died: these frames come again
        for part in self._parts:
            part.cut_from(packet.time_s)
        self._parts = []
        path = part_path(self._target, self._number)
        writer = PartWriter(path, self._stream, self._context.run_id, self._number)
        self._number += 1
        return writer

    def _end_part(self) -> None:
        if self._writer is not None:
            self._locks.callback(self._writer.close)  # it stays locked until the recording is done
            self._writer = None


def _parts_of(target: Path) -> list[Part]:
    parts = (read_part(path, number) for number, path in part_paths(target).items())
    return [part for part in parts if part is not None]


def create(config: Config, context: SinkContext) -> Recorder:
    return Recorder(config, context)
