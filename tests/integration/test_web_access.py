"""Who may see the page, and what happens to those who try otherwise: real connections, byte by byte."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from pydantic import ValidationError

from pipeline.errors import StartupError
from pipeline.sinks.event_log import EventLog
from pipeline.sinks.kinds import web
from pipeline.sinks.sink import SinkContext
from pipeline.sinks.view import SiteView
from pipeline.sinks.web import app as web_app
from pipeline.sinks.web import server as web_server
from pipeline.sinks.web.access import TRIES_MAX, Tries
from pipeline.sinks.web.passwords import hashed, is_hash, matches
from tests.browser import browser, watched_page
from tests.runs import free_port, wait_until

TOKEN = "a-token-that-is-long-enough"
ANNA = "correct horse battery"
Headers = dict[str, str]


class Page:
    """A server without cameras."""

    def __init__(self, directory: Path, port: int, **options: Any) -> None:
        directory.mkdir(exist_ok=True)
        self.port = port
        config = web.Config.model_validate({"bind": f"127.0.0.1:{port}", **options})
        self.sink = web.create(config, SinkContext("page", "run-1", directory))
        self.tls: ssl.SSLContext | None = None

    def open(self, site: SiteView | None = None) -> None:
        self.sink.open(site or SiteView("site", {}))
        wait_until(self._answers, "the server")

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port)).close()
            return True
        return False

    def ask(
        self, path: str, method: str = "GET", headers: Headers | None = None, body: str = ""
    ) -> tuple[int, Headers, bytes]:
        """Status, headers in lower case, body."""
        kind: Any = http.client.HTTPConnection if self.tls is None else http.client.HTTPSConnection
        options = {} if self.tls is None else {"context": self.tls}
        connection = kind("127.0.0.1", self.port, timeout=30, **options)
        with contextlib.closing(connection):
            connection.request(method, path, body or None, headers or {})
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()

    def raw(self, data: bytes) -> bytes:
        """The first bytes of the answer to these very bytes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            connection.sendall(data)
            return connection.recv(4096)

    def log_in(self, user: str = "anna", password: str = ANNA, **headers: str) -> tuple[int, Headers, bytes]:
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        return self.ask("/login", "POST", form | headers, urlencode({"user": user, "password": password}))


@pytest.fixture(scope="module")
def anna() -> str:
    return hashed(ANNA)


@pytest.fixture
def open_page(tmp_path: Path) -> Iterator[Page]:
    page = Page(tmp_path / "state", free_port(), hosts=["cameras.example"])
    page.open()
    yield page
    page.sink.close()


@pytest.fixture
def closed_page(tmp_path: Path, anna: str) -> Iterator[Page]:
    page = Page(tmp_path / "state", free_port(), users={"anna": anna}, token=TOKEN)
    page.open()
    yield page
    page.sink.close()


def test_on_loopback_nobody_has_to_log_in(open_page: Page) -> None:
    status, headers, body = open_page.ask("/")
    assert status == 200
    assert b"<title>" in body
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["x-frame-options"] == "DENY"
    assert "server" not in headers
    assert open_page.ask("/api/v1/sources")[2] == b"[]"
    assert open_page.ask("/login")[0] == 303


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "", "cameras.example.evil"]
)
def test_other_names_are_refused(open_page: Page, host: str) -> None:
    """A page of somebody else's may have its name point here (DNS rebinding)."""
    assert open_page.ask("/api/v1/sources", headers={"Host": host})[0] in (400, 421)


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "[::1]:8080", "Cameras.Example:443", "192.168.1.7"])
def test_its_own_names_and_addresses_are_not(open_page: Page, host: str) -> None:
    assert open_page.ask("/api/v1/sources", headers={"Host": host})[0] == 200


@pytest.mark.parametrize("path", ["/", "/api/v1/events", "/api/v1/sources", "/assets/app.js", "/api", "/api/v1/health"])
def test_elsewhere_everything_needs_a_login(closed_page: Page, path: str) -> None:
    assert closed_page.ask(path)[0] == 401
    assert closed_page.ask(path, headers={"Accept": "text/html"})[0] == 303
    assert closed_page.ask(path, headers={"Authorization": "Bearer wrong"})[0] == 401
    assert closed_page.ask(path, headers={"Cookie": "session=YW5uYQ.9999999999.0000"})[0] == 401
    assert closed_page.ask(path, headers={"Authorization": f"Bearer {TOKEN}"})[0] == 200


