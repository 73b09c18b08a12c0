"""Recordings are found by name, where the recorder has put them, however many there are."""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from pipeline.sinks.kinds import recorder
from pipeline.sinks.sink import PacketSink
from pipeline.sinks.web import recordings as module
from pipeline.sinks.web.recordings import Recordings
from tests.unit.sinks.recordings import context, encode_with, new_encoder


def names(recordings: Recordings) -> list[str]:
    return sorted(item["name"] for item in recordings.listed())


def test_recordings_are_found_by_name_alone(tmp_path: Path) -> None:
    folder = tmp_path / "recordings"
    folder.mkdir()
    (folder / "gate.mp4").write_bytes(b"video")
    (folder / "index.jsonl").write_bytes(b"{}")
    (folder / "photos").mkdir()
    (folder / "photos/wedding.mp4").write_bytes(b"none")
    (tmp_path / "other.mp4").write_bytes(b"none")
    (folder / "link.mp4").symlink_to(tmp_path / "other.mp4")
    (folder / "folder.mp4").mkdir()
    found = Recordings([folder, tmp_path / "missing.mp4"])
    assert names(found) == ["gate.mp4"]
    assert found.find("gate.mp4") == folder / "gate.mp4"
    wrong = [
        "other.mp4",
        "../other.mp4",
        "..",
        ".mp4",
        "./gate.mp4",
        "photos/wedding.mp4",
        "wedding.mp4",
        "index.jsonl",
    ]
    for name in [*wrong, "link.mp4", "folder.mp4", "gate.mp4\0", "ä" * 200 + ".mp4", ""]:
        assert found.find(name) is None, name


def test_a_file_of_the_configuration_is_one(tmp_path: Path) -> None:
    (tmp_path / "Out 1.MP4").write_bytes(b"video")
    found = Recordings([tmp_path / "Out 1.MP4"])
    assert names(found) == ["Out 1.MP4"]
    assert found.find("Out 1.MP4") == tmp_path / "Out 1.MP4"


def test_what_still_grows_is_no_recording_yet(tmp_path: Path) -> None:
    day = tmp_path / "2026-11-18"
    day.mkdir()
    segment = "gate-20261118T110640Z-20261118T110640+0000"
    for path in (
        tmp_path / "gate.mp4",
        tmp_path / "out.part-1.mp4",
        day / f"{segment}.mp4",
        day / f"{segment}-2.part.mp4",
    ):
        path.touch()
    found = Recordings([tmp_path])
    assert names(found) == [f"{segment}.mp4", "gate.mp4"]
    assert found.find(f"{segment}-2.part.mp4") is None
    assert found.find("out.part-1.mp4") is None


def test_what_is_removed_while_it_is_looked_for_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gate.mp4").touch()
    there = [tmp_path / "gate.mp4", tmp_path / "gone.mp4", tmp_path / "2026-11-18" / "gone too.mp4"]
    monkeypatch.setattr(module, "_candidates", lambda _: iter(there))
    assert names(Recordings([tmp_path])) == ["gate.mp4"]


@pytest.mark.parametrize("segment_s", [1, None])
def test_the_recorder_puts_them_where_they_are_looked_for(tmp_path: Path, segment_s: float | None) -> None:
    folder = tmp_path / "recordings"
    sink = recorder.create(recorder.Config(directory=folder, segment_s=segment_s), context(tmp_path))
    sink.open()
    recorded(sink)
    sink.finish()
    sink.close()
    paths = {path.name: path for path in folder.rglob("*.mp4")}
    assert len(paths) == (3 if segment_s else 1)
    found = Recordings([folder])
    assert names(found) == sorted(paths)
    assert {name: found.find(name) for name in paths} == paths


def recorded(sink: PacketSink) -> None:
    encoder = new_encoder()
    sink.start(encoder.stream)
    for packet in encode_with(encoder, range(75), wish=sink.wish):
        sink.write(packet)


def test_among_thousands_one_is_found_without_a_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = datetime.fromisoformat("2026-11-01T00:00:00+00:00")
    segments = []
    for number in range(3000):
        at = start + timedelta(minutes=10 * number)
        path = tmp_path / f"{at:%Y-%m-%d}" / f"gate-{at:%Y%m%dT%H%M%S}Z-{at:%Y%m%dT%H%M%S}+0000.mp4"
        path.parent.mkdir(exist_ok=True)
        path.touch()
        segments.append(path)
    found = Recordings([tmp_path])
    assert names(found) == [path.name for path in segments]

    def searched(*_: object) -> None:
        raise AssertionError("a folder is read")

    monkeypatch.setattr(os, "scandir", searched)
    monkeypatch.setattr(os, "listdir", searched)
    for path in segments[::100]:
        assert found.find(path.name) == path
    assert found.find("gate-20250101T000000Z-20250101T000000+0000.mp4") is None
