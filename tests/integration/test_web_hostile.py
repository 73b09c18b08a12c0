"""What happens to those who ask for what is not theirs, break off or ask nothing: real connections, byte by byte."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.sinks.event_log import EventLog
from pipeline.sinks.view import SiteView
from pipeline.sinks.web import door as web_door
from tests.web_page import Page, served


@pytest.fixture
def open_page(tmp_path: Path) -> Iterator[Page]:
    with served(tmp_path) as page:
        yield page


@pytest.mark.parametrize(
    "path",
    [
        "/assets/../index.html", "/assets/..%2f..%2fapp.py", "/assets/%2e%2e/%2e%2e/app.py", "/assets//etc/passwd",
        "/assets/..\\..\\app.py", "/api/v1/recordings/..%2f..%2f..%2fetc%2fpasswd",
        "/api/v1/recordings/%2fetc%2fpasswd",
        "/api/v1/clips/..%2f..%2fetc/passwd", "/api/v1/clips/01KAP5ZK7QABCDEF0000000001/..%2fpasswd",
        "/api/v1/sources/..%2f..%2fetc%2fpasswd/picture.jpg", "/%00", "/assets/app.js%00.css",
    ],
)  # fmt: skip
def test_paths_lead_nowhere_else(open_page: Page, path: str) -> None:
    status, headers, body = open_page.ask(path)
    assert status in (400, 404, 405)
    assert b"root:" not in body
    assert b"import" not in body
    assert "x-content-type-options" in headers


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: a\r\n b: folded\x00\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 2_000_000 + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /\r\nSet-Cookie: a=b HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    ],
)  # fmt: skip
def test_broken_requests_get_a_400_or_nothing(open_page: Page, data: bytes) -> None:
    answer = b""
    with contextlib.suppress(ConnectionError):
        answer = open_page.raw(data)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400"), answer
    assert open_page.ask("/")[0] == 200


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=501", "limit=x", "before=-1", "since=yesterday", "since=2026-11-22T00:00:00", "until=1e9",
     "source=%27%20OR%201=1--", "kind=../..", "source=" + "a," * 200 + "a"],
)  # fmt: skip
def test_wrong_queries_are_told_what_is_right(open_page: Page, query: str) -> None:
    status, _, body = open_page.ask(f"/api/v1/events?{query}")
    assert status == 400
    assert query.partition("=")[0] in json.loads(body)["error"]


@pytest.mark.parametrize("address", ["events", "clips"])
@pytest.mark.parametrize("query", ["since=9999-01-01T00:00:00Z", "until=0002-01-01T00:00:00Z"])
def test_times_beyond_every_log_are_taken(tmp_path: Path, address: str, query: str) -> None:
    with (
        contextlib.closing(EventLog(tmp_path / "log/events.sqlite", "run-1")) as log,
        served(tmp_path, SiteView("site", {}, event_log=log.path)) as page,
    ):
        status, _, body = page.ask(f"/api/v1/{address}?{query}")
    assert (status, body) == (200, b"[]")


def test_whoever_does_not_ask_is_let_go(open_page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_door, "REQUEST_WITHIN_S", 0.3)
    idle = [socket.create_connection(("127.0.0.1", open_page.port), timeout=30) for _ in range(50)]
    for connection in idle[::2]:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: ")
    started_s = time.monotonic()
    assert open_page.ask("/")[0] == 200
    assert time.monotonic() - started_s < 5
    for connection in idle:
        with contextlib.suppress(ConnectionError):
            assert connection.recv(1) == b""
        connection.close()


@pytest.mark.parametrize("more", [b"", b"G", b"GET /login HTTP/1.1\r\nHost: "])
def test_whoever_has_asked_once_is_let_go_too(open_page: Page, monkeypatch: pytest.MonkeyPatch, more: bytes) -> None:
    monkeypatch.setattr(web_door, "REQUEST_WITHIN_S", 0.3)
    with socket.create_connection(("127.0.0.1", open_page.port), timeout=4) as connection:
        connection.sendall(b"GET /api/v1/sources HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        connection.sendall(more)
        with contextlib.suppress(ConnectionError):
            while connection.recv(4096):
                pass
