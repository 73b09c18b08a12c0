"""An event as others see it: one JSON object, in the log, in files and on sockets. Later versions only add fields."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from pipeline.types import EvidenceKind, Phase

SCHEMA_VERSION = 2

_Ulid = Annotated[str, Meta(pattern="^[0-7][0-9A-HJKMNP-TV-Z]{25}$")]
_Name = Annotated[str, Meta(pattern="^[a-z0-9][a-z0-9_-]*$")]
_Time = Annotated[
    str,
    Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$", extra_json_schema={"format": "date-time"}),
]
_Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
_Share = Annotated[float, Meta(ge=0, le=1)]


class EvidenceRecord(msgspec.Struct, frozen=True):
    """One file that shows an episode; it is whole when it is told of."""

    kind: Annotated[EvidenceKind, Meta(description="the best face, an annotated picture, annotated video")]
    path: Annotated[str, Meta(description="on the machine that watches")]
    bytes: Annotated[int, Meta(ge=1)]
    sha256: _Sha256


class EventRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One phase in the life of an episode, as the event log has numbered it."""

    schema_version: Annotated[int, Meta(ge=1, description="2; higher versions only add fields")]
    log_id: Annotated[_Ulid, Meta(description="names the log that numbers the events; a new log counts from 1 again")]
    seq: Annotated[int, Meta(ge=1, description="place in that log: no number is missing and none comes twice")]
    id: Annotated[_Ulid, Meta(description="of the episode: the same in all its phases")]
    phase: Annotated[Phase, Meta(description="an episode begins, goes on, ends")]
    kind: Annotated[_Name, Meta(description="what it is about: no_mask, mask_removed, compliance, source_lost, …")]
    source: Annotated[_Name, Meta(description="the source that saw it")]
    track: Annotated[int | None, Meta(description="the face followed, within the run; null: not about one face")]
    t_start: Annotated[_Time, Meta(description="when the episode began, UTC")]
    t_end: Annotated[_Time | None, Meta(description="when it ended, UTC; null before the end")]
    stream_s: Annotated[float, Meta(description="the source's own clock at this phase, seconds")]
    confidence: Annotated[float, Meta(ge=0, le=1, description="of the newest sure look")]
    reason: Annotated[str | None, Meta(description="why it ended; of a lost source, why it was lost")]
    # since version 2
    number: Annotated[int, Meta(ge=0, description="tells the updates of an episode apart")] = 0
    t_update: Annotated[_Time | None, Meta(description="when this phase was known, UTC")] = None
    confidence_best: Annotated[_Share | None, Meta(description="the highest of the episode")] = None
    zone: Annotated[_Name | None, Meta(description="in which the rule looked; null: everywhere")] = None
    faces: Annotated[Annotated[int, Meta(ge=0)] | None, Meta(description="faces found there at this phase")] = None
    share: Annotated[_Share | None, Meta(description="of them without a mask, of rules about many")] = None
    model: Annotated[str | None, Meta(description="the network that said so")] = None
    model_sha256: Annotated[_Sha256 | None, Meta(description="of its file")] = None
    evidence: Annotated[tuple[EvidenceRecord, ...], Meta(description="files that became ready by this update")] = ()
    lost: Annotated[Annotated[int, Meta(ge=1)] | None, Meta(description="of kind events_lost: so many")] = None


class Position(msgspec.Struct, frozen=True):
    """On the topic ``cursor.``: of that log's numbers above ``since`` up to ``seq``, none is published here.

    Sent every second as well, with ``since`` as ``seq``: so far everything has been published.
    """

    log_id: str
    since: Annotated[int, Meta(ge=0)]
    seq: Annotated[int, Meta(ge=0)]


class Ask(msgspec.Struct, frozen=True):
    """What to ask a replay socket: events behind number ``after`` of that log.

    log_id: null for whichever log it is. after: null to learn only where the log stands. id: given back.
    """

    log_id: str | None = None
    after: Annotated[int, Meta(ge=0)] | None = None
    id: int = 0


class GapRecord(msgspec.Struct, frozen=True):
    """In the place of events that cannot be had any more; those from ``oldest`` on follow."""

    reason: Annotated[str, Meta(description="retention: they were removed; other_log: the numbers are another log's")]
    oldest: int


class Answer(msgspec.Struct, frozen=True):
    """Of that log's numbers above ``after`` up to ``upto``, ``events`` are all that are published here.

    newest: of the log; where it is above ``upto``, ask again.
    """

    log_id: str
    after: int
    upto: int
    newest: int
    events: list[msgspec.Raw]
    gap: GapRecord | None = None
    id: int = 0


def to_json(stored: bytes, *, log_id: str, seq: int) -> dict[str, Any]:
    """The object that stands for a stored ``Event`` under that number, its fields in the published order."""
    return {"schema_version": SCHEMA_VERSION, "log_id": log_id, "seq": seq, **msgspec.json.decode(stored)}


def event_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of one event."""
    _, definitions = msgspec.json.schema_components([EventRecord])
    event = definitions.pop("EventRecord")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **event, "title": "Event", "$defs": definitions}
