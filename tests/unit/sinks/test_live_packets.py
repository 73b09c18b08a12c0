"""Packets for whoever looks: nothing is sent to nobody, and whoever comes gets a place to start at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from pipeline.sinks import live
from pipeline.sinks.live import KEYFRAME, SUBSCRIBE, UNSUBSCRIBE, LivePackets
from pipeline.sinks.sink import Wish
from tests.conftest import temporary_base
from tests.runs import wait_until
from tests.unit.sinks.recordings import encode_with, new_encoder


@pytest.fixture
def base() -> Iterator[Path]:
    with temporary_base() as base:
        yield base


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield context
    context.destroy(0)


def subscriber(context: zmq.Context[zmq.Socket[bytes]], base: Path) -> zmq.Socket[bytes]:
    socket = context.socket(zmq.XSUB)
    socket.set_hwm(live.QUEUED_PACKETS_MAX)
    socket.connect(live.address(base, "gate"))
    socket.send(SUBSCRIBE)
    return socket


def test_it_is_wanted_while_somebody_subscribes(context: zmq.Context[zmq.Socket[bytes]], base: Path) -> None:
    sink = LivePackets(context, live.address(base, "gate"))
    sink.open()
    assert sink.wish(0) is Wish.NOTHING
    socket = subscriber(context, base)
    wait_until(lambda: sink.wish(0) is not Wish.NOTHING, "a subscriber")
    first, second = encode_with(new_encoder(), range(2))
    assert (first.keyframe, second.keyframe) == (True, False)
    assert sink.wish(0) is Wish.KEYFRAME  # whoever comes first starts there
    sink.write(second)
    assert sink.wish(0) is Wish.KEYFRAME
    sink.write(first)
    assert sink.wish(0) is Wish.PACKET
    socket.send(KEYFRAME)
    wait_until(lambda: sink.wish(0) is Wish.KEYFRAME, "the wish for a keyframe")
    socket.send(UNSUBSCRIBE)
    wait_until(lambda: sink.wish(0) is Wish.NOTHING, "its leaving")
    socket.close()
    sink.close()
    sink.close()


def test_what_is_sent_can_be_read_and_says_what_was_lost(context: zmq.Context[zmq.Socket[bytes]], base: Path) -> None:
    sink = LivePackets(context, live.address(base, "gate"))
    sink.open()
    socket = subscriber(context, base)
    wait_until(lambda: sink.wish(0) is not Wish.NOTHING, "a subscriber")
    encoder = new_encoder()
    sink.start(encoder.stream)
    sent = list(encode_with(encoder, range(10)))
    for packet in sent:
        sink.write(packet)
    got = [live.decode(socket.recv()) for _ in sent]
    assert [message.packet for message in got] == sent
    assert [message.number for message in got] == list(range(10))
    assert got[0].stream == encoder.stream
    assert [message.stream is not None for message in got] == [packet.keyframe for packet in sent]
    for packet in sent * 100:  # nobody reads; nothing waits and nothing grows
        sink.write(packet)
    numbers = []
    while socket.poll(200):
        numbers.append(live.decode(socket.recv()).number)
    assert numbers == sorted(set(numbers))
    assert 0 < len(numbers) < 1000
    socket.close()
    sink.close()


@pytest.mark.parametrize("garbage", [b"", b"\xc1", b"\x93\x01\x02\x03", b"\x80"])
def test_garbage_is_not_a_packet(garbage: bytes) -> None:
    with pytest.raises(ValueError, match="not a packet"):
        live.decode(garbage)
