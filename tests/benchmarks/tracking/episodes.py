"""Compares the episodes that a rule raises with those that were labelled by eye; prints a Markdown table (README.md).

true: labelled and raised. false: raised about somebody with a mask, or about nobody. missed: labelled, not raised.
twice: raised again about the same span. ignored: raised about faces that the labels leave open (too small, turned away,
hidden), or about a span that is too short to be demanded. switches: looks in which a labelled person has another track
than at the look before. late: true ones raised more than ``confirm_s`` + 0.3 s behind the first unmasked frame. short:
true ones that have ended while the labelled span went on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field, fields, replace
from itertools import product
from pathlib import Path
from typing import Any

import labels as labelled
from labels import Labels, Person
from scenes import detections

from pipeline import plugins
from pipeline.analytics.association import Box
from pipeline.analytics.source import build, detector_confidence
from pipeline.types import Event, FrameRef, Result
from pipeline.ulid import id_factory

CLASSES = ("mask", "no_mask")
ON_FACE = 0.75
"""Face sizes between a track's middle and the label's; the labels' boxes are evenly moved by hand."""
LATE_S = 0.3
WORN_S = 1.0

Frames = Sequence[tuple[float, list[list[float]]]]


@dataclass
class Counts:
    true: int = 0
    false: int = 0
    missed: int = 0
    twice: int = 0
    ignored: int = 0
    switches: int = 0
    late: int = 0
    short: int = 0
    delays_s: list[float] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    def precision(self) -> float:
        return self.true / max(1, self.true + self.false + self.twice)

    @property
    def recall(self) -> float:
        return self.true / max(1, self.true + self.missed)


@dataclass(frozen=True)
class Clip:
    """smallest: faces below that share of the picture count neither way."""

    labels: Labels
    wh: tuple[int, int]
    frames: Frames
    smallest: float = labelled.FACE_MIN


def recorded(paths: Iterable[Path], smallest: float = labelled.FACE_MIN) -> list[Clip]:
    """What detect.py has written, with the labels of each video."""
    found: list[Clip] = []
    for path in paths:
        data = json.loads(path.read_text())
        frames = [(float(time_s), rows) for time_s, rows in data["frames"]]
        video, _, variant = data["name"].partition("+")
        labels = labelled.read(video)
        labels = replace(labels, video=f"{video}, {variant}") if variant else labels
        if smallest > labelled.FACE_MIN:
            labels = labels.from_size(smallest)
        found.append(Clip(labels, (data["wh"][0], data["wh"][1]), frames, smallest))
    return found


def derived(clip: Clip) -> list[Clip]:
    """Backwards and cut: a detector knows no time, so what it finds in those is what it found in the original."""
    video, last_s = clip.labels.video, clip.frames[-1][0]
    if video.startswith("mask_four_people"):
        back = [(last_s - time_s, rows) for time_s, rows in reversed(clip.frames)]
        cut = replace(clip, labels=clip.labels.without(0.9, 2.5), frames=_cut(clip.frames, 0.9, 2.5))
        return [replace(clip, labels=clip.labels.backwards(), frames=back), cut]
    if video.startswith("nomask_webcam_cap13"):
        return [replace(clip, labels=clip.labels.without(10.0, 25.5), frames=_cut(clip.frames, 10.0, 25.5))]
    return []


def _cut(frames: Frames, start_s: float, end_s: float) -> Frames:
    kept = [(time_s, rows) for time_s, rows in frames if not start_s < time_s <= end_s]
    return [(time_s - (end_s - start_s if time_s > end_s else 0.0), rows) for time_s, rows in kept]


