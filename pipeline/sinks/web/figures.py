"""What the page shows of the sources, looked at once a second: how they stand now, and the faces of the last hour."""

from __future__ import annotations

import contextlib
import json
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.sinks.view import View

RATE_OVER_S = 5.0
MINUTES = 60


@dataclass(slots=True)
class _Source:
    """Samples of one source. seen: (time, frames). minutes: minute → [frames looked at, with a mask, without]."""

    view: View
    seen: deque[tuple[float, int]] = field(default_factory=deque)
    latency_counts: deque[Any] = field(default_factory=lambda: deque(maxlen=int(RATE_OVER_S) + 1))
    counted: tuple[int, int, int] = (0, 0, 0)
    minutes: dict[int, list[int]] = field(default_factory=dict)


class Figures:
    """Holds as much of the past as the page shows; the last hour of faces survives a restart in ``file``."""

    def __init__(
        self,
        views: Mapping[str, View],
        file: Path,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._sources = {name: _Source(view) for name, view in views.items()}
        self._file = file
        self._clock = clock
        self._wall = wall
        self._saved_minute = 0
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            self._load(json.loads(file.read_text()))

    def sample(self) -> None:
        """To be called once a second."""
        now_s, minute = self._clock(), int(self._wall() // 60)
        for source in self._sources.values():
            self._sample(source, now_s, minute)
        if minute != self._saved_minute:
            self._saved_minute = minute
            self._save()

    def _sample(self, source: _Source, now_s: float, minute: int) -> None:
        view = source.view
        source.seen.append((now_s, view.head.next_seq))
        while len(source.seen) > 2 and source.seen[1][0] < now_s - RATE_OVER_S:
            source.seen.popleft()
        source.latency_counts.append(view.results.latency_counts)
        counted = (view.results.detected, *view.results.faces)
        bucket = source.minutes.setdefault(minute, [0, 0, 0])
        for index, (new, old) in enumerate(zip(counted, source.counted, strict=True)):
            bucket[index] += max(0, new - old)
        source.counted = counted
        for old_minute in [m for m in source.minutes if m <= minute - MINUTES]:
            del source.minutes[old_minute]

    def sources(self) -> list[dict[str, Any]]:
        """Each source as the API shows it."""
        return [self._source(name, source) for name, source in self._sources.items()]

    def source(self, name: str) -> dict[str, Any]:
        """Raises ``KeyError``."""
        return self._source(name, self._sources[name])

    def _source(self, name: str, source: _Source) -> dict[str, Any]:
        view, standing = source.view, source.view.standing()
        layout = view.head.layout(view.head.generation)[0] if view.head.generation >= 0 else None
        before = source.latency_counts[0] if source.latency_counts else None
        masked, unmasked = view.results.faces
        return {
            "id": name,
            "state": standing.state,
            "reason": standing.reason,
            "live": standing.live,
            "age_s": None if standing.age_s is None else round(standing.age_s, 3),
            "fps": self._fps(source) if standing.live else 0.0,
            "latency_ms": view.latency_ms(before) if standing.live else None,
            "reconnects": view.head.losses,
            "width": layout.width if layout else None,
            "height": layout.height if layout else None,
            "frames": view.head.next_seq,
            "detected": view.results.detected,
            "skipped": view.results.skipped,
            "faces": {"mask": masked, "no_mask": unmasked},
        }

    @staticmethod
    def _fps(source: _Source) -> float:
        if len(source.seen) < 2:
            return 0.0
        (first_s, first), (last_s, last) = source.seen[0], source.seen[-1]
        return round((last - first) / (last_s - first_s), 1) if last_s > first_s else 0.0

    def counts(self) -> dict[str, Any]:
        """By source, for each minute of the last hour, oldest first: faces in view on average; None: nobody looked."""
        newest = int(self._wall() // 60)
        minutes = range(newest - MINUTES + 1, newest + 1)

        def mean(source: _Source, minute: int, index: int) -> float | None:
            frames, *faces = source.minutes.get(minute, [0, 0, 0])
            return round(faces[index] / frames, 2) if frames else None

        return {
            "minutes": [minute * 60 for minute in minutes],
            "sources": {
                name: {
                    "mask": [mean(source, minute, 0) for minute in minutes],
                    "no_mask": [mean(source, minute, 1) for minute in minutes],
                }
                for name, source in self._sources.items()
            },
        }

    def _save(self) -> None:
        said = {name: {"counted": s.counted, "minutes": list(s.minutes.items())} for name, s in self._sources.items()}
        new = self._file.with_suffix(".new")
        with contextlib.suppress(OSError):  # where nothing fits any more, a restart forgets the hour
            new.write_text(json.dumps(said))
            new.replace(self._file)

    def _load(self, said: Any) -> None:
        for name, source in self._sources.items():
            if name in said:
                source.counted = tuple(said[name]["counted"])
                source.minutes = {int(minute): list(counts) for minute, counts in said[name]["minutes"]}
