"""What the analytics tests share: faces at places, frames at times, and a stream that is driven through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from pipeline import plugins
from pipeline.analytics.source import SourceAnalytics, build
from pipeline.types import Detections, Event, FrameRef, Result
from pipeline.ulid import id_factory

LABELS = ("mask", "no_mask")
MASK, BARE = 0, 1
SIZE_WH = (1280, 720)
WALL_NS = 1_800_000_000_000_000_000

Face = tuple[float, float, float, float, int]
"""Centre x, centre y, size (pixels), confidence, class."""


@dataclass(frozen=True, slots=True)
class Look:
    """One frame; ``faces`` is None where nobody looked."""

    time_s: float
    faces: Sequence[Face] | None


def found(faces: Sequence[Face]) -> Detections:
    if not faces:
        return Detections.none()
    return Detections(
        np.array([(x - s / 2, y - s / 2, x + s / 2, y + s / 2) for x, y, s, _, _ in faces], np.float32),
        np.array([confidence for _, _, _, confidence, _ in faces], np.float32),
        np.array([class_id for _, _, _, _, class_id in faces], np.int32),
    )


def frame(time_s: float, seq: int = 0) -> FrameRef:
    return FrameRef("gate", seq, 0, time_s, 0, WALL_NS + round(time_s * 1e9))


def analytics(kind: str = "no_mask", *, about: Mapping[str, Any] | None = None, **config: Any) -> SourceAnalytics:
    """One rule of that kind and configuration; ``about``: what else ``build`` is told."""
    rule = plugins.load("rule", kind)
    return build("gate", LABELS, {kind: (rule, rule.config(**config))}, id_factory(b"test"), **(about or {}))


def feed(stream: SourceAnalytics, looks: Sequence[Look], first_seq: int = 0) -> tuple[list[Result], list[Event]]:
    results: list[Result] = []
    events: list[Event] = []
    for seq, look in enumerate(looks, first_seq):
        given = None if look.faces is None else found(look.faces)
        reason = "overload" if look.faces is None else None
        result, raised = stream.update(frame(look.time_s, seq), given, reason, SIZE_WH)
        results.append(result)
        events += raised
    return results, events


def play(looks: Sequence[Look], kind: str = "no_mask", **config: Any) -> list[Event]:
    """The events of a whole stream, its end included."""
    stream = analytics(kind, **config)
    return feed(stream, looks)[1] + stream.finish()


def at(x: float, class_id: int = BARE, confidence: float = 0.9) -> Face:
    return (x, 300.0, 80.0, confidence, class_id)


def span(start_s: float, end_s: float, faces: list[Face] | None, fps: float = 25) -> list[Look]:
    """Looks that all show ``faces``; None: nobody looked."""
    return [Look(start_s + k / fps, faces) for k in range(round((end_s - start_s) * fps))]


def story(events: Sequence[Event]) -> list[str]:
    """``new`` and the reasons of ``end``, in order."""
    return [event.reason or event.phase for event in events]


faces_strategy = st.lists(
    st.tuples(
        st.floats(0, 1280, width=32),
        st.floats(0, 720, width=32),
        st.floats(10, 200, width=32),
        st.floats(0.25, 1, width=32),
        st.sampled_from((MASK, BARE)),
    ),
    max_size=4,
)


@st.composite
def streams(draw: st.DrawFn) -> list[Look]:
    """Frames at irregular times, some not looked at, with faces that jump about or stay."""
    steps = draw(
        st.lists(
            st.tuples(st.sampled_from((0.04, 0.2, 0.37, 1.1, 4.0)), st.none() | faces_strategy, st.booleans()),
            min_size=1,
            max_size=25,
        )
    )
    looks: list[Look] = []
    time_s = 0.0
    faces: list[Face] = [(300.0, 300.0, 80.0, 0.9, BARE)]
    for step_s, other, stay in steps:
        time_s += step_s
        if other is not None and not stay:
            faces = other
        looks.append(Look(time_s, None if other is None and not stay else faces))
    return looks
