"""Addresses are shown without what lets people in."""

from __future__ import annotations

import pytest

from pipeline.errors import without_credentials


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rtsp://user:password@camera", "rtsp://***@camera"),
        ("'rtsp://u:p@@c/1' and tcp://a:b@k", "'rtsp://***@c/1' and tcp://***@k"),
        ("rtsp:/user:pw@camera", "rtsp:/***@camera"),
        ("rtsp://camera/user=me&password=hunter2&channel=1", "rtsp://camera/user=me&password=***&channel=1"),
        ("srt://camera:9000?passphrase=hunter2: timeout", "srt://camera:9000?passphrase=*** timeout"),
        ("https://camera/live?Token=hunter2 is away", "https://camera/live?Token=*** is away"),
        ("rtsp://camera/one", "rtsp://camera/one"),
        ("file:/home/me/a.mp4", "file:/home/me/a.mp4"),
    ],
)
def test_credentials_are_left_out(text: str, shown: str) -> None:
    assert without_credentials(text) == shown
