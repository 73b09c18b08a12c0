"""The answers that do not end by themselves: live video, live pictures, and news by server-sent events.

A viewer that takes nothing is let go by the server; until then it costs one bounded buffer.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from pipeline.sinks.view import View
from pipeline.sinks.web.feed import Feed, Opening
from pipeline.sinks.web.stills import Stills

_BOUNDARY = "picture"
_GONE = (WebSocketDisconnect, RuntimeError, OSError)
"""What sending to a viewer that has left may raise."""


async def send_video(socket: WebSocket, feed: Feed, view: View) -> None:
    """Fragmented MP4 over a WebSocket.

    A text message ``{"mime", "width", "height"}`` comes before every initialisation segment, which is the next binary
    message. Each further binary message is two float64 (little-endian: the age of the frame in milliseconds when it
    was sent, -1 if unknown; its place on the player's clock in seconds) and a fragment of one frame.
    """
    try:
        await socket.accept()
    except (WebSocketDisconnect, RuntimeError):  # it has gone already
        return
    await first_of(_await_end(socket), _send_fragments(socket, feed, view))
    with contextlib.suppress(*_GONE):
        await socket.close()


async def first_of(*work: Coroutine[Any, Any, Any]) -> None:
    """Until one of them ends, however; the others are cancelled."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, *_GONE):
                await task


async def _await_end(socket: WebSocket) -> None:
    """Viewers have nothing to say: whatever comes is dropped, and one that talks much is let go."""
    for _ in range(100):
        if (await socket.receive())["type"] == "websocket.disconnect":
            return


async def _send_fragments(socket: WebSocket, feed: Feed, view: View) -> None:
    opening: Opening | None = None
    async with contextlib.aclosing(feed.follow()) as fragments:
        async for fragment in fragments:
            if fragment.opening is not opening:
                opening = fragment.opening
                mime = f'video/mp4; codecs="{opening.codecs}"'
                await socket.send_text(json.dumps({"mime": mime, "width": opening.width, "height": opening.height}))
                await socket.send_bytes(opening.header)
            age_ms = view.age_ms(fragment.seq)
            before = struct.pack("<dd", -1 if age_ms is None else age_ms, fragment.time_s)
            await socket.send_bytes(before + fragment.data)


class Streaming:
    """An ASGI answer whose body is made as the reader takes it.

    closing: set when the server ends, which the stream then does as well.
    """

    def __init__(self, body: Callable[[], AsyncGenerator[bytes]], content_type: str, closing: asyncio.Event) -> None:
        self._body = body
        self._content_type = content_type
        self._closing = closing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", self._content_type.encode()), (b"x-accel-buffering", b"no")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b""})
            return
        await first_of(disconnected(receive), self._send(send), self._closing.wait())
        with contextlib.suppress(*_GONE):
            await send({"type": "http.response.body", "body": b""})

    async def _send(self, send: Send) -> None:
        async with contextlib.aclosing(self._body()) as parts:
            async for part in parts:
                await send({"type": "http.response.body", "body": part, "more_body": True})


async def disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def mjpeg(stills: Stills, closing: asyncio.Event) -> Streaming:
    """``multipart/x-mixed-replace``, as ``<img>`` takes it."""

    async def body() -> AsyncGenerator[bytes]:
        # browsers show a part when the next boundary comes: it is sent behind each picture, not before it
        yield f"--{_BOUNDARY}\r\n".encode()
        async with contextlib.aclosing(stills.follow()) as pictures:
            async for still in pictures:
                head = f"Content-Type: image/jpeg\r\nContent-Length: {len(still.jpeg)}\r\nX-Frame: {still.seq}\r\n\r\n"
                yield b"".join((head.encode(), still.jpeg, f"\r\n--{_BOUNDARY}\r\n".encode()))

    return Streaming(body, f"multipart/x-mixed-replace; boundary={_BOUNDARY}", closing)
