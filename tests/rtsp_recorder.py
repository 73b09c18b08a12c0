"""A real RTSP server that takes a stream and stores it as it came; run by the system's Python.

``/usr/bin/python3 rtsp_recorder.py PORT FILE.h264``. Prints ``ready`` when it serves ``rtsp://127.0.0.1:PORT/in``.
"""

from __future__ import annotations

import sys
import threading

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402


def main() -> None:
    port, path = sys.argv[1:]
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(port)
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_transport_mode(GstRtspServer.RTSPTransportMode.RECORD)
    units = "video/x-h264,stream-format=byte-stream,alignment=au"
    factory.set_launch(f"( rtph264depay name=depay0 ! h264parse ! {units} ! filesink location={path} sync=false )")
    server.get_mount_points().add_factory("/in", factory)
    server.attach(None)
    print("ready", flush=True)
    loop = GLib.MainLoop()
    threading.Thread(target=lambda: (sys.stdin.read(), loop.quit()), daemon=True).start()
    loop.run()


if __name__ == "__main__":
    main()
