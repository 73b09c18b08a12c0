"""Reads files to their end and keeps what comes out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.capture.sources.file import Config, create
from pipeline.types import I420, Picture


def owned(picture: Picture) -> Picture:
    copy = I420.empty(picture.image.layout)
    picture.image.copy_to(copy)
    return Picture(copy, picture.time_s, picture.corrupt)


def read_all(path: Path, **config: Any) -> list[Picture]:
    source = create(Config(path=str(path), **config), "gate")
    source.open()
    try:
        return [owned(picture) for picture in iter(source.read, None)]
    finally:
        source.close()


def same(first: Picture, second: Picture) -> bool:
    planes = zip((first.image.y, first.image.u, first.image.v), (second.image.y, second.image.u, second.image.v))  # noqa: B905
    return (
        first.time_s == second.time_s
        and first.image.layout == second.image.layout
        and all(np.array_equal(mine, its) for mine, its in planes)
    )
