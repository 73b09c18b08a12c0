"""Events, states and Home Assistant's discovery at a real broker, with password and TLS."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.errors import ConfigError, Disconnected
from pipeline.sinks.event_log import EventLog
from pipeline.sinks.kinds import mqtt
from pipeline.sinks.sink import SinkContext
from tests.runs import free_port, wait_until
from tests.servers import PASSWORD, USER, Broker, Certificate, MqttListener, make_certificate
from tests.unit.sinks.events import LOG_ID, event, numbered, told

PREFIX = "facemask/site"

# paho leaves the socket of a handshake that failed to the garbage collector
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
def broker(tmp_path: Path, certificate: Certificate) -> Iterator[Broker]:
    with Broker(tmp_path, certificate) as broker:
        yield broker


@pytest.fixture
def listener(broker: Broker, certificate: Certificate) -> Iterator[MqttListener]:
    with closing(MqttListener(broker, certificate.path)) as listener:
        yield listener


def make(broker: Broker, certificate: Certificate, event_log: Path | None = None, **options: Any) -> mqtt.Mqtt:
    values = {"host": "127.0.0.1", "port": broker.port, "tls": True, "ca_file": certificate.path}
    values |= {"username": USER, "password": PASSWORD, **options}
    place = SinkContext("mqtt", "run-1", Path(), site="site", sources=("gate", "yard"), event_log=event_log)
    sink = mqtt.create(mqtt.Config.model_validate(values), place)
    sink.open(LOG_ID)
    return sink


@pytest.fixture
def sink(broker: Broker, certificate: Certificate) -> Iterator[mqtt.Mqtt]:
    with closing(make(broker, certificate)) as sink:
        yield sink


def state(listener: MqttListener, source: str = "gate") -> Any:
    return json.loads(listener.last(f"{PREFIX}/state/{source}") or "null")


def test_events_come_in_order_and_the_state_follows(sink: mqtt.Mqtt, listener: MqttListener) -> None:
    first, second = (told(event(n), n) for n in (1, 2))
    ends = [told(event(n, "end"), n + 2) for n in (1, 2)]
    for each in (first, second, *ends):
        sink.write(each)
        open_now = 2 - abs(2 - each["seq"])
        told_now = {"episodes": open_now, "alert": "ON" if open_now else "OFF"}
        wait_until(lambda now=told_now: now.items() <= (state(listener) or {}).items(), "the state")  # type: ignore[misc]
    assert listener.events(PREFIX) == [first, second, *ends]
    assert {topic for topic, _, _ in listener.messages if "/events/" in topic} == {f"{PREFIX}/events/no_mask/gate"}


def test_what_stands_there_is_told_to_those_who_come_later(
    sink: mqtt.Mqtt, broker: Broker, certificate: Certificate
) -> None:
    sink.write(numbered(1))
    sink.write(told(event(9, kind="source_lost"), 2))
    with closing(MqttListener(broker, certificate.path, "late")) as late:
        wait_until(lambda: late.last(f"{PREFIX}/availability") == "online", "the availability")
        wait_until(lambda: state(late) is not None, "the state")
        assert state(late) == {"alert": "ON", "connected": "OFF", "episodes": 1, "kinds": ["no_mask"]}
        assert state(late, "yard") == {"alert": "OFF", "connected": "ON", "episodes": 0, "kinds": []}
        assert all(retained for _, _, retained in late.messages)
        about = json.loads(late.last("homeassistant/binary_sensor/facemask_site/gate_alert/config"))
        assert about["state_topic"] == f"{PREFIX}/state/gate"
        assert about["availability_topic"] == f"{PREFIX}/availability"
        assert about["value_template"] == "{{ value_json.alert }}"
        ids = [json.loads(b)["unique_id"] for t, b, _ in late.messages if t.startswith("homeassistant/")]
        assert len(set(ids)) == 4
        sink.close()
        wait_until(lambda: late.last(f"{PREFIX}/availability") == "offline", "the end")


def test_the_last_will_is_told_when_it_dies(sink: mqtt.Mqtt, listener: MqttListener) -> None:
    sink.beat(0)
    wait_until(lambda: listener.last(f"{PREFIX}/availability") == "online", "the beginning")
    assert sink._client is not None
    connection: Any = sink._client.socket()
    connection.shutdown(2)  # as the kernel does for a killed process
    wait_until(lambda: listener.last(f"{PREFIX}/availability") == "offline", "the last will")


def test_a_broker_that_is_down_is_waited_for(sink: mqtt.Mqtt, broker: Broker, listener: MqttListener) -> None:
    sink.write(numbered(1))
    wait_until(lambda: len(listener.events(PREFIX)) == 1, "the first event")
    broker.stop(signal.SIGTERM)
    with pytest.raises(Disconnected, match=rf"127\.0\.0\.1:{broker.port}"):
        sink.write(numbered(2))
    with pytest.raises(Disconnected, match="no broker at"):
        sink.beat(1)
    broker.start()
    sink.write(numbered(2))
    wait_until(lambda: {e["seq"] for e in listener.events(PREFIX)} == {1, 2}, "the second event")


def test_a_broker_that_hangs_is_left(sink: mqtt.Mqtt, broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt, "ACKNOWLEDGE_S", 0.5)
    sink.write(numbered(1))
    assert broker._process is not None
    broker._process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(Disconnected, match="does not acknowledge"):
            sink.write(numbered(2))
        with pytest.raises(Disconnected):
            sink.write(numbered(2))
    finally:
        broker._process.send_signal(signal.SIGCONT)
    sink.write(numbered(2))


def test_after_a_restart_it_knows_what_is_open(
    tmp_path: Path, broker: Broker, certificate: Certificate, listener: MqttListener
) -> None:
    with closing(EventLog(tmp_path / "events.sqlite", "run-1")) as log:
        log.append([event(1), event(2), event(1, "end")])
        with closing(make(broker, certificate, log.path)) as sink:
            sink.beat(3)
            wait_until(lambda: state(listener) is not None, "the state")
            assert state(listener)["episodes"] == 1


@pytest.mark.parametrize("options", [{"password": "wrong"}, {"username": None, "password": None}])
def test_a_wrong_login_is_said_without_it(broker: Broker, certificate: Certificate, options: dict[str, Any]) -> None:
    sink = make(broker, certificate, **options)
    with pytest.raises(Disconnected, match="refuses: Not authorized") as caught:
        sink.beat(0)
    assert "wrong" not in str(caught.value)
    sink.close()


def test_without_tls_or_with_another_authority_it_does_not_talk(
    broker: Broker, certificate: Certificate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt, "ACKNOWLEDGE_S", 0.5)
    (tmp_path / "other").mkdir()
    other = make_certificate(tmp_path / "other")
    for options in ({"ca_file": other.path}, {"tls": False, "ca_file": None}, {"ca_file": None}):
        sink = make(broker, certificate, **options)
        with pytest.raises(Disconnected):
            sink.beat(0)
        sink.close()
    assert PASSWORD not in broker.said


def test_it_ends_no_thread_late() -> None:
    """A sink whose broker was never there leaves nothing behind."""
    before = threading.active_count()
    place = SinkContext("mqtt", "run-1", Path(), site="site", sources=("gate",))
    sink = mqtt.create(mqtt.Config(host="127.0.0.1", port=free_port()), place)
    sink.open(LOG_ID)
    with pytest.raises(Disconnected, match=r"no broker at .*refused"):
        sink.write(numbered(1))
    sink.close()
    assert threading.active_count() == before


def test_what_cannot_be_right_is_refused(tmp_path: Path) -> None:
    (tmp_path / "none.crt").write_text("nothing")
    for bad in ({"host": ""}, {"port": 0}, {"prefix": "a/#"}, {"ca_file": tmp_path / "none.crt"}):
        with pytest.raises(ValidationError):
            mqtt.Config.model_validate({"host": "broker", **bad})
    sink = mqtt.create(mqtt.Config(host="b", password="x"), SinkContext("mqtt", "r", tmp_path))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="a password needs a username"):
        sink.open(LOG_ID)
    for address in ("mqtt://broker", "mqtt://a:hunter2@broker:1883/", "broker:1883", "a@broker", "bro ker", "broker/"):
        with pytest.raises(ValidationError, match="is not a name or address of a host") as caught:
            mqtt.Config(host=address)
        assert "hunter2" not in caught.value.errors()[0]["msg"]
    for host in ("broker", "broker.lan", "192.0.2.7", "::1", "2001:db8::7"):
        assert mqtt.Config(host=host).host == host
    assert "hunter2" not in repr(mqtt.Config(host="b", username="a", password="hunter2"))  # type: ignore[arg-type]


def test_a_password_in_the_clear_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for host, tls, warned in (("127.0.0.1", False, 0), ("broker.lan", True, 0), ("broker.lan", False, 1)):
        caplog.clear()
        config = mqtt.Config.model_validate({"host": host, "tls": tls, "username": "a", "password": "hunter2"})
        mqtt.create(config, SinkContext("mqtt", "r", tmp_path)).open(LOG_ID)
        assert caplog.text.count("without tls the password can be read on its way") == warned
        assert "hunter2" not in caplog.text
