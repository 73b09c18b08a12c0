"""Parts into one file, by remuxing: nothing is encoded again, every frame keeps its time.

A joined file says in its ``comment`` which parts of which run it was made of. So a process that is killed anywhere in
between is simply followed by another that does the same again: what is joined is seen, and only removed.
"""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import count, groupby
from pathlib import Path
from typing import Any

import av
from av.container import OutputContainer
from av.video.stream import VideoStream

from pipeline.sinks import fmp4
from pipeline.sinks.parts import USUAL_FRAME_TICKS, Part
from pipeline.sinks.sink import CLOCK_HZ

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Summary:
    """What a finished file says of itself: the run, the numbers of the parts in it, its newest frame."""

    run_id: str
    numbers: frozenset[int]
    last_time_s: float


def settle(parts: Sequence[Part], target: Path, *, overwrite: bool = False) -> list[Path]:
    """Makes the parts of one run (in order) into ``target`` and removes them. Returns the files made now.

    Parts of different size cannot share a track: they become ``out.2.mp4`` and so on, and so does what has no room to
    be joined. Raises ``OSError`` with the parts still there, and may be called again after that or after a kill.
    """
    made: list[Path] = []
    for _, group in groupby(parts, key=lambda part: part.contents.codec):
        together = list(group)
        done = finished(target, together[0].run_id)
        if any({part.number for part in together} <= said.numbers for said in done.values()):
            continue
        path = _free_name(target, done, overwrite=overwrite)
        try:
            _join(together, path)
            made.append(path)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            made += _rename(together, target, overwrite=overwrite)
    for part in parts:
        part.path.unlink(missing_ok=True)
    _sync(target.parent)
    return made


def finished(target: Path, run_id: str) -> dict[Path, Summary]:
    """The files under the names of ``target`` that this run has made already."""
    found: dict[Path, Summary] = {}
    for path in _names(target):
        if not path.exists():
            break
        said = _summary(path)
        if said is not None and said.run_id == run_id:
            found[path] = said
    return found


def unfinished(target: Path) -> Path:
    """Where ``target`` stands while it is made."""
    return target.with_name(f".{target.name}.joining")


def _names(target: Path) -> Iterator[Path]:
    """``out.mp4``, ``out.2.mp4``, ``out.3.mp4``, …"""
    yield target
    for number in count(2):
        yield target.with_name(f"{target.stem}.{number}{target.suffix}")


def _free_name(target: Path, done: dict[Path, Summary], *, overwrite: bool) -> Path:
    return next(path for path in _names(target) if path not in done and (overwrite or not path.exists()))


def _summary(path: Path) -> Summary | None:
    try:
        contents = fmp4.read(path)
        if contents is not None:
            said: dict[str, Any] = contents.description
            return Summary(said["run"], frozenset([said["part"]]), contents.last.time_s)
        with av.open(str(path)) as file:
            said = json.loads(file.metadata.get("comment", "{}"))
            return Summary(said["run"], frozenset(said["parts"]), float(said["last_time_s"]))
    except (OSError, av.error.FFmpegError, ValueError, KeyError, TypeError):
        return None  # somebody else's file


def _rename(parts: Sequence[Part], target: Path, *, overwrite: bool) -> list[Path]:
    """Without room for a second copy each part becomes a file of its own: fragmented, but whole and playable."""
    log.warning("%s: no room to join the recording; each of its parts becomes a file of its own", target)
    made: list[Path] = []
    for part in parts:
        path = _free_name(target, finished(target, part.run_id), overwrite=overwrite)
        part.path.replace(path)
        made.append(path)
    return made


def _join(parts: Sequence[Part], target: Path) -> None:
    """All frames of parts of one codec into one file, the first at 0; under its name only when it is whole."""
    temporary = unfinished(target)
    try:
        _remux(parts, temporary)
        temporary.replace(target)
    except av.error.FFmpegError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(getattr(error, "errno", None) or errno.EIO, f"{target.name}: {error}") from error
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    _sync(target.parent)


def _remux(parts: Sequence[Part], path: Path) -> None:
    said = {"run": parts[0].run_id, "parts": [part.number for part in parts], "last_time_s": parts[-1].last_time_s}
    # the file is Python's: FFmpeg does not let go of its own after an error
    with path.open("wb") as file:
        with av.open(str(parts[0].path)) as template, av.open(file, "w", format="mp4") as output:
            output.metadata["comment"] = json.dumps(said)
            track = output.add_stream_from_template(template.streams.video[0], opaque=True)
            waiting: av.Packet[VideoStream] | None = None
            for packet in _packets(parts, track):
                if waiting is not None:
                    _mux(output, waiting, packet.pts)
                waiting = packet
            if waiting is not None:
                _mux(output, waiting, None)
        file.flush()
        os.fsync(file.fileno())


def _packets(parts: Sequence[Part], track: VideoStream) -> Iterator[av.Packet[VideoStream]]:
    start, last = parts[0].contents.first.pts, -1
    for part in parts:
        with fmp4.mapped(part.path) as data:
            for frame in fmp4.frames(data, part.contents.begin):
                packet: av.Packet[VideoStream] = av.Packet(data[frame.offset : frame.offset + frame.size])  # type: ignore[assignment]
                packet.stream, packet.time_base = track, Fraction(1, CLOCK_HZ)
                last = max(last + 1, frame.pts - start)
                packet.pts = packet.dts = last
                packet.is_keyframe = frame.keyframe
                yield packet


def _mux(output: OutputContainer, packet: av.Packet[VideoStream], next_pts: int | None) -> None:
    assert packet.pts is not None
    packet.duration = USUAL_FRAME_TICKS if next_pts is None else next_pts - packet.pts
    output.mux_one(packet)


def _sync(path: Path) -> None:
    """Waits until a file, or the names in a directory, are on the disk itself."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
