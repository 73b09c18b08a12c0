"""``overlay: track``: what the source sends is on the disk as it was, whoever is killed, and the boxes lie beside."""

from __future__ import annotations

import contextlib
import hashlib
import signal
from itertools import groupby, pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.sinks.archive import Archive, Kept
from tests.conftest import COUNT
from tests.media import moving, write_moving, write_video
from tests.numbered import complaints, pictures_of, read_numbered, write_numbered
from tests.runs import Outcome, Program, Run, kill, wait_until
from tests.shared_data import shared

SITE = """
name: kept
version: 1
sources: {{face: {{kind: file, path: "{video}"}}}}
detectors: {{mask: {{model: aizoo-260, backend: {{kind: onnxruntime}}}}}}
sinks: {{recordings: {{kind: recorder, directory: recordings, segment_s: 1, overlay: track}}}}
pipelines: {{entrance: {{sources: [face], detector: mask, sinks: [recordings]{more}}}}}
"""


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 numbered frames of a man without a mask, with pictures that are shown later than others behind them."""
    pictures = pictures_of(shared("videos/nomask_man_1280x720.mp4"))
    path = tmp_path_factory.mktemp("videos") / "reordered.mp4"
    return write_numbered(path, COUNT, pictures, options={"qp": "20", "bf": "2", "preset": "veryfast"}, gop=20)


def start(program: Program, video: Path, more: str = "") -> Run:
    (program.cwd / "kept.yaml").write_text(SITE.format(video=video, more=more))
    return program.start("run", "--json", "kept.yaml")


def listed(program: Program) -> list[Kept]:
    with contextlib.closing(Archive(program.cwd / "recordings", read_only=True)) as archive:
        return list(archive.files())


def pictures(path: Path) -> list[str]:
    with av.open(str(path)) as file:
        return [hashlib.md5(frame.to_ndarray().tobytes()).hexdigest() for frame in file.decode(video=0)]


def check(program: Program, video: Path) -> list[Path]:
    segments = [program.cwd / "recordings" / kept.path for kept in listed(program)]
    stored = [picture for path in segments for picture in pictures(path)]
    assert stored == pictures(video), "not the same pictures"
    for path in segments:
        with av.open(str(path)) as file:
            assert next(file.demux(video=0)).is_keyframe
        times = [frame.time_s for frame in read_numbered(path)]
        assert times == sorted(times)
        assert times[-1] - times[0] == pytest.approx((len(times) - 1) / 25, abs=1e-4)
    program.assert_nothing_left()
    return segments


def test_the_packets_are_stored_as_they_are_and_the_boxes_beside_them(program: Program, video: Path) -> None:
    with av.open(str(video)) as file:
        assert any(packet.pts != packet.dts for packet in file.demux(video=0) if packet.size)
    outcome = start(program, video).finish()
    assert outcome.code == 0, outcome.stderr
    segments = check(program, video)
    assert len(segments) > 2
    for path in segments:
        with av.open(str(path.with_suffix(".ass"))) as captions:
            lines = [(packet.pts or 0, packet.duration, bytes(packet)) for packet in captions.demux() if packet.size]
        frames = len(read_numbered(path))
        assert frames * 0.8 <= sum(b"no mask" in line for _, _, line in lines) <= frames + 3
        assert all(duration in (4, 5, 3) for _, duration, _ in lines[:-2])
        assert 0 <= lines[0][0] <= 20
        assert lines[-1][0] == pytest.approx(frames * 4, abs=20)


@pytest.mark.parametrize("job", ["annotator", "capture", "inference"])
def test_killed_every_packet_is_stored_once(program: Program, video: Path, job: str) -> None:
    run = start(program, video)
    with run.results("face") as results:
        for published in (20, 50):
            pid = run.await_stage(job)
            wait_until(lambda published=published: run.over or results.published >= published, "more results")  # type: ignore[misc]
            kill(pid)
            wait_until(lambda pid=pid: run.over or run.stage_pid(job) not in (pid, None), f"another {job}")  # type: ignore[misc]
    outcome = run.finish()
    assert outcome.code == 0, outcome.stderr
    check(program, video)


def test_stopped_every_frame_that_was_captured_is_stored(program: Program, tmp_path: Path) -> None:
    options = {"qp": "20", "bf": "3", "preset": "veryfast"}
    video = write_numbered(tmp_path / "long.mp4", 600, options=options)
    run = start(program, video)
    with run.results("face") as results:
        wait_until(lambda: run.over or results.published >= 60, "some results")
        run.signal(signal.SIGINT)
    outcome = run.finish()
    assert outcome.code == 0, outcome.stderr
    frames = outcome.report["frames"]
    assert 60 <= frames["decoded"] == frames["written"] < 600
    segments = [program.cwd / "recordings" / kept.path for kept in listed(program)]
    numbers = [frame.number for path in segments for frame in read_numbered(path)]
    assert numbers[: frames["written"]] == list(range(frames["written"]))
    assert len(numbers) <= frames["written"] + 3  # what the last ones are made from
    assert [complaints(path) for path in segments] == [""] * len(segments)


def test_h265_is_stored_as_well(program: Program, tmp_path: Path) -> None:
    pictures = pictures_of(shared("videos/nomask_man_1280x720.mp4"))
    options = {"x265-params": "bframes=2:keyint=20:min-keyint=20:open-gop=0:log-level=none"}
    video = write_numbered(tmp_path / "hevc.mp4", 60, pictures, codec="libx265", options=options)
    outcome = start(program, video).finish()
    assert outcome.code == 0, outcome.stderr
    for path in check(program, video):
        with av.open(str(path)) as file:
            assert file.streams.video[0].codec_context.name == "hevc"


def pieces(directory: Path, *sizes: tuple[int, int]) -> list[bytes]:
    """Pieces of 50 frames in these sizes, numbered on, each with timestamps from its own beginning."""
    found = []
    for number, (width, height) in enumerate(sizes):
        how = {"pictures": (moving(index, width, height) for index in range(50)), "first": 50 * number}
        path = directory / f"{number}.ts"
        write_numbered(path, 50, options={"qp": "20", "preset": "veryfast", "bf": "2"}, **how)  # type: ignore[arg-type]
        found.append(path.read_bytes())
    return found


def check_numbered(program: Program, outcome: Outcome, count: int, fps: float = 25) -> list[Path]:
    """Every frame is there once and in order, at its even time, and no decoder complains; returns the segments."""
    assert outcome.code == 0, outcome.stderr
    assert outcome.report["frames"] == {"decoded": count, "detected": count, "written": count, "skipped": {}}
    segments = [program.cwd / "recordings" / kept.path for kept in listed(program)]
    frames = [read_numbered(path) for path in segments]
    assert [frame.number for segment in frames for frame in segment] == list(range(count))
    for segment, path in zip(frames, segments, strict=True):
        assert complaints(path) == ""
        steps = [after.time_s - before.time_s for before, after in pairwise(segment)]
        assert steps == pytest.approx([1 / fps] * len(steps), abs=1e-3)
    program.assert_nothing_left()
    return segments


@pytest.mark.parametrize("job", ["", "annotator", "capture"])
def test_a_picture_that_changes_its_size_begins_another_segment(program: Program, tmp_path: Path, job: str) -> None:
    sizes = (320, 180), (240, 128), (320, 180)
    (tmp_path / "change.ts").write_bytes(b"".join(pieces(tmp_path, *sizes)))
    run = start(program, tmp_path / "change.ts")
    with run.results("face") as results:
        for published in (30, 60, 110) if job else ():
            pid = run.await_stage(job)
            wait_until(lambda published=published: run.over or results.published >= published, "more results")  # type: ignore[misc]
            kill(pid)
            wait_until(lambda pid=pid: run.over or run.stage_pid(job) not in (pid, None), f"another {job}")  # type: ignore[misc]
    segments = check_numbered(program, run.finish(), 150)
    heights = []
    for path in segments:
        with av.open(str(path)) as file:
            heights.append(file.streams.video[0].codec_context.height)
            assert {frame.height for frame in file.decode(video=0)} == {heights[-1]}
    assert [height for height, _ in groupby(heights)] == [212, 160, 212]


def test_timestamps_that_fall_back_are_counted_on(program: Program, tmp_path: Path) -> None:
    (tmp_path / "back.ts").write_bytes(b"".join(pieces(tmp_path, (320, 180), (320, 180))))
    check_numbered(program, start(program, tmp_path / "back.ts").finish(), 100)
    lengths = [(kept.end_ns - kept.start_ns) / 1e9 for kept in listed(program)]
    assert sum(lengths) == pytest.approx(4.0, abs=0.3)


def test_without_timestamps_packets_have_the_times_of_the_frames(program: Program, tmp_path: Path) -> None:
    options = {"qp": "20", "preset": "veryfast", "bf": "2"}
    video = write_numbered(tmp_path / "raw.h264", 90, rate=30, options=options, format_="h264")
    check_numbered(program, start(program, video).finish(), 90, fps=30)


def test_a_frame_whose_packet_is_not_stored_is_told_as_missing(program: Program, tmp_path: Path) -> None:
    """A packet of more than half of the memory that is there for them; the decoder takes it all the same."""
    before, behind = pieces(tmp_path, (320, 180), (320, 180))
    noise = np.random.default_rng(7).integers(16, 235, (1440 * 3 // 2, 2560), np.uint8)
    large = write_video(tmp_path / "large.ts", [av.VideoFrame.from_ndarray(noise, "yuv420p")], options={"qp": "0"})
    assert large.stat().st_size > 4_000_000
    (tmp_path / "all.ts").write_bytes(before + large.read_bytes() + behind)
    outcome = start(program, tmp_path / "all.ts").finish()
    assert outcome.code == 1
    assert outcome.report["exit"]["reason"] == "face: frames 50 are missing in the recording"
    assert outcome.report["frames"] == {"decoded": 101, "detected": 101, "written": 100, "skipped": {}}
    assert outcome.report["sources"]["face"]["missing"] == ["50"]
    segments = [program.cwd / "recordings" / kept.path for kept in listed(program)]
    assert [frame.number for path in segments for frame in read_numbered(path)] == list(range(100))
    assert [complaints(path) for path in segments] == [""] * len(segments)


def test_what_is_neither_is_said_to_be_so(program: Program) -> None:
    write_moving(program.cwd / "old.mp4", 30, 160, 120, codec="mpeg4")
    outcome = start(program, program.cwd / "old.mp4").finish()
    assert outcome.code == 1
    assert "sends mpeg4, and only h264 and hevc can be stored as they are (overlay: burn stores any)" in outcome.stderr


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (", blur: all", "and that blur cannot change; use overlay: burn"),
        (", privacy: {window: {polygon: [[0, 0], [0.5, 0], [0.5, 0.5]]}}", "and that privacy cannot change"),
    ],
)
def test_what_must_be_hidden_cannot_be_stored_untouched(program: Program, video: Path, more: str, said: str) -> None:
    outcome = start(program, video, more).finish()
    assert outcome.code == 2
    assert said in outcome.stderr
