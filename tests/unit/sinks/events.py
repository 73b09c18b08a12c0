"""Makes events as a rule makes them."""

from __future__ import annotations

from typing import Any

import msgspec

from pipeline.sinks.schema import to_json
from pipeline.types import Event, Phase

LOG_ID = "01KAP5ZK7Q0000000000000000"
OTHER_LOG_ID = "01KAP5ZK7Q0000000000000001"


def event(track: int, phase: Phase = "new", source: str = "gate", stream_s: float = 1.5, **others: Any) -> Event:
    fields: dict[str, Any] = {
        "id": f"01KAP5ZK7QABCDEF{track:010d}",
        "kind": "no_mask",
        "t_start": "2026-11-18T11:06:40.000Z",
        "t_end": "2026-11-18T11:06:42.500Z" if phase == "end" else None,
        "confidence": 0.875,
        "reason": "gone" if phase == "end" else None,
    }
    return Event(phase=phase, source=source, track=track, stream_s=stream_s, **fields | others)


def numbered(seq: int, log_id: str = LOG_ID, source: str = "gate") -> dict[str, Any]:
    return told(event(seq, source=source), seq, log_id)


def told(event: Event, seq: int, log_id: str = LOG_ID) -> dict[str, Any]:
    """The event as a sink gets it."""
    return to_json(msgspec.json.encode(event), log_id=log_id, seq=seq)
