"""Makes events as a rule makes them."""

from __future__ import annotations

from typing import Any

from pipeline.sinks.schema import to_json
from pipeline.types import Event, Phase

LOG_ID = "01KAP5ZK7Q0000000000000000"
OTHER_LOG_ID = "01KAP5ZK7Q0000000000000001"


def event(track: int, phase: Phase = "new", source: str = "gate", stream_s: float = 1.5, **more: Any) -> Event:
    return Event(
        id=f"01KAP5ZK7QABCDEF{track:010d}",
        phase=phase,
        kind="no_mask",
        source=source,
        track=track,
        t_start="2026-11-18T11:06:40.000Z",
        t_end="2026-11-18T11:06:42.500Z" if phase == "end" else None,
        stream_s=stream_s,
        confidence=0.875,
        reason="gone" if phase == "end" else None,
        **more,
    )


def numbered(seq: int, log_id: str = LOG_ID, source: str = "gate") -> dict[str, Any]:
    return to_json(event(seq, source=source), log_id=log_id, seq=seq)
