from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.errors import ConfigError, StartupError
from pipeline.sinks.events_client import Subscription, subscribe
from pipeline.sinks.kinds import zeromq
from tests.unit.sinks.events import LOG_ID, numbered
from tests.unit.sinks.recordings import context


@pytest.fixture
def address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def publisher(tmp_path: Path, address: str) -> Iterator[zeromq.Publisher]:
    sink = zeromq.create(zeromq.Config(bind=address), context(tmp_path))
    sink.open(LOG_ID)
    yield sink
    sink.close()


class Listener:
    """A subscriber in a thread of its own, which is connected once an event has reached it."""

    def __init__(self, address: str, publisher: zeromq.Publisher) -> None:
        self.events: list[int] = []
        self._subscription = Subscription(address, idle_timeout_s=10)
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()
        while not self.events:
            publisher.write(numbered(1))
            time.sleep(0.01)

    def _listen(self) -> None:
        for event in self._subscription:
            if event["seq"] == 1_000_000:
                break
            self.events.append(event["seq"])

    def end(self) -> list[int]:
        self._thread.join()
        self._subscription.close()
        return [seq for seq in self.events if seq > 1]


def test_plain_zeromq_reads_it(publisher: zeromq.Publisher, address: str) -> None:
    with zmq.Context() as zmq_context, zmq_context.socket(zmq.SUB) as plain:
        plain.subscribe("event.no_mask.gate.")
        plain.connect(address)
        while not plain.poll(10):
            publisher.write(numbered(1, source="gate2"))
            publisher.write(numbered(2))
        topic, body = plain.recv_multipart()
        plain.linger = 0
    assert topic == b"event.no_mask.gate."
    assert json.loads(body) == numbered(2)


def test_the_last_events_of_a_short_run_are_delivered(publisher: zeromq.Publisher, address: str) -> None:
    listener = Listener(address, publisher)
    for seq in [*range(2, 2000), 1_000_000]:
        publisher.write(numbered(seq))
    publisher.close()
    assert listener.end() == list(range(2, 2000))


def test_a_subscriber_connects_again_by_itself(tmp_path: Path, publisher: zeromq.Publisher, address: str) -> None:
    listener = Listener(address, publisher)
    publisher.close()
    again = zeromq.create(zeromq.Config(bind=address), context(tmp_path, restarted=True))
    again.open(LOG_ID)
    while 2 not in listener.events:
        again.write(numbered(2))
        time.sleep(0.01)
    again.write(numbered(1_000_000))
    assert 2 in listener.end()
    again.close()


def test_a_subscriber_that_never_reads_holds_nobody_up(publisher: zeromq.Publisher, address: str) -> None:
    with zmq.Context() as zmq_context, zmq_context.socket(zmq.SUB) as deaf:
        deaf.subscribe("")
        deaf.rcvhwm = 1
        deaf.connect(address)
        while not deaf.poll(10):
            publisher.write(numbered(1))
        start_s = time.monotonic()
        for seq in range(30_000):
            publisher.write(numbered(seq))
        assert time.monotonic() - start_s < 5
        publisher.close()
        assert time.monotonic() - start_s < 5 + zeromq.FAREWELL_S
        deaf.linger = 0


def test_a_port_in_use_is_named(tmp_path: Path, publisher: zeromq.Publisher, address: str,
                                monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(zeromq, "BIND_PATIENCE_S", 0.1)
    second = zeromq.create(zeromq.Config(bind=address), context(tmp_path))
    with pytest.raises(StartupError, match=f"{address}: the port is in use"):
        second.open(LOG_ID)
    second.close()


@pytest.mark.parametrize(
    "bind", ["tcp://0.0.0.0:5556", "tcp://*:5556", "tcp://192.168.1.5:5556", "tcp://[::]:5556", "tcp://host:5556",
             "ipc:///tmp/a", "tcp://127.0.0.1", "tcp://127.0.0.1:0", "tcp://127.0.0.1:99999", ""]
)  # fmt: skip
def test_only_addresses_of_this_machine_are_taken(bind: str) -> None:
    with pytest.raises(ValidationError, match=r"needs keys: not supported yet|is not an address like"):
        zeromq.Config(bind=bind)


def test_a_port_is_claimed() -> None:
    assert zeromq.Config().bind == "tcp://127.0.0.1:5556"
    assert zeromq.Config(bind="tcp://localhost:7000").claims() == {("tcp", "7000")}
    assert zeromq.Config(bind="tcp://[::1]:7000").claims() == {("tcp", "7000")}


def test_a_wrong_address_is_refused() -> None:
    with pytest.raises(ConfigError, match="is not an address"):
        next(subscribe("127.0.0.1:5556"))


def test_nobody_there_is_no_error(address: str) -> None:
    assert list(subscribe(address, idle_timeout_s=0.1)) == []
    assert list(subscribe(address, stop=lambda: True)) == []


def test_malformed_messages_are_skipped_and_counted(address: str) -> None:
    good = [b"event.no_mask.gate.", json.dumps(numbered(2)).encode()]
    bad = [[b"event."], [b"event.", b"{}"], [*good, b"more"], [b"event.no_mask.yard.", good[1]], [good[0], b"\xff" * 9]]
    with zmq.Context() as zmq_context, zmq_context.socket(zmq.PUB) as rude, Subscription(address) as subscription:
        rude.bind(address)
        rude.linger = 0
        events = iter(subscription)
        found: list[int] = []
        reader = threading.Thread(target=lambda: found.append(next(events)["seq"]))
        reader.start()
        while reader.is_alive():
            for message in [*bad, good]:
                rude.send_multipart(message)
            reader.join(0.02)
        assert found == [2]
        while subscription.malformed < len(bad):
            next(events)


_pieces = st.one_of(
    st.binary(max_size=64),
    st.just(b"event.no_mask.gate."),
    st.builds(lambda key, value: json.dumps({**numbered(1), key: value}).encode(),
              st.sampled_from(sorted(numbered(1))), st.recursive(st.none() | st.booleans() | st.floats() | st.integers()
              | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5)),
)  # fmt: skip


_FUZZED = Subscription("tcp://127.0.0.1:9")
_FUZZED.close()


@settings(max_examples=200, deadline=None)
@given(st.lists(_pieces, min_size=1, max_size=3))
def test_nothing_off_the_wire_crashes_a_subscriber(frames: list[bytes]) -> None:
    before = _FUZZED.malformed
    event = _FUZZED._take(frames)
    assert _FUZZED.malformed - before == (event is None)
    assert event is None or event["kind"] == "no_mask"
