"""``kind: lavfi``: a filter graph of FFmpeg as a stand-in for a camera: a test pattern, a file played in a loop."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pipeline.capture.clip import VideoClip
from pipeline.capture.decode import open_video
from pipeline.capture.source import Pacing
from pipeline.errors import without_credentials
from pipeline.plugins import PluginConfig
from pipeline.types import Picture


class Config(PluginConfig):
    """graph: such as ``testsrc2=size=1280x720:rate=25`` or ``movie=a.mp4:loop=0,setpts=N/(25*TB)``.

    realtime: play at its own speed and drop like a camera, instead of handing over every picture as fast as it can be
    taken. duration_s: end there; without it, where the graph ends.
    """

    graph: Annotated[str, Field(min_length=1)]
    realtime: bool = True
    duration_s: Annotated[float, Field(gt=0)] | None = None


class LavfiSource:
    """Pictures out of a filter graph, with the graph's own clock from 0."""

    start_wall_ns = None

    def __init__(self, config: Config) -> None:
        self._config = config
        self._clip: VideoClip | None = None
        self.pacing: Pacing = "paced" if config.realtime else "lossless"

    def open(self) -> None:
        self.close()
        name = f"the graph {without_credentials(self._config.graph)!r}"
        self._clip = VideoClip(open_video(self._config.graph, name, format_="lavfi"), name)

    def seek(self, seq: int, last_s: float | None = None) -> None:  # noqa: ARG002
        if self._config.realtime and self._config.duration_s is None:
            return  # like a camera, it is asked for what comes now
        clip = self._opened()
        for _ in range(seq):
            if not clip.skip():
                return

    def read(self) -> Picture | None:
        picture = self._opened().read()
        duration_s = self._config.duration_s
        return None if picture is None or (duration_s is not None and picture.time_s >= duration_s) else picture

    def close(self) -> None:
        if self._clip is not None:
            self._clip.close()
            self._clip = None

    @property
    def expected_frames(self) -> int | None:
        if self._clip is None or self._config.duration_s is None:
            return None
        return round(self._config.duration_s * self._clip.declared_rate)

    def _opened(self) -> VideoClip:
        assert self._clip is not None, "open comes before read"
        return self._clip


def create(config: Config, source_id: str) -> LavfiSource:  # noqa: ARG001  every source is created with its id
    return LavfiSource(config)
