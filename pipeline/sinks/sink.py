"""What a sink is. Packet sinks take what the annotator encoded; event sinks take what the event log numbered."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipeline.types import Layout


@dataclass(frozen=True, slots=True)
class SinkContext:
    """What a sink may know of the run that it belongs to.

    state_dir: private to this sink, survives a restart of its process but not the run. source_id: whose packets
    (packet sinks only). restarted: this process follows one that died.
    """

    name: str
    run_id: str
    state_dir: Path
    source_id: str | None = None
    restarted: bool = False


@dataclass(frozen=True, slots=True)
class Packet:
    """One encoded picture. extradata: of the stream, constant within one ``stream_id``.

    pts_s: the frame's ``time_s``. seq: the frame's number. stream_id: opens anew when layout or process change.
    """

    data: bytes
    keyframe: bool
    seq: int
    time_s: float
    wall_ns: int


@dataclass(frozen=True, slots=True)
class Stream:
    """What the packets behind it are: H.264 in Annex B of this layout, with its codec parameters."""

    layout: Layout
    extradata: bytes


class PacketSink(Protocol):
    """An output of one source's annotator, inside its process. ``lossless`` ones hold a file source back."""

    lossless: bool

    def open(self) -> float | None:
        """Takes up what an earlier process left.

        Returns the ``time_s`` of the newest frame that is safely stored (None: nothing yet): frames up to it are
        not written again.
        """

    def start(self, stream: Stream) -> None:
        """A new encoder: the next packet is a keyframe of this stream."""

    def write(self, packet: Packet) -> float | None:
        """Returns the ``time_s`` up to which everything survives kill -9 now."""

    def finish(self) -> None:
        """The stream has ended well (or was stopped by the user): makes the final file. Safe after a restart."""

    def close(self) -> None:
        """Lets go without finishing; what is stored stays usable. Safe twice."""


class EventSink(Protocol):
    """A transport behind the event log, inside the events process. It gets every message in the order of ``seq``."""

    def open(self, log_id: str) -> int:
        """Returns the number of the newest event that it has already delivered of this log (0: none)."""

    def write(self, event: dict[str, Any]) -> None:
        """Delivers one event (the JSON form). Raises ``Disconnected`` to be called again with the same one later."""

    def close(self) -> None: ...
