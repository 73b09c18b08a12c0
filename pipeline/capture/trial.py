"""Tries a live source step by step, so that people can see how far it gets."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from pipeline.capture.live import LiveFeed, LiveVideo
from pipeline.capture.source import SourceLost
from pipeline.errors import StartupError
from pipeline.types import Layout

STEPS = ("resolve", "connect", "authenticate", "describe", "first packet", "first frame", "rate")
BURST_S, MEASURED_S = 0.5, 2.0
"""What a server has kept comes at once at first, and does not count."""
_PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443, "rtmp": 1935, "rtmps": 443}
"""Of the addresses that are reached over TCP."""
_ADVICE = {
    "refused": "nothing listens there: is the port right, the camera's RTSP switched on?",
    "unreachable": "is the name or address right, the camera in this network?",
    "timeout": "is a firewall between, or the camera busy?",
    "no such stream": "the camera answers, but has no such path: see its manual",
    "no device": "is it plugged in? ls /dev/video* shows what is there",
    "not video": "is it the address of a page? the camera's manual names that of its video",
    "decode": "the stream is damaged, or encoded in a way that FFmpeg cannot decode here",
}


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a trial. text: what was found; where it failed: why, and what may help."""

    name: str
    done: bool
    text: str
    layout: Layout | None = None


def try_source(source: LiveFeed, url: str | None) -> Iterator[Step]:
    """The steps as they are made, up to the first that fails. url: of a source that has one."""
    if url is not None:
        for step in _reach(urlsplit(url), source.stall_s):
            yield step
            if not step.done:
                return
    began_s = time.monotonic()
    try:
        video = source.connect()
    except StartupError as error:
        yield Step("describe", False, str(error))
        return
    except SourceLost as error:
        yield _failed("authenticate" if error.reason == "unauthorised" else "describe", error)
        return
    try:
        took = f"after {time.monotonic() - began_s:.2f} s"
        if url is not None:
            yield Step("authenticate", True, "let in")
        fps = video.declared_fps
        yield Step("describe", True, f"{video.codec}{f', {fps:g} frames a second as declared' if fps else ''}, {took}")
        yield from _watch(video, began_s)
    finally:
        video.close()


def _reach(parts: SplitResult, patience_s: float) -> Iterator[Step]:
    assert parts.hostname is not None
    port = parts.port or _PORTS.get(parts.scheme)
    try:
        found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "a part of the name is empty or too long"
        yield Step("resolve", False, f"{parts.hostname}: {reason}; {_ADVICE['unreachable']}")
        return
    yield Step("resolve", True, f"{parts.hostname} is {found[0][4][0]}")
    if parts.scheme not in _PORTS:
        return  # no TCP
    try:
        socket.create_connection((parts.hostname, port or 0), patience_s).close()
    except TimeoutError:
        yield Step("connect", False, f"no answer from port {port} within {patience_s:g} s; {_ADVICE['timeout']}")
    except OSError as error:
        yield Step("connect", False, f"port {port}: {error.strerror}; {_ADVICE['refused']}")
    else:
        yield Step("connect", True, f"port {port} answers")


def _watch(video: LiveVideo, began_s: float) -> Iterator[Step]:
    name = "first packet"
    try:
        video.receive()
        yield Step(name, True, f"after {time.monotonic() - began_s:.2f} s")
        name = "first frame"
        picture = video.read()
        layout = picture.image.layout
        yield Step(name, True, f"{layout.width}x{layout.height}, after {time.monotonic() - began_s:.2f} s", layout)
        name = "rate"
        frames = damaged = 0
        counted_s = time.monotonic() + BURST_S
        while (over_s := time.monotonic() - counted_s) < MEASURED_S:
            picture = video.read()
            damaged += picture.corrupt
            frames += over_s >= 0
    except SourceLost as error:
        yield _failed(name, error)
        return
    text = f"{frames / over_s:.1f} frames a second, {f'{damaged} damaged' if damaged else 'none damaged'}"
    yield Step(name, not damaged, text)


def _failed(name: str, error: SourceLost) -> Step:
    advice = _ADVICE.get(error.reason)
    return Step(name, False, f"{error}" + (f"; {advice}" if advice else ""))
