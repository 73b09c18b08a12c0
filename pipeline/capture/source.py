"""What a source is: pictures out of a file, a test pattern or a camera."""

from __future__ import annotations

from typing import Literal, Protocol

from pipeline.types import Picture

Pacing = Literal["lossless", "paced", "live"]
"""How a source meets time.

lossless: pictures are there at once; capture waits for the slowest lossless reader.
paced: pictures are there at once; capture holds each until its ``time_s`` has come, then overwrites like a camera.
live: ``read`` itself waits for the next picture; capture overwrites.
"""


class Source(Protocol):
    """Opened once, read until the end, closed (also after a failed ``open``, and twice without harm)."""

    pacing: Pacing

    def open(self) -> None:
        """Raises ``ConfigError`` (not a video, not there), ``Disconnected`` (try again) or ``StartupError``."""

    def seek(self, seq: int, last_s: float | None = None) -> None:
        """Goes on at picture ``seq`` (0 is the first), with the pictures and times that an unbroken read would give.

        Called at most once, after ``open`` and before the first ``read``, by a capture that is restarted. last_s:
        ``time_s`` of picture ``seq - 1`` where the caller knows it; with it a file may find a short cut instead of
        decoding everything before. A source that cannot go back in time (a camera, a test pattern in real time) gives
        its next picture instead. Past the end the next ``read`` says what it says there.
        """

    def read(self) -> Picture | None:
        """The next picture, or None at the good end.

        Raises ``SourceBroken`` where a file breaks off and ``Disconnected`` where a live source goes away.
        """

    def close(self) -> None: ...

    @property
    def start_wall_ns(self) -> int | None:
        """Wall clock of stream time 0 where the source knows it (a file's creation time), else None."""

    @property
    def expected_frames(self) -> int | None:
        """About how many pictures will come, for progress; None where nobody knows. Never relied upon."""
