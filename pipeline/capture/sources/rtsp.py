"""``kind: rtsp``: an IP camera, or any other live video at an address that FFmpeg reads."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from pipeline.capture.live import LiveFeed, LiveVideo
from pipeline.capture.login import Login, is_login
from pipeline.capture.source import SourceLost
from pipeline.errors import without_login
from pipeline.plugins import PluginConfig

SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "http", "https", "srt", "udp", "rtp")
_NETWORK_ONLY = "rtsp,rtsps,rtp,rtmp,rtmps,rtmpt,rtmpts,http,https,httpproxy,hls,crypto,tcp,tls,udp,srt"
"""What an address, or a playlist behind it, may make FFmpeg open: never a file of this machine."""
_ANALYSED_US = 500_000
"""So much video FFmpeg looks at before it begins, where the protocol does not say which streams there are."""

_NO_LOGIN = "no login was given: login_file (--login-file) names a file that holds user:password"


class Config(PluginConfig):
    """url: ``rtsp://camera/stream1``; also rtsps, http(s) (MJPEG, HLS), rtmp, MPEG-TS by udp or rtp, and srt where
    FFmpeg has it. transport: RTSP's.

    login_env: the environment variable, login_file: the file that holds ``user:password``, so that neither this file
    nor the process list does; the file is read again at every attempt. stall_s: without a packet for so long it is
    lost. reconnect_max_s: the longest wait between two attempts.
    """

    sends_packets: ClassVar[bool] = True
    comes_back: ClassVar[bool] = True

    url: Annotated[str, Field(min_length=1)]
    transport: Literal["tcp", "udp"] = "tcp"
    login_env: str | None = None
    login_file: Path | None = None
    stall_s: Annotated[float, Field(ge=0.5, le=120)] = 5.0
    reconnect_max_s: Annotated[float, Field(ge=0.25, le=3600)] = 2.0

    @model_validator(mode="after")
    def _an_address(self) -> Config:
        try:
            parts = urlsplit(self.url)
            host, _ = parts.hostname, parts.port
        except ValueError:  # its text holds what was taken for the port: part of a password
            raise ValueError(
                f"url {without_login(self.url)!r} is not an address, with a port from 0 to 65535 if any; / and # "
                "in a password are written %2F and %23, or use login_file"
            ) from None
        if parts.scheme not in SCHEMES or not host:
            raise ValueError(f"url {without_login(self.url)!r} must begin with one of {', '.join(SCHEMES)} and ://host")
        return self

    @model_validator(mode="after")
    def _one_login(self) -> Config:
        given = [bool(urlsplit(self.url).username), self.login_env is not None, self.login_file is not None]
        if given.count(True) > 1:
            raise ValueError("a login stands in url, in login_env or in login_file, not in two of them")
        if self.login_env is not None and not is_login(os.environ.get(self.login_env, "")):
            what = "does not hold" if self.login_env in os.environ else "is not set in the environment; it must hold"
            raise ValueError(f"login_env: {self.login_env} {what} user:password")
        return self


class RtspSource(LiveFeed):
    """Connects to an address."""

    def __init__(self, config: Config) -> None:
        super().__init__(stall_s=config.stall_s, reconnect_max_s=config.reconnect_max_s)
        self._config = config
        self._login = Login(config.login_env, config.login_file)
        if config.transport == "udp":
            self.damage_advice = "packets get lost on the way: transport: tcp would ask for them again"

    def connect(self) -> LiveVideo:
        url = self._login.into(self._config.url)
        options = {"protocol_whitelist": _NETWORK_ONLY, "fpsprobesize": "0"}
        if urlsplit(url).scheme in ("rtsp", "rtsps"):
            options |= {"rtsp_transport": self._config.transport, "allowed_media_types": "video"}
        else:
            options["analyzeduration"] = str(_ANALYSED_US)
        try:
            return LiveVideo(url, without_login(url), stall_s=self.stall_s, format_=None, options=options)
        except SourceLost as error:
            if error.reason == "unauthorised" and not urlsplit(url).username:
                raise SourceLost(f"{error}; {_NO_LOGIN}", error.reason) from None
            raise

    @property
    def renewed(self) -> bool:
        return self._login.renewed


def create(config: Config, source_id: str) -> RtspSource:  # noqa: ARG001  every source is created with its id
    return RtspSource(config)
