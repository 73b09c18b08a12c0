"""Episodes on real videos, where there are any: ``FACEMASK_SHARED`` (``../shared``) ``/videos``."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from pipeline import plugins
from pipeline.analytics.source import build, detector_confidence
from pipeline.inference.detector import build_detector
from pipeline.types import Detections, Event, FrameRef
from pipeline.ulid import id_factory
from tests.shared_data import shared

Seen = tuple[float, Detections, tuple[int, int]]


def look(video: str, frames: int, models_dir: Path) -> list[Seen]:
    """What AIZOO's network finds in the first frames of a video."""
    plugin = plugins.load("source", "file")
    source = plugin.create(plugin.config.model_validate({"path": str(shared(f"videos/{video}"))}), "gate")
    detector = build_detector("aizoo-260", confidence_min=detector_confidence(0.5), models_dir=models_dir)
    source.open()
    try:
        return [
            (
                picture.time_s,
                detector.detect_i420(picture.image),
                (picture.image.layout.width, picture.image.layout.height),
            )
            for picture in islice(iter(source.read, None), frames)
        ]
    finally:
        source.close()
        detector.close()


def episodes(seen: Sequence[Seen], every: int, kind: str = "no_mask", **config: float) -> list[Event]:
    """The events where only one frame of ``every`` is looked at."""
    rule = plugins.load("rule", kind)
    stream = build("gate", ("mask", "no_mask"), {kind: (rule, rule.config(**config))}, id_factory(b"run"))
    events: list[Event] = []
    for seq, (time_s, found, size_wh) in enumerate(seen):
        skipped = seq % every != 0
        frame = FrameRef("gate", seq, 0, time_s, 0, round(time_s * 1e9))
        events += stream.update(frame, None if skipped else found, "rate" if skipped else None, size_wh)[1]
    return events + stream.finish()


def test_four_people_who_put_masks_on_end_their_episodes_and_the_painting_behind_them_does_not(
    models_dir: Path,
) -> None:
    seen = look("mask_four_people_donning_960x506.mp4", 68, models_dir)
    for every in (1, 5):
        events = episodes(seen, every)
        ends = [event for event in events if event.phase == "end"]
        assert sorted(event.reason or "" for event in ends) == ["end_of_stream", *["masked"] * 4]
        assert all(event.stream_s < 1 for event in events if event.phase == "new")
        assert all("01.4" < (event.t_end or "")[17:] < "02.3" for event in ends if event.reason == "masked")


def test_backwards_they_take_them_off(models_dir: Path) -> None:
    forwards = look("mask_four_people_donning_960x506.mp4", 68, models_dir)
    last_s = forwards[-1][0]
    seen = [(last_s - time_s, found, size_wh) for time_s, found, size_wh in reversed(forwards)]
    for every in (1, 5):
        events = episodes(seen, every, "mask_removed", worn_s=0.5)
        assert [event.phase for event in events] == ["new"] * 4 + ["end"] * 4
        assert {event.reason for event in events[4:]} == {"end_of_stream"}


def test_a_man_without_a_mask_is_one_episode(models_dir: Path) -> None:
    seen = look("nomask_man_1280x720.mp4", 25, models_dir)
    for every in (1, 5):
        events = episodes(seen, every)
        assert [(event.phase, event.reason) for event in events] == [("new", None), ("end", "end_of_stream")]
