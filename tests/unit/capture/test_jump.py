"""A restart far into a file: the short cut is taken where it is sure, and changes nothing anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import pytest

from pipeline.capture.decode import Video
from pipeline.capture.sources.file import Config, create
from tests.media import write_moving

COUNT = 300
X264 = {"preset": "medium", "bf": "3", "qp": "10"}
Seen = list[tuple[float, bytes]]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for every frame that was decoded."""
    frames: list[int] = []
    read = Video.read

    def counting(self: Video) -> av.VideoFrame | None:
        frames.append(1)
        return read(self)

    monkeypatch.setattr(Video, "read", counting)
    return frames


def read_from(path: Path, seq: int, last_s: float | None, most: int = 40) -> Seen:
    source = create(Config(path=str(path)), "gate")
    source.open()
    if seq:
        source.seek(seq, last_s)
    seen = [(p.time_s, p.image.y.tobytes()) for _, p in zip(range(most), iter(source.read, None))]  # noqa: B905
    source.close()
    return seen


def check(path: Path, seqs: tuple[int, ...], decoded: list[int]) -> dict[int, int]:
    """Every restart must equal the unbroken read; returns how many frames each had to decode to get there."""
    unbroken = read_from(path, 0, None, COUNT)
    costs = {}
    for seq in seqs:
        decoded.clear()
        rest = read_from(path, seq, unbroken[seq - 1][0])
        assert rest == unbroken[seq : seq + 40]
        costs[seq] = len(decoded) - len(rest)
    return costs


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", X264),
        ("a.mkv", "libx264", X264),
        ("a.mov", "libx264", {**X264, "bf": "0"}),
        ("a.mp4", "libx265", {"preset": "ultrafast", "x265-params": "log-level=none:bframes=3:open-gop=0"}),
    ],
)
def test_it_decodes_from_the_last_cut_on(
    tmp_path: Path, name: str, codec: str, options: dict[str, str], decoded: list[int]
) -> None:
    path = write_moving(tmp_path / name, COUNT, codec=codec, options=options, gop=25)
    costs = check(path, (99, 100, 137, 225, 226, 299, 300), decoded)
    assert costs[99] >= 99
    assert all(cost <= 28 for seq, cost in costs.items() if seq >= 100)


def test_a_variable_rate(tmp_path: Path, decoded: list[int]) -> None:
    stamps = [i + i // 7 * 3 for i in range(COUNT)]
    path = write_moving(tmp_path / "a.mkv", COUNT, pts=stamps, options=X264, gop=25)
    assert check(path, (150, 290), decoded)[290] < 60


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("a.mp4", {"options": {**X264, "x264-params": "open-gop=1:keyint=25:scenecut=0"}}),
        ("a.mp4", {"options": {**X264, "bf": "0", "x264-params": "intra-refresh=1:keyint=25:scenecut=0"}}),
        ("a.avi", {"codec": "mpeg4", "gop": 25}),
        ("a.ts", {"options": X264, "gop": 25}),
        ("a.h264", {"options": X264, "gop": 25, "format_": "h264"}),
        ("a.mp4", {"codec": "mpeg4", "gop": 25}),
    ],
)
def test_where_it_is_not_sure_everything_is_decoded(
    tmp_path: Path, name: str, how: dict[str, Any], decoded: list[int]
) -> None:
    costs = check(write_moving(tmp_path / name, COUNT, **how), (200,), decoded)
    assert costs[200] >= 200


def test_a_wrong_memory_leads_nowhere(tmp_path: Path, decoded: list[int]) -> None:
    path = write_moving(tmp_path / "a.mp4", COUNT, options=X264, gop=25)
    unbroken = read_from(path, 0, None, COUNT)
    for last_s in (None, 0.0, unbroken[200][0]):
        decoded.clear()
        assert read_from(path, 200, last_s) == unbroken[200:240]
        assert len(decoded) >= 240


@pytest.mark.parametrize("hit", [0, 60])
def test_a_picture_that_is_missing_further_up_is_not_counted(tmp_path: Path, hit: int, decoded: list[int]) -> None:
    path = write_moving(tmp_path / "a.mp4", COUNT, options={**X264, "bf": "0"}, gop=25)
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packet = list(container.demux(video=0))[hit]
        at = data.index(bytes(packet))
    data[at : at + packet.size] = b"\xa5" * packet.size
    path.write_bytes(data)
    unbroken = read_from(path, 0, None, COUNT)
    assert len(unbroken) < COUNT
    decoded.clear()
    assert read_from(path, 200, unbroken[199][0]) == unbroken[200:240]
    assert len(decoded) >= 240
