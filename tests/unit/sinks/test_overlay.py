from __future__ import annotations

import string
import time
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.sinks.colour import yuv
from pipeline.sinks.lettering import Lettering
from pipeline.sinks.overlay import Overlay
from pipeline.types import I420, FrameRef, Layout, Matrix, Result, Track

LABELS = ("mask", "no_mask")
GREEN, RED = (0, 255, 0), (255, 0, 0)
GREY = 90
SIZES = [(426, 240), (640, 480), (1280, 720), (1920, 1080), (3840, 2160), (338, 641), (641, 337)]


def canvas(layout: Layout) -> tuple[I420, NDArray[np.uint8]]:
    """A grey picture whose planes lie strided in a larger memory, and that memory."""
    memory = np.full((3, layout.height + 9, layout.width + 13), GREY, np.uint8)
    y = memory[0, 4 : 4 + layout.height, 6 : 6 + layout.width]
    u, v = (memory[p, 4 : 4 + layout.chroma_height, 6 : 6 + layout.chroma_width] for p in (1, 2))
    return I420(y, u, v, layout), memory


def track(xyxy: tuple[float, float, float, float], class_id: int = 1, **changes: Any) -> Track:
    return Track(1, class_id, changes.get("confidence", 0.97), xyxy, changes.get("detected", True))


def result(*tracks: Track, time_s: float = 83.46, wall_ns: int = 1_795_000_000_000_000_000) -> Result:
    return Result(FrameRef("gate", 7, 0, time_s, 0, wall_ns), tracks, True)


def drawn(layout: Layout, *tracks: Track, **clocks: Any) -> I420:
    image, _ = canvas(layout)
    Overlay(layout, "gate", LABELS).draw(image, result(*tracks, **clocks))
    return image


def rgb(image: I420) -> NDArray[np.int64]:
    """(height, width, 3), by the formulas of the layout's matrix and range; chroma repeated."""
    kr, kb = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}[image.layout.matrix]
    black, luma_steps, chroma_steps = (0, 255, 255) if image.layout.full_range else (16, 219, 224)
    height, width = image.y.shape
    y = (image.y - float(black)) * 255 / luma_steps
    u, v = (
        (np.repeat(np.repeat(plane, 2, 0), 2, 1)[:height, :width] - 128.0) * 255 / chroma_steps
        for plane in (image.u, image.v)
    )
    red, blue = y + 2 * (1 - kr) * v, y + 2 * (1 - kb) * u
    green = (y - kr * red - kb * blue) / (1 - kr - kb)
    picture: NDArray[np.int64] = np.clip(np.rint(np.stack([red, green, blue], -1)), 0, 255).astype(np.int64)
    return picture


def is_colour(pixel: NDArray[np.int64], colour: tuple[int, int, int]) -> bool:
    return bool(np.abs(pixel - np.array(colour)).max() <= 4)


