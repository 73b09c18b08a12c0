"""``kind: frames``: annotated pictures for programs, over ZeroMQ: pixels or JPEG, the newest for whoever subscribes.

A message has three parts: the topic ``frames.<source>.``; a JSON object with ``source``, ``seq``, ``time_s``,
``wall_ns``, ``width``, ``height``, ``format`` and ``tracks`` (``id``, ``class_id``, ``confidence``, ``xyxy`` in pixels,
``detected``); the bytes. What a subscriber is too slow for, it does not get.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import msgspec
import zmq
from pydantic import field_validator, model_validator

from pipeline.errors import StartupError
from pipeline.sinks.keyed import KeyedConfig
from pipeline.sinks.sink import Accepts, SinkContext
from pipeline.sinks.view import SiteView
from pipeline.types import Result

if TYPE_CHECKING:
    from pipeline.sinks.canvas import Canvas

DEFAULT_ADDRESS = "tcp://127.0.0.1:5560"
QUEUED_MAX = 2
"""Pictures for each subscriber: what it reads is fresh."""
LOOK_EVERY_S = 0.05

_TCP = re.compile(r"tcp://(?P<host>\d{1,3}(\.\d{1,3}){3}|localhost|\[[0-9a-fA-F:.]+\]):(?P<port>\d{1,5})")
_LOOPBACK = re.compile(r"tcp://(127\.\d{1,3}\.\d{1,3}\.\d{1,3}|\[::1\]):\d+")


class Config(KeyedConfig):
    """bind: ``tcp://127.0.0.1:PORT``. format: ``jpeg``, or pixels: ``bgr24`` (rows of B, G, R) or ``i420`` (planes).

    secret_key_file, client_keys: as of ``zeromq``; an address that other machines can reach demands them.
    """

    accepts: ClassVar[Accepts] = "views"

    bind: str = DEFAULT_ADDRESS
    format: Literal["jpeg", "bgr24", "i420"] = "jpeg"

    @field_validator("bind")
    @classmethod
    def _is_an_address(cls, bind: str) -> str:
        bind = bind.replace("//localhost:", "//127.0.0.1:")
        match = _TCP.fullmatch(bind)
        if match is None or not 0 < int(match["port"]) < 65536:
            raise ValueError(f"{bind!r} is not an address like {DEFAULT_ADDRESS}")
        return bind

    @model_validator(mode="after")
    def _beyond_this_machine_only_with_keys(self) -> Self:
        self.demand_keys(self.bind, loopback=_LOOPBACK.fullmatch(self.bind) is not None, like=DEFAULT_ADDRESS)
        return self

    def claims(self) -> frozenset[tuple[str, str]]:
        return frozenset([("tcp", self.bind.rpartition(":")[2])])


class Frames:
    """Nothing is drawn or converted for nobody."""

    accepts: ClassVar[Accepts] = "views"

    def __init__(self, config: Config, context: SinkContext) -> None:
        self._config = config
        self._name = context.name
        self._site = SiteView("", {})
        self._open = contextlib.ExitStack()
        self._socket: zmq.Socket[bytes] | None = None
        self._bells: list[zmq.Socket[bytes]] = []
        self._topics: set[bytes] = set()
        self._sent: dict[str, int] = {}

    def open(self, site: SiteView) -> None:
        """Raises ``StartupError`` where the port is in use."""
        self.close()
        self._site = site
        self._sent = dict.fromkeys(site.views, -1)
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._open.callback(context.term)
        socket = self._socket = self._new_socket(context, zmq.XPUB)
        socket.set_hwm(QUEUED_MAX)
        socket.ipv6 = "[" in self._config.bind
        doorkeeper = self._config.doorkeeper(context)
        if doorkeeper is not None:
            self._open.callback(doorkeeper.close)
        self._config.guard(socket)
        try:
            socket.bind(self._config.bind)
        except zmq.ZMQError as error:
            raise StartupError(f"sink {self._name}: cannot publish on {self._config.bind}: {error}") from error
        for address in site.bells.values():
            bell = self._new_socket(context, zmq.SUB)
            bell.setsockopt(zmq.CONFLATE, 1)
            bell.subscribe(b"")
            bell.connect(address)
            self._bells.append(bell)

    def _new_socket(self, context: zmq.Context[zmq.Socket[bytes]], kind: int) -> zmq.Socket[bytes]:
        socket = context.socket(kind)
        self._open.callback(socket.close, 0)
        return socket

    def step(self) -> float:
        assert self._socket is not None, "open comes before step"
        self._hear(self._socket)
        for bell in self._bells:
            with contextlib.suppress(zmq.Again):
                bell.recv(zmq.NOBLOCK)
        for source in self._site.views:
            if any(f"frames.{source}.".encode().startswith(topic) for topic in self._topics):
                self._publish(self._socket, source)
        return LOOK_EVERY_S

    def _hear(self, socket: zmq.Socket[bytes]) -> None:
        """Who has come, who has gone."""
        with contextlib.suppress(zmq.Again):
            while True:
                message = socket.recv(zmq.NOBLOCK)
                if message[:1] == b"\1":
                    self._topics.add(message[1:])
                elif message[:1] == b"\0":
                    self._topics.discard(message[1:])

    def _publish(self, socket: zmq.Socket[bytes], source: str) -> None:
        view = self._site.views[source]
        if view.newest == self._sent[source] or (found := view.picture()) is None:
            return
        result, canvas = found
        self._sent[source] = result.frame.seq
        with contextlib.suppress(zmq.Again):
            parts = [f"frames.{source}.".encode(), self._head(source, result, canvas), self._bytes(canvas)]
            socket.send_multipart(parts, zmq.NOBLOCK)

    def _head(self, source: str, result: Result, canvas: Canvas) -> bytes:
        frame, layout = result.frame, canvas.layout
        head = {
            "source": source, "seq": frame.seq, "time_s": frame.time_s, "wall_ns": frame.wall_ns,
            "width": layout.width, "height": layout.height, "format": self._config.format,
            "tracks": [msgspec.structs.asdict(track) for track in result.tracks],
        }  # fmt: skip
        return msgspec.json.encode(head)

    def _bytes(self, canvas: Canvas) -> bytes:
        match self._config.format:
            case "jpeg":
                return canvas.jpeg()
            case "bgr24":
                return canvas.bgr().tobytes()
            case "i420":
                return b"".join(plane.tobytes() for plane in (canvas.image.y, canvas.image.u, canvas.image.v))

    @property
    def wakers(self) -> Sequence[Any]:
        return [self._socket, *self._bells] if self._socket else []

    def close(self) -> None:
        self._socket = None
        self._bells = []
        self._topics.clear()
        self._open.close()


def create(config: Config, context: SinkContext) -> Frames:
    return Frames(config, context)