def test_a_login_gives_a_session_and_its_end_takes_it(closed_page: Page) -> None:
    status, headers, _ = closed_page.log_in()
    assert (status, headers["location"]) == (303, "/")
    cookie = headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    session = {"Cookie": cookie.partition(";")[0]}
    assert closed_page.ask("/api/v1/sources", headers=session)[0] == 200
    assert ANNA not in cookie
    status, headers, _ = closed_page.ask("/logout", "POST", session)
    assert 'session=""' in headers["set-cookie"]
    tampered = {"Cookie": session["Cookie"][:-1] + ("0" if session["Cookie"][-1] != "0" else "1")}
    assert closed_page.ask("/api/v1/sources", headers=tampered)[0] == 401


def test_people_log_in_and_out_with_a_browser(closed_page: Page) -> None:
    with browser() as chromium:
        page, seen = watched_page(chromium.new_context())
        page.goto(f"http://127.0.0.1:{closed_page.port}/")
        assert page.url.endswith("/login")
        for password, then in (("wrong password", "#said:not(:empty)"), (ANNA, "#logout:not([hidden])")):
            page.fill("[name=user]", "anna")
            page.fill("[name=password]", password)
            page.click("button")
            page.wait_for_selector(then)
        page.click("#logout button")
        page.wait_for_selector("[name=password]")
        assert page.url.endswith("/login")
        assert seen.complaints == []


def test_a_session_survives_a_restart_but_not_a_new_password(tmp_path: Path, anna: str) -> None:
    port = free_port()
    for hash_, expected in ((anna, 200), (anna, 200), (hashed("another password"), 401)):
        page = Page(tmp_path / "state", port, users={"anna": hash_})
        page.open()
        if expected == 200 and not (tmp_path / "cookie").exists():
            (tmp_path / "cookie").write_text(page.log_in()[1]["set-cookie"].partition(";")[0])
        assert page.ask("/api/v1/sources", headers={"Cookie": (tmp_path / "cookie").read_text()})[0] == expected
        page.sink.close()
    assert (tmp_path / "state/session-key").stat().st_mode & 0o077 == 0


def test_guessing_is_slowed_down(closed_page: Page) -> None:
    answers = [closed_page.log_in(password=f"guess {n}")[1]["location"] for n in range(TRIES_MAX + 2)]
    assert answers[:TRIES_MAX] == ["/login?failed=1"] * TRIES_MAX
    assert all(answer.startswith("/login?wait=") for answer in answers[TRIES_MAX:])
    assert closed_page.log_in()[1]["location"].startswith("/login?wait=")
    statuses = [closed_page.ask("/api", headers={"Authorization": f"Bearer {n}"})[0] for n in range(TRIES_MAX + 1)]
    assert statuses == [401] * TRIES_MAX + [429]


def test_tries_are_forgotten_after_a_minute_and_never_fill_the_memory() -> None:
    now = [0.0]
    tries = Tries(lambda: now[0])
    for _ in range(3):
        tries.note(["anna"])
    assert tries.wait_s({"anna": 4}) == 0
    assert tries.wait_s({"anna": 3}) == 60
    now[0] = 60.5
    assert tries.wait_s({"anna": 3}) == 0
    for number in range(10_000):
        tries.note([str(number)])
    assert len(tries._failed) < 3000


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1"])
def test_pages_of_others_change_nothing_and_see_no_video(closed_page: Page, origin: str) -> None:
    assert closed_page.log_in(Origin=origin)[0] == 403
    upgrade = {
        "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==", "Authorization": f"Bearer {TOKEN}", "Origin": origin,
    }  # fmt: skip
    assert closed_page.ask("/api/v1/sources/gate/live", headers=upgrade)[0] == 403


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
    page = Page(tmp_path / "state", free_port())
    with contextlib.closing(EventLog(tmp_path / "log/events.sqlite", "run-1")) as log:
        page.open(SiteView("site", {}, event_log=log.path))
        status, _, body = page.ask(f"/api/v1/{address}?{query}")
        page.sink.close()
    assert (status, body) == (200, b"[]")


