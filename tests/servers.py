"""Real servers for the tests of transports: mosquitto from Debian, and an HTTP server that keeps what it gets."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import pytest
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

from tests.runs import free_port, wait_until

USER, PASSWORD = "pipeline", "pass-word-of-the-broker"


@dataclass(frozen=True)
class Certificate:
    """A certificate for this machine that is its own authority, and its key."""

    path: Path
    key: Path


def make_certificate(directory: Path) -> Certificate:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed (apt-get install openssl)")
    made = Certificate(directory / "server.crt", directory / "server.pem")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(made.key), "-out", str(made.path)),
        ],
        check=True,
        capture_output=True,
    )
    return made


class Broker:
    """mosquitto with a password, on a port of its own; what it holds for its subscribers outlives a stop."""

    def __init__(self, directory: Path, certificate: Certificate | None = None) -> None:
        self._program = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin")
        if self._program is None or shutil.which("mosquitto_passwd") is None:
            pytest.skip("mosquitto is not installed (apt-get install mosquitto)")
        self.port = free_port()
        self._directory = directory
        passwords = directory / "passwords"
        subprocess.run(
            ["mosquitto_passwd", "-b", "-c", str(passwords), USER, PASSWORD], check=True, capture_output=True
        )
        passwords.chmod(0o600)
        lines = [
            *(f"listener {self.port} 127.0.0.1", "user root", "allow_anonymous false", f"password_file {passwords}"),
            *("persistence true", f"persistence_location {directory}/", "max_queued_messages 0"),
            *("set_tcp_nodelay true", "max_inflight_messages 100"),
        ]
        if certificate is not None:
            lines += [f"certfile {certificate.path}", f"keyfile {certificate.key}"]
        (directory / "mosquitto.conf").write_text("\n".join(lines) + "\n")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        assert self._program is not None
        with (self._directory / "mosquitto.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, "-c", str(self._directory / "mosquitto.conf")], stdout=log, stderr=log
            )
        wait_until(self._answers, "mosquitto")

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(30)
            self._process = None

    @property
    def said(self) -> str:
        return (self._directory / "mosquitto.log").read_text()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(signal.SIGKILL)


class MqttListener:
    """A subscriber of everything, which the broker remembers while it is away."""

    def __init__(self, broker: Broker, ca_file: Path | None = None, name: str = "listener") -> None:
        self.messages: list[tuple[str, bytes, bool]] = []
        self._subscribed = threading.Event()
        self._client = Client(CallbackAPIVersion.VERSION2, name, clean_session=False)
        self._client.reconnect_delay_set(1, 1)
        self._client.username_pw_set(USER, PASSWORD)
        if ca_file is not None:
            self._client.tls_set_context(ssl.create_default_context(cafile=ca_file))
        self._client.on_connect = lambda client, *_: client.subscribe("#", 1)
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = self._on_message
        self._client.connect("127.0.0.1", broker.port, 30)
        self._client.loop_start()
        assert self._subscribed.wait(30)

    def _on_message(self, _client: Client, _data: Any, message: MQTTMessage) -> None:
        self.messages.append((message.topic, bytes(message.payload), message.retain))

    def events(self, prefix: str) -> list[dict[str, Any]]:
        return [json.loads(body) for topic, body, _ in list(self.messages) if topic.startswith(f"{prefix}/events/")]

    def wait_for(self, count: int, prefix: str) -> None:
        wait_until(lambda: len(self.events(prefix)) >= count, f"{count} events at the broker")

    def last(self, topic: str) -> Any:
        """The newest message of that topic, None without any."""
        found = [body for name, body, _ in list(self.messages) if name == topic]
        return found[-1].decode() if found else None

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@dataclass
class Request:
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """Keeps every request; answers with the next of ``answers``, else 204."""

    port: int = 0
    requests: list[Request] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(request.body) for request in list(self.requests)]


@contextmanager
def receiving(certificate: Certificate | None = None, port: int = 0) -> Iterator[Receiver]:
    """An HTTP server on this machine."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            receiver.requests.append(Request(self.path, headers, body))
            self.send_response(receiver.answers.pop(0) if receiver.answers else 204)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """Whoever posts may be killed meanwhile."""

    server = Server(("127.0.0.1", port), Handler)
    if certificate is not None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate.path, certificate.key)
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    receiver.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
