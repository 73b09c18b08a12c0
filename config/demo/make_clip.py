"""Makes ``demo.mp4``: two people before a wall, each a while without a mask and a while with one.

Run as ``python config/demo/make_clip.py [target.mp4]``; needs the development extras (scikit-image). The portrait is
NASA's photograph of the astronaut Eileen Collins (public domain), which scikit-image ships as
``skimage.data.astronaut()``; everything else is drawn here. The same versions make the same file again.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

Rgb = NDArray[np.uint8]
Rgba = NDArray[np.float32]  # (h, w, 4), colour already multiplied by opacity, 0..1

WIDTH, HEIGHT, RATE, DURATION_S = 640, 360, 25, 12
PUT_ON_S = 0.6
"""How long a mask takes from below the chin to the nose, and back."""
FACE_CENTRE = (225.0, 132.0)
"""In the portrait, of 512x512 pixels; the face is 95 wide and 115 high there."""
_SHARPNESS = 4
"""The mask is drawn that much larger and averaged down."""

_MASK_OUTLINE = [
    (183, 127), (194, 121), (206, 117), (216, 112), (225, 110), (234, 112), (244, 117), (257, 121), (268, 127),
    (268, 142), (265, 155), (258, 168), (247, 179), (236, 186), (226, 188), (215, 186), (204, 180), (194, 169),
    (187, 155), (183, 142),
]  # fmt: skip
_STRAPS = [((184, 129), (174, 117)), ((187, 154), (175, 134)), ((267, 129), (275, 119)), ((265, 154), (274, 137))]


@dataclass(frozen=True, slots=True)
class Person:
    """Where somebody stands, how they sway, and when they wear a mask (from, until; seconds)."""

    x: float
    y: float
    scale: float
    phase: float
    mirrored: bool
    masked: tuple[tuple[float, float], ...]

    def to_frame(self, time_s: float) -> NDArray[np.float64]:
        """(2, 3): from pixels of the portrait to pixels of the frame."""
        turn = 2 * math.pi * time_s / DURATION_S + self.phase
        scale = self.scale * (1 + 0.10 * math.sin(2 * turn))
        lean = math.radians(2.5) * math.sin(3 * turn)
        across = -scale if self.mirrored else scale
        cos, sin = math.cos(lean), math.sin(lean)
        linear = np.array([[across * cos, -scale * sin], [across * sin, scale * cos]])
        centre = np.array([self.x + 26 * math.sin(turn), self.y + 8 * math.sin(2 * turn + 1)])
        return np.column_stack([linear, centre - linear @ np.array(FACE_CENTRE)])

    def mask_on(self, time_s: float) -> float:
        """0 without a mask, 1 with it, in between while a hand would move it."""
        risen = [min(time_s - start, end - time_s) / PUT_ON_S + 1 for start, end in self.masked]
        return min(1.0, max(0.0, *risen))


PEOPLE = (
    Person(165, 150, 1.18, 0.0, False, masked=((4.0, 9.0),)),
    Person(470, 158, 1.10, 2.2, True, masked=((-2.0, 5.5), (10.0, 14.0))),
)


def main() -> None:
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("demo.mp4")
    portrait, mask, wall = cut_out(load_portrait()), draw_mask(), draw_wall()
    with av.open(str(target), "w", options={"movflags": "faststart", "fflags": "+bitexact"}) as container:
        stream: Any = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.options = {"crf": "24", "preset": "slow", "flags": "+bitexact"}
        context = stream.codec_context
        context.gop_size, context.thread_count, context.color_range, context.colorspace = 2 * RATE, 1, 1, 6
        for index in range(RATE * DURATION_S):
            rgb = draw(index / RATE, portrait, mask, wall)
            frame = av.VideoFrame.from_ndarray(rgb, "rgb24").reformat(
                format="yuv420p", dst_colorspace="itu601", dst_color_range="MPEG"
            )
            frame.pts, frame.time_base = index, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    sys.stdout.write(f"{target}: {target.stat().st_size / 1e3:.0f} kB\n")


def load_portrait() -> Rgb:
    """(512, 512, 3) RGB."""
    import skimage.data

    return np.asarray(skimage.data.astronaut(), np.uint8)


def cut_out(portrait: Rgb) -> Rgba:
    """Head and suit without what stands around them; the lower edge fades out."""
    height, width = portrait.shape[:2]
    sure = np.full((height, width), cv2.GC_BGD, np.uint8)
    outline = [(150, 20), (300, 20), (312, 120), (306, 235), (362, 300), (362, 511), (20, 511), (20, 330), (100, 225)]
    cv2.fillPoly(sure, [np.array([*outline, (140, 120)])], cv2.GC_PR_FGD)
    cv2.ellipse(sure, (226, 95), (52, 65), 0, 0, 360, cv2.GC_FGD, -1)
    cv2.ellipse(sure, (210, 222), (85, 55), 15, 0, 360, cv2.GC_FGD, -1)
    cv2.fillPoly(sure, [np.array([(120, 290), (290, 290), (300, 511), (60, 511)])], cv2.GC_FGD)
    cv2.setRNGSeed(1)
    cv2.grabCut(portrait[..., ::-1].copy(), sure, None, np.zeros((1, 65)), np.zeros((1, 65)), 5, cv2.GC_INIT_WITH_MASK)
    inside = np.isin(sure, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8)
    inside = cv2.morphologyEx(inside, cv2.MORPH_OPEN, np.ones((5, 5), np.uint8))
    return premultiplied(portrait, cv2.GaussianBlur(cv2.erode(inside, np.ones((3, 3))).astype(np.float32), (0, 0), 1.2))


def draw_mask() -> Rgba:
    """A light-blue surgical mask where it sits on the portrait: (512, 512, 4)."""
    size, fine = 512, _SHARPNESS
    cover = np.zeros((size * fine, size * fine), np.float32)
    cv2.fillPoly(cover, [_finely(_MASK_OUTLINE)], 1.0)
    y, x = np.mgrid[0 : size * fine, 0 : size * fine].astype(np.float32) / fine
    light = 1.0 - 0.28 * ((x - 222) / 48) ** 2 - 0.16 * np.clip((y - 150) / 40, 0, 1) ** 2  # round, lit from above left
    for fold in (131, 143, 155, 167):
        at = fold + 5 * ((x - 225) / 42) ** 2
        light -= 0.15 * np.exp(-(((y - at) / 1.0) ** 2)) - 0.07 * np.exp(-(((y - at - 2.2) / 1.6) ** 2))
    light += 0.08 * np.exp(-(((y - 114 - 9 * np.abs((x - 225) / 42) ** 1.3) / 2.0) ** 2))  # the wire over the nose
    weave = np.random.default_rng(5).normal(0, 0.012, (size, size)).repeat(fine, 0).repeat(fine, 1)
    blue = np.array([176, 212, 232], np.float32) / 255
    colour = np.clip((light + weave)[..., None] * blue, 0, 1)
    rim = cv2.erode(cover, np.ones((5, 5), np.uint8), iterations=2)
    colour *= (0.90 + 0.10 * rim)[..., None]
    straps = np.zeros_like(cover)
    for start, end in _STRAPS:
        ear, cheek = _finely([end, start]).tolist()
        cv2.line(straps, ear, cheek, 1.0, round(1.6 * fine))
    bare = straps * (1 - cover)
    colour = colour * cover[..., None] + 0.93 * bare[..., None]
    layer = np.dstack([colour, np.maximum(cover, bare)]).astype(np.float32)
    small = cv2.resize(layer, (size, size), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.GaussianBlur(small, (0, 0), 0.5), np.float32)


def draw_wall() -> Rgba:
    """A plain, lightly mottled wall, (HEIGHT, WIDTH, 3), 0..1."""
    noise = np.random.default_rng(3)
    wall = np.full((HEIGHT, WIDTH, 3), (0.66, 0.65, 0.63), np.float32)
    for cell, strength in ((160, 0.05), (40, 0.03), (8, 0.012)):
        coarse = noise.normal(0, strength, (HEIGHT // cell + 3, WIDTH // cell + 3)).astype(np.float32)
        wall += cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)[..., None]
    wall *= np.linspace(1.06, 0.84, HEIGHT, dtype=np.float32)[:, None, None]
    return np.clip(wall, 0, 1)


def draw(time_s: float, portrait: Rgba, mask: Rgba, wall: Rgba) -> Rgb:
    """The picture at ``time_s``: (HEIGHT, WIDTH, 3) RGB."""
    picture = wall
    for person in PEOPLE:
        on = person.mask_on(time_s)
        dressed = over(lowered(mask, on), portrait) if on > 0 else portrait
        placed = cv2.warpAffine(dressed, person.to_frame(time_s), (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR)
        picture = placed[..., :3] + picture * (1 - placed[..., 3:])
    return np.asarray(np.rint(np.clip(picture, 0, 1) * 255), np.uint8)


def lowered(mask: Rgba, on: float) -> Rgba:
    """The mask on its way: from below the chin, unseen, to its place."""
    down = 80 * (1 - on) ** 2 * (3 - 2 * (1 - on))
    shift = np.array([[1, 0, 0], [0, 1, down]])
    return np.asarray(cv2.warpAffine(mask, shift, mask.shape[1::-1]) * min(1.0, 6 * on), np.float32)


def over(upper: Rgba, lower: Rgba) -> Rgba:
    return upper + lower * (1 - upper[..., 3:])


def premultiplied(rgb: Rgb, opacity: NDArray[np.float32]) -> Rgba:
    return np.dstack([rgb.astype(np.float32) / 255 * opacity[..., None], opacity])


def _finely(points: list[tuple[int, int]]) -> NDArray[np.int32]:
    return (np.array(points) * _SHARPNESS).astype(np.int32)


if __name__ == "__main__":
    main()
