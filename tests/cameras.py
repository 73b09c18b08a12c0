"""Sites with live cameras, watched from outside through shared memory."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from pipeline.transport.changes import SourceStatus
from pipeline.transport.head import Head
from pipeline.types import SourceState
from tests.numbered import read_numbered
from tests.rtsp_server import FRAMES
from tests.runs import PATIENCE_S, wait_until


def site(directory: Path, sources: Mapping[str, Mapping[str, Any]], *, record: bool = True) -> Path:
    """A site's file: these sources (``kind: rtsp`` where they do not say otherwise), recorded, with events in
    ``events.jsonl``.
    """
    sinks: dict[str, Any] = {"log": {"kind": "jsonl", "path": str(directory / "events.jsonl")}}
    if record:
        sinks["recordings"] = {"kind": "recorder", "directory": str(directory / "recordings")}
    path = directory / "site.yaml"
    path.write_text(
        json.dumps(
            {
                "name": "yard",
                "version": 1,
                "sources": {name: {"kind": "rtsp", **source} for name, source in sources.items()},
                "detectors": {"mask": {"model": "facemask"}},
                "rules": {"no_mask": {"kind": "no_mask"}},
                "sinks": sinks,
                "pipelines": {
                    "all": {"sources": list(sources), "detector": "mask", "rules": ["no_mask"], "sinks": list(sinks)}
                },
            }
        )
    )
    return path


def changes(head: Head) -> list[SourceStatus]:
    """Every change of state so far, of the newest 64."""
    found = (head.changes.get(number) for number in range(head.changes.count))
    return [status for status in found if status is not None]


def await_state(head: Head, *states: SourceState, after: int = 0, timeout_s: float = PATIENCE_S) -> SourceStatus:
    """The first change to one of ``states`` among those from number ``after`` on."""

    def found() -> SourceStatus | None:
        return next((s for s in changes(head) if s.number >= after and s.state in states), None)

    wait_until(lambda: found() is not None, f"{head.source_id} {' or '.join(states)}", timeout_s)
    status = found()
    assert status is not None
    return status


def await_frames(head: Head, count: int) -> None:
    """``count`` more frames than now."""
    wanted = head.next_seq + count
    wait_until(lambda: head.next_seq >= wanted, f"{count} frames of {head.source_id}")


def since_s(status: SourceStatus, moment_ns: int) -> float:
    """Seconds from a moment of the monotonic clock until the source stood so."""
    return (status.since_ns - moment_ns) / 1e9


def now_ns() -> int:
    return time.monotonic_ns()


def events(directory: Path) -> list[dict[str, Any]]:
    path = directory / "events.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def outages(directory: Path) -> list[tuple[str, str | None]]:
    """What the events say of the sources' state: kind and reason, in order."""
    return [(e["kind"], e["reason"]) for e in events(directory) if e["kind"].startswith("source_")]


def recordings(directory: Path) -> list[Path]:
    return sorted((directory / "recordings").glob("*.mp4"))


def check_recorded(path: Path, camera: int, fps: float = 25) -> list[int]:
    """No frame of another camera; within a connection every frame, and its time as even as it was sent.

    Returns the frames' own numbers.
    """
    frames = read_numbered(path)
    assert {frame.number // FRAMES for frame in frames} == {camera}
    times = [frame.time_s for frame in frames]
    assert times == sorted(set(times))
    return [frame.number % FRAMES for frame in frames]


def gaps(numbers: Sequence[int], count: int) -> int:
    """How often a frame is not the next one of a film of ``count`` frames that is shown round and round."""
    return sum(after != (before + 1) % count for before, after in pairwise(numbers))
