"""``kind: rtsp_push``: one source's annotated video to an RTSP server, as a camera would be seen there."""

from __future__ import annotations

import contextlib
import logging
import queue
import random
import threading
import time
from typing import Annotated, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from pipeline.errors import Disconnected, without_credentials
from pipeline.sinks.sink import Accepts, Packet, SinkConfig, SinkContext, Stream, Wish

QUEUED_MAX = 128
"""Packets: a server that is slower misses some and gets a keyframe after a while."""
HOLD_OFF_S = 1.0
"""A server that is too slow gets no keyframe for so long: each makes the stream larger, for the other sinks as well."""
RETRY_MIN_S, RETRY_MAX_S = 0.5, 15.0
CLOSE_S = 2.0

log = logging.getLogger(__name__)


class Config(SinkConfig):
    """url: ``rtsp://user:${PASSWORD}@server/entrance``; ``{source}`` in it is replaced by the source's id.

    timeout_s: a server that takes nothing for so long is given up and tried again later.
    """

    accepts: ClassVar[Accepts] = "packets"

    url: str
    transport: Literal["tcp", "udp"] = "tcp"
    timeout_s: Annotated[float, Field(ge=1, le=60)] = 5.0

    @field_validator("url")
    @classmethod
    def _is_rtsp(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("rtsp", "rtsps") or not parts.hostname:
            raise ValueError(f"{without_credentials(url)!r} is not an address like rtsp://server:8554/entrance")
        return url

    def claims(self) -> frozenset[tuple[str, str]]:
        return frozenset() if "{source}" in self.url else frozenset([("stream", without_credentials(self.url))])


class RtspPush:
    """Sends from a thread of its own: neither a server that hangs nor one that is away holds anybody up."""

    accepts: ClassVar[Accepts] = "packets"
    lossless: ClassVar[bool] = False

    def __init__(self, config: Config, context: SinkContext) -> None:
        self._config = config
        self._name = context.name
        self._url = config.url.replace("{source}", context.source_id or context.name)
        self._shown = without_credentials(self._url)
        self._queue: queue.Queue[tuple[Stream, Packet] | None] = queue.Queue(QUEUED_MAX)
        self._thread: threading.Thread | None = None
        self._stream: Stream | None = None
        self._waiting = True
        """For a keyframe to start at."""
        self._may_start_s = 0.0
        self._stopped = False

    def open(self) -> None:
        self.close()
        self._stopped = False
        self._thread = threading.Thread(target=self._send_all, name="rtsp-push", daemon=True)
        self._thread.start()

    def start(self, stream: Stream) -> None:
        self._stream = stream
        self._waiting = True

    def wish(self, time_s: float) -> Wish:  # noqa: ARG002
        return Wish.KEYFRAME if self._waiting and time.monotonic() >= self._may_start_s else Wish.PACKET

    def write(self, packet: Packet) -> None:
        """Never waits."""
        assert self._stream is not None, "start comes before write"
        if self._waiting and not (packet.keyframe and time.monotonic() >= self._may_start_s):
            return
        try:
            self._queue.put_nowait((self._stream, packet))
            self._waiting = False
        except queue.Full:
            self._drop_all()
            self._waiting = True
            self._may_start_s = max(self._may_start_s, time.monotonic() + HOLD_OFF_S)

    def _drop_all(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._queue.get_nowait()

    def finish(self) -> None:
        """What is on its way is still sent, for a moment."""
        self._end(CLOSE_S)

    def close(self) -> None:
        self._stopped = True
        self._end(CLOSE_S)

    def _end(self, patience_s: float) -> None:
        if self._thread is None:
            return
        try:
            self._queue.put(None, timeout=patience_s)
        except queue.Full:
            self._stopped = True
        self._thread.join(patience_s)  # one that hangs in a dead connection ends with the process
        self._thread = None
        self._queue = queue.Queue(QUEUED_MAX)

    # -- the thread

    def _send_all(self) -> None:
        from pipeline.sinks.rtsp_output import RtspOutput  # it brings FFmpeg with it

        waiting, retry_s = self._queue, RETRY_MIN_S
        output: RtspOutput | None = None
        while not self._stopped and (item := waiting.get()) is not None:
            stream, packet = item
            try:
                if output is None or output.stream is not stream:
                    if not packet.keyframe:
                        continue
                    if output is not None:
                        output.close()
                    output = RtspOutput(self._url, self._config.transport, self._config.timeout_s, stream, packet)
                    log.info("sink %s: sending to %s", self._name, self._shown)
                output.send(packet)
                retry_s = RETRY_MIN_S
            except Disconnected as error:
                output = None
                log.warning("sink %s: %s: %s; trying again", self._name, self._shown, error)
                self._may_start_s = time.monotonic() + retry_s * random.uniform(0.8, 1.2)  # noqa: S311
                self._waiting = True
                retry_s = min(2 * retry_s, RETRY_MAX_S)
        if output is not None:
            output.close()


def create(config: Config, context: SinkContext) -> RtspPush:
    return RtspPush(config, context)
