"""Recordings and evidence over HTTP: ranges, and disks that do not answer."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.sinks.view import SiteView
from pipeline.sinks.web import disk, download
from pipeline.sinks.web.recordings import Recordings
from tests.runs import wait_until
from tests.web_page import Page, served

CONTENT = bytes(range(256)) * 4096
VIDEO = "/api/v1/recordings/gate.mp4"


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    folder = tmp_path / "recordings"
    folder.mkdir()
    (folder / "gate.mp4").write_bytes(CONTENT)
    (folder / "empty.mp4").touch()
    with served(tmp_path, SiteView("site", {}, recordings=[folder])) as page:
        yield page


def test_a_whole_file_and_what_players_want_to_know_of_it(page: Page) -> None:
    status, headers, body = page.ask(VIDEO)
    assert (status, body) == (200, CONTENT)
    assert (headers["content-type"], headers["accept-ranges"]) == ("video/mp4", "bytes")
    assert headers["cache-control"] == "private, max-age=3600"
    status, its, body = page.ask(VIDEO, "HEAD")
    assert (status, its["content-length"], its["etag"], body) == (200, str(len(CONTENT)), headers["etag"], b"")
    assert page.ask("/api/v1/recordings/empty.mp4")[::2] == (200, b"")


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-", 0, len(CONTENT) - 1),
        ("bytes=0-0", 0, 0),
        ("bytes=300000-900000", 300_000, 900_000),
        ("bytes=1000000-99999999", 1_000_000, len(CONTENT) - 1),
        ("bytes=-5", len(CONTENT) - 5, len(CONTENT) - 1),
        ("bytes=-99999999", 0, len(CONTENT) - 1),
    ],
)
def test_a_range_of_it(page: Page, asked: str, first: int, last: int) -> None:
    tag = page.ask(VIDEO, "HEAD")[1]["etag"]
    status, headers, body = page.ask(VIDEO, headers={"Range": asked, "If-Range": tag})
    assert (status, headers["content-range"]) == (206, f"bytes {first}-{last}/{len(CONTENT)}")
    assert body == CONTENT[first : last + 1]


@pytest.mark.parametrize("asked", ["bytes=99999999-", "bytes=-0"])
def test_bytes_that_it_does_not_have(page: Page, asked: str) -> None:
    status, headers, body = page.ask(VIDEO, headers={"Range": asked})
    assert (status, headers["content-range"], body) == (416, f"bytes */{len(CONTENT)}", b"")


@pytest.mark.parametrize(
    "asked", ["bytes=5-3", "bytes=-", "lines=1-2", "bytes=0-1,5-6", "bytes=a-b", "", "bytes=0x1-2"]
)
def test_a_range_that_is_none_gets_the_file(page: Page, asked: str) -> None:
    assert page.ask(VIDEO, headers={"Range": asked})[::2] == (200, CONTENT)


def test_a_range_of_another_file_gets_this_one_whole(page: Page) -> None:
    assert page.ask(VIDEO, headers={"Range": "bytes=0-9", "If-Range": '"another"'})[::2] == (200, CONTENT)


def test_a_file_that_changes_meanwhile_is_not_mixed(
    page: Page, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "recordings/gate.mp4"
    read = download.File.read

    def replaced(file: download.File, start: int, end: int) -> bytes:
        data = read(file, start, end)
        other = path.with_suffix(".new")
        other.write_bytes(bytes(len(CONTENT)))
        other.replace(path)
        return data

    monkeypatch.setattr(download.File, "read", replaced)
    with socket.create_connection(("127.0.0.1", page.port), timeout=30) as connection:
        connection.sendall(f"GET {VIDEO} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(1 << 20), b""))
    assert answer.partition(b"\r\n\r\n")[2] == CONTENT[: download.PIECE_BYTES]
    assert "gate.mp4: the disk with the recordings fails: another file has its name now" in caplog.text


class Hanging:
    """A disk that does not answer until ``released``. asked: how often it was."""

    def __init__(self) -> None:
        self.released = threading.Event()
        self.asked = 0

    def wait(self) -> None:
        self.asked += 1
        assert self.released.wait(60)


@pytest.fixture
def hanging(page: Page, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hanging]:
    """Under the recordings of ``page``."""
    found, find = Hanging(), Recordings.find

    def late(recordings: Recordings, name: str) -> Path | None:
        found.wait()
        return find(recordings, name)

    monkeypatch.setattr(Recordings, "find", late)
    yield found
    found.released.set()


def test_a_disk_that_hangs_holds_up_nothing_else(page: Page, hanging: Hanging, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "ANSWER_WITHIN_S", 0.5)
    with ThreadPoolExecutor(60) as clients:
        waiting = [clients.submit(page.ask, VIDEO) for _ in range(60)]
        wait_until(lambda: hanging.asked == disk.TASKS_MAX, "a disk that is asked as much as it may be")
        for path in ("/", "/assets/app.js", "/api/v1/health", "/api/v1/events", "/api/v1/sources"):
            assert page.ask(path)[0] == 200
        for future in waiting:
            status, _, body = future.result()
            assert (status, body) == (503, b'{"error":"the disk with the recordings does not answer"}')
    assert page.ask(VIDEO)[0] == 503
    assert page.ask("/api/v1/clips/01KAP5ZK7QABCDEF0000000001/clip")[0] == 404  # another disk
    assert hanging.asked == disk.TASKS_MAX
    hanging.released.set()
    wait_until(lambda: page.ask(VIDEO)[::2] == (200, CONTENT), "the file, when the disk is back")


def test_where_there_are_no_more_threads_the_next_request_is_served_again(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoThread(threading.Thread):
        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    with monkeypatch.context() as exhausted:
        exhausted.setattr(disk, "Thread", NoThread)
        for _ in range(disk.TASKS_MAX + 1):
            status, _, body = page.ask(VIDEO)
            assert (status, body) == (
                503,
                b'{"error":"nobody is free for the disk with the recordings: can\'t start new thread"}',
            )
    assert page.ask(VIDEO)[0] == 200


def test_the_server_does_not_wait_for_a_disk_that_hangs(
    page: Page, hanging: Hanging, caplog: pytest.LogCaptureFixture
) -> None:
    with ThreadPoolExecutor(1) as client:
        waiting = client.submit(page.ask, VIDEO)
        wait_until(lambda: hanging.asked == 1, "a disk that is asked")
        page.sink.close()
        assert waiting.result()[0] == 503
    assert not hanging.released.is_set()
    assert caplog.records == []
