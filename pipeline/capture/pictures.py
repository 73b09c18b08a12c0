"""A folder or a glob of pictures, played like a film."""

from __future__ import annotations

import glob
import logging
import re
from fractions import Fraction
from pathlib import Path

from pipeline.capture.convert import Converter
from pipeline.capture.decode import open_file
from pipeline.errors import ConfigError, SourceBroken, without_login
from pipeline.types import PICTURE_SUFFIXES, Picture

_log = logging.getLogger(__name__)


def find_pictures(path: Path) -> list[Path]:
    """The pictures in the folder ``path`` or that the glob ``path`` finds, ``2.png`` before ``10.png``.

    Raises ``ConfigError`` where there is none.
    """
    folder = path.is_dir()
    found = path.iterdir() if folder else map(Path, glob.glob(str(path)))  # noqa: PTH207  Path.glob refuses absolute ones
    pictures = [file for file in found if file.suffix.lower() in PICTURE_SUFFIXES and file.is_file()]
    if not pictures:
        where = "is a folder without pictures" if folder else "matches no pictures"
        raise ConfigError(f"{without_login(str(path))} {where} ({' '.join(PICTURE_SUFFIXES)})")
    return sorted(pictures, key=lambda file: (str(file.parent), _by_number(file.name), file.name))


def _by_number(name: str) -> list[tuple[int, str]]:
    return [(int(digits or 0), text.lower()) for text, digits in re.findall(r"(\D*)(\d*)", name)]


class PictureClip:
    """Pictures one after the other; each may have its own size. Those that cannot be read leave a gap in time."""

    def __init__(self, files: list[Path], rate: Fraction, name: str, start: Fraction = Fraction(0)) -> None:
        """rate: pictures a second. start: time of the first one, in seconds."""
        self._files = files
        self._rate = rate
        self._name = name
        self._start = start
        self._next_index = 0
        self._unreadable: list[str] = []
        self._converter = Converter()
        self.expected_frames = len(files)
        self.start_wall_ns = None

    def read(self) -> Picture | None:
        while self._next_index < len(self._files):
            file, due = self._files[self._next_index], self.end
            self._next_index += 1
            try:
                return self._load(file, float(due))
            except (ConfigError, SourceBroken) as error:
                self._unreadable.append(str(error))
                _log.warning("%s: left out: %s", self._name, error)
        if len(self._unreadable) == len(self._files):
            raise SourceBroken(f"{self._name}: not one picture can be read; {self._unreadable[0]}")
        return None

    def skip(self) -> bool:
        return self.read() is not None

    def close(self) -> None:
        self._next_index = len(self._files)

    @property
    def end(self) -> Fraction:
        return self._start + self._next_index / self._rate

    def _load(self, file: Path, time_s: float) -> Picture:
        video = open_file(file, str(file))
        try:
            frame = video.read()
            if frame is None:
                raise SourceBroken(f"{file} cannot be decoded: {video.broken_off() or 'there is nothing in it'}")
            return Picture(self._converter.convert(frame, video.sample_aspect), time_s, frame.is_corrupt)
        finally:
            video.close()
