"""``kind: file``: a video file, a folder of pictures or a glob of pictures."""

from __future__ import annotations

import difflib
import os
from fractions import Fraction
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from pipeline.capture.clip import Clip, VideoClip, open_behind
from pipeline.capture.decode import open_file
from pipeline.capture.pictures import PictureClip, find_pictures
from pipeline.capture.source import Pacing
from pipeline.capture.tap import PacketTap
from pipeline.errors import ConfigError, without_login
from pipeline.plugins import PluginConfig
from pipeline.types import Picture

_JUMP_MIN = 100
"""Below that many pictures, decoding them is as quick as looking for a short cut."""
_GLOB_SIGNS = frozenset("*?[")


class Config(PluginConfig):
    """path: a file that FFmpeg reads, a folder of pictures or a glob of pictures.

    realtime: play at its own speed and drop like a camera, instead of handing over every picture.
    picture_fps: pictures a second of a folder or glob. loop: begin again at the end, for ever.
    """

    sends_packets: ClassVar[bool] = True

    path: Annotated[str, Field(min_length=1)]
    realtime: bool = False
    picture_fps: Annotated[float, Field(gt=0, le=1000)] = 25
    loop: bool = False

    @model_validator(mode="after")
    def _loop_only_in_real_time(self) -> Config:
        if self.loop and not self.realtime:
            raise ValueError("loop needs realtime: true; a file that is read losslessly has to end")
        return self

    def reads(self) -> frozenset[tuple[str, str]]:
        """What no sink of the site may claim."""
        return frozenset([("file", os.path.realpath(Path(self.path).expanduser()))])


class FileSource:
    """Reads a file; ``time_s`` is its own clock, from 0 at the first picture (see ``StreamClock``)."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._path = Path(config.path).expanduser()
        self._clip: Clip | None = None
        self.tap: PacketTap | None = None
        self.pacing: Pacing = "paced" if config.realtime else "lossless"

    def open(self) -> None:
        self.close()
        self._clip = self._open_clip(Fraction(0))

    def seek(self, seq: int, last_s: float | None = None) -> None:
        clip, left = self._opened(), seq
        if self.tap is not None:
            self.tap.again = seq
        if last_s is not None and seq >= _JUMP_MIN and isinstance(clip, VideoClip) and self.tap is None:
            jumped = open_behind(lambda: open_file(self._path, str(self._path)), str(self._path), seq, last_s)
            if jumped is not None:
                clip.close()
                self._clip = jumped
                return
        while left:
            if clip.skip():
                left -= 1
            elif self._config.loop:
                passes, left = divmod(left, seq - left)
                if self.tap is not None:
                    self.tap.again = left
                clip = self._begin_again(clip.end * (1 + passes))
            else:
                return

    def read(self) -> Picture | None:
        clip = self._opened()
        picture = clip.read()
        if picture is None and self._config.loop:
            picture = self._begin_again(clip.end).read()
        return picture

    def close(self) -> None:
        if self._clip is not None:
            self._clip.close()
            self._clip = None

    @property
    def start_wall_ns(self) -> int | None:
        return self._clip.start_wall_ns if self._clip is not None else None

    @property
    def expected_frames(self) -> int | None:
        return self._clip.expected_frames if self._clip is not None and not self._config.loop else None

    def _opened(self) -> Clip:
        assert self._clip is not None, "open comes before read"
        return self._clip

    def _begin_again(self, start: Fraction) -> Clip:
        self.close()
        self._clip = self._open_clip(start)
        return self._clip

    def _open_clip(self, start: Fraction) -> Clip:
        name = without_login(str(self._path))
        try:
            if self._path.is_dir() or (not self._path.exists() and _GLOB_SIGNS & set(str(self._path))):
                rate = Fraction(self._config.picture_fps).limit_denominator(1001)
                return PictureClip(find_pictures(self._path), rate, name, start)
            _check_file(self._path, name)
        except OSError as error:
            raise ConfigError(f"{name} cannot be read: {error.strerror}") from error
        return VideoClip(open_file(self._path, name), name, start, self.tap)


def _check_file(path: Path, name: str) -> None:
    """Says in plain words what FFmpeg would say in its own; OSError is left to the caller."""
    if not path.exists():
        beside = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
        similar = difflib.get_close_matches(path.name, beside, n=3)
        hint = f"; similar names there: {', '.join(similar)}" if similar else ""
        raise ConfigError(f"{name} is not there{hint}")
    if not path.is_file():
        raise ConfigError(f"{name} is neither a file nor a folder")
    with path.open("rb") as file:
        if not file.read(1):
            raise ConfigError(f"{name} is empty")


def create(config: Config, source_id: str) -> FileSource:  # noqa: ARG001  every source is created with its id
    return FileSource(config)
