"""Whatever way a picture is looked at, the boxes lie where the tracks of that very frame are, and nothing else is
drawn: pixels of a running site against the undrawn frame of the same number.
"""

from __future__ import annotations

import contextlib
import io
import json
import signal
import threading
import urllib.request
from collections.abc import Callable, Generator, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import zmq
from numpy.typing import NDArray

from pipeline.inference.detector import build_detector
from tests.conftest import temporary_base
from tests.media import to_rgb
from tests.numbered import HEIGHT, PICTURE_HEIGHT, WIDTH, number_in, pictures_of, write_numbered
from tests.runs import Program, Run, free_port, wait_until
from tests.shared_data import ROOT, shared

connect = pytest.importorskip("websockets.sync.client").connect

Rgb = NDArray[np.int64]
Box = tuple[int, int, int, int]
SCALE = 2
SIZE = WIDTH * SCALE, PICTURE_HEIGHT * SCALE
COUNT = 60
SAMPLES: dict[str, tuple[Callable[[], Path], int, list[str]]] = {
    # from 6.4 s to 8.8 s the one on the left wears a mask and the one on the right does not
    "demo": (lambda: ROOT / "config/demo/demo.mp4", 160, ["mask", "no_mask"]),
    "man": (lambda: shared("videos/nomask_man_1280x720.mp4"), 0, ["no_mask"]),
}
CHANGED = 60
"""Levels of a colour that JPEG and the encoder do not change by themselves."""
LINE_PX, LABEL_PX, CLOCK_PX, FRAYED_PX = 2, 24, 28, 8
"""How thick a box is drawn here, how high its label and the clock are at most, and how far colours run."""
CHANNEL = {"no_mask": 0, "mask": 1}
LABELS = ("mask", "no_mask")
SITE = """
name: boxes
version: 1
sources: {{gate: {{kind: lavfi, graph: "movie={video}:loop=0,setpts=N/(25*TB),realtime"}}}}
detectors: {{mask: {{model: facemask}}}}
sinks:
  page: {{kind: web, bind: "127.0.0.1:{port}"}}
  frames: {{kind: frames, bind: "{frames}"}}
pipelines: {{entrance: {{sources: [gate], detector: mask, sinks: [page, frames]}}}}
"""
Tracks = list[dict[str, Any]]


class Watched:
    """A running site; told: what the ``frames`` sink says of every frame that it has sent; pictures: the same's."""

    def __init__(self, run: Run, port: int, frames: str, labels: list[str]) -> None:
        self.run = run
        self.labels = labels
        self.told: dict[int, Tracks] = {}
        self.pictures: dict[int, bytes] = {}
        self.url = f"127.0.0.1:{port}/api/v1/sources/gate"
        self._frames = frames
        self._leaving = threading.Event()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        with context, context.socket(zmq.SUB) as socket:
            socket.rcvtimeo = 50
            socket.connect(self._frames)
            socket.subscribe("frames.gate.")
            while not self._leaving.is_set():
                with contextlib.suppress(zmq.Again):
                    _, raw, data = socket.recv_multipart()
                    head = json.loads(raw)
                    self.pictures[head["seq"]] = data
                    self.told[head["seq"]] = head["tracks"]

    def is_whole(self, seq: int) -> bool:
        """Whether it is told of that frame that all are there, below the clock, seen in it and not only followed."""
        tracks = sorted(self.told.get(seq, []), key=lambda track: float(track["xyxy"][0]))
        seen = [LABELS[track["class_id"]] for track in tracks if track["detected"] and track["xyxy"][1] > CLOCK_PX]
        return seen == self.labels and len(tracks) == len(seen)

    def leave(self) -> None:
        self._leaving.set()
        self._listener.join(30)


