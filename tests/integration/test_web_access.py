"""Who may see the page: logins, sessions, tokens and names, over real connections."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.sinks.kinds import web
from pipeline.sinks.web import app as web_app
from pipeline.sinks.web.access import TRIES_MAX, Tries
from pipeline.sinks.web.passwords import hashed, is_hash, matches
from tests.browser import browser, watched_page
from tests.runs import free_port
from tests.web_page import ANNA, Page, served

TOKEN = "a-token-that-is-long-enough"


@pytest.fixture(scope="module")
def anna() -> str:
    return hashed(ANNA)


@pytest.fixture
def open_page(tmp_path: Path) -> Iterator[Page]:
    with served(tmp_path, hosts=["cameras.example"]) as page:
        yield page


@pytest.fixture
def closed_page(tmp_path: Path, anna: str) -> Iterator[Page]:
    with served(tmp_path, users={"anna": anna}, token=TOKEN) as page:
        yield page


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