def play(clip: Clip, looks_fps: float, kind: str, config: Mapping[str, Any]) -> tuple[list[Result], list[Event]]:
    """Results and events of a clip with at most that many looks a second."""
    rule = plugins.load("rule", kind)
    checked = rule.config(**config)
    confidence_min = 0.5
    analytics = build("clip", CLASSES, {kind: (rule, checked)}, id_factory(b"run"), confidence_min=confidence_min)
    results: list[Result] = []
    events: list[Event] = []
    looked_s = float("-inf")
    for seq, (time_s, rows) in enumerate(clip.frames):
        frame = FrameRef("clip", seq, 0, time_s, 0, round(time_s * 1e9))
        look = time_s - looked_s >= 1 / looks_fps - 0.005
        looked_s = time_s if look else looked_s
        found = detections(rows, detector_confidence(confidence_min)) if look else None
        result, raised = analytics.update(frame, found, None if look else "rate", clip.wh)
        results.append(result)
        events += raised
    return results, events + analytics.finish()


def judge(clip: Clip, looks_fps: float, kind: str = "no_mask", config: Mapping[str, Any] | None = None) -> Counts:
    """What a rule's episodes are worth."""
    config = config or {}
    results, events = play(clip, looks_fps, kind, config)
    rule = plugins.load("rule", kind).config(**config)
    confirm_s, cooldown_s = rule.confirm_s, rule.cooldown_s  # type: ignore[attr-defined]
    wanted = _expected(clip.labels, kind, confirm_s + LATE_S, cooldown_s)
    tracks = {result.frame.time_s: result.tracks for result in results}
    counts, raised = Counts(switches=_switches(clip, results)), dict[tuple[str, float], str]()
    for event in events:
        if event.phase != "new":
            continue
        box = next(_share(track.xyxy, clip.wh) for track in tracks[event.stream_s] if track.id == event.track)
        _count(counts, clip, wanted, raised, event, box, confirm_s)
    ends_s = {event.id: event.stream_s for event in events if event.reason in ("masked", "gone")}
    short = [key for key, episode in raised.items() if ends_s.get(episode, wanted[key]) < wanted[key]]
    counts.short = len(short)
    counts.notes += [f"{clip.labels.video}: {name} from {start:.2f} s ends too soon" for name, start in short]
    missed = [key for key in wanted if key not in raised]
    counts.missed = len(missed)
    counts.notes += [f"{clip.labels.video}: missed {name} from {start:.2f} s" for name, start in missed]
    return counts


def _expected(labels: Labels, kind: str, shortest_s: float, cooldown_s: float) -> dict[tuple[str, float], float]:
    """(person, start of the span) → end of the span, of every episode that is to be raised."""
    wanted: dict[tuple[str, float], float] = {}
    for person in labels.people:
        quiet_until_s = float("-inf")
        for start, end in person.expected(shortest_s):
            worn = start - person.boxes[0][0] >= WORN_S
            if start >= quiet_until_s and (kind == "no_mask" or worn):
                wanted[person.name, start] = end
                quiet_until_s = end + cooldown_s
    return wanted


def _count(
    counts: Counts,
    clip: Clip,
    wanted: Mapping[tuple[str, float], float],
    raised: dict[tuple[str, float], str],
    event: Event,
    box: Box,
    confirm_s: float,
) -> None:
    """One raised episode, whose face is at ``box`` (shares of the picture)."""
    said = f"{clip.labels.video}: {event.stream_s:.2f} s at ({box[0]:.2f}, {box[1]:.2f}), size {labelled.size(box):.3f}"
    person = _whose(clip.labels.people, box, event.stream_s)
    if person is None:
        if labelled.size(box) < clip.smallest:
            counts.ignored += 1
        else:
            counts.false += 1
            counts.notes.append(f"{said}: false, nobody there")
        return
    spans = [
        (name, start)
        for (name, start), end in wanted.items()
        if name == person.name and start <= event.stream_s <= end + LATE_S
    ]
    if spans and spans[0] in raised:
        counts.twice += 1
        counts.notes.append(f"{said}: {person.name} a second time")
    elif spans:
        raised[spans[0]] = event.id
        delay_s = max(0.0, event.stream_s - max(spans[0][1], person.small_until_s))
        counts.true += 1
        counts.delays_s.append(delay_s)
        counts.late += delay_s > confirm_s + LATE_S + 1e-6
        if delay_s > confirm_s + LATE_S + 1e-6:
            counts.notes.append(f"{said}: {person.name} {delay_s:.2f} s after the first unmasked frame")
    elif any(name == person.name for name, _ in wanted) and person.is_bare(event.stream_s):
        counts.twice += 1
        counts.notes.append(f"{said}: {person.name} in the cool-down")
    elif person.ignore or person.is_bare(event.stream_s):
        counts.ignored += 1
    else:
        counts.false += 1
        counts.notes.append(f"{said}: false, {person.name}")


