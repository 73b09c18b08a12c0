"""A real RTSP server for tests (GStreamer's, from Debian), and the cameras behind it: started, killed, frozen."""

from __future__ import annotations

import contextlib
import functools
import json
import signal
import subprocess
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Self

import pytest

from tests.media import moving
from tests.numbered import pictures_of, write_numbered

SCRIPT = Path(__file__).with_name("gst_server.py")
PYTHON = "/usr/bin/python3"
PACKAGES = (
    "gir1.2-gst-rtsp-server-1.0 python3-gi gir1.2-gst-plugins-base-1.0 gstreamer1.0-plugins-base "
    "gstreamer1.0-plugins-good gstreamer1.0-plugins-bad"
)
CODECS = {
    "h264": ("libx264", {"tune": "zerolatency"}),
    "h265": ("libx265", {"x265-params": "bframes=0:log-level=none"}),
}
FRAMES = 512
"""Of so many frames each camera has its own numbers: ``number // FRAMES`` is the camera."""


@functools.cache
def _missing() -> str | None:
    """Why there is no such server here."""
    check = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
    try:
        asked = subprocess.run([PYTHON, "-c", check], capture_output=True, text=True, timeout=60)
    except OSError as error:
        return str(error)
    return None if asked.returncode == 0 else asked.stderr.splitlines()[-1]


def film(
    path: Path,
    camera: int,
    count: int = 100,
    *,
    codec: str = "h264",
    size: tuple[int, int] = (320, 180),
    video: Path | None = None,
    options: Mapping[str, str] | None = None,
) -> Path:
    """What camera ``camera`` shows, encoded as cameras do: its number and the frame's burnt in, no B-frames, a key
    frame a second. video: what is to be seen; without it a ramp that moves.
    """
    encoder, usual = CODECS[codec]
    pictures: Any = islice(pictures_of(video, *size), count) if video else (moving(i, *size) for i in range(count))
    how: dict[str, Any] = {"codec": encoder, "options": {**usual, "crf": "23", **(options or {})}}
    return write_numbered(path, count, pictures, first=camera * FRAMES, **how)


class RtspServer:
    """One server process with any number of cameras: name → the files that it shows, one at a time.

    login: ``("basic" | "digest", user, password)``. lost: share of RTP packets that get lost on the way.
    A server that is started again has the same port. Skips the test where the machine has no such server.
    """

    def __init__(
        self,
        cameras: Mapping[str, Sequence[Path]],
        *,
        login: tuple[str, str, str] | None = None,
        codec: str = "h264",
        fps: float = 25,
        lost: float = 0.0,
    ) -> None:
        if reason := _missing():
            pytest.skip(f"needs GStreamer's RTSP server ({reason}); install: apt-get install {PACKAGES}")
        self._settings: dict[str, Any] = {"login": login, "fps": fps, "lost": lost}
        self.change(cameras, codec)
        self._process: subprocess.Popen[str] | None = None
        self.port = 0

    def start(self) -> Self:
        """Returns when it serves."""
        assert self._process is None
        self._process = subprocess.Popen(
            [PYTHON, str(SCRIPT), json.dumps({**self._settings, "port": self.port})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        assert said.startswith("port "), f"the RTSP server did not start: {said!r}"
        self.port = int(said.split()[1])
        return self

    def url(self, camera: str, login: str = "") -> str:
        return f"rtsp://{login and login + '@'}127.0.0.1:{self.port}/{camera}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """kill -9: connections are reset, nobody says goodbye."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def freeze(self) -> None:
        """It hangs: connections stay, nothing comes."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def change(self, cameras: Mapping[str, Sequence[Path]], codec: str) -> None:
        """What it shows, and how encoded, from its next start on."""
        files = {name: [str(path) for path in paths] for name, paths in cameras.items()}
        self._settings |= {"cameras": files, "codec": codec}

    def show(self, camera: str, film: int) -> None:
        """Goes on with another of the camera's files, at the next key frame."""
        self._tell("show", camera, film)

    def damage(self, camera: str, share: float) -> None:
        """From now on this share of the pictures that are no key frames has wrong bytes."""
        self._tell("damage", camera, share)

    def _tell(self, *command: Any) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(AssertionError):
            self.thaw()
        self.kill()
