"""Other addresses than RTSP, and servers that speak nonsense: what can be read is read, the rest is left in time."""

from __future__ import annotations

import contextlib
import functools
import http.server
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import pytest

from pipeline.capture.source import SourceLost
from pipeline.capture.sources.rtsp import Config, RtspSource, create
from pipeline.capture.trial import try_source
from tests.numbered import number_in, write_numbered

COUNT = 30


@contextlib.contextmanager
def serving(directory: Path) -> Iterator[str]:
    """A web server for the files of a directory."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(directory))
    ) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@contextlib.contextmanager
def answering(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A TCP server that gives every client the same treatment, until the client leaves."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listening.accept()
                    with client, contextlib.suppress(OSError):
                        answer(client)

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield int(listening.getsockname()[1])
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


def source_at(url: str, stall_s: float = 5.0) -> RtspSource:
    return create(Config.model_validate({"url": url, "stall_s": stall_s}), "gate")


def read_all(source: RtspSource, numbers: list[int]) -> None:
    """Appends what the pictures say until the source is lost."""
    with contextlib.closing(source):
        source.open()
        while True:
            numbers.append(number_in(source.read().image.y))


def remux(source: Path, target: Path, format_: str, **options: str) -> None:
    with av.open(str(source)) as given, av.open(str(target), "w", format=format_, options=options) as made:
        stream = made.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                made.mux(packet)


@pytest.mark.parametrize(("name", "format_"), [("film.ts", "mpegts"), ("film.m3u8", "hls")])
def test_http_and_hls_are_read_and_their_end_is_a_loss(tmp_path: Path, name: str, format_: str) -> None:
    remux(write_numbered(tmp_path / "film.mp4", COUNT), tmp_path / name, format_)
    with serving(tmp_path) as base:
        source = source_at(f"{base}/{name}")
        numbers: list[int] = []
        with pytest.raises(SourceLost, match="has ended") as caught:
            read_all(source, numbers)
    assert caught.value.reason == "ended"
    assert numbers == list(range(COUNT))


def test_a_playlist_opens_no_file_of_this_machine(tmp_path: Path) -> None:
    remux(write_numbered(tmp_path / "film.mp4", COUNT), tmp_path / "secret.ts", "mpegts")
    (tmp_path / "list.m3u8").write_text(
        f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:2,\nfile://{tmp_path}/secret.ts\n#EXT-X-ENDLIST\n"
    )
    with serving(tmp_path) as base, pytest.raises(SourceLost):
        read_all(source_at(f"{base}/list.m3u8"), [])


def trickle(client: socket.socket) -> None:
    while True:
        client.sendall(b"\x24")
        time.sleep(0.02)


def flood(client: socket.socket) -> None:
    while True:
        client.sendall(b"RTSP/1.0 200 OK\r\nnonsense " * 1000)


def listen_only(client: socket.socket) -> None:
    while client.recv(1000):
        pass


@pytest.mark.parametrize("answer", [trickle, flood, listen_only])
@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_a_server_that_speaks_nonsense_is_left_in_time(scheme: str, answer: Callable[[socket.socket], None]) -> None:
    """Bytes keep no connection alive: only video does."""
    with answering(answer) as port:
        source = source_at(f"{scheme}://127.0.0.1:{port}/one", stall_s=1)
        began_s = time.monotonic()
        with pytest.raises(SourceLost) as caught:
            read_all(source, [])
        assert time.monotonic() - began_s < 10
        assert caught.value.reason in ("timeout", "not video", "failed", "ended")


PAGE = b"<html>Log in</html>"


@pytest.mark.parametrize("header", [b"", b"Content-Length: %d\r\n" % len(PAGE)], ids=["endless", "of a length"])
def test_a_page_is_told_from_a_video(header: bytes) -> None:
    def answer(client: socket.socket) -> None:
        client.recv(1000)
        client.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n" + header + b"\r\n" + PAGE)

    with answering(answer) as port:
        url = f"http://127.0.0.1:{port}/"
        with pytest.raises(SourceLost, match=r"answers, but not with video$") as caught:
            read_all(source_at(url), [])
        steps = list(try_source(source_at(url), url))
    assert caught.value.reason == "not video"
    assert [step.done for step in steps] == [True, True, False]
    assert "is it the address of a page?" in steps[-1].text


def deny(client: socket.socket) -> None:
    client.recv(1000)
    client.sendall(b'HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm="x"\r\nContent-Length: 0\r\n\r\n')


@pytest.mark.parametrize(("login", "advised"), [("", True), ("me:wrong@", False)])
def test_where_a_login_is_asked_for_it_is_said_how_to_give_one(login: str, *, advised: bool) -> None:
    with answering(deny) as port, pytest.raises(SourceLost, match="401") as caught:
        read_all(source_at(f"http://{login}127.0.0.1:{port}/"), [])
    assert caught.value.reason == "unauthorised"
    assert ("login_file (--login-file)" in str(caught.value)) is advised
    assert "wrong" not in str(caught.value)
