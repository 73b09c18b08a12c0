"""The best view of a face is one of the face as an event tells of it."""

from __future__ import annotations

from itertools import count

import cv2
import numpy as np
import pytest

from pipeline.sinks.faces import BETTER, FORGOTTEN_S, SPELLS, BestFaces
from pipeline.types import I420, FrameRef, Layout, Result, Track

LAYOUT = Layout(320, 240)
MASK, BARE = 0, 1


class Faces:
    """One face, as bright as the view of it is to be told by."""

    def __init__(self) -> None:
        self.best = BestFaces()
        self._numbers = count()

    def look(self, time_s: float, class_id: int, shade: int, size: float = 40.0) -> None:
        image = I420.empty(LAYOUT)
        image.y[:] = shade
        image.u[:] = image.v[:] = 128
        track = Track(7, class_id, 0.9, (100.0, 100.0, 100.0 + size, 100.0 + size), True)
        self.best.look(image, Result(FrameRef("gate", next(self._numbers), 0, time_s, 0, 0), (track,), True))

    def shown(self, at_s: float) -> float | None:
        jpeg = self.best.jpeg(7, at_s)
        return None if jpeg is None else float(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_GRAYSCALE).mean())


def shade_of(luma: int) -> object:
    """Luma runs from 16 to 235, a picture from 0 to 255."""
    return pytest.approx((luma - 16) * 255 / 219, abs=3)


def test_whoever_takes_the_mask_off_is_shown_without_although_he_was_nearer_before() -> None:
    faces = Faces()
    faces.look(0.0, MASK, 60, size=80)
    faces.look(1.0, BARE, 120)
    faces.look(2.0, BARE, 180, size=40 * BETTER)
    assert faces.shown(1.5) == shade_of(180)


def test_whoever_puts_it_on_again_at_once_is_shown_without() -> None:
    faces = Faces()
    faces.look(0.0, BARE, 60)
    faces.look(1.0, MASK, 120, size=80)
    assert faces.shown(0.5) == shade_of(60)
    assert faces.shown(1.5) == shade_of(120)


def test_the_larger_view_of_a_spell_is_kept_and_the_last_spells_are() -> None:
    faces = Faces()
    faces.look(0.0, BARE, 60, size=80)
    faces.look(0.1, BARE, 120)
    assert faces.shown(5) == shade_of(60)
    for number in range(1, SPELLS + 1):
        faces.look(float(number), (BARE, MASK)[number % 2], 60 + 20 * number)
    assert faces.shown(0.5) == shade_of(80), "the oldest that is kept"


def test_a_face_is_forgotten_when_it_was_not_seen_for_long() -> None:
    faces = Faces()
    faces.look(0.0, BARE, 60)
    assert faces.best.jpeg(8, 0.0) is None
    faces.best.look(I420.empty(LAYOUT), Result(FrameRef("gate", 1, 0, FORGOTTEN_S + 1, 0, 0), (), True))
    assert faces.shown(0.0) is None
