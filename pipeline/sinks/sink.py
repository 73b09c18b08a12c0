"""What a sink is. Packet sinks take what the annotator encoded; event sinks take what the event log numbered.

A sink's module has three names: ``Config`` (a ``SinkConfig``), one class, and ``create(config, context)``. The class
says what it takes (``accepts``), a packet sink also whether it may skip (``lossless``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from pipeline.plugins import PluginConfig
from pipeline.types import Layout

Accepts = Literal["packets", "events"]

CLOCK_HZ = 90_000
"""Ticks a second of ``Packet.pts``, the usual clock of video transports."""


class SinkConfig(PluginConfig):
    """What a sink reads from the configuration, and what can be known of the sink before it is built."""

    accepts: ClassVar[Accepts]

    def claims(self) -> frozenset[tuple[str, str]]:
        """What nobody else on this machine may use at the same time: ``("tcp", "5556")``, ``("file", "/abs/path")``.

        Every instance claims for itself: a packet sink is built once for each source.
        """
        return frozenset()


@dataclass(frozen=True, slots=True)
class SinkContext:
    """What a sink may know of the run that it belongs to.

    state_dir: private to this sink (and this source), survives a restart of its process but not the run; it exists.
    source_id: whose packets (packet sinks only). restarted: this process follows one that died.
    """

    name: str
    run_id: str
    state_dir: Path
    source_id: str | None = None
    restarted: bool = False


@dataclass(frozen=True, slots=True)
class Packet:
    """One encoded picture: an access unit of H.264 in Annex B, without the parameter sets, which are the stream's.

    keyframe: decoding can start here. seq, time_s, wall_ns: of the frame. pts: ``time_s`` in ``CLOCK_HZ``, strictly
    increasing; there are no B-frames, so it is the decoding time as well.
    """

    data: bytes
    keyframe: bool
    seq: int
    pts: int
    time_s: float
    wall_ns: int


@dataclass(frozen=True, slots=True)
class Stream:
    """What the packets behind it are.

    layout: of the frames; the coded size is the next even one. extradata: the parameter sets (SPS, PPS) in Annex B.
    """

    layout: Layout
    extradata: bytes

    @property
    def coded_size(self) -> tuple[int, int]:
        """Width and height in the bit stream: 4:2:0 has no odd ones, so the last column or row stands twice there."""
        return self.layout.width + self.layout.width % 2, self.layout.height + self.layout.height % 2


class PacketSink(Protocol):
    """An output of one source's annotator, inside its process. ``lossless`` ones hold a file source back."""

    accepts: ClassVar[Accepts]
    lossless: ClassVar[bool]

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
        """Lets go without finishing; what is stored stays usable. Safe twice, and after a failed ``open``."""


class EventSink(Protocol):
    """A transport behind the event log, inside the events process. It gets every message in the order of ``seq``."""

    accepts: ClassVar[Accepts]

    def open(self, log_id: str) -> int | None:
        """Returns the number of the newest event that it has already delivered of this log (0: none).

        None: it cannot know; what the event log remembers for it counts.
        """

    def write(self, event: dict[str, Any]) -> None:
        """Delivers one event (the JSON form). Raises ``Disconnected`` to be called again with the same one later."""

    def close(self) -> None:
        """Lets go, after a short time for what is still on its way. Safe twice, and after a failed ``open``."""
