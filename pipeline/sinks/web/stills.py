"""One source's pictures as JPEG: each made once, when somebody asks, for everybody who does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from concurrent.futures import Executor
from typing import NamedTuple

import zmq
import zmq.asyncio

from pipeline.sinks.view import View

LOOK_EVERY_S = 0.05
"""A lost bell never stops anyone."""


class Still(NamedTuple):
    """seq: of the frame."""

    seq: int
    jpeg: bytes


class Stills:
    """Works in one event loop; the pixels are worked on in the executor."""

    def __init__(self, context: zmq.asyncio.Context, bell: str, view: View, executor: Executor) -> None:
        self._context = context
        self._bell = bell
        self._view = view
        self._executor = executor
        self._lock = asyncio.Lock()
        self._drawing = threading.Lock()
        self._newest: Still | None = None

    async def newest(self) -> Still | None:
        """The newest picture, None before the first frame."""
        async with self._lock:
            if self._newest is None or self._newest.seq < self._view.newest:
                loop = asyncio.get_running_loop()
                self._newest = await loop.run_in_executor(self._executor, self._make) or self._newest
            return self._newest

    def _make(self) -> Still | None:
        with self._drawing:  # the thread of a request that was cancelled goes on, and there is one canvas
            found = self._view.picture()
            if found is None:
                return None
            result, canvas = found
            return Still(result.frame.seq, canvas.jpeg())

    async def follow(self) -> AsyncGenerator[Still]:
        """Each new picture, as far as the caller keeps up; what it is too slow for is never made."""
        socket = self._context.socket(zmq.SUB)
        try:
            socket.setsockopt(zmq.CONFLATE, 1)
            socket.subscribe(b"")
            socket.connect(self._bell)
            seen = -1
            while True:
                if self._view.newest == seen:
                    if await socket.poll(round(LOOK_EVERY_S * 1000)):
                        await socket.recv()
                    continue
                still = await self.newest()
                if still is not None and still.seq != seen:
                    seen = still.seq
                    yield still
                else:
                    await asyncio.sleep(LOOK_EVERY_S)
        finally:
            socket.close(0)