@pytest.mark.parametrize("matrix", ["bt601", "bt709", "bt2020"])
@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize(("class_id", "colour"), [(0, GREEN), (1, RED)])
def test_a_box_has_its_classs_colour_on_all_sides(
    matrix: Matrix, full_range: bool, class_id: int, colour: tuple[int, int, int]
) -> None:
    layout = Layout(1280, 720, matrix, full_range)
    image = drawn(layout, track((400.0, 300.0, 520.0, 460.0), class_id))
    picture = rgb(image)
    for x, y in ((460, 298), (460, 461), (398, 380), (521, 380), (398, 298), (521, 461)):
        assert is_colour(picture[y, x], colour), (x, y)
    assert np.all(image.y[302:458, 402:518] == GREY), "the face itself is left as it is"
    assert np.all(image.u[151:229, 201:259] == GREY)


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_it_is_readable_at_every_size(width: int, height: int) -> None:
    layout = Layout(width, height)
    box = (width * 0.4, height * 0.5, width * 0.6, height * 0.8)
    image = drawn(layout, track(box, 0))
    lettering = Lettering(width, height)
    assert lettering.capital_px >= max(8, min(width, height) / 65)
    middle = image.y[:, width // 2]
    assert (middle[int(height * 0.7) :] != GREY).sum() >= max(2, min(width, height) / 600), "the line is thick enough"
    top = int(box[1]) // 2 * 2
    label = image.y[top - lettering.tile_height - 2 : top - 2, int(box[0]) : int(box[0]) + 4 * lettering.capital_px]
    paper = yuv(GREEN, layout).y
    assert (label <= 40).sum() > 0.04 * label.size, "dark letters"
    assert (np.abs(label.astype(int) - paper) <= 2).sum() > 0.4 * label.size, "on the class's colour"


@pytest.mark.parametrize(
    ("size", "alphabet"),
    [((426, 240), "0123456789"), ((1280, 720), string.printable[:36]), ((3840, 2160), string.printable[:36])],
)
def test_letters_can_be_told_apart(size: tuple[int, int], alphabet: str) -> None:
    """Each one, as it stands in the picture, looks most like itself drawn large, and not like another one."""
    small, large = Lettering(*size), Lettering(6000, 3600)
    for character in alphabet:
        shape = small.tile(character, ink=255, paper=0)

        def likeness(other: str, shape: NDArray[np.uint8] = shape) -> float:
            reference = large.tile(other, ink=255, paper=0)
            scaled = cv2.resize(reference, shape.shape[::-1], interpolation=cv2.INTER_AREA)
            return float(np.corrcoef(shape.ravel(), scaled.ravel())[0, 1])

        assert max(alphabet, key=likeness) == character


def test_a_face_carried_forward_looks_different() -> None:
    layout = Layout(1280, 720)
    box = (400.0, 300.0, 520.0, 460.0)
    seen, carried = drawn(layout, track(box)), drawn(layout, track(box, detected=False))
    for image, sides in ((seen, True), (carried, False)):
        picture = rgb(image)
        assert is_colour(picture[380, 398], RED) is sides
        assert is_colour(picture[461, 460], RED) is sides
        assert is_colour(picture[298, 398], RED), "the corners are always there"
        assert is_colour(picture[461, 521], RED)
    assert int(carried.y[278, 398]) < int(seen.y[278, 398]), "its label is darker"


@pytest.mark.parametrize(("width", "height"), [(64, 48), (63, 47), (1, 1), (2, 3), (338, 641), (1280, 720)])
def test_nothing_is_drawn_outside_the_picture(width: int, height: int) -> None:
    layout = Layout(width, height)
    image, memory = canvas(layout)
    boxes = [
        *((-50.0, -50.0, width + 50.0, height + 50.0), (width - 3.0, height - 3.0, width + 9.0, height + 9.0)),
        *((-9.0, -9.0, 2.0, 2.0), (0.0, 0.0, 1.0, 1.0), (-90.0, 5.0, -80.0, 9.0), (1e9, 1e9, 2e9, 2e9)),
        *((float("nan"), 0.0, 5.0, 5.0), (0.0, 0.0, float("inf"), float("inf")), (5.0, 5.0, 5.0, 5.0)),
    ]
    overlay = Overlay(layout, "gate", LABELS)
    for detected in (True, False):
        overlay.draw(image, result(*(track(box, detected=detected) for box in boxes)))
    for plane, inside in zip(memory, (image.y, image.u, image.v), strict=True):
        outside = plane.copy()
        outside[4 : 4 + inside.shape[0], 6 : 6 + inside.shape[1]] = GREY
        assert np.all(outside == GREY)


def test_a_face_that_is_not_in_the_picture_is_not_drawn() -> None:
    layout = Layout(640, 360)
    away = [(-90.0, 50.0, -80.0, 90.0), (50.0, -9.0, 90.0, 0.0), (640.0, 5.0, 700.0, 9.0), (5.0, 1e9, 9.0, 2e9)]
    nan = float("nan")
    odd = [(nan, 0.0, 5.0, 5.0), (0.0, 0.0, nan, nan), (5.0, 5.0, 5.0, 5.0), (9.0, 9.0, 5.0, 5.0)]
    assert np.array_equal(drawn(layout, *map(track, away + odd)).y, drawn(layout).y)


def test_colour_and_brightness_of_a_label_end_at_the_same_place() -> None:
    image = drawn(Layout(1280, 720), track((401.3, 300.7, 519.9, 461.2)))
    luma = np.argwhere(image.y[100:] != GREY)
    chroma = np.argwhere(image.v[50:] != GREY)
    assert luma.min(0).tolist() == (2 * chroma.min(0)).tolist()
    assert (luma.max(0) // 2).tolist() == chroma.max(0).tolist()


def test_a_label_at_the_edge_is_moved_into_the_picture() -> None:
    layout = Layout(640, 360)
    label_height = Lettering(640, 360).tile_height
    above = drawn(layout, track((500.0, 0.0, 560.0, 200.0), 0))
    assert np.any(above.y[204 : 204 + label_height, 500:560] < 40), "under the box where there is no room above"
    right = drawn(layout, track((630.0, 100.0, 640.0, 150.0), 0))
    assert np.any(right.y[80:98, 560:620] < 40), "to the left where there is no room on the right"


def test_the_corner_tells_source_and_clocks() -> None:
    layout = Layout(1280, 720)
    white = yuv((255, 255, 255), layout).y
    lettering = Lettering(1280, 720)
    corner = drawn(layout, time_s=83.46).y[: lettering.tile_height]
    first = lettering.tile("gate 2026-11-18 11:06:40Z", ink=white, paper=16)
    second = lettering.tile("0:01:23.4", ink=white, paper=16)
    width = first.shape[1]
    assert np.array_equal(corner[:, :width], first)
    assert np.array_equal(corner[:, width : width + second.shape[1]], second)
    assert np.all(corner[:, width + second.shape[1] :] == GREY)


def test_the_clocks_go_on() -> None:
    layout = Layout(640, 360)
    overlay = Overlay(layout, "gate", LABELS)
    pictures = []
    for time_s in (1.0, 1.05, 1.1, 2.0):
        image, _ = canvas(layout)
        overlay.draw(image, result(time_s=time_s, wall_ns=1_795_000_000_000_000_000 + round(time_s * 1e9)))
        pictures.append(image.y[:30].copy())
    assert np.array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[1], pictures[2])
    assert not np.array_equal(pictures[2][:, :200], pictures[3][:, :200])


def test_in_a_narrow_picture_the_clocks_stand_one_below_the_other() -> None:
    layout = Layout(200, 400)
    height = Lettering(200, 400).tile_height
    image = drawn(layout)
    assert np.any(image.y[height : 2 * height, :60] > 200)


def test_a_class_without_a_name_is_still_drawn() -> None:
    image = drawn(Layout(640, 360), track((300.0, 100.0, 400.0, 200.0), class_id=9))
    assert not np.all(image.y[96:100, 300:400] == GREY)


def test_it_costs_little() -> None:
    """A generous bound, because other programs may run beside this test; the figure itself is in the benchmarks."""
    layout = Layout(1280, 720)
    image = I420.empty(layout)
    overlay = Overlay(layout, "gate", LABELS)
    frames = [
        result(
            *(track((100 + 220 * k + n % 40, 200, 240 + 220 * k + n % 40, 380), k % 2, confidence=0.5 + n % 50 / 100)
              for k in range(5)),
            time_s=n / 25,
        )
        for n in range(200)
    ]  # fmt: skip
    start_s = time.process_time()
    for frame in frames:
        overlay.draw(image, frame)
    assert (time.process_time() - start_s) / len(frames) < 0.0015
