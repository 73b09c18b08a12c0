"""Evidence: what is stored of an event, when it is told, and what is left of it after kill -9."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest

from pipeline.sinks.archive import Archive, Kept
from pipeline.sinks.kinds.clips import Clips, Config
from pipeline.sinks.spool import Spool
from pipeline.types import EVIDENCE_NUMBERS, Event, FrameRef, Layout, Result, Track
from tests.unit.sinks.events import event
from tests.unit.sinks.recordings import WALL_NS, context, frames, new_encoder, shade
from tests.unit.sinks.test_recorder_killed import in_process, outcome

FPS = 25
SIZE = Layout(160, 120)
FACE = (30.0, 30.0, 60.0, 80.0)
TRACK = 1


class Bench:
    """What an annotator does with the sink: events, pictures, packets, frame by frame."""

    def __init__(self, place: Path, run_id: str = "run-1", **options: Any) -> None:
        self.place = place
        self.spool = place / "spool"
        self.spool.mkdir(exist_ok=True)
        config = Config(directory=place / "evidence", **{"pre_s": 2, "post_s": 1, **options})
        its = replace(context(place, run_id), tell=Spool(self.spool, "gate").tell)
        self.sink = Clips(config, its)
        self.safe_s = self.sink.open()

    def play(
        self,
        numbers: Sequence[int],
        said: Sequence[Event] = (),
        layout: Layout = SIZE,
        tracks: Callable[[int], Sequence[Track]] = lambda _: (),
        from_ns: int = WALL_NS,
    ) -> None:
        encoder = new_encoder(layout)
        self.sink.start(encoder.stream)
        for number in numbers:
            time_s = number / FPS
            while self.sink.heard < len(said) and said[self.sink.heard].stream_s <= time_s:
                self.sink.hear(said[self.sink.heard])
                self.sink.heard += 1
            frame = FrameRef("gate", number, 0, time_s, 0, from_ns + round(time_s * 1e9))
            image = encoder.frame()
            image.y[:], image.u[:], image.v[:] = shade(number), 128, 128
            shown = Result(frame, tuple(tracks(number)), True)
            for track in shown.tracks:
                x0, y0, x1, y1 = (round(value) for value in track.xyxy)
                image.y[y0:y1, x0:x1] = 235
            wish = self.sink.wish(time_s)
            self.sink.look(image, shown, drawn=False)
            image.y[0:20, 0:20] = 16
            self.sink.look(image, shown, drawn=True)
            for packet in encoder.encode(frame, keyframe=wish.name == "KEYFRAME"):
                self.sink.write(packet)

    def end(self) -> None:
        self.sink.finish()
        self.sink.close()

    def settle(self) -> None:
        """Waits until what goes on behind is done."""
        self.sink._storage.do(lambda archive: archive.directory).result()

    def told(self) -> list[Event]:
        return [msgspec.json.decode(path.read_bytes(), type=Event) for path in sorted(self.spool.glob("*.json"))]

    def kept(self) -> list[Kept]:
        with contextlib.closing(Archive(self.place / "evidence", read_only=True)) as archive:
            return list(archive.files())

    def files(self) -> list[str]:
        return sorted(path.name for path in (self.place / "evidence").glob("*/*"))

    def clip(self, number: int = TRACK) -> Path:
        return self.place / "evidence" / "2026-11-18" / f"{event(number).id}-clip.mp4"


def face(number: int) -> list[Track]:
    grown = number / 20
    return [Track(TRACK, 1, 0.9, (FACE[0] - grown, FACE[1], FACE[2] + grown, FACE[3]), detected=True)]


def begins(number: int, track: int = TRACK) -> Event:
    return event(track, "new", stream_s=number / FPS)


def stops(number: int, track: int = TRACK) -> Event:
    return event(track, "end", stream_s=number / FPS)


def first_last_count(clip: Path) -> tuple[int, int, int]:
    lumas = [luma for _, luma in frames(clip)]
    return lumas[0], lumas[-1], len(lumas)


def near(number: int) -> Any:
    return pytest.approx(shade(number), abs=3)


def test_an_event_has_a_clip_from_before_to_after_a_picture_and_a_face(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.play(range(250), [begins(110), stops(140)], tracks=face)
    bench.end()
    id_ = event(TRACK).id
    assert bench.files() == [f"{id_}-clip.mp4", f"{id_}-face.jpg", f"{id_}-snapshot.jpg"]
    assert first_last_count(bench.clip()) == (near(50), near(165), 116)  # whole groups of two seconds
    told = bench.told()
    assert [(e.phase, e.number - EVIDENCE_NUMBERS, e.evidence[0].kind) for e in told] == [
        ("update", 0, "snapshot"),
        ("update", 1, "crop"),
        ("update", 2, "clip"),
    ]
    for update in told:
        [file] = update.evidence
        data = Path(file.path).read_bytes()
        assert (file.bytes, file.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert told[-1].t_end is not None
    assert {(kept.kind, kept.episode) for kept in bench.kept()} == {(k, id_) for k in ("clip", "snapshot", "crop")}


def test_the_pictures_show_what_they_say(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.play(range(100), [begins(30)], tracks=face)
    bench.end()
    day = tmp_path / "evidence" / "2026-11-18"
    snapshot = cv2.imread(str(day / f"{event(TRACK).id}-snapshot.jpg"))
    crop = cv2.imread(str(day / f"{event(TRACK).id}-face.jpg"))
    assert snapshot is not None
    assert crop is not None
    assert snapshot.shape == (120, 160, 3)
    assert snapshot[10, 10].max() < 20  # drawn on
    assert snapshot[55, 45].min() > 240  # the face
    assert np.ptp(snapshot[100, 100].astype(int)) < 4
    height, width, _ = crop.shape
    assert (height, width) == (86, pytest.approx(1.7 * 35, abs=5))  # about the largest by then, with its margin
    assert crop[height // 2, width // 2].min() > 240
    assert crop.min() > 20  # nothing is drawn on it


def test_the_first_picture_is_told_at_once_and_the_clip_when_it_ends(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    said = [begins(30), stops(60)]
    bench.play(range(32), said, tracks=face)
    bench.settle()
    assert [e.evidence[0].kind for e in bench.told()] == ["snapshot"]
    bench.play(range(32, 58), said, tracks=face)
    bench.settle()
    assert [e.evidence[0].kind for e in bench.told()] == ["snapshot", "crop"]
    bench.play(range(58, 90), said, tracks=face)
    bench.settle()
    assert [e.evidence[0].kind for e in bench.told()] == ["snapshot", "crop", "clip"]
    assert not list(bench.place.glob("evidence/*/*.part.mp4"))
    bench.end()


def test_two_episodes_that_overlap_have_a_clip_each(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.play(range(200), [begins(60), begins(80, 2), stops(90), stops(130, 2)])
    bench.end()
    assert first_last_count(bench.clip(1)) == (near(0), near(115), 116)
    assert first_last_count(bench.clip(2)) == (near(0), near(155), 156)


def test_a_clip_has_a_longest_length(tmp_path: Path) -> None:
    bench = Bench(tmp_path, max_s=4)
    bench.play(range(300), [begins(100), stops(280)])
    bench.end()
    assert first_last_count(bench.clip()) == (near(50), near(150), 101)


def test_what_is_no_episode_of_faces_has_no_evidence(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    lost = msgspec.structs.replace(begins(10), kind="source_lost", track=None)
    crowd = msgspec.structs.replace(begins(20, 2), kind="compliance", track=None, faces=4)
    bench.play(range(60), [lost, crowd], tracks=face)
    bench.end()
    assert bench.files() == [f"{crowd.id}-clip.mp4", f"{crowd.id}-snapshot.jpg"]


def test_a_change_of_size_ends_the_clip(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    said = [begins(30)]
    bench.play(range(60), said)
    bench.play(range(60, 90), said, layout=Layout(96, 64))
    bench.end()
    assert first_last_count(bench.clip()) == (near(0), near(59), 60)


def kill_at(place: Path, number: int, said: Sequence[Event]) -> None:
    """A process that plays so many frames and is killed."""

    def work() -> None:
        Bench(place).play(range(number), said, tracks=face)
        os.kill(os.getpid(), signal.SIGKILL)

    assert outcome(in_process(work)) == -signal.SIGKILL


@pytest.mark.parametrize("number", [60, 111, 130, 150, 164, 180])
def test_killed_in_any_phase_the_clip_is_completed_by_the_next_process(tmp_path: Path, number: int) -> None:
    said = [begins(110), stops(140)]
    kill_at(tmp_path, number, said)
    again = Bench(tmp_path)
    assert again.safe_s == (number - 1) / FPS
    again.play(range(number - 5, 250), said, tracks=face)  # another sink was behind
    again.end()
    begin = 60 if number == 60 else 50  # a new process begins with a keyframe
    assert first_last_count(again.clip()) == (near(begin), near(165), 166 - begin)
    assert {e.evidence[0].kind for e in again.told()} == {"snapshot", "crop", "clip"}
    sums = {(e.number, e.evidence[0].sha256) for e in again.told()}
    assert len(sums) == 3, "what is told twice is told the same"
    assert not list(tmp_path.glob("evidence/*/*.part.mp4"))


def test_killed_with_the_whole_run_the_next_one_salvages_the_clip(tmp_path: Path) -> None:
    kill_at(tmp_path, 130, [begins(110)])
    again = Bench(tmp_path, "run-2")
    assert again.safe_s is None
    again.end()
    assert first_last_count(again.clip()) == (near(50), near(129), 80)
    last = again.told()[-1]
    assert (last.id, last.phase, last.evidence[0].kind) == (event(TRACK).id, "update", "clip")


def test_another_sources_clip_is_left_to_it(tmp_path: Path) -> None:
    kill_at(tmp_path, 130, [begins(110)])
    config = Config(directory=tmp_path / "evidence")
    other = Clips(config, replace(context(tmp_path, "run-2"), source_id="yard"))
    other.open()
    other.close()
    assert len(list(tmp_path.glob("evidence/*/*.part.mp4"))) == 1


def test_retention_takes_all_evidence_of_an_event_together(tmp_path: Path) -> None:
    bench = Bench(tmp_path, keep_days=1e6)
    bench.play(range(300), [begins(60), stops(80), begins(200, 2), stops(220, 2)], tracks=face)
    bench.end()
    assert len(bench.files()) == 5
    with contextlib.closing(Archive(tmp_path / "evidence")) as archive:
        archive.drop_oldest()
    assert all(name.startswith(event(2).id) for name in bench.files())
    assert len(bench.files()) == 2


def test_evidence_of_an_old_video_is_kept_from_when_it_was_made(tmp_path: Path) -> None:
    bench = Bench(tmp_path, keep_days=1)
    shown = event(TRACK, stream_s=2.0, t_start="2019-05-01T08:00:00.000Z")
    bench.play(range(100), [shown], tracks=face, from_ns=1_556_697_600_000_000_000)
    bench.end()
    assert len(bench.files()) == 3
    bench.sink.open()
    bench.sink.close()
    assert len(bench.files()) == 3


@pytest.mark.parametrize("number", [100, 130], ids=["before the clip", "while it grows"])
def test_a_directory_that_is_removed_costs_what_was_in_it_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    bench = Bench(tmp_path, post_s=0.4)
    bench.play(range(number), [begins(110), stops(150)])
    bench.settle()
    shutil.rmtree(tmp_path / "evidence")
    said = [begins(110), stops(150), begins(200, 2), stops(220, 2)]
    bench.play(range(number, 250), said)
    bench.end()
    growing = number > 110
    assert bench.clip(2).exists()
    assert bench.clip().exists() is not growing
    assert {Path(kept.path).name for kept in bench.kept()} == set(bench.files())
    assert any("the clip" in message and "is lost" in message for message in caplog.messages) is growing
    assert any("is begun anew" in message for message in caplog.messages)


def test_a_face_without_a_clip_is_listed_at_the_time_of_its_event(tmp_path: Path) -> None:
    bench = Bench(tmp_path, max_s=60, post_s=60)
    bench.play(range(20), tracks=face)
    bench.sink.hear(begins(20))
    bench.end()
    [crop] = bench.kept()
    assert (crop.kind, crop.start_ns) == ("crop", WALL_NS)


@pytest.fixture
def idle(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.sink.close()


def test_without_events_nothing_is_written(idle: Bench) -> None:
    idle.play(range(50), tracks=face)
    assert idle.files() == []


def test_a_part_of_another_version_holds_nobody_up(tmp_path: Path) -> None:
    kill_at(tmp_path, 130, [begins(110)])
    [part] = tmp_path.glob("evidence/*/*.part.mp4")
    data = part.read_bytes()
    for damaged in (data.replace(b'"kind"', b'"sort"'), data.replace(b'{"run"', b'{{"run')):
        part.write_bytes(damaged)
        Bench(tmp_path, "run-2").end()
        assert part.read_bytes() == damaged
