"""The replay socket beside a publisher: answers who asks for events behind a number (``schema.Ask``, ``Answer``).

Whoever asks, and however much, takes at most a share of one processor, and an answer that its asker does not take is
dropped.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Collection
from pathlib import Path

import msgspec
import zmq

from pipeline.errors import Disconnected
from pipeline.sinks.event_reader import EventReader
from pipeline.sinks.schema import Answer, Ask, GapRecord

EVENTS_MAX = 256
"""In one answer; about 200 kB."""
BUSY_SHARE_MAX = 0.25
"""Of a processor's time: alerts that are due go before those that are repeated."""
_POLL_S = 0.2


class ReplayServer:
    """Owns a bound ROUTER socket and a thread that answers on it until ``close``."""

    def __init__(self, socket: zmq.Socket[bytes], event_log: Path, sources: Collection[str]) -> None:
        socket.sndhwm = socket.rcvhwm = 8
        socket.linger = 0
        self.malformed = 0
        self._socket = socket
        self._event_log = event_log
        self._sources = frozenset(sources)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="replay", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        while (reader := self._open()) is None:
            if self._ending.wait(_POLL_S):
                return
        try:
            while not self._ending.is_set():
                if self._socket.poll(round(_POLL_S * 1000)):
                    began_s = time.thread_time()
                    self._serve(reader, self._socket.recv_multipart())
                    busy_s = time.thread_time() - began_s
                    self._ending.wait(busy_s * (1 / BUSY_SHARE_MAX - 1))
        finally:
            reader.close()

    def _open(self) -> EventReader | None:
        """None while the log cannot be read."""
        try:
            return EventReader(self._event_log)
        except Disconnected:
            return None

    def _serve(self, reader: EventReader, frames: list[bytes]) -> None:
        """A REQ socket puts an empty frame before its message, a DEALER need not."""
        *envelope, body = frames
        try:
            ask = msgspec.json.decode(body, type=Ask)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            self.malformed += 1
            return
        if len(envelope) > 2:
            self.malformed += 1
            return
        # whoever does not read, or asks while the disk is away, will ask again
        with contextlib.suppress(zmq.Again, Disconnected):
            found = answer(reader, ask, self._sources)
            self._socket.send_multipart([*envelope, msgspec.json.encode(found)], zmq.NOBLOCK)

    def close(self) -> None:
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join()
        self._socket.close()


def answer(reader: EventReader, ask: Ask, sources: Collection[str]) -> Answer:
    """What a log has for ``ask``, of those sources."""
    newest = reader.bounds.newest
    if ask.after is None:
        return Answer(reader.log_id, newest, newest, newest, [], id=ask.id)
    gap = reader.gap(ask.log_id, ask.after)
    after = gap.oldest - 1 if gap else ask.after
    found = reader.after(after, EVENTS_MAX)
    upto = found[-1]["seq"] if found else after
    events = [msgspec.Raw(msgspec.json.encode(event)) for event in found if event["source"] in sources]
    told = GapRecord(gap.reason, gap.oldest) if gap else None
    return Answer(reader.log_id, after, upto, max(newest, upto), events, told, ask.id)