@pytest.fixture(scope="module", params=SAMPLES)
def sample(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """60 numbered frames, and who is on them from left to right."""
    find, first, labels = SAMPLES[request.param]
    pictures = islice(pictures_of(find(), *SIZE), first, first + COUNT)
    return write_numbered(tmp_path_factory.mktemp("videos") / "sample.mp4", COUNT, pictures), labels


@pytest.fixture(scope="module")
def undrawn(sample: tuple[Path, list[str]]) -> list[Rgb]:
    """By number."""
    with av.open(str(sample[0])) as container:
        planes = [np.asarray(frame.to_ndarray(), np.uint8) for frame in container.decode(video=0)]
    width, height = SIZE[0], SIZE[1] + HEIGHT - PICTURE_HEIGHT
    assert planes[0].shape == (height * 3 // 2, width)
    chroma = [plane[height:].reshape(2, height // 2, width // 2) for plane in planes]
    return [to_rgb((p[:height], c[0], c[1]), "bt601", full_range=False) for p, c in zip(planes, chroma, strict=True)]


@pytest.fixture(scope="module")
def site(sample: tuple[Path, list[str]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    place, port, frames = tmp_path_factory.mktemp("site"), free_port(), f"tcp://127.0.0.1:{free_port()}"
    video, labels = sample
    (place / "site.yaml").write_text(SITE.format(video=video, port=port, frames=frames))
    with temporary_base() as base, Program(place, base, place / "no-models") as program:
        watched = Watched(program.start("run", place / "site.yaml"), port, frames, labels)

        def up() -> bool:
            assert not watched.run.over, watched.run.finish()
            return any(map(watched.is_whole, list(watched.told)))

        wait_until(up, "a frame on which everybody is found")
        yield watched
        watched.leave()
        watched.run.signal(signal.SIGINT)
        outcome = watched.run.finish()
        assert outcome.code == 0, outcome.stderr


def of_programs(site: Watched) -> Generator[tuple[int, bytes]]:
    """Number of the frame and JPEG, as the ``frames`` sink sends them."""
    seen = {-1}

    def newer() -> bool:
        return max(site.pictures) > max(seen)

    while True:
        wait_until(newer, "the next picture")
        seen.add(max(site.pictures))
        yield max(seen), site.pictures[max(seen)]


def of_stills(site: Watched) -> Generator[tuple[int, bytes]]:
    while True:
        with urllib.request.urlopen(f"http://{site.url}/picture.jpg", timeout=30) as answer:
            yield int(answer.headers["x-frame"]), answer.read()


def of_mjpeg(site: Watched) -> Generator[tuple[int, bytes]]:
    with urllib.request.urlopen(f"http://{site.url}/live.mjpg", timeout=30) as stream:
        while True:
            head: dict[str, str] = {}
            while line := stream.readline().decode().strip() or not head:
                name, _, value = str(line).partition(": ")
                head |= {name: value} if value else {}
            yield int(head["X-Frame"]), stream.read(int(head["Content-Length"]))


@pytest.mark.parametrize("way", [of_programs, of_stills, of_mjpeg])
def test_boxes_lie_on_the_faces_of_that_very_frame(
    site: Watched, undrawn: list[Rgb], way: Callable[[Watched], Generator[tuple[int, bytes]]]
) -> None:
    checked: set[int] = set()

    def some() -> bool:
        seq, data = next(pictures)
        wait_until(lambda: max(site.told) >= seq, "what is told of it")
        if site.is_whole(seq):
            check(rgb_of(data), undrawn[seq % COUNT], seq % COUNT, site.told[seq])
            checked.add(seq % COUNT)
        return len(checked) >= 5

    with contextlib.closing(way(site)) as pictures:
        wait_until(some, "five frames whose boxes are told")


def test_boxes_lie_on_the_faces_in_the_video_as_well(site: Watched, undrawn: list[Rgb]) -> None:
    with connect(f"ws://{site.url}/live", compression=None, max_size=None, close_timeout=1) as viewer:
        assert "mime" in json.loads(viewer.recv())
        video = viewer.recv() + b"".join(viewer.recv()[16:] for _ in range(COUNT // 2))
    with av.open(io.BytesIO(video), "r") as container:
        shown = [np.asarray(frame.to_ndarray(format="rgb24"), np.int64) for frame in container.decode(video=0)]
    told: dict[int, list[Tracks]] = {}
    for seq in filter(site.is_whole, list(site.told)):
        told.setdefault(seq % COUNT, []).append(site.told[seq])
    fitting = [fits(picture, undrawn, told) for picture in shown]
    assert sum(fitting) >= 5, f"{sum(fitting)} of {len(fitting)} frames"


def fits(picture: Rgb, undrawn: list[Rgb], told: dict[int, list[Tracks]]) -> bool:
    """Whether some that are told of a frame of this number lie there; which round of the video it was, nobody says."""
    number = number_in(picture[..., 1].astype(np.uint8))
    for tracks in told.get(number, []):
        with contextlib.suppress(AssertionError):
            check(picture, undrawn[number], number, tracks)
            return True
    return False


def test_what_is_told_is_what_the_network_sees(site: Watched, undrawn: list[Rgb]) -> None:
    detector = build_detector("facemask")
    with contextlib.closing(detector):
        for seq in islice(filter(site.is_whole, list(site.told)), 5):
            found = detector.detect_rgb(undrawn[seq % COUNT].astype(np.uint8))
            for track in site.told[seq]:
                overlaps = [
                    overlap(track["xyxy"], box)
                    for box, class_id in zip(found.xyxy.tolist(), found.class_id.tolist(), strict=True)
                    if class_id == track["class_id"]
                ]
                assert max(overlaps, default=0) > 0.8, (seq, track, found)


def overlap(a: list[float], b: list[float]) -> float:
    """Intersection over union."""
    wide, high = (max(0.0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1))
    areas = ((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return wide * high / (sum(areas) - wide * high)


def rgb_of(jpeg: bytes) -> Rgb:
    bgr = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert bgr is not None
    return np.asarray(bgr[..., ::-1], np.int64)


def check(picture: Rgb, undrawn: Rgb, number: int, tracks: Tracks) -> None:
    """Each track's border has its class's colour all around, and what else has changed is a label or the clock."""
    assert picture.shape == undrawn.shape
    assert number_in(picture[..., 1].astype(np.uint8)) == number
    changed = abs(picture - undrawn).max(2) > CHANGED
    drawn = np.zeros_like(changed)
    drawn[:CLOCK_PX] = True
    for track in tracks:
        box: Box = tuple(map(round, track["xyxy"]))
        channel = CHANNEL[LABELS[track["class_id"]]]
        others = np.delete(picture, channel, 2).max(2)
        coloured = (picture[..., channel] - others > CHANGED) & changed
        for share in border(coloured, box):
            assert share > 0.9, f"frame {number}: {share:.2f} of a side of {track} is drawn"
        left, top, right, bottom = grown(box, LINE_PX + FRAYED_PX)
        drawn[max(0, top - LABEL_PX) : top, left : left + 12 * LABEL_PX] = True
        inside = grown(box, -FRAYED_PX)
        kept = drawn[rows_and_columns(inside)].copy()
        drawn[top:bottom, left:right] = True
        drawn[rows_and_columns(inside)] = kept
    assert (changed & ~drawn).sum() == 0, f"frame {number}: {np.argwhere(changed & ~drawn)[:5]} beside {tracks}"


def grown(box: Box, pixels: int) -> Box:
    left, top, right, bottom = box
    return max(0, left - pixels), max(0, top - pixels), right + pixels, bottom + pixels


def rows_and_columns(box: Box) -> tuple[slice, slice]:
    return slice(box[1], box[3]), slice(box[0], box[2])


def border(coloured: NDArray[np.bool_], box: Box) -> Iterator[float]:
    """How much of each side has a coloured pixel on the line around the box, or a pixel beside it."""
    left, top, right, bottom = box
    for edge in (left - LINE_PX, right):
        yield coloured[top:bottom, max(0, edge - 1) : edge + LINE_PX + 1].any(1).mean()
    for edge in (top - LINE_PX, bottom):
        yield coloured[max(0, edge - 1) : edge + LINE_PX + 1, left:right].any(0).mean()
