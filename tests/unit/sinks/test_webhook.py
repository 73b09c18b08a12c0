"""Requests to a real HTTP server: what they say, how they are signed, and what becomes of each answer."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socket
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from pipeline import config as site_config
from pipeline.errors import ConfigError, Disconnected
from pipeline.sinks.kinds import webhook
from pipeline.sinks.sink import SinkContext
from tests.runs import free_port
from tests.servers import Receiver, make_certificate, receiving
from tests.unit.sinks.events import LOG_ID, numbered

KEY = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(KEY).decode()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


def make(url: str, **options: Any) -> webhook.Webhook:
    config = webhook.Config.model_validate({"url": url, **options})
    sink = webhook.create(config, SinkContext("hook", "run-1", Path()))
    sink.open(LOG_ID)
    return sink


def test_every_event_is_one_signed_request(receiver: Receiver) -> None:
    url = f"http://127.0.0.1:{receiver.port}/hooks/T0KEN?a=1"
    with closing(make(url, secret=SECRET, headers={"Authorization": "Bearer t"})) as sink:
        for seq in (1, 2):
            sink.write(numbered(seq))
        sink.beat(2)
    assert receiver.events == [numbered(1), numbered(2)]
    first, second = receiver.requests
    assert first.path == "/hooks/T0KEN?a=1"
    assert first.headers["content-type"] == "application/json"
    assert first.headers["authorization"] == "Bearer t"
    told = first.headers["webhook-id"]
    assert told == first.headers["idempotency-key"] == f"{numbered(1)['id']}.new.1"
    assert second.headers["webhook-id"] != told
    moment = first.headers["webhook-timestamp"]
    assert abs(int(moment) - time.time()) < 60
    expected = hmac.new(KEY, f"{told}.{moment}.".encode() + first.body, hashlib.sha256).digest()
    assert first.headers["webhook-signature"] == "v1," + base64.b64encode(expected).decode()


def test_a_known_signature() -> None:
    """The example of the specification."""
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    signed = webhook.sign(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize("status", [301, 401, 404, 408, 429, 500, 503])
def test_what_is_not_taken_is_sent_again(receiver: Receiver, status: int) -> None:
    receiver.answers = [status]
    with closing(make(f"http://127.0.0.1:{receiver.port}/secret")) as sink:
        with pytest.raises(Disconnected, match=rf"^http://127\.0\.0\.1:{receiver.port} answers {status}$"):
            sink.write(numbered(1))
        sink.write(numbered(1))
    first, second = receiver.requests
    assert (first.body, first.headers["webhook-id"]) == (second.body, second.headers["webhook-id"])


@pytest.mark.parametrize("status", [400, 413, 422])
def test_what_is_refused_for_good_is_counted_and_holds_up_nothing(receiver: Receiver, status: int) -> None:
    receiver.answers = [status]
    with closing(make(f"http://127.0.0.1:{receiver.port}/")) as sink:
        sink.write(numbered(1))
        sink.write(numbered(2))
        assert sink.refused == 1
    assert len(receiver.requests) == 2


def test_nobody_there_is_said_without_the_path() -> None:
    with closing(make(f"http://127.0.0.1:{free_port()}/secret")) as sink:
        with pytest.raises(Disconnected, match="nobody is there") as caught:
            sink.write(numbered(1))
        assert "secret" not in str(caught.value)


def test_what_cannot_be_sent_is_told_without_showing_it(receiver: Receiver) -> None:
    with closing(make(f"http://127.0.0.1:{receiver.port}/")) as sink:
        sink._config.headers["X-Key"] = SecretStr("hunter2\n")
        with pytest.raises(Disconnected, match=r"the request cannot be sent \(ValueError\)$") as caught:
            sink.write(numbered(1))
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("says", "told"),
    [
        (b"", "no answer in time|connection broke"),
        (b"garbage\r\n\r\n", "connection broke"),
        (b"HTTP/1.1 200 OK\r\n", "no answer in time"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort", "no answer in time"),
    ],
)
def test_who_does_not_answer_properly_is_left(says: bytes, told: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=answer_with, args=(server, says))
        thread.start()
        with (
            closing(make(f"http://127.0.0.1:{server.getsockname()[1]}/", timeout_s=0.3)) as sink,
            pytest.raises(Disconnected, match=told),
        ):
            sink.write(numbered(1))
        thread.join()


def answer_with(server: socket.socket, says: bytes) -> None:
    connection, _ = server.accept()
    with connection:
        connection.sendall(says)
        while connection.recv(1 << 16):
            pass


def test_an_endless_answer_is_cut_off() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=talk_for_ever, args=(server,))
        thread.start()
        with closing(make(f"http://127.0.0.1:{server.getsockname()[1]}/")) as sink:
            sink.write(numbered(1))
        thread.join(30)
        assert not thread.is_alive()


def talk_for_ever(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        connection.recv(1 << 16)
        try:
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n")
            while True:
                connection.sendall(b"x" * 65536)
        except OSError:
            return


def test_tls_is_checked(tmp_path: Path) -> None:
    certificate = make_certificate(tmp_path)
    with receiving(certificate) as receiver:
        url = f"https://127.0.0.1:{receiver.port}/"
        with closing(make(url, ca_file=certificate.path)) as sink:
            sink.write(numbered(1))
        with closing(make(url)) as sink, pytest.raises(Disconnected, match="its certificate is not believed"):
            sink.write(numbered(1))
    assert len(receiver.requests) == 1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"url": "ftp://example.org"}, "is not an address like"),
        ({"url": "https://"}, "is not an address like"),
        ({"url": "https://[bad"}, "is not an address like"),
        ({"url": "https://a:hunter2@example.org"}, "holds a login"),
        ({"url": "https://example.org", "secret": "hunter2"}, "is not whsec_ and base64"),
        ({"url": "https://example.org", "secret": "whsec_aGVsbG8="}, "at least 24 bytes"),
        ({"url": "https://example.org", "ca_file": "missing.crt"}, "holds no certificates"),
        ({"url": "https://example.org", "headers": {"X-Key": "hunter2\n"}}, "the value of X-Key holds a line break"),
        ({"url": "https://example.org", "headers": {"X-Key": "hunter2\u20ac"}}, "one that is not Latin-1"),
        ({"url": "https://example.org", "headers": {"X Key": "hunter2"}}, "'X Key' is not the name of a header"),
    ],
)
def test_what_cannot_be_right_is_refused_without_showing_it(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        webhook.Config.model_validate(options)
    values = {
        "name": "gate",
        "sources": {"gate": {"kind": "file", "path": "a.mp4"}},
        "detectors": {"mask": {}},
        "sinks": {"hook": {"kind": "webhook", **options}},
        "pipelines": {"all": {"sources": ["gate"], "detector": "mask", "sinks": ["hook"]}},
    }
    with pytest.raises(ConfigError, match=rf"site.yaml: sinks\.hook\.\w+: .*{told}") as caught:
        site_config.check(values, "site.yaml")
    assert "hunter2" not in str(caught.value)


def test_secrets_are_not_shown() -> None:
    config = webhook.Config.model_validate(
        {"url": "https://example.org/hunter2", "secret": SECRET, "headers": {"Authorization": "hunter2"}}
    )
    assert "hunter2" not in repr(config)
    assert SECRET not in repr(config)
    assert json.dumps(config.model_dump(mode="json")).count("hunter2") == 0
