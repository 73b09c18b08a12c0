"""What a sink is. Packet sinks take what the annotator encoded; event sinks take what the event log numbered; view
sinks watch, and take what they like (``view``).

A sink's module has three names: ``Config`` (a ``SinkConfig``), one class, and ``create(config, context)``. The class
says what it takes (``accepts``), a packet sink also whether it may skip (``lossless``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from pipeline.plugins import PluginConfig
from pipeline.types import I420, Event, Layout, Result

Accepts = Literal["packets", "events", "views"]

CLOCK_HZ = 90_000
"""Ticks a second of ``Packet.pts``, the usual clock of video transports."""


class SinkConfig(PluginConfig):
    """What a sink reads from the configuration, and what can be known of the sink before it is built."""

    accepts: ClassVar[Accepts]
    takes_packets: ClassVar[bool] = False
    """Of a sink that watches: whether it may take the annotator's packets."""
    shows_events: ClassVar[bool] = False
    """Of a sink that watches: whether it looks into the event log, so that there must be one."""

    @property
    def untouched(self) -> bool:
        """Whether it stores what the source sends, as it is."""
        return False

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
    labels: the model's class names by class id. tell: puts an event into the event log, where the source has one; what
    it was called with before a kill -9 comes there, and the same event told again counts once. packets: where the
    source's own packets are (``packet_ring``), of a sink that stores them ``untouched``.
    site: its name. sources: whose events, event_log: out of which file (event sinks only).
    """

    name: str
    run_id: str
    state_dir: Path
    source_id: str | None = None
    restarted: bool = False
    labels: tuple[str, ...] = ()
    tell: Callable[[Event], None] = lambda _: None
    packets: Path | None = None
    site: str = ""
    sources: tuple[str, ...] = ()
    event_log: Path | None = None


@dataclass(frozen=True, slots=True)
class Packet:
    """One encoded picture: an access unit of H.264 in Annex B, without the parameter sets, which are the stream's.

    keyframe: decoding can start here. seq, time_s, wall_ns: of the frame. pts: ``time_s`` in ``CLOCK_HZ``, strictly
    increasing; there are no B-frames, so it is the decoding time as well. delay: where there are (a camera's own
    packets), by how much the picture is shown after ``pts``, which is the decoding time then.
    """

    data: bytes
    keyframe: bool
    seq: int
    pts: int
    time_s: float
    wall_ns: int
    delay: int = 0


@dataclass(frozen=True, slots=True)
class Stream:
    """What the packets behind it are.

    layout: of the frames; the coded size is the next even one. extradata: the parameter sets (SPS, PPS) in Annex B.
    codec: the annotator's own packets are always H.264.
    """

    layout: Layout
    extradata: bytes
    codec: Literal["h264", "hevc"] = "h264"

    @property
    def coded_size(self) -> tuple[int, int]:
        """Width and height in the bit stream: 4:2:0 has no odd ones, so the last column or row stands twice there."""
        return self.layout.width + self.layout.width % 2, self.layout.height + self.layout.height % 2


class Wish(IntEnum):
    """What a packet sink wants of a frame. The most demanding sink decides; where all want nothing, nothing is drawn
    and nothing encoded.
    """

    NOTHING = 0
    PACKET = 1
    KEYFRAME = 2


class PacketSink(Protocol):
    """An output of one source's annotator, inside its process. ``lossless`` ones hold a file source back.

    A ``RuntimeFailure`` takes out this sink alone; the others go on.
    """

    accepts: ClassVar[Accepts]
    lossless: ClassVar[bool]

    def open(self) -> float | None:
        """Takes up what an earlier process left.

        Returns the ``time_s`` of the newest frame that is safely stored (None: nothing yet): frames up to it are
        not written again.
        """

    def start(self, stream: Stream) -> None:
        """A new encoder: the next packet is a keyframe of this stream."""

    def wish(self, time_s: float) -> Wish:
        """What it wants of the frame of that time. Behind a frame that nobody wanted comes a keyframe."""

    def write(self, packet: Packet) -> float | None:
        """Takes every packet that there is, wanted or not, in order.

        Returns the ``time_s`` up to which everything survives kill -9 now.
        """

    def finish(self) -> None:
        """The stream has ended well (or was stopped by the user): makes the final file. Safe after a restart."""

    def close(self) -> None:
        """Lets go without finishing; what is stored stays usable. Safe twice, and after a failed ``open``."""


@runtime_checkable
class Looker(Protocol):
    """A packet sink that looks at the pictures as well."""

    def look(self, image: I420, result: Result, *, drawn: bool) -> None:
        """Called twice for each frame that will be a packet: with what may leave the machine of it, then with the boxes
        on it. The planes are good until it returns.
        """


@runtime_checkable
class Follower(Protocol):
    """A packet sink that is told every result, also of frames that nobody draws."""

    def follow(self, result: Result) -> None:
        """Called in order, before anything else happens to the frame."""


@runtime_checkable
class Keeper(Protocol):
    """A packet sink that stores the frames by another way than ``write``. Opened again after it has failed it may still
    find those of its outage.
    """

    def lacking(self, *, at_end: bool) -> Sequence[int]:
        """The numbers of the frames that it has not stored and never will, as far as it knows and has not said before.

        at_end: it has finished, or failed and will not be opened again: nothing else will be stored.
        """


@runtime_checkable
class Listener(Protocol):
    """A packet sink that hears what the rules say of its source."""

    heard: int
    """The number of the next event; a restarted process takes up where the last one was."""

    def hear(self, event: Event) -> None:
        """Called in order, before the frame that the event speaks of is handed out."""


class EventSink(Protocol):
    """A transport behind the event log, in a thread of its own. It gets every event of its sources in the order of
    ``seq``; the other numbers are not for it.
    """

    accepts: ClassVar[Accepts]

    def open(self, log_id: str) -> int | None:
        """Returns the number of the newest event of this log that it knows it has delivered.

        0 or None: it knows of none; where it was when its process ended counts then.
        Does not wait for the far side, which may be down.
        """

    def write(self, event: dict[str, Any]) -> None:
        """Returns when one event (the JSON form) has been delivered.

        Raises ``Disconnected`` to be called again with the same one after a back-off, ``RuntimeFailure`` to be left
        alone from then on.
        """

    def beat(self, seq: int) -> None:
        """Everything up to ``seq`` has been written or is not for this sink: said behind some events, and every second.

        Raises ``Disconnected`` to be called again after a back-off.
        """

    def close(self) -> None:
        """Lets go, after a short time for what is still on its way. Safe twice, and after a failed ``open``."""