def test_logins_in_another_form_are_refused_without_a_word_in_the_log(
    closed_page: Page, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    many = "&".join(f"field{n}=1" for n in range(9))
    assert closed_page.ask("/login", "POST", body=many)[0] == 400
    monkeypatch.setattr(web_app, "REQUEST_WITHIN_S", 0.2)
    begun = b"POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 20\r\n\r\nuser"
    assert closed_page.raw(begun).startswith(b"HTTP/1.1 408")
    cookie = "session=YW5uYQ.9999999999.\u00e4".encode("latin-1")
    request = b"GET /api/v1/sources HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: " + cookie + b"\r\n\r\n"
    assert closed_page.raw(request).startswith(b"HTTP/1.1 401")
    assert caplog.records == []


def test_whoever_does_not_ask_is_let_go(open_page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_server, "REQUEST_WITHIN_S", 0.3)
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
    monkeypatch.setattr(web_server, "REQUEST_WITHIN_S", 0.3)
    with socket.create_connection(("127.0.0.1", open_page.port), timeout=4) as connection:
        connection.sendall(b"GET /api/v1/sources HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        connection.sendall(more)
        with contextlib.suppress(ConnectionError):
            while connection.recv(4096):
                pass


def test_over_tls_the_cookie_is_for_tls_alone(tmp_path: Path, anna: str) -> None:
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem"), "-days", "2"]
    made = subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *files, *subject],
                          capture_output=True, check=False)  # fmt: skip
    if made.returncode:
        pytest.skip("openssl cannot make a certificate here")
    page = Page(tmp_path / "state", free_port(), users={"anna": anna},
                tls_certificate=tmp_path / "cert.pem", tls_key=tmp_path / "key.pem")  # fmt: skip
    page.tls = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    page.open()
    cookie = page.log_in()[1]["set-cookie"]
    assert cookie.startswith("__Host-session=")
    assert "secure" in cookie.lower()
    assert page.ask("/api/v1/sources", headers={"Cookie": cookie.partition(";")[0]})[0] == 200
    page.sink.close()


def test_a_wrong_certificate_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_text("nothing")
    page = Page(tmp_path / "state", free_port(), tls_certificate=tmp_path / "cert.pem", tls_key=tmp_path / "cert.pem")
    with pytest.raises(StartupError, match=r"sink page: .*cert\.pem: not a certificate and its key"):
        page.sink.open(SiteView("site", {}))
    page.sink.close()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"bind": "0.0.0.0:8080"}, "needs tls_certificate and users or token"),
        ({"bind": "[::]:8080", "token": TOKEN}, "needs tls_certificate; use 127.0.0.1:8080"),
        ({"bind": "8080"}, "is not an address like 127.0.0.1:8080"),
        ({"bind": "127.0.0.1:0"}, "is not an address like"),
        ({"bind": "999.0.0.1:80"}, "is not an address like"),
        ({"users": {"anna": "secret"}}, "run_pipeline.py password makes one"),
        ({"users": {"anna": "scrypt:3:8:1:AA:AA"}}, "run_pipeline.py password makes one"),
        ({"token": "short"}, "at least 16"),
        ({"hosts": ["https://cameras.example"]}, "is not a host's name"),
        ({"tls_key": "key.pem"}, "go together"),
    ],
)
def test_what_would_let_others_in_is_refused_early(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said) as refused:
        web.Config.model_validate(options)
    assert "secret" not in repr(refused.value.errors()[0]["msg"])


def test_hashes_are_salted_and_match_their_password_alone(anna: str) -> None:
    assert hashed(ANNA) != anna
    assert is_hash(anna)
    assert matches(ANNA, anna)
    assert not matches(ANNA + " ", anna)
    for wrong in ("", "scrypt:1:8:1:AA:AA", "scrypt:32768:99:1:AA:AA", anna.replace("scrypt", "md5")):
        assert not is_hash(wrong)
