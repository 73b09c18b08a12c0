from __future__ import annotations

from pathlib import Path

import av

from pipeline.sinks.captions import Captions
from pipeline.types import FrameRef, Result, Track

SIZE = (640, 360)


def result(time_s: float, *tracks: Track) -> Result:
    return Result(FrameRef("gate", round(time_s * 25), 0, time_s, 0, 0), tracks, True)


def face(class_id: int, x: float) -> Track:
    return Track(7, class_id, 0.934, (x, 20.0, x + 50.4, 90.0), True)


def dialogue(path: Path) -> list[tuple[float, float, str]]:
    with av.open(str(path)) as file:
        return [
            (
                float((packet.pts or 0) * packet.time_base),
                float((packet.duration or 0) * packet.time_base),
                bytes(packet).decode(),
            )
            for packet in file.demux()
            if packet.size
        ]


def test_each_result_is_shown_until_the_next_and_none_for_long(tmp_path: Path) -> None:
    captions, path = Captions(("mask", "no_mask")), tmp_path / "a.part.ass"
    captions.add(path, 100.0, SIZE, result(100.2, face(1, 10)))
    captions.add(path, 100.0, SIZE, result(100.24, face(0, 12), face(1, 200)))
    captions.add(path, 100.0, SIZE, result(100.28))
    captions.add(path, 100.0, SIZE, result(101.0, face(5, 30)))
    captions.end(SIZE)
    lines = dialogue(path)
    assert [(round(at, 2), round(lasts, 2)) for at, lasts, _ in lines] == [
        *[(0.2, 0.04)] * 2,
        *[(0.24, 0.04)] * 4,
        *[(1.0, 1.0)] * 2,
    ]
    texts = [text for _, _, text in lines]
    assert "m 10 20 l 60 20 60 90 10 90" in texts[0]
    assert texts[1].endswith("no mask 0.93")
    assert texts[3].endswith("}mask 0.93")
    assert texts[7].endswith("class 5 0.93")
    assert "PlayResX: 640" in path.read_text()


def test_without_faces_there_is_a_file_that_says_so(tmp_path: Path) -> None:
    captions, path = Captions(("mask", "no_mask")), tmp_path / "a.part.ass"
    captions.add(path, 0.0, SIZE, result(0.2))
    captions.end(SIZE)
    captions.end(SIZE)
    assert dialogue(path) == []
    assert path.read_text().endswith("Text\n")
