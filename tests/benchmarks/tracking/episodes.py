"""Lists the episodes of recorded detections at several rates of looks, so that they can be compared with the video."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from scenes import detections

from pipeline import plugins
from pipeline.analytics.source import build, detector_confidence
from pipeline.types import Event, FrameRef, Result
from pipeline.ulid import id_factory

LABELS = ("mask", "no_mask")


def play(path: Path, looks_fps: float, confidence_min: float) -> tuple[list[Result], list[Event]]:
    """Results and events of one file of detect.py with at most that many looks a second."""
    data = json.loads(path.read_text())
    rule = plugins.load("rule", "no_mask")
    source_id = data["name"].lower()
    analytics = build(
        source_id, LABELS, {"no_mask": (rule, rule.config())}, id_factory(b"run"), confidence_min=confidence_min
    )
    results: list[Result] = []
    events: list[Event] = []
    looked_s = float("-inf")
    for seq, (time_s, rows) in enumerate(data["frames"]):
        frame = FrameRef(source_id, seq, 0, time_s, 0, round(time_s * 1e9))
        look = time_s - looked_s >= 1 / looks_fps - 0.005
        looked_s = time_s if look else looked_s
        found = detections(rows, detector_confidence(confidence_min)) if look else None
        result, raised = analytics.update(frame, found, None if look else "rate", (data["wh"][0], data["wh"][1]))
        results.append(result)
        events += raised
    return results, events + analytics.finish()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recorded", nargs="+", type=Path, help="files made by detect.py")
    parser.add_argument("--fps", nargs="*", type=float, default=[25.0, 5.0], help="looks a second")
    parser.add_argument("--confidence-min", type=float, default=0.5)
    arguments = parser.parse_args()
    for path in arguments.recorded:
        for fps in arguments.fps:
            results, events = play(path, fps, arguments.confidence_min)
            ids = {track.id for result in results for track in result.tracks if not track.detected}
            ends = {event.id: event for event in events if event.phase == "end"}
            print(f"{path.stem}, {fps:g} looks/s: {len(ends)} episodes, {len(ids)} confirmed tracks")
            for event in events:
                if event.phase == "new":
                    end = ends[event.id]
                    print(
                        f"    track {event.track}: {event.t_start[17:23]} to {(end.t_end or '')[17:23]} s, raised at "
                        f"{event.stream_s:.2f}, ended at {end.stream_s:.2f}, {end.reason} ({event.confidence:.2f})"
                    )


if __name__ == "__main__":
    main()
