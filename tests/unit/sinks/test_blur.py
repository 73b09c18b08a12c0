from __future__ import annotations

import time

import numpy as np
import pytest

from pipeline.errors import FrameExpired
from pipeline.sinks.blur import LINGER_S, Blurred, FaceBlur
from pipeline.sinks.overlay import Overlay
from pipeline.types import I420, FrameRef, Layout, Result, Track

LABELS = ("mask", "no_mask")
FACE = (200.0, 100.0, 280.0, 200.0)
OTHER = (420.0, 100.0, 500.0, 200.0)


def noise(layout: Layout) -> I420:
    chance = np.random.default_rng(5)
    image = I420.empty(layout)
    for plane in (image.y, image.u, image.v):
        plane[:] = chance.integers(0, 256, plane.shape, np.uint8)
    return image


def result(*tracks: Track, time_s: float = 1.0) -> Result:
    return Result(FrameRef("gate", 0, 0, time_s, 0, 0), tracks, True)


def track(box: tuple[float, float, float, float] = FACE, class_id: int = 1, *, detected: bool = True) -> Track:
    return Track(int(box[0]), class_id, 0.9, box, detected)


def hidden(image: I420, box: tuple[float, float, float, float] = FACE) -> bool:
    """Whether nothing is left in the box that is finer than an eighth of it: neighbours are equal nearly everywhere."""
    x0, y0, x1, y1 = map(int, box)
    planes = (image.y[y0:y1, x0:x1], *(p[y0 // 2 : y1 // 2, x0 // 2 : x1 // 2] for p in (image.u, image.v)))
    return all(float((plane[:, 1:] == plane[:, :-1]).mean()) > 0.85 for plane in planes)


@pytest.mark.parametrize(
    ("blurred", "mask_hidden", "bare_hidden"), [("all", True, True), ("masked", True, False), ("none", False, False)]
)
def test_it_hides_whom_it_is_told_to(blurred: Blurred, mask_hidden: bool, bare_hidden: bool) -> None:
    image = noise(Layout(640, 360))
    FaceBlur(blurred, LABELS).draw(image, result(track(FACE, 0), track(OTHER, 1)))
    assert (hidden(image, FACE), hidden(image, OTHER)) == (mask_hidden, bare_hidden)


def test_the_rest_of_the_picture_is_left_as_it_is() -> None:
    layout = Layout(640, 360)
    image, before = noise(layout), noise(layout)
    FaceBlur("all", LABELS).draw(image, result(track()))
    changed = np.argwhere(image.y != before.y)
    assert changed.min(0).tolist() >= [60, 170]
    assert changed.max(0).tolist() <= [240, 310]
    assert hidden(image, (178.0, 72.0, 302.0, 228.0)), "brow, chin and ears are hidden too"


def test_a_face_carried_forward_is_hidden() -> None:
    image = noise(Layout(640, 360))
    FaceBlur("all", LABELS).draw(image, result(track(detected=False)))
    assert hidden(image)


def test_a_face_that_is_missed_is_hidden_for_a_while_where_it_was() -> None:
    blur = FaceBlur("all", LABELS)
    seen = []
    for time_s, tracks in ((1.0, (track(),)), (1.0 + LINGER_S, ()), (1.1 + LINGER_S, ())):
        image = noise(Layout(640, 360))
        blur.draw(image, result(*tracks, time_s=time_s))
        seen.append(hidden(image))
    assert seen == [True, True, False]


def test_who_was_lost_just_before_somebody_looks_is_hidden_for_them_too() -> None:
    """Nothing is drawn while nobody looks: the overlay takes notice of those frames when it is asked again."""
    results = {
        seq: Result(FrameRef("gate", seq, 0, seq / 25, 0, 0), (track(),) if seq < 40 else (), True) for seq in range(60)
    }

    def result_of(seq: int) -> Result:
        if seq < 10:
            raise FrameExpired("too old")
        return results[seq]

    for first_drawn in (None, 5):
        overlay, image = Overlay(Layout(640, 360), "gate", LABELS, "all"), noise(Layout(640, 360))
        if first_drawn is not None:
            overlay.hide(noise(Layout(640, 360)), results[first_drawn])
        overlay.catch_up(50, result_of)
        overlay.hide(image, results[50])
        assert hidden(image)


def test_who_takes_the_mask_off_is_seen_at_once_where_only_masked_faces_are_hidden() -> None:
    blur = FaceBlur("masked", LABELS)
    seen = []
    for class_id in (0, 1, 0):
        image = noise(Layout(640, 360))
        blur.draw(image, result(track(class_id=class_id)))
        seen.append(hidden(image))
    assert seen == [True, False, True]


@pytest.mark.parametrize("size", [(640, 360), (63, 47), (2, 3), (1, 1)])
def test_faces_at_and_beyond_the_edge_harm_nothing(size: tuple[int, int]) -> None:
    width, height = size
    boxes = [
        *((-50.0, -50.0, width + 50.0, height + 50.0), (width - 1.5, height - 1.5, width + 9.0, height + 9.0)),
        *((-90.0, 5.0, -60.0, 9.0), (0.0, 0.0, 0.5, 0.5), (1e9, 1e9, 2e9, 2e9), (5.0, 5.0, 5.0, 5.0)),
        *((float("nan"), 0.0, 5.0, 5.0), (0.0, 0.0, float("inf"), float("inf"))),
    ]
    tracks = [Track(number, 1, 0.9, box, True) for number, box in enumerate(boxes)]
    FaceBlur("all", LABELS).draw(noise(Layout(width, height)), result(*tracks))


def test_it_costs_little() -> None:
    """A generous bound, because other programs may run beside this test."""
    image, blur = noise(Layout(1280, 720)), FaceBlur("all", LABELS)
    faces = result(*(track((100.0 + 220 * k, 200.0, 220.0 + 220 * k, 380.0)) for k in range(5)))
    start_s = time.process_time()
    for _ in range(50):
        blur.draw(image, faces)
    assert (time.process_time() - start_s) / 50 < 0.005
