"""Addresses are shown without what lets people in."""

from __future__ import annotations

import time

import pytest

from pipeline.errors import without_credentials, without_login


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rtsp://user:password@camera", "rtsp://***@camera"),
        ("'rtsp://u:p@@c/1' and tcp://a:b@k", "'rtsp://***@c/1' and tcp://***@k"),
        ("rtsp:/user:pw@camera", "rtsp:/***@camera"),
        ("rtsp://camera/user=me&password=hunter2&channel=1", "rtsp://camera/user=me&password=***&channel=1"),
        ("srt://camera:9000?passphrase=hunter2: timeout", "srt://camera:9000?passphrase=*** timeout"),
        ("https://camera/live?Token=hunter2 is away", "https://camera/live?Token=*** is away"),
        ("rtsp://user:my pass@host/", "rtsp://***@host/"),
        ("rtsp://user:my p@ss word@host: timeout", "rtsp://***@host: timeout"),
        ("rtsp://my user:pw@host:554/one", "rtsp://***@host:554/one"),
        ("rtsp://:my pass@host", "rtsp://***@host"),
        ("rtsp:/user:my pass@host", "rtsp:/***@host"),
        ("rtsp://user@corp.example:p w@host", "rtsp://***@host"),
        ("rtsp://admin:1234 5678@host/one", "rtsp://***@host/one"),
        ("rtsp://admin:p/w a@host/one", "rtsp://***@host/one"),
        ("rtsp://jürgen:päß wört@höst/eins", "rtsp://***@höst/eins"),
        ("rtsp://user:my pass@[fe80::1%25eth0]:554/", "rtsp://***@[fe80::1%25eth0]:554/"),
        ("'rtsp://u:a b@c/1' and tcp://a:c d@k, e@f", "'rtsp://***@c/1' and tcp://***@f"),
        (
            "rtsp://camera:554/one is away; to rtsp://u:p w@server",
            "rtsp://camera:554/one is away; to rtsp://***@server",
        ),
        ("rtsp://user:pw@", "rtsp://***@"),
        ("rtsp://user:my pw@", "rtsp://***@"),
        ("https://token@host/live", "https://***@host/live"),
    ],
)
def test_credentials_are_left_out(text: str, shown: str) -> None:
    assert without_credentials(text) == shown


WITH_ANY_SIGN = [
    "rtsp://admin:12/3 4@cam/one",
    "rtsp://admin:1234. x@cam/one",
    "rtsp://admin:8080?q w@cam/one",
    "rtsp://me.corp:1234 x@cam/one",
    "rtsp://o'neil:pa ss@cam/one",
    "rtsp://user: pass@cam/one",
    "rtsp://u:a b://c@cam/one",
    "rtsp://localhost:80 a@cam/one",
    "rtsp://[::1]:80@cam/one",
    'rtsp://u:p#q"<>(),;:@cam/one',
]


@pytest.mark.parametrize("address", WITH_ANY_SIGN)
def test_a_password_may_hold_any_sign(address: str) -> None:
    assert without_login(address) == "rtsp://***@cam/one"
    assert without_credentials(f"[tcp @ 0x55] {address}: refused") == "[tcp @ 0x55] rtsp://***@cam/one: refused"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("rtsp://u:a rtsp://c@cam/one", "rtsp://***@cam/one"),
        ("rtsp://user/name:p w@cam/one", "rtsp://***@cam/one"),
        ("rtsp://u:first\nsecond@cam/one", "rtsp://***@cam/one"),
        ("rtsp:/u:p@cam/one", "rtsp:/***@cam/one"),
        ("rtsp:///u:p@cam/one", "rtsp:///***@cam/one"),
        ("file://u:p@cam/one", "file://***@cam/one"),
        ("rtsp://me@cam/one?token=hunter2", "rtsp://***@cam/one?token=***"),
        ("rtsp://cam/one?password=hun@ter2", "rtsp://***"),
        ("rtsp://cam:554/one", "rtsp://cam:554/one"),
        ("/videos/part 1: me@home.mp4", "/videos/part 1: me@home.mp4"),
    ],
)
def test_an_address_is_shown_without_all_before_its_last_at(address: str, shown: str) -> None:
    assert without_login(address) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("see http://example.org: ask me@example.org", "see http://***@example.org"),
        ("see http://example.org/help?at=12:30 or ask me@example.org", "see http://***@example.org"),
        ("http://localhost:8080: ask me@example.org", "http://***@example.org"),
        ("'rtsp://camera:554', 'me@example.org'", "'rtsp://***@example.org'"),
        ("rtsp://camera:554/one: refused\nask me@example.org", "rtsp://camera:554/one: refused\nask me@example.org"),
    ],
)
def test_what_can_be_read_in_two_ways_is_left_out(text: str, shown: str) -> None:
    assert without_credentials(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "rtsp://camera/one",
        "file:/home/me/a.mp4",
        "file:///home/me/part 1: a@b.mp4",
        "see http://example.org, or write to me@example.org",
        "https://example.org/@me and https://example.org/people/me@example.org",
        "[rtsp @ 0x55d0] rtsp://camera:554 is away",
        "rtsp://camera is away @ 12:30",
        "ask me@example.org, or see http://example.org:8080/",
    ],
)
def test_ordinary_text_is_left_as_it_is(text: str) -> None:
    assert without_credentials(text) == text


def test_a_long_text_takes_no_long_time() -> None:
    """A pattern that goes back and forth would take minutes: eight times the text would be 64 times the work."""
    parts = ["http://a:b ", "://", ":/", "a:b@", "x://a b ", "/:/", "://[" + ":" * 50, "http://a:b@c ", "token=a "]

    def spent_s(times: int) -> float:
        start_s = time.process_time()
        for part in parts:
            without_credentials(part * times)
            without_login(part * times)
        return time.process_time() - start_s

    assert min(spent_s(16_000) for _ in range(3)) < 24 * min(spent_s(2_000) for _ in range(3))
