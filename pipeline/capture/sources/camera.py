"""``kind: camera``: a camera at this machine (USB, built in), by FFmpeg: V4L2, AVFoundation or DirectShow."""

from __future__ import annotations

import sys
from typing import Annotated, ClassVar

from pydantic import Field

from pipeline.capture.live import LiveFeed, LiveVideo
from pipeline.plugins import PluginConfig

FORMATS = {"linux": "v4l2", "darwin": "avfoundation", "win32": "dshow"}
"""FFmpeg's name for the cameras of a system."""


class Config(PluginConfig):
    """device: its number or path (Linux), number or name (macOS), name (Windows).

    size: as ``1280x720``. fps: pictures a second. input_format: what the camera sends, as ``mjpeg`` or ``yuyv422``.
    Without them the camera's own choice. stall_s: without a picture for so long it is lost. reconnect_max_s: the
    longest wait until it is looked for again, after it was unplugged.
    """

    comes_back: ClassVar[bool] = True

    device: Annotated[str, Field(min_length=1, coerce_numbers_to_str=True)] = "0"
    size: Annotated[str, Field(pattern=r"^[1-9]\d{1,4}x[1-9]\d{1,4}$")] | None = None
    fps: Annotated[float, Field(gt=0, le=1000)] | None = None
    input_format: Annotated[str, Field(pattern=r"^[a-z0-9_]+$")] | None = None
    stall_s: Annotated[float, Field(ge=0.5, le=120)] = 5.0
    reconnect_max_s: Annotated[float, Field(ge=0.25, le=3600)] = 2.0


class CameraSource(LiveFeed):
    """Opens a device."""

    def __init__(self, config: Config, system: str = sys.platform) -> None:
        super().__init__(stall_s=config.stall_s, reconnect_max_s=config.reconnect_max_s)
        self._config = config
        self._format = FORMATS.get(system, "v4l2")

    def connect(self) -> LiveVideo:
        target = device_address(self._config.device, self._format)
        options = device_options(self._config, self._format)
        return LiveVideo(target, target, stall_s=self.stall_s, format_=self._format, options=options)


def device_address(device: str, format_: str) -> str:
    """What FFmpeg wants to hear: /dev/video0 · 0 · video=Integrated Camera."""
    match format_:
        case "v4l2":
            return f"/dev/video{device}" if device.isdigit() else device
        case "dshow":
            return f"video={device}"
        case _:
            return device


def device_options(config: Config, format_: str) -> dict[str, str]:
    """FFmpeg's options for what is asked of the camera."""
    options = {}
    if config.size:
        options["video_size"] = config.size
    if config.fps:
        options["framerate"] = f"{config.fps:g}"
    if config.input_format:
        options["input_format" if format_ == "v4l2" else "pixel_format"] = config.input_format
    return options


def create(config: Config, source_id: str) -> CameraSource:  # noqa: ARG001  every source is created with its id
    return CameraSource(config)
