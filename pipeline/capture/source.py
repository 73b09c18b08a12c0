"""What a source is: pictures out of a file, a test pattern or a camera."""

from __future__ import annotations

from typing import Literal, Protocol

from pipeline.errors import Disconnected
from pipeline.types import Picture, SourceReason

Pacing = Literal["lossless", "paced", "live"]
"""How a source meets time.

lossless: pictures are there at once; capture waits for the slowest lossless reader.
paced: pictures are there at once; capture holds each until its ``time_s`` has come, then overwrites like a camera.
live: ``read`` itself waits for the next picture; capture overwrites, and connects again for ever.
"""


class SourceLost(Disconnected):
    """A live source is not there now; its text is for the log, its reason for everybody."""

    def __init__(self, text: str, reason: SourceReason) -> None:
        super().__init__(text)
        self.reason: SourceReason = reason


class Source(Protocol):
    """Opened once, read until the end, closed (also after a failed ``open``, and twice without harm)."""

    pacing: Pacing

    def open(self) -> None:
        """Raises ``ConfigError`` (not a video, not there), ``SourceLost`` (try again) or ``StartupError``."""

    def seek(self, seq: int, last_s: float | None = None) -> None:
        """Goes on at picture ``seq`` (0 is the first), with the pictures and times that an unbroken read would give.

        Called at most once, after ``open`` and before the first ``read``, by a capture that is restarted. last_s:
        ``time_s`` of picture ``seq - 1`` where the caller knows it; with it a file may find a short cut instead of
        decoding everything before. A source that cannot go back in time (a camera, a test pattern in real time) gives
        its next picture instead. Past the end the next ``read`` says what it says there.
        """

    def read(self) -> Picture | None:
        """The next picture, or None at the good end.

        Raises ``SourceBroken`` where a file breaks off and ``SourceLost`` where a live source goes away, which has no
        good end.
        """

    def close(self) -> None: ...

    @property
    def start_wall_ns(self) -> int | None:
        """Wall clock of stream time 0 where the source knows it (a file's creation time), else None."""

    @property
    def expected_frames(self) -> int | None:
        """About how many pictures will come, for progress; None where nobody knows. Never relied upon."""


class LiveSource(Source, Protocol):
    """A source that comes and goes. It is opened, read and closed by one thread, and looked at by others.

    ``time_s`` of its pictures is the monotonic clock of this machine. The first picture behind ``open`` is clean.
    """

    stall_s: float
    """How long without a packet is too long: ``open`` and ``read`` raise ``SourceLost`` then, whatever goes on."""
    reconnect_max_s: float
    """The longest wait between two attempts."""
    damage_advice: str
    """What to do where pictures arrive damaged; may be empty."""

    @property
    def heard_s(self) -> float:
        """Monotonic clock of the newest packet, or of the last ``open``."""

    @property
    def undecoded(self) -> int:
        """Pictures that came and were left out, because decoding could not keep up; since the source was made."""

    @property
    def renewed(self) -> bool:
        """Whether what the last attempt was made with (its login) has changed since."""
