"""Boxes as subtitles (Advanced SubStation Alpha): a file beside the video, which players draw, or not, as one likes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.types import Result, Track

SUFFIX = ".ass"
LONGEST_S = 1.0
"""A result that is not followed by another is shown no longer."""
_COLOUR = {"mask": "&H00FF00&", "no_mask": "&H0000FF&"}
_OTHER = "&H00BEFF&"
_HEADER = """[Script Info]
ScriptType: v4.00+
PlayResX: {width}
PlayResY: {height}
ScaledBorderAndShadow: yes

[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour, SecondaryColour, OutlineColour, BackColour, Bold, Italic, Underline, \
StrikeOut, ScaleX, ScaleY, Spacing, Angle, BorderStyle, Outline, Shadow, Alignment, MarginL, MarginR, MarginV, Encoding
Style: Box,Sans,{size},&H00FFFFFF,&H00FFFFFF,&H00000000,&H00000000,0,0,0,0,100,100,0,0,1,2,0,7,0,0,0,1

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
"""


class Captions:
    """Those of one recording, appended result by result; each is shown until the next."""

    def __init__(self, labels: Sequence[str]) -> None:
        self._labels = tuple(labels)
        self._waiting: tuple[Path, float, Result] | None = None

    def add(self, path: Path, begun_s: float, size: tuple[int, int], result: Result) -> None:
        """``result`` in the captions of the video that began at ``begun_s``. Raises ``OSError``."""
        if self._waiting is not None:
            self._write(*self._waiting, until_s=result.frame.time_s, size=size)
        self._waiting = (path, begun_s, result)

    def end(self, size: tuple[int, int]) -> None:
        if self._waiting is not None:
            self._write(*self._waiting, until_s=self._waiting[2].frame.time_s + LONGEST_S, size=size)
        self._waiting = None

    def _write(self, path: Path, begun_s: float, result: Result, *, until_s: float, size: tuple[int, int]) -> None:
        begin_s = max(0.0, result.frame.time_s - begun_s)
        end_s = min(until_s, result.frame.time_s + LONGEST_S) - begun_s
        lines = [line for track in result.tracks for line in self._lines(track)]
        times = f"Dialogue: 0,{_clock(begin_s)},{_clock(end_s)},Box,,0,0,0,,"
        new = not path.exists()
        if not lines and not new:
            return
        with path.open("a") as file:
            if new:
                file.write(_HEADER.format(width=size[0], height=size[1], size=max(12, size[1] // 32)))
            file.writelines(f"{times}{line}\n" for line in lines)

    def _lines(self, track: Track) -> list[str]:
        label = self._labels[track.class_id] if 0 <= track.class_id < len(self._labels) else f"class {track.class_id}"
        colour = _COLOUR.get(label, _OTHER)
        x0, y0, x1, y1 = (round(value) for value in track.xyxy)
        shape = f"m {x0} {y0} l {x1} {y0} {x1} {y1} {x0} {y1}"
        box = rf"{{\an7\pos(0,0)\bord3\shad0\1a&HFF&\3c{colour}\p1}}{shape}{{\p0}}"
        return [box, rf"{{\an1\pos({x0},{y0 - 2})\1c{colour}}}{label.replace('_', ' ')} {track.confidence:.2f}"]


def _clock(seconds: float) -> str:
    hundredths = round(seconds * 100)
    return f"{hundredths // 360000}:{hundredths // 6000 % 60:02}:{hundredths // 100 % 60:02}.{hundredths % 100:02}"
