from __future__ import annotations

import json
import resource
import subprocess
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from fractions import Fraction
from pathlib import Path

import av
import pytest
from pydantic import ValidationError

from pipeline.errors import ConfigError, RuntimeFailure
from pipeline.sinks.kinds.recorder import Config, Recorder
from pipeline.sinks.sink import Packet
from pipeline.types import Layout
from tests.unit.sinks.recordings import (
    SMALL,
    context,
    encode,
    encode_with,
    frames,
    new_encoder,
    numbers,
    record,
    shade,
    stream_of,
)

OTHER_SIZE = Layout(96, 64)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if path.name != "state")


def finished(sink: Recorder) -> None:
    sink.finish()
    sink.close()


def write_until_it_fails(sink: Recorder, packets: Iterable[Packet]) -> tuple[int, str]:
    """How many could be written, and the reason given for the first that could not."""
    for written, packet in enumerate(packets):
        try:
            sink.write(packet)
        except RuntimeFailure as error:
            return written, str(error)
    raise AssertionError("there is more room than this test has packets")


def test_a_recording_has_every_frame_at_its_time(tmp_path: Path) -> None:
    times = [5.0, 5.04, 5.2, 5.2001, 9.0]
    sink = Recorder(Config(path=tmp_path / "out.mp4"), context(tmp_path))
    assert sink.open() is None
    encoder = new_encoder()
    sink.start(encoder.stream)
    for packet in encode_with(encoder, range(5), lambda number: times[number]):
        sink.write(packet)
    finished(sink)
    assert names(tmp_path) == ["out.mp4"]
    assert [pts for pts, _ in frames(tmp_path / "out.mp4")] == [round((t - 5) * 90_000) for t in times]
    assert [luma for _, luma in frames(tmp_path / "out.mp4")] == pytest.approx([shade(n) for n in range(5)], abs=2)


def test_the_file_says_how_its_colours_and_pixels_are_meant(tmp_path: Path) -> None:
    layout = Layout(98, 64, "bt709", full_range=True, sample_aspect=(4, 3))
    sink = Recorder(Config(path=tmp_path / "out.mp4"), context(tmp_path))
    sink.open()
    record(sink, range(3), layout)
    for path in (tmp_path / "out.part-1.mp4", tmp_path / "out.mp4"):
        if path.name == "out.mp4":
            finished(sink)
        with av.open(str(path)) as file:
            track = file.streams.video[0]
            codec = track.codec_context
            assert (track.width, track.height, track.sample_aspect_ratio) == (98, 64, Fraction(4, 3))
            assert (codec.color_range, codec.colorspace, codec.color_primaries, codec.color_trc) == (2, 1, 1, 1)


def test_a_part_plays_while_it_is_written_and_nothing_stands_under_the_final_name(tmp_path: Path) -> None:
    sink = Recorder(Config(path=tmp_path / "out.mp4"), context(tmp_path))
    sink.open()
    record(sink, range(12))
    assert names(tmp_path) == ["out.part-1.mp4"]
    assert numbers(tmp_path / "out.part-1.mp4") == list(range(12))
    sink.close()


def test_a_recording_is_finished_where_it_stands(tmp_path: Path) -> None:
    sink = Recorder(Config(path=tmp_path / "out.mp4"), context(tmp_path))
    sink.open()
    record(sink, range(60))
    before = (tmp_path / "out.part-1.mp4").stat()
    finished(sink)
    after = (tmp_path / "out.mp4").stat()
    assert after.st_ino == before.st_ino
    assert 0 < after.st_size - before.st_size < 2500 + 60 * 25
    with av.open(str(tmp_path / "out.mp4")) as file:
        track = file.streams.video[0]
        assert track.frames == 60
        assert track.duration == 60 * 3600
        file.seek(round(2.1 * 90_000), stream=track)
        assert next(file.decode(track)).pts == 50 * 3600
        said = json.loads(file.metadata["comment"])
        assert file.metadata["creation_time"] == "2026-11-18T11:06:40.000000Z"
    assert (said["run"], said["source"], said["frames"]) == ("run-1", "gate", 60)
    assert said["start_utc"] == "2026-11-18T11:06:40.000Z"
    assert datetime.fromisoformat(said["start_local"]) == datetime.fromisoformat(said["start_utc"])
    lasted = datetime.fromisoformat(said["end_utc"]) - datetime.fromisoformat(said["start_utc"])
    assert lasted == timedelta(seconds=59 / 25)


