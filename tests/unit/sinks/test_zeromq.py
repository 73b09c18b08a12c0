"""The publisher and its subscribers: ours, and what anybody writes with plain ZeroMQ."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import zmq
from pydantic import ValidationError

from pipeline import client
from pipeline.client import Gap, Keys, subscribe, subscribe_async
from pipeline.errors import ConfigError, StartupError
from pipeline.sinks import curve
from pipeline.sinks.event_log import EventLog
from pipeline.sinks.event_reader import EventReader
from pipeline.sinks.kinds import zeromq
from pipeline.sinks.sink import SinkContext
from tests.runs import free_port, wait_until
from tests.unit.sinks.events import OTHER_LOG_ID, event, numbered


class Site:
    """A log and the publisher behind it, without the thread between them."""

    def __init__(self, directory: Path, **options: Any) -> None:
        self.options = {"bind": f"tcp://127.0.0.1:{free_port()}", "replay_bind": f"tcp://127.0.0.1:{free_port()}"}
        self.options |= options
        self.log = EventLog(directory / "events.sqlite", "run-1")
        self.reader = EventReader(self.log.path)
        self.context = SinkContext("alerts", "run-1", directory, sources=("gate", "yard"), event_log=self.log.path)
        self.start()

    def start(self) -> None:
        self.publisher = zeromq.create(zeromq.Config.model_validate(self.options), self.context)
        self.publisher.open(self.log.log_id)

    @property
    def addresses(self) -> dict[str, Any]:
        """Where to subscribe."""
        return {"address": self.options["bind"], "replay": self.options["replay_bind"]}

    def append(self, *tracks: int, publish: bool = True) -> None:
        before = self.log.newest
        self.log.append([event(track) for track in tracks])
        if publish:
            for body in self.reader.after(before, len(tracks)):
                self.publisher.write(body)

    def close(self) -> None:
        self.publisher.close()
        self.reader.close()
        self.log.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with closing(Site(tmp_path)) as site:
        yield site


class Listener:
    """A subscriber in a thread of its own, until it has had the event of ``track`` 0."""

    def __init__(self, site: Site, **options: Any) -> None:
        self.tracks: list[int] = []
        self.gaps: list[Gap] = []
        self._options = {**site.addresses, "on_gap": self.gaps.append, "idle_timeout_s": 20, **options}
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        for heard in subscribe(**self._options):
            if heard.track == 0:
                break
            assert heard.track is not None
            self.tracks.append(heard.track)

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def end(self) -> list[int]:
        self._thread.join()
        return self.tracks


def test_a_subscriber_gets_what_comes_after_its_cursor_and_what_it_never_heard(site: Site) -> None:
    site.append(1, 2, 3)
    listener = Listener(site, cursor=(site.log.log_id, 1))
    site.append(4, 5, publish=False)
    site.publisher.beat(5)
    site.append(*range(6, 1000), 0)
    assert listener.end() == list(range(2, 1000))
    assert listener.gaps == []


def test_without_a_cursor_it_begins_with_what_comes_from_now_on(site: Site) -> None:
    site.append(*range(1, 50))
    listener = Listener(site)
    track = 100
    while not listener.tracks:
        site.append(track)
        track += 1
        time.sleep(0.02)
    site.append(0)
    first, *others = listener.end()
    assert first >= 100
    assert others == list(range(first + 1, track))


def test_plain_zeromq_reads_it_and_asks(site: Site) -> None:
    site.append(*range(1, 400))
    with zmq.Context() as context, context.socket(zmq.SUB) as plain, context.socket(zmq.REQ) as request:
        plain.linger = request.linger = 0
        plain.subscribe("event.no_mask.gate.")
        plain.connect(site.options["bind"])
        while not plain.poll(10):
            site.publisher.write(numbered(5, source="gate2"))
            site.publisher.write(numbered(6))
        topic, body = plain.recv_multipart()
        assert topic == b"event.no_mask.gate."
        assert json.loads(body) == numbered(6)
        request.connect(site.options["replay_bind"])
        request.send_json({"log_id": site.log.log_id, "after": 2})
        answer: Any = request.recv_json()
        assert [event["seq"] for event in answer["events"]] == list(range(3, 259))
        assert (answer["upto"], answer["newest"], answer["gap"]) == (258, 399, None)
        request.send_json({"log_id": OTHER_LOG_ID, "after": 2})
        answer = request.recv_json()
        assert answer["gap"] == {"reason": "other_log", "oldest": 1}
        assert answer["events"][0]["seq"] == 1


def test_a_subscriber_outlives_the_site(site: Site) -> None:
    listener = Listener(site, cursor=(site.log.log_id, 0))
    site.append(1, 2)
    while listener.tracks != [1, 2]:
        time.sleep(0.01)
    site.publisher.close()
    site.append(3, 4, publish=False)
    site.start()
    site.append(5, 0)
    while listener.is_alive:  # as is said every second
        site.publisher.beat(site.log.newest)
        time.sleep(0.05)
    assert listener.end() == [1, 2, 3, 4, 5]


def test_a_gap_is_told_before_what_follows(site: Site) -> None:
    site.append(*range(1, 11), 0)
    site.log.remove(up_to=4)
    listener = Listener(site, cursor=(site.log.log_id, 2))
    assert listener.end() == list(range(5, 11))
    assert listener.gaps == [Gap("retention", site.log.log_id, 5)]


def test_the_same_with_asyncio(site: Site) -> None:
    site.append(*range(1, 600))

    async def collect() -> list[int | None]:
        events = subscribe_async(**site.addresses, cursor=(site.log.log_id, 0))
        tracks = []
        async for heard in events:
            tracks.append(heard.track)
            if heard.track == 599:
                site.append(600)
            if heard.track == 600:
                break
        await events.aclose()  # type: ignore[attr-defined]
        return tracks

    assert asyncio.run(asyncio.wait_for(collect(), 30)) == list(range(1, 601))


def test_other_sources_numbers_are_no_holes(tmp_path: Path) -> None:
    with closing(Site(tmp_path)) as site:
        listener = Listener(site, cursor=(site.log.log_id, 0))
        while not listener.tracks:
            site.append(1)
            time.sleep(0.01)
        for track in range(2, 200):
            site.log.append([event(10_000 + track, source="elsewhere"), event(track)])
            site.publisher.write(site.reader.before(None, 1)[0])
        site.append(0)
        assert listener.end() == list(range(1, 200))


def test_the_last_events_of_a_short_run_are_delivered(site: Site) -> None:
    listener = Listener(site, cursor=(site.log.log_id, 0))
    site.append(1)
    while not listener.tracks:
        time.sleep(0.01)
    site.append(*range(2, 2000), 0)
    site.publisher.close()
    assert listener.end() == list(range(1, 2000))


# -- keys


@pytest.fixture
def pairs(tmp_path: Path) -> dict[str, Path]:
    """Secret files by name; the public ones lie beside them."""
    return {name: curve.new_pair(tmp_path / "keys", name)[1] for name in ("site", "laptop", "stranger")}


def public(secret: Path) -> str:
    return str(secret.with_suffix(".key"))


def test_with_keys_only_those_who_are_listed_get_anything(tmp_path: Path, pairs: dict[str, Path]) -> None:
    with closing(
        Site(tmp_path, secret_key_file=pairs["site"], client_keys=[public(pairs["laptop"])])
    ) as site:  # fmt: skip
        site.append(1)
        start = (site.log.log_id, 0)
        good = Listener(site, cursor=start, keys=Keys(pairs["laptop"], public(pairs["site"])))
        bad = [
            Listener(site, cursor=start, idle_timeout_s=3),
            Listener(site, cursor=start, idle_timeout_s=3, keys=Keys(pairs["stranger"], public(pairs["site"]))),
            Listener(site, cursor=start, idle_timeout_s=3, keys=Keys(pairs["laptop"], public(pairs["stranger"]))),
        ]
        for track in range(2, 50):
            site.append(track)
            time.sleep(0.02)
        site.append(0)
        assert good.end() == list(range(1, 50))
        assert [listener.end() for listener in bad] == [[], [], []]


def test_key_files_are_checked_and_never_overwritten(tmp_path: Path, pairs: dict[str, Path]) -> None:
    assert pairs["site"].stat().st_mode & 0o777 == 0o600
    pair = curve.read_pair(pairs["site"])
    assert curve.public_key(public(pairs["site"])) == curve.public_key(pair.public.decode()) == pair.public
    with pytest.raises(ConfigError, match="exists"):
        curve.new_pair(tmp_path / "keys", "site")
    with pytest.raises(ConfigError, match="is not a name"):
        curve.new_pair(tmp_path, "../site")
    with pytest.raises(ValueError, match="holds no secret key"):
        curve.read_pair(Path(public(pairs["site"])))
    pairs["site"].chmod(0o640)
    with pytest.raises(ValueError, match="chmod 600"):
        curve.read_pair(pairs["site"])
    with pytest.raises(ValueError, match="is not a file of keys"):
        curve.public_key(str(tmp_path / "missing.key"))
    with pytest.raises(ConfigError, match="is not a file of keys"):
        next(iter(subscribe("tcp://127.0.0.1:5556", keys=Keys(pairs["laptop"], "nothing"))))


@pytest.mark.parametrize("bind", ["tcp://0.0.0.0:5556", "tcp://*:5556", "tcp://192.168.1.5:5556", "tcp://[::]:5556"])
def test_beyond_this_machine_it_demands_keys(bind: str, pairs: dict[str, Path]) -> None:
    with pytest.raises(ValidationError, match=r"can be reached from other machines, which needs keys"):
        zeromq.Config(bind=bind)
    with pytest.raises(ValidationError, match=r"can be reached from other machines, which needs keys"):
        zeromq.Config(replay_bind=bind)
    with pytest.raises(ValidationError, match="go together"):
        zeromq.Config(bind=bind, secret_key_file=pairs["site"])
    keys = (public(pairs["laptop"]),)
    assert zeromq.Config(bind=bind, secret_key_file=pairs["site"], client_keys=keys).client_keys == keys


# -- addresses


@pytest.mark.parametrize(
    "bind", ["tcp://host:5556", "ipc:///tmp/a", "tcp://127.0.0.1", "tcp://127.0.0.1:0", "tcp://127.0.0.1:99999", ""]
)
def test_other_addresses_are_refused(bind: str) -> None:
    with pytest.raises(ValidationError, match=r"is not an address like"):
        zeromq.Config(bind=bind)


def test_both_ports_are_claimed() -> None:
    assert zeromq.Config().bind == "tcp://127.0.0.1:5556"
    assert zeromq.Config(bind="tcp://localhost:7000").claims() == {("tcp", "7000"), ("tcp", "7001")}
    assert zeromq.Config(bind="tcp://[::1]:7000").replay == "tcp://[::1]:7001"
    with pytest.raises(ValidationError, match="replay_bind"):
        zeromq.Config(bind="tcp://127.0.0.1:65535")


@pytest.mark.parametrize("which", ["bind", "replay_bind"])
def test_a_port_in_use_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str) -> None:
    monkeypatch.setattr(zeromq, "BIND_PATIENCE_S", 0.1)
    with closing(Site(tmp_path)) as site, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        site.publisher.close()
        site.options[which] = address
        with pytest.raises(StartupError, match=f"{address}: the port is in use"):
            site.start()


def test_a_wrong_address_is_refused() -> None:
    for address in ("127.0.0.1:5556", "tcp://127.0.0.1", "nonsense"):
        with pytest.raises(ConfigError, match="is not an address"):
            next(iter(subscribe(address)))


def test_nobody_there_is_no_error() -> None:
    assert list(subscribe(f"tcp://127.0.0.1:{free_port()}", idle_timeout_s=0.1)) == []


def test_it_is_told_that_nobody_answers_and_when_somebody_does(
    site: Site, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "SILENT_S", 0.5)
    site.publisher.close()
    listener = Listener(site)
    wait_until(lambda: bool(caplog.messages), "nobody to be missed")
    site.start()
    monkeypatch.setattr(client, "SILENT_S", 60.0)

    def answered() -> bool:
        site.publisher.beat(0)
        return len(caplog.messages) > 1

    wait_until(answered, "somebody to answer")
    site.append(0)
    listener.end()
    address = site.options["bind"]
    assert caplog.messages == [f"nobody answers at {address} yet", f"{address} answers"]


# -- the hostile


def test_those_who_never_read_and_those_who_talk_nonsense_hold_nobody_up(site: Site) -> None:
    """A hundred connections: deaf subscribers, deaf askers, garbage before and behind the handshake."""
    listener = Listener(site, cursor=(site.log.log_id, 0))
    port, replay_port = (int(site.options[name].rpartition(":")[2]) for name in ("bind", "replay_bind"))
    with zmq.Context() as context:
        context.linger = 0
        deaf: list[Any] = []
        for number in range(50):
            asks = number % 2
            peer = context.socket(zmq.DEALER if asks else zmq.SUB)
            peer.rcvhwm = 1
            peer.connect(f"tcp://127.0.0.1:{replay_port if asks else port}")
            if not asks:
                peer.subscribe("")
            deaf.append(peer)
        raw = [socket.create_connection(("127.0.0.1", (port, replay_port)[number % 2])) for number in range(50)]
        began_s, cpu_s = time.monotonic(), time.process_time()
        for number in range(5000):
            site.append(number + 1)
            for peer in deaf[1::2] if number % 10 == 0 else ():
                for question in (b'{"after": 0}', b"\xff" * 100, b"[" * 3000, b"x" * 100_000):
                    peer.send(question, zmq.NOBLOCK) if peer.poll(0, zmq.POLLOUT) else None
            if number == 100:
                for connection in raw:
                    connection.sendall(b"GET / HTTP/1.1\r\n\r\n" * 100)
        took_s, cpu_s = time.monotonic() - began_s, time.process_time() - cpu_s
        site.append(0)
        assert listener.end() == list(range(1, 5001))
        assert site.publisher._replay is not None
        assert site.publisher._replay.malformed
        for connection in raw:
            connection.close()
        for peer in deaf:
            peer.close()
    assert took_s < 40, (took_s, cpu_s)
