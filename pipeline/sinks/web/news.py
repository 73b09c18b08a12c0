"""One watcher for all listeners: looks at the sources and at the event log, and tells everybody who listens."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator
from concurrent.futures import Executor
from typing import Any

from pipeline.errors import Disconnected
from pipeline.sinks.web.figures import Figures
from pipeline.sinks.web.history import LIMIT, History

EVENTS_EVERY_S, SOURCES_EVERY_S = 0.2, 1.0
QUEUED_MAX = 256
"""News for one listener; one that is slower is let go, and comes back with the number it has seen last."""

log = logging.getLogger(__name__)


class News:
    """Runs in one event loop. A message of an event carries ``<log>.<number>`` as its id."""

    def __init__(self, figures: Figures, history: History, executor: Executor) -> None:
        self._figures = figures
        self._history = history
        self._executor = executor
        self._listeners: set[asyncio.Queue[bytes | None]] = set()
        self._log_id, self._seq = "", 0

    async def watch(self) -> None:
        """Until it is cancelled."""
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        while True:
            try:
                if loop.time() >= due_s:
                    due_s = max(due_s + SOURCES_EVERY_S, loop.time())
                    self._figures.sample()
                    if self._listeners:
                        self._tell(message("sources", self._figures.sources()))
                await self._look_for_events()
            except Exception as error:  # noqa: BLE001  nobody else would notice that there are no news any more
                log.warning("no news for the page now: %s: %s", type(error).__name__, error)
                await asyncio.sleep(SOURCES_EVERY_S)
            await asyncio.sleep(min(EVENTS_EVERY_S, max(0.01, due_s - loop.time())))

    async def _look_for_events(self) -> None:
        if not self._listeners:
            return
        gap, events = await self._in_thread(self._history.since, self._log_id, self._seq)
        for text in _as_messages(gap, events):
            self._tell(text)
        if events:
            self._log_id, self._seq = events[-1]["log_id"], events[-1]["seq"]

    async def listen(self, last: str) -> AsyncGenerator[bytes]:
        """Everything from now on; behind ``last``, the id of the last message that the listener has had, if it has.

        Ends where the log cannot be read: the listener comes back with the number it has seen last.
        """
        try:
            async with contextlib.aclosing(self._news_behind(last)) as news:
                async for text in news:
                    yield text
        except Disconnected as error:
            log.warning("a listener to the page's news is let go: %s", error)

    async def _news_behind(self, last: str) -> AsyncGenerator[bytes]:
        queue: asyncio.Queue[bytes | None] = asyncio.Queue(QUEUED_MAX)
        if not self._listeners:
            self._log_id, self._seq = await self._in_thread(self._history.position)
        self._listeners.add(queue)
        try:
            yield message("sources", self._figures.sources())
            log_id, _, seq = last.rpartition(".")
            reached = self._seq
            while log_id and seq.isdigit():
                gap, events = await self._in_thread(self._history.since, log_id, int(seq))
                for text in _as_messages(gap, [event for event in events if event["seq"] <= reached]):
                    yield text
                if len(events) < LIMIT:
                    break
                log_id, seq = events[-1]["log_id"], str(events[-1]["seq"])
            while (news := await queue.get()) is not None:
                yield news
        finally:
            self._listeners.discard(queue)

    def _tell(self, text: bytes) -> None:
        for queue in list(self._listeners):
            if queue.full():
                self._listeners.discard(queue)
                queue.get_nowait()
                queue.put_nowait(None)
            else:
                queue.put_nowait(text)

    async def _in_thread(self, work: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work, *arguments)


def message(kind: str, data: Any, identity: str | None = None) -> bytes:
    """One server-sent event."""
    first = f"id: {identity}\n" if identity else ""
    return f"{first}event: {kind}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


def _as_messages(gap: Any, events: list[dict[str, Any]]) -> list[bytes]:
    told = [message("gap", gap._asdict())] if gap else []
    return told + [message("event", event, f"{event['log_id']}.{event['seq']}") for event in events]
