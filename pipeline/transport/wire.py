"""Messages ↔ bytes: msgpack by msgspec, versioned, decoded strictly. Nothing else reads or writes wire bytes."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from pipeline.types import Event, Health, Result

WIRE_VERSION = 1

_encoder = msgspec.msgpack.Encoder()
_results = msgspec.msgpack.Decoder(Result)
_events = msgspec.msgpack.Decoder(Event)
_health = msgspec.msgpack.Decoder(tuple[int, Health])

T = TypeVar("T")


class MalformedError(ValueError):
    """Bytes that are no message of this version; whoever received them counts them and goes on."""


def encode(message: Any) -> bytes:
    """Any message, or plain data, as msgpack."""
    return _encoder.encode(message)


def decode_result(raw: bytes) -> Result:
    """Raises ``MalformedError``."""
    return _decode(_results, raw)


def decode_event(raw: bytes) -> Event:
    """Raises ``MalformedError``."""
    return _decode(_events, raw)


def encode_health(health: Health) -> bytes:
    return _encoder.encode((WIRE_VERSION, health))


def decode_health(raw: bytes) -> Health:
    """Raises ``MalformedError``, also for another wire version."""
    version, health = _decode(_health, raw)
    if version != WIRE_VERSION:
        raise MalformedError(f"wire version {version}, this program speaks {WIRE_VERSION}")
    return health


def _decode(decoder: msgspec.msgpack.Decoder[T], raw: bytes) -> T:
    try:
        return decoder.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedError(str(error)) from error
