"""The page over TLS."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import StartupError
from pipeline.sinks.view import SiteView
from pipeline.sinks.web import door, server
from pipeline.sinks.web.passwords import hashed
from tests.runs import free_port, wait_until
from tests.web_page import ANNA, Page


@pytest.fixture
def tls_page(tmp_path: Path) -> Iterator[Page]:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    if subprocess.run([*command, "-keyout", key, "-out", certificate], capture_output=True, check=False).returncode:
        pytest.skip("openssl cannot make a certificate here")
    options = {"users": {"anna": hashed(ANNA)}, "tls_certificate": certificate, "tls_key": key}
    page = Page(tmp_path / "state", free_port(), **options)
    page.tls = ssl.create_default_context(cafile=str(certificate))
    page.open()
    yield page
    page.sink.close()


def test_over_tls_the_cookie_is_for_tls_alone(tls_page: Page) -> None:
    cookie = tls_page.log_in()[1]["set-cookie"]
    assert cookie.startswith("__Host-session=")
    assert "secure" in cookie.lower()
    assert tls_page.ask("/api/v1/sources", headers={"Cookie": cookie.partition(";")[0]})[0] == 200


@pytest.fixture
def half_open(tls_page: Page) -> Iterator[Callable[[int], list[socket.socket]]]:
    """Clients that begin no handshake, or do not go on with it."""
    opened: list[socket.socket] = []

    def more(number: int) -> list[socket.socket]:
        for _ in range(number):
            client = socket.create_connection(("127.0.0.1", tls_page.port), timeout=30)
            opened.append(client)
            client.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[: len(opened) % 12])
            client.setblocking(False)
        return opened

    yield more
    for client in opened:
        client.close()


def still_open(clients: Iterable[socket.socket]) -> list[socket.socket]:
    return [client for client in clients if _is_open(client)]


def _is_open(client: socket.socket) -> bool:
    try:
        return client.recv(1) != b""
    except BlockingIOError:
        return True
    except ConnectionError:
        return False


def test_of_many_half_open_handshakes_the_oldest_go_and_the_page_answers(
    tls_page: Page, half_open: Callable[[int], list[socket.socket]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "SILENT_MAX", 50)
    clients = half_open(200)
    assert tls_page.ask("/login")[0] == 200
    wait_until(lambda: len(still_open(clients)) < 50, "that the others are let go")
    assert still_open(clients) == still_open(clients[150:])
    assert tls_page.log_in()[0] == 303


def test_a_handshake_that_does_not_end_is_broken_off(
    tls_page: Page,
    half_open: Callable[[int], list[socket.socket]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(door, "REQUEST_WITHIN_S", 0.3)
    clients = half_open(200)
    wait_until(lambda: not still_open(clients), "that all are let go")
    monkeypatch.undo()
    assert tls_page.ask("/login")[0] == 200
    assert caplog.records == []


def test_a_client_that_goes_while_its_answer_ends_is_no_error(
    tls_page: Page, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """TLS hears of it first, and the HTTP protocol one turn of the loop later."""
    gone = threading.Event()
    complete = server._Connection.on_response_complete

    def lost_before(connection: Any) -> None:
        connection.transport._ssl_protocol.connection_lost(None)
        complete(connection)
        gone.set()

    monkeypatch.setattr(server._Connection, "on_response_complete", lost_before)
    with contextlib.suppress(OSError, http.client.HTTPException):
        tls_page.ask("/login")
    assert gone.wait(30)
    monkeypatch.undo()
    assert tls_page.ask("/login")[0] == 200
    assert caplog.records == []


def test_a_wrong_certificate_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_text("nothing")
    page = Page(tmp_path / "state", free_port(), tls_certificate=tmp_path / "cert.pem", tls_key=tmp_path / "cert.pem")
    with pytest.raises(StartupError, match=r"sink page: .*cert\.pem: not a certificate and its key"):
        page.sink.open(SiteView("site", {}))
    page.sink.close()