def _share(xyxy: Box, wh: tuple[int, int]) -> Box:
    return xyxy[0] / wh[0], xyxy[1] / wh[1], xyxy[2] / wh[0], xyxy[3] / wh[1]


def _whose(people: Sequence[Person], box: Box, time_s: float) -> Person | None:
    places = [(labelled.distance(box, place), person) for person in people if (place := person.at(time_s))]
    near = [(away, person) for away, person in places if away <= ON_FACE]
    return min(near, key=lambda pair: pair[0])[1] if near else None


def _switches(clip: Clip, results: Sequence[Result]) -> int:
    """How often a labelled person has another track than at the look before, at which the person had one."""
    count, last = 0, dict[str, int]()
    for result in results:
        tracks = [(_share(track.xyxy, clip.wh), track.id) for track in result.tracks if track.detected]
        for person in clip.labels.people:
            place = None if person.ignore else person.at(result.frame.time_s)
            near = [(labelled.distance(box, place), track_id) for box, track_id in tracks] if place else []
            away, track_id = min(near, default=(ON_FACE + 1, 0))
            if away <= ON_FACE:
                count += last.get(person.name, track_id) != track_id
                last[person.name] = track_id
    return count


def row(name: str, fps: float, counts: Counts) -> str:
    numbers = [getattr(counts, f.name) for f in fields(counts)][:8]
    delays = sorted(counts.delays_s)
    middle = f"{delays[len(delays) // 2]:.2f}" if delays else ""
    worst = f"{delays[-1]:.2f}" if delays else ""
    cells = [name, f"{fps:g}", *map(str, numbers), middle, worst]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recorded", nargs="+", type=Path, help="files made by detect.py")
    parser.add_argument("--fps", nargs="*", type=float, default=[25.0, 5.0], help="looks a second")
    parser.add_argument("--rule", default="no_mask", choices=("no_mask", "mask_removed"))
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="of the rule's configuration")
    parser.add_argument(
        "--smallest",
        type=float,
        default=labelled.FACE_MIN,
        metavar="SHARE",
        help="faces below count neither way: a model's smallest_face (default: %(default)s, as labelled)",
    )
    parser.add_argument("--notes", action="store_true", help="say which episodes are false, missed, twice or late")
    arguments = parser.parse_args()
    config = {key: float(value) for key, _, value in (pair.partition("=") for pair in arguments.set)}
    print(
        "| video | looks/s | true | false | missed | twice | ignored | switches | late | short | delay p50, s | max |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    every = recorded(arguments.recorded, arguments.smallest)
    videos = [clip for clip in every if ", " not in clip.labels.video]
    sets = {
        "videos as they are": videos,
        "made of them": [made for clip in every for made in (derived(clip) if clip in videos else [clip])],
    }
    for (name, clips), fps in product(sets.items(), arguments.fps):
        total = Counts()
        for clip in clips:
            counts = judge(clip, fps, arguments.rule, config)
            total = total + counts
            if counts.true + counts.false + counts.missed + counts.twice + counts.switches:
                print(row(clip.labels.video, fps, counts))
        print(row(f"**{name}**: precision {total.precision:.3f}, recall {total.recall:.3f}", fps, total))
        for note in total.notes if arguments.notes else ():
            print("  -", note)


if __name__ == "__main__":
    main()
