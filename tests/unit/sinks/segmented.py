"""A sink that records in segments, below a folder of a test, and what it leaves there."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.sinks.archive import Archive, Kept
from pipeline.sinks.kinds.recorder import Config, create
from pipeline.sinks.segments import Segments
from pipeline.types import Event, Layout
from tests.unit.sinks.recordings import SMALL, context, encode_with, new_encoder


def segments(place: Path, run_id: str = "run-1", told: list[Event] | None = None, **options: Any) -> Segments:
    config = Config(directory=place / "recordings", segment_s=options.pop("segment_s", 2), **options)
    its = context(place, run_id)
    sink = create(config, replace(its, tell=told.append) if told is not None else its)
    assert isinstance(sink, Segments)
    return sink


def feed(
    sink: Segments, shown: Sequence[int], time_s: Callable[[int], float] | None = None, layout: Layout = SMALL
) -> None:
    encoder = new_encoder(layout)
    sink.start(encoder.stream)
    for packet in encode_with(encoder, shown, time_s, sink.wish):
        sink.write(packet)


def settled(sink: Segments) -> None:
    """Waits until what goes on behind is done."""
    sink._storage.do(lambda archive: archive.directory).result()


def ended(sink: Segments) -> None:
    sink.finish()
    sink.close()


@contextlib.contextmanager
def index(place: Path) -> Iterator[Archive]:
    archive = Archive(place / "recordings", read_only=True)
    yield archive
    archive.close()


def listed(place: Path) -> list[Kept]:
    with index(place) as archive:
        return list(archive.files())


def files(place: Path) -> list[str]:
    return sorted(str(path.relative_to(place / "recordings")) for path in (place / "recordings").glob("*/*"))
