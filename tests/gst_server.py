"""A real RTSP server, run by the system's Python: loops pre-encoded files as cameras would send them.

``/usr/bin/python3 gst_server.py '{"port": 0, "cameras": {"cam1": ["a.h264.mp4"]}, …}'``. Prints ``port N`` when it
serves. Reads commands, one JSON list a line: ``["show", "cam1", 1]`` (go on with the camera's other file),
``["damage", "cam1", 0.1]`` (share of access units that get wrong bytes). Ends with its standard input.
"""

from __future__ import annotations

import json
import random
import sys
import threading
from collections.abc import Iterator
from typing import Any

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
gi.require_version("GstApp", "1.0")
gi.require_version("GstRtsp", "1.0")
from gi.repository import GLib, Gst, GstApp, GstRtsp, GstRtspServer  # noqa: E402, F401

ATTEMPTS, PATIENCE_S = 3, 5
THREADS = 16
"""A client that waits blocks the others of its thread, and by default there is one."""
DEMUXED = (
    "filesrc location={path} ! qtdemux ! {parser} ! video/x-{codec},stream-format=byte-stream,alignment=au"
    " ! appsink name=units sync=false max-buffers=0"
)
SENT = (
    "( appsrc name=units is-live=true format=time max-bytes=0"
    " caps=video/x-{codec},stream-format=byte-stream,alignment=au"
    " ! {parser} config-interval=-1 ! rtp{codec}pay pt=96 mtu=1400 ! identity name=pay0 )"
)
BEFORE_SLICES = 40
"""So many bytes at the beginning of an access unit are left alone: its parameter sets and slice headers."""

WRONG = bytes(byte ^ 0x55 or 0xAA for byte in range(256))
"""What each byte becomes: never 0, so that no start code comes into being."""


def access_units(path: str, codec: str) -> list[tuple[bytes, bool]]:
    """Every access unit of a file, and whether decoding can begin there."""
    for _ in range(ATTEMPTS):
        if units := demuxed(path, codec):
            return units
    raise failure(f"{path}: holds no {codec}")


def demuxed(path: str, codec: str) -> list[tuple[bytes, bool]] | None:
    """None where it does not come to its end: a demuxer may stop silently while it is being started."""
    pipeline = Gst.parse_launch(DEMUXED.format(path=path, parser=f"{codec}parse", codec=codec))
    sink = pipeline.get_by_name("units")
    pipeline.set_state(Gst.State.PLAYING)
    units = []
    while (sample := sink.emit("try-pull-sample", PATIENCE_S * Gst.SECOND)) is not None:
        buffer = sample.get_buffer()
        units.append((buffer.extract_dup(0, buffer.get_size()), not buffer.has_flags(Gst.BufferFlags.DELTA_UNIT)))
    whole = sink.get_property("eos")
    message = pipeline.get_bus().pop_filtered(Gst.MessageType.ERROR)
    pipeline.set_state(Gst.State.NULL)
    if message is not None:
        raise failure(f"{path}: {message.parse_error()}")
    return units if whole else None


def failure(why: str) -> SystemExit:
    """What to raise where it cannot serve; whoever started it reads why."""
    print(why, flush=True)
    return SystemExit(1)


def damaged(unit: bytes) -> bytes:
    first = min(BEFORE_SLICES, len(unit) // 2)
    return unit[:first] + unit[first:].translate(WRONG)


class Camera:
    """Sends one of its files round and round, to each client from the beginning, with timestamps that go on."""

    def __init__(self, files: list[str], codec: str, fps: float, lost: float) -> None:
        self.codec, self.parser = codec, f"{codec}parse"
        self._films = [access_units(path, codec) for path in files]
        self._duration_ns = round(1e9 / fps)
        self._losing, self._damaging = random.Random(1), random.Random(1)
        self.lost, self.damaged = lost, 0.0
        self.shown = 0
        """Which film; another one begins where the one before has a key frame."""

    def configure(self, _factory: Any, media: Any) -> None:
        """A client has come."""
        element = media.get_element()
        over = threading.Event()
        media.connect("unprepared", lambda _: over.set())
        source = element.get_by_name("units")
        threading.Thread(target=self._send, args=(source, over), daemon=True).start()
        element.get_by_name("pay0").get_static_pad("src").add_probe(Gst.PadProbeType.BUFFER, self._pass)

    def _send(self, source: Any, over: threading.Event) -> None:
        """Picture after picture when it is due; asked for data, the source would ask for too much before it plays."""
        while source.get_state(Gst.SECOND)[1] != Gst.State.PLAYING:
            if over.is_set():
                return
        clock, base = source.get_clock(), source.get_base_time()
        first = clock.get_time() - base
        for number, unit in enumerate(self._units()):
            due = first + number * self._duration_ns
            if over.wait(max(0, due - (clock.get_time() - base)) / 1e9):
                return
            buffer = Gst.Buffer.new_wrapped(unit)
            buffer.pts = buffer.dts = due
            buffer.duration = self._duration_ns
            source.emit("push-buffer", buffer)

    def _units(self) -> Iterator[bytes]:
        shown = self.shown
        while True:
            for unit, keyframe in self._films[shown]:
                if keyframe and shown != self.shown:
                    break
                hit = not keyframe and self.damaged > self._damaging.random()
                yield damaged(unit) if hit else unit
            shown = self.shown

    def _pass(self, _pad: Any, _info: Any) -> Any:
        """Loses so many packets on the way."""
        drop = self.lost and self._losing.random() < self.lost
        return Gst.PadProbeReturn.DROP if drop else Gst.PadProbeReturn.OK


def guard(server: Any, method: str, user: str, password: str) -> None:
    """Nobody gets in without the login."""
    auth = GstRtspServer.RTSPAuth()
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "viewer")
    if method == "digest":
        auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
        auth.add_digest(user, password, token)
    else:
        auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
    server.set_auth(auth)


def main() -> None:
    settings = json.loads(sys.argv[1])
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(str(settings["port"]))
    server.get_thread_pool().set_max_threads(THREADS)
    if login := settings.get("login"):
        guard(server, *login)
    cameras = {}
    for name, files in settings["cameras"].items():
        camera = Camera(files, settings.get("codec", "h264"), settings.get("fps", 25), settings.get("lost", 0.0))
        factory = GstRtspServer.RTSPMediaFactory()
        factory.set_launch(SENT.format(codec=camera.codec, parser=camera.parser))
        if login:
            permissions = GstRtspServer.RTSPPermissions()
            permissions.add_permission_for_role("viewer", "media.factory.access", True)
            permissions.add_permission_for_role("viewer", "media.factory.construct", True)
            factory.set_permissions(permissions)
        factory.connect("media-configure", camera.configure)
        server.get_mount_points().add_factory(f"/{name}", factory)
        cameras[name] = camera
    if not server.attach(None):
        raise failure("the port is in use")
    loop = GLib.MainLoop()
    threading.Thread(target=obey, args=(cameras, loop), daemon=True).start()
    print(f"port {server.get_bound_port()}", flush=True)
    loop.run()


def obey(cameras: dict[str, Camera], loop: Any) -> None:
    for line in sys.stdin:
        command, name, value = json.loads(line)
        if command == "show":
            cameras[name].shown = value
        else:
            cameras[name].damaged = value
    loop.quit()


if __name__ == "__main__":
    main()
