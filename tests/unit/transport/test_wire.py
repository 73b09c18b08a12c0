"""What comes off the wire is a valid message or a ``MalformedError``, never anything else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.transport import wire
from pipeline.types import FrameRef, Health, Result, Track

HEALTH = Health("capture/gate", 7, "running", 3, {"frames": 12.0})
RESULT = Result(FrameRef("gate", 1, 0, 0.04, 5, 6), (Track(1, 0, 0.5, (0.0, 0.0, 1.0, 1.0), detected=True),), True)
DECODERS = (wire.decode_health, wire.decode_result, wire.decode_event)


def test_messages_come_back() -> None:
    assert wire.decode_health(wire.encode_health(HEALTH)) == HEALTH
    assert wire.decode_result(wire.encode(RESULT)) == RESULT


def test_a_frame_reference_is_small() -> None:
    assert len(wire.encode(FrameRef("entrance", 2**31, 3, 1e6 / 3, 2**62, 2**62))) <= 60


def test_another_version_is_refused() -> None:
    with pytest.raises(wire.MalformedError, match="version 99"):
        wire.decode_health(wire.encode((99, HEALTH)))


@given(st.binary(max_size=300))
def test_noise_is_malformed(raw: bytes) -> None:
    for decode in DECODERS:
        with pytest.raises(wire.MalformedError):
            decode(raw)


@given(st.data())
def test_damaged_messages_are_valid_or_malformed(data: st.DataObject) -> None:
    raw = bytearray(data.draw(st.sampled_from([wire.encode_health(HEALTH), wire.encode(RESULT)])))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(raw[: data.draw(st.integers(0, len(raw)))])
    for decode in DECODERS:
        try:
            decode(cut)
        except wire.MalformedError:
            continue