def test_odd_sizes_are_recorded_at_the_next_even_size(tmp_path: Path) -> None:
    sink = Recorder(Config(path=tmp_path / "out.mp4"), context(tmp_path))
    sink.open()
    record(sink, range(3), Layout(63, 47))
    finished(sink)
    with av.open(str(tmp_path / "out.mp4")) as file:
        picture = next(file.decode(video=0)).to_ndarray()
    assert picture.shape == (48 * 3 // 2, 64)
    assert abs(int(picture[47, 63]) - shade(0)) <= 2


def test_a_change_of_size_makes_a_second_file(tmp_path: Path) -> None:
    sink = Recorder(Config(path=tmp_path / "out.mp4"), context(tmp_path))
    sink.open()
    record(sink, range(5))
    record(sink, range(5, 9), OTHER_SIZE)
    record(sink, range(9, 11))
    finished(sink)
    assert names(tmp_path) == ["out.2.mp4", "out.3.mp4", "out.mp4"]
    assert numbers(tmp_path / "out.mp4") == list(range(5))
    assert frames(tmp_path / "out.2.mp4")[0][0] == 0
    assert len(frames(tmp_path / "out.2.mp4")) == 4
    assert len(frames(tmp_path / "out.3.mp4")) == 2


def test_no_frame_no_file(tmp_path: Path) -> None:
    sink = Recorder(Config(path=tmp_path / "out.mp4"), context(tmp_path))
    sink.open()
    sink.start(stream_of())
    finished(sink)
    assert names(tmp_path) == []


def test_an_existing_target_is_refused_or_replaced_only_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "out.mp4"
    target.write_bytes(b"precious")
    with pytest.raises(ConfigError, match="exists"):
        Recorder(Config(path=target), context(tmp_path)).open()
    sink = Recorder(Config(path=target, overwrite=True), context(tmp_path))
    sink.open()
    record(sink, range(3))
    assert target.read_bytes() == b"precious"
    finished(sink)
    assert numbers(target) == [0, 1, 2]


def test_a_file_that_came_meanwhile_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "out.mp4"
    sink = Recorder(Config(path=target), context(tmp_path))
    sink.open()
    record(sink, range(3))
    target.write_bytes(b"somebody else's")
    finished(sink)
    assert target.read_bytes() == b"somebody else's"
    assert numbers(tmp_path / "out.2.mp4") == [0, 1, 2]


@pytest.mark.parametrize("path", ["missing/out.mp4", "folder.mp4", "/proc/out.mp4"])
def test_a_place_that_cannot_be_written_is_refused_at_the_start(tmp_path: Path, path: str) -> None:
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(ConfigError, match="video"):
        Recorder(Config(path=tmp_path / path), context(tmp_path)).open()


def test_the_configuration_names_one_place() -> None:
    for wrong in ({}, {"path": "a.mp4", "directory": "b"}, {"path": "a.avi"}, {"directory": "a", "overwrite": True}):
        with pytest.raises(ValidationError):
            Config.model_validate(wrong)
    assert Config(path=Path("/a/b.mp4")).claims() == {("file", "/a/b.mp4")}
    assert Config(directory=Path("/a")).claims() == frozenset()


def test_another_run_at_the_same_file_is_refused(tmp_path: Path) -> None:
    first = Recorder(Config(path=tmp_path / "out.mp4"), context(tmp_path))
    first.open()
    record(first, range(3))
    second = Recorder(Config(path=tmp_path / "out.mp4"), context(tmp_path, "run-2"))
    with pytest.raises(ConfigError, match="another run"):
        second.open()
    second.close()
    finished(first)
    assert numbers(tmp_path / "out.mp4") == [0, 1, 2]


def test_what_last_nights_run_left_is_recovered_beside_the_new_recording(tmp_path: Path) -> None:
    old = Recorder(Config(path=tmp_path / "out.mp4"), context(tmp_path))
    old.open()
    record(old, range(4))
    record(old, range(4, 8))
    old.close()
    new = Recorder(Config(path=tmp_path / "out.mp4"), context(tmp_path, "run-2"))
    assert new.open() is None
    record(new, range(20, 23))
    finished(new)
    recovered = "out.recovered-20261118T110640Z.mp4"
    assert names(tmp_path) == ["out.mp4", recovered]
    assert numbers(tmp_path / recovered) == list(range(8))
    assert len(frames(tmp_path / "out.mp4")) == 3


def test_a_directory_gets_a_file_for_each_run(tmp_path: Path) -> None:
    config = Config(directory=tmp_path / "recordings" / "new")
    for run_id in ("run-1", "run-2"):
        sink = Recorder(config, context(tmp_path, run_id))
        sink.open()
        record(sink, range(3))
        finished(sink)
    assert names(tmp_path / "recordings" / "new") == ["gate-20261118T110640Z-2.mp4", "gate-20261118T110640Z.mp4"]


def test_in_a_directory_an_abandoned_recording_gets_its_own_name(tmp_path: Path) -> None:
    config = Config(directory=tmp_path / "recordings")
    old = Recorder(config, context(tmp_path))
    old.open()
    record(old, range(4))
    old.close()
    again = Recorder(config, context(tmp_path, restarted=True))
    assert again.open() == 3 / 25
    record(again, range(4, 6))
    again.close()
    new = Recorder(config, context(tmp_path, "run-2"))
    assert new.open() is None
    record(new, range(50, 53))
    finished(new)
    first, second = sorted((tmp_path / "recordings").iterdir())
    assert numbers(first) == list(range(6))
    assert len(frames(second)) == 3


def test_files_that_only_look_like_parts_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out.part-3.mp4").write_bytes(b"notes")
    (tmp_path / "out.part-x.mp4").write_bytes(b"")
    sink = Recorder(Config(path=tmp_path / "out.mp4"), context(tmp_path))
    sink.open()
    record(sink, range(3))
    assert (tmp_path / "out.part-4.mp4").exists()
    finished(sink)
    assert names(tmp_path) == ["out.mp4", "out.part-3.mp4", "out.part-x.mp4"]


@pytest.fixture
def little_room() -> Iterator[int]:
    """The most bytes that a file may have in this process: as a full disk, but for one process alone."""
    limit = 30_000
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_said_plainly_and_what_was_recorded_is_kept(tmp_path: Path, little_room: int) -> None:
    sink = Recorder(Config(path=tmp_path / "out.mp4"), context(tmp_path))
    sink.open()
    sink.start(stream_of())
    written, reason = write_until_it_fails(sink, encode(range(1000)))
    assert "what was recorded before is kept" in reason
    assert written > 50
    assert len(frames(tmp_path / "out.part-1.mp4")) == written
    finished(sink)
    assert names(tmp_path) == ["out.mp4"]
    assert len(frames(tmp_path / "out.mp4")) == written


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(disk)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small disk is not permitted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_on_a_full_disk_the_recording_becomes_a_file_without_an_index(tmp_path: Path, small_disk: Path) -> None:
    sink = Recorder(Config(path=small_disk / "out.mp4"), context(tmp_path))
    sink.open()
    record(sink, range(20))
    encoder = new_encoder()
    sink.start(encoder.stream)
    written, reason = write_until_it_fails(sink, encode_with(encoder, range(20, 5000)))
    assert "No space left on device" in reason
    finished(sink)
    assert names(small_disk) == ["out.mp4"]
    assert len(frames(small_disk / "out.mp4")) == 20 + written


def test_a_gone_disk_is_a_runtime_failure(tmp_path: Path) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    sink = Recorder(Config(path=place / "out.mp4"), context(tmp_path))
    sink.open()
    sink.start(stream_of())
    place.rmdir()
    with pytest.raises(RuntimeFailure, match="cannot write"):
        sink.write(next(encode([0], SMALL)))
    sink.close()
