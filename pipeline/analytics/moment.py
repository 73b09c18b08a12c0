"""One instant on both clocks, and how it is written in events."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec

from pipeline.types import FrameRef


class Moment(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """stream_s: the source's own clock, for every decision. wall_ns: since 1970, for people."""

    stream_s: float
    wall_ns: int

    @classmethod
    def of(cls, frame: FrameRef) -> Moment:
        return cls(frame.time_s, frame.wall_ns)


def rfc3339(wall_ns: int) -> str:
    """UTC with milliseconds."""
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=wall_ns // 1_000_000)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"
