from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from pipeline.areas import Area, Curtain
from pipeline.types import I420, Layout

SQUARE = Area(polygon=[(0.25, 0.25), (0.75, 0.25), (0.75, 0.75), (0.25, 0.75)])
HOOK = Area(polygon=[(0, 0), (1, 0), (1, 0.2), (0.2, 0.2), (0.2, 1), (0, 1)])


@pytest.mark.parametrize(
    ("area", "inside", "outside"),
    [
        (SQUARE, [(0.5, 0.5), (0.26, 0.74)], [(0.2, 0.5), (0.5, 0.8), (0, 0), (1, 1)]),
        (HOOK, [(0.1, 0.9), (0.9, 0.1), (0.1, 0.1)], [(0.5, 0.5), (0.9, 0.3)]),
    ],
)
def test_a_point_is_in_it_or_not(
    area: Area, inside: list[tuple[float, float]], outside: list[tuple[float, float]]
) -> None:
    assert all(area.holds(x, y) for x, y in inside)
    assert not any(area.holds(x, y) for x, y in outside)


@pytest.mark.parametrize(
    ("polygon", "said"),
    [
        ([(0, 0), (1, 1)], "at least 3"),
        ([(0, 0), (2, 0), (0, 1)], "less than or equal to 1"),
        ([(0, 0), (1, 1), (1, 0), (0, 1)], "edges cross"),
        ([(0, 0), (0.5, 0.5), (1, 1)], "encloses less than"),
        ([(0, 0), (0, float("nan")), (1, 1)], "finite"),
    ],
)
def test_what_is_no_area_is_refused(polygon: list[tuple[float, float]], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Area.model_validate({"polygon": polygon})


def filled(layout: Layout) -> I420:
    image = I420.empty(layout)
    image.y[:], image.u[:], image.v[:] = 200, 90, 160
    return image


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize(("width", "height"), [(1280, 720), (641, 337), (64, 48), (3, 5), (1, 1)])
def test_a_curtain_hides_every_pixel_of_its_area_and_its_colour(width: int, height: int, full_range: bool) -> None:
    layout = Layout(width, height, full_range=full_range)
    image = filled(layout)
    Curtain([SQUARE, HOOK]).draw(image)
    black = 0 if full_range else 16
    for area in (SQUARE, HOOK):
        for row in range(0, height, max(1, height // 40)):
            for column in range(0, width, max(1, width // 40)):
                if area.holds((column + 0.5) / width, (row + 0.5) / height):
                    assert image.y[row, column] == black
                    assert image.u[row // 2, column // 2] == image.v[row // 2, column // 2] == 128
    if width > 100:
        assert image.y[int(0.9 * height), int(0.9 * width)] == 200
        assert image.u[int(0.45 * height), int(0.45 * width)] == 90


def test_a_curtain_fits_itself_to_another_size() -> None:
    curtain = Curtain([SQUARE])
    for layout in (Layout(64, 48), Layout(128, 96), Layout(64, 48)):
        image = filled(layout)
        curtain.draw(image)
        hidden = float((image.y == 16).mean())
        assert 0.25 <= hidden < 0.32
    assert np.all(image.y[:10] == 200)
