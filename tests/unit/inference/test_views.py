"""Regions and tiles: which parts of a frame are looked at, and one list of faces out of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import cast

import av
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import resources
from pipeline.evaluation.looking import as_video
from pipeline.inference.detector import Detector, build_detector
from pipeline.inference.model_card import InputSpec, read_card
from pipeline.inference.preprocess import Preprocessor
from pipeline.inference.ssd import Suppression
from pipeline.inference.views import (
    AUTO_FACE_PX,
    AUTO_TILES_MAX,
    Looks,
    Region,
    View,
    ViewingDetector,
    auto_grid,
    merge,
    smallest_face,
    tiles,
    whole,
)
from pipeline.types import I420, Detections, Layout
from tests.unit.inference.tiny_model import write_model

FULL = (0.0, 0.0, 1.0, 1.0)
AIZOO = read_card(resources.card_path("aizoo-260"))
FACEMASK = read_card(resources.card_path("facemask"))


class Spot:
    """Finds what is brighter than 200 in a picture, as one box with the class 0."""

    labels = ("mask", "no_mask")
    suppression = Suppression()
    card = AIZOO

    def detect_i420(self, image: I420) -> Detections:
        rows, columns = np.nonzero(image.y > 200)
        if not len(rows):
            return Detections.none()
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        return faces([box], [min(0.5 + len(rows) / image.y.size, 1.0)])

    def close(self) -> None: ...


def faces(boxes: Sequence[Sequence[float]], confidence: Sequence[float], class_ids: Sequence[int] = ()) -> Detections:
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(confidence, np.float32),
        np.array(class_ids or [0] * len(boxes), np.int32),
    )


def scene(width: int, height: int, *spots: tuple[int, int, int, int]) -> I420:
    image = I420.empty(Layout(width, height))
    image.y[:], image.u[:], image.v[:] = 50, 128, 128
    for x0, y0, x1, y1 in spots:
        image.y[y0:y1, x0:x1] = 235
    return image


def viewing(region: Region = FULL, grid: str = "2x1", overlap: float = 0.2) -> ViewingDetector:
    return ViewingDetector(cast("Detector", Spot()), Looks(region, grid, overlap))


@settings(deadline=None, max_examples=50)
@given(
    width=st.integers(2, 4000), height=st.integers(2, 3000), columns=st.integers(1, 8), rows=st.integers(1, 8),
    overlap=st.floats(0, 0.5), corner=st.tuples(st.floats(0, 0.9), st.floats(0, 0.9)), share=st.floats(0.05, 1),
)  # fmt: skip
def test_views_lie_in_the_frame_are_even_and_cover_the_region(
    width: int, height: int, columns: int, rows: int, overlap: float, corner: tuple[float, float], share: float
) -> None:
    x0, y0 = corner
    region = whole(width, height, (x0, y0, min(x0 + share, 1), min(y0 + share, 1)))
    parts = tiles(region, columns, rows, overlap)
    covered = np.zeros((height, width), np.bool_)
    for view in (region, *parts):
        assert 0 <= view.x0 < view.x1 <= width
        assert 0 <= view.y0 < view.y1 <= height
        assert (view.x0 % 2, view.y0 % 2) == (0, 0)
    for view in parts:
        covered[view.y0 : view.y1, view.x0 : view.x1] = True
    assert covered[region.y0 : region.y1, region.x0 : region.x1].all()
    assert len(parts) <= columns * rows


def test_tiles_overlap_by_what_was_asked_for() -> None:
    first, second = tiles(View(0, 0, 1920, 1080), 2, 1, 0.15)
    assert (first, second) == (View(0, 0, 1038, 1080), View(882, 0, 1920, 1080))
    assert (first.x1 - second.x0) / first.width == pytest.approx(0.15, abs=0.002)


@pytest.mark.parametrize(("width", "height"), [(1280, 720), (641, 361)])
def test_a_view_is_the_pixels_that_a_copy_would_have(width: int, height: int) -> None:
    """On the planes, without copying, and through the whole preprocessing."""
    rng = np.random.default_rng(3)
    image = I420.empty(Layout(width, height, "bt709", full_range=True))
    for plane in (image.y, image.u, image.v):
        plane[:] = rng.integers(0, 256, plane.shape)
    preprocessor = Preprocessor(InputSpec(width=96, height=64))
    for view in tiles(View(0, 0, width, height), 3, 2, 0.15):
        part = view.of(image)
        assert all(np.shares_memory(mine, its) for mine, its in ((part.y, image.y), (part.u, image.u)))
        copied = I420.empty(part.layout)
        part.copy_to(copied)
        cut, alone = preprocessor.from_i420(part).copy(), preprocessor.from_i420(copied)
        assert np.abs(cut - alone).max() < 3 / 255  # averaged plane by plane, or all at once


def test_boxes_are_in_pixels_of_the_frame_and_nothing_is_seen_outside_of_the_region() -> None:
    looking = viewing((0.5, 0.25, 1.0, 1.0), "1x1")
    found = looking.detect_i420(scene(200, 100, (120, 40, 140, 60), (10, 10, 30, 30)))
    assert found.xyxy.tolist() == [[120, 40, 140, 60]]
    assert len(looking.detect_i420(scene(200, 100, (10, 10, 30, 30)))) == 0


def test_a_face_on_a_seam_is_told_once_and_whole() -> None:
    looking = viewing()
    views = looking.views(1000, 400)
    assert len(views) == 3
    inner = views[1].x1
    for x0 in range(inner - 200, inner + 60, 10):
        found = looking.detect_i420(scene(1000, 400, (x0, 100, x0 + 100, 220)))
        assert found.xyxy.tolist() == [[x0, 100, x0 + 100, 220]], x0


def test_a_large_face_beside_small_ones_is_kept_and_so_are_they() -> None:
    views = [View(0, 0, 1000, 400), View(0, 0, 556, 400), View(444, 0, 1000, 400)]
    large = [300, 20, 800, 390]
    found = merge(
        views,
        [
            faces([large], [0.8]),
            faces([[300, 20, 556, 390], [20, 20, 50, 60]], [0.95, 0.7]),
            faces([[0, 20, 356, 390]], [0.9]),
        ],
        Suppression(),
    )
    assert found.xyxy.tolist() == [large, [20, 20, 50, 60]]


def test_a_small_face_is_told_as_the_tile_sees_it() -> None:
    """In the region its box is as large as the smallest anchor; that is no second face."""
    views = [View(0, 0, 1000, 400), View(0, 0, 556, 400), View(444, 0, 1000, 400)]
    coarse = faces([[80, 60, 146, 120], [300, 60, 366, 120]], [0.7, 0.6])
    fine = faces([[98, 72, 128, 104]], [0.55])
    found = merge(views, [coarse, fine, Detections.none()], Suppression())
    assert found.xyxy.tolist() == [[300, 60, 366, 120], [98, 72, 128, 104]]


def test_half_a_face_is_better_than_none() -> None:
    """The whole region is too coarse for it and no tile has all of it."""
    views = [View(0, 0, 1000, 400), View(0, 0, 500, 400), View(500, 0, 1000, 400)]
    found = merge(views, [Detections.none(), faces([[480, 100, 500, 150]], [0.6]), Detections.none()], Suppression())
    assert found.xyxy.tolist() == [[480, 100, 500, 150]]


def test_the_better_of_two_views_of_one_face_is_told() -> None:
    views = [View(0, 0, 1000, 400), View(0, 0, 556, 400)]
    found = merge(
        views, [faces([[100, 100, 160, 170]], [0.6]), faces([[98, 102, 158, 168]], [0.9], [1])], Suppression()
    )
    assert (found.xyxy.tolist(), found.class_id.tolist()) == ([[98, 102, 158, 168]], [1])


def test_smaller_faces_come_within_reach_of_a_model_tile_by_tile(tmp_path: Path) -> None:
    view = View(0, 0, 1920, 1080)
    heights = [smallest_face(AIZOO, part)[1] for part in (view, *(tiles(view, n, n, 0.15)[0] for n in (2, 3)))]
    assert heights == sorted(heights, reverse=True)
    assert auto_grid(AIZOO, View(0, 0, 480, 270), 0.15) == (1, 1)
    for card in (AIZOO, FACEMASK):
        columns, rows = auto_grid(card, view, 0.15)
        assert columns >= rows
        assert columns * rows <= AUTO_TILES_MAX
    assert smallest_face(FACEMASK, tiles(view, *auto_grid(FACEMASK, view, 0.15), 0.15)[0])[1] <= AUTO_FACE_PX
    coarse = read_card(write_model(tmp_path))  # never reaches so small a face
    columns, rows = auto_grid(coarse, view, 0.15)
    assert columns * rows == AUTO_TILES_MAX


def test_the_smallest_face_is_what_was_measured() -> None:
    """tests/benchmarks/small_faces/README.md: half of the faces are found from about here on."""
    view = View(0, 0, 1920, 1080)
    assert smallest_face(FACEMASK, view)[1] == pytest.approx(52, abs=6)
    assert smallest_face(AIZOO, view)[1] == pytest.approx(100, abs=10)


def test_views_follow_the_size_of_the_source() -> None:
    looking = viewing(grid="auto")
    assert len(looking.views(320, 180)) == 1
    assert len(looking.views(1920, 1080)) > 2
    assert looking.views(1920, 1080) is looking.views(1920, 1080)


def test_faces_too_small_for_a_whole_frame_are_found_in_tiles() -> None:
    """Two people of the demo, 34 pixels high in 1920x1080, by the model that ships; each is told once."""
    detector = build_detector("facemask")
    with av.open(str(resources.data_dir("config") / "demo" / "demo.mp4")) as video:
        rgb = next(islice(video.decode(video=0), 40, None)).to_ndarray(format="rgb24")
    truth = detector.detect_rgb(np.asarray(rgb, np.uint8)).xyxy
    assert len(truth) == 2
    scale = 34 / (truth[0, 3] - truth[0, 1])
    small = cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    frame = np.full((1080, 1920, 3), 110, np.uint8)
    frame[520 : 520 + small.shape[0], 880 : 880 + small.shape[1]] = small
    image = as_video(frame)

    def found(grid: str) -> list[tuple[int, int]]:
        """Which of the two people each box lies on: the nearest, and how far off its middle is."""
        boxes = ViewingDetector(detector, Looks(tiles=grid)).detect_i420(image).xyxy
        middles = (boxes[:, :2] + boxes[:, 2:]) / 2
        wanted = (truth[:, :2] + truth[:, 2:]) / 2 * scale + [880, 520]
        distances = np.linalg.norm(middles[:, None] - wanted, axis=2)
        return sorted((int(row.argmin()), round(float(row.min()))) for row in distances)

    assert [who for who, _ in found("3x3")] == [0, 1]
    assert all(off <= 8 for _, off in found("3x3"))
    assert len(found("1x1")) == 0
    detector.close()
