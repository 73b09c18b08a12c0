"""What a run has done so far, read from shared memory: the progress display, the report at the end, its JSON form."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import plan
from pipeline.transport.head import SKIPPABLE, Head
from pipeline.transport.missing import MissingFrames
from pipeline.transport.results import LATENCY_BUCKETS, ResultLog, latency_quantiles_ms

QUANTILES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}


@dataclass(frozen=True, slots=True)
class SourceFigures:
    """One source's counts. written: None where nothing is recorded. missing: frames that should have been recorded."""

    decoded: int
    expected: int | None
    published: int
    detected: int
    written: int | None
    missing: int
    skipped: Mapping[str, int]
    corrupt: int
    faces_mask: int
    faces_no_mask: int
    events: int
    events_lost: int
    end_reason: str
    lossless: bool
    first_result_ns: int | None
    last_result_ns: int | None
    latency_counts: Any = field(repr=False)


class Gauges:
    """Reads the figures of a prepared run directory as often as one likes."""

    def __init__(self, sources: Iterable[str], run_dir: Path) -> None:
        self._run_dir = run_dir
        self.heads: dict[str, Head] = {}
        self.results: dict[str, ResultLog] = {}
        for source in sources:
            self.add(source)

    def add(self, source: str) -> None:
        """One more, which has been prepared."""
        self.heads[source] = Head.attach(self._run_dir, source)
        self.results[source] = ResultLog.attach(self._run_dir, source)

    def drop(self, source: str) -> None:
        """Undoes ``add``, also a half of it."""
        for gauge in (self.heads.pop(source, None), self.results.pop(source, None)):
            if gauge is not None:
                gauge.close()

    def read(self) -> dict[str, SourceFigures]:
        return {source: self._read(source) for source in self.heads}

    def _read(self, source: str) -> SourceFigures:
        head, results = self.heads[source], self.results[source]
        recorded = _is_kept(head)
        masked, unmasked = results.faces
        return SourceFigures(
            decoded=head.next_seq,
            expected=head.expected_frames,
            published=results.published,
            detected=results.detected,
            written=head.position(plan.ANNOTATOR) - head.missing if recorded else None,
            missing=head.missing if recorded else 0,
            skipped=results.skipped,
            corrupt=head.corrupt,
            faces_mask=masked,
            faces_no_mask=unmasked,
            events=results.episodes,
            events_lost=results.events_lost,
            end_reason=head.end_reason,
            lossless=head.waits,
            first_result_ns=results.first_result_ns,
            last_result_ns=results.last_result_ns,
            latency_counts=results.latency_counts,
        )

    def missing(self, source: str) -> list[str]:
        """Which frames are not in the recording, as ranges: read once, at the end."""
        head = self.heads[source]
        if not _is_kept(head):
            return []
        numbers = MissingFrames(head).numbers()
        if head.waits:
            numbers.update(range(head.position(plan.ANNOTATOR), head.next_seq))
        return ranges(sorted(numbers))

    def close(self) -> None:
        for head in self.heads.values():
            head.close()
        for results in self.results.values():
            results.close()


def _is_kept(head: Head) -> bool:
    """Whether the source's annotated video goes to a sink, rather than to whoever looks."""
    return plan.ANNOTATOR in head.readers and head.part(plan.ANNOTATOR) != SKIPPABLE


@dataclass(frozen=True, slots=True)
class Report:
    """The end of a run. started_ns: monotonic clock at the very start. missing: frames not recorded, as ranges."""

    sources: Mapping[str, SourceFigures]
    missing: Mapping[str, list[str]]
    started_ns: int
    elapsed_s: float
    restarts: Mapping[str, int]
    code: int
    reason: str | None

    def as_json(self) -> dict[str, Any]:
        """The documented form; later versions only add fields."""
        figures = list(self.sources.values())
        return {
            "frames": _frames(figures),
            "events": sum(f.events for f in figures),
            "events_lost": sum(f.events_lost for f in figures),
            "fps": _fps(figures),
            "latency_ms": _latency(figures),
            "exit": {"code": self.code, "reason": self.reason},
            "faces": {"mask": sum(f.faces_mask for f in figures), "no_mask": sum(f.faces_no_mask for f in figures)},
            "elapsed_s": round(self.elapsed_s, 3),
            "first_result_s": self.first_result_s,
            "restarts": {stage: count for stage, count in self.restarts.items() if count},
            "sources": {
                source: {
                    "frames": _frames([f]),
                    "events": f.events,
                    "events_lost": f.events_lost,
                    "corrupt": f.corrupt,
                    "missing": self.missing[source],
                    "missing_count": f.missing,
                    "ended": f.end_reason or None,
                }
                for source, f in self.sources.items()
            },
        }

    @property
    def first_result_s(self) -> float | None:
        """Seconds from the start to the first result of any source."""
        first = [f.first_result_ns for f in self.sources.values() if f.first_result_ns]
        return round((min(first) - self.started_ns) / 1e9, 3) if first else None


def shortcomings(sources: Mapping[str, SourceFigures], missing: Mapping[str, list[str]]) -> Iterator[str]:
    """What did not come out whole, in words; missing: as in ``Report``."""
    for source, f in sources.items():
        if f.end_reason.startswith(("broken", "failed")):
            yield f"{source}: {f.end_reason.partition(': ')[2]}"
        if f.lossless and missing[source]:
            yield f"{source}: frames {', '.join(missing[source])} are missing in the recording"
        if f.lossless and f.events_lost:
            yield f"{source}: {f.events_lost} events were lost"


def _frames(figures: Sequence[SourceFigures]) -> dict[str, Any]:
    skipped: dict[str, int] = {}
    for f in figures:
        for cause, count in f.skipped.items():
            skipped[cause] = skipped.get(cause, 0) + count
        never_seen = f.decoded - f.published
        if never_seen > 0:
            skipped["not_reached"] = skipped.get("not_reached", 0) + never_seen
    written = [f.written for f in figures if f.written is not None]
    return {
        "decoded": sum(f.decoded for f in figures),
        "detected": sum(f.detected for f in figures),
        "written": sum(written) if written else 0,
        "skipped": skipped,
    }


def _fps(figures: Sequence[SourceFigures]) -> float | None:
    """Results a second of all sources together, from the first to the last."""
    first = [f.first_result_ns for f in figures if f.first_result_ns]
    last = [f.last_result_ns for f in figures if f.last_result_ns]
    count = sum(f.published for f in figures) - 1
    if count < 1 or max(last) <= min(first):
        return None
    return round(count / ((max(last) - min(first)) / 1e9), 2)


def _latency(figures: Iterable[SourceFigures]) -> dict[str, float | None]:
    counts = np.zeros(LATENCY_BUCKETS, np.int64)
    for f in figures:
        counts += f.latency_counts
    return dict(zip(QUANTILES, latency_quantiles_ms(counts, list(QUANTILES.values())), strict=True))


def ranges(numbers: Sequence[int]) -> list[str]:
    """[3, 4, 5, 9] → ["3-5", "9"]."""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return [str(first) if first == last else f"{first}-{last}" for first, last in found]
