"""YOLO's labels: one text file a picture, one face a line: ``class centre_x centre_y width height``, in 0..1."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import ConfigError
from pipeline.evaluation.dataset import PICTURE_SUFFIXES, Sample, Truth, class_ids, read_text

_CLASS_FILES = ("classes.txt", "obj.names", "data.yaml", "dataset.yaml")
_COLUMNS = ("class", "centre_x", "centre_y", "width", "height")


def read(path: Path, labels: Sequence[str]) -> list[Sample] | None:
    """The pictures of a folder that, or whose ``labels`` folder, holds a file of class names; None without one.

    Pictures lie in ``images`` or in the folder, their label files in ``labels`` or beside them; a picture without one
    has no faces. Raises ``ConfigError``.
    """
    places = [folder / name for folder in (path, path / "labels") for name in _CLASS_FILES]
    names_file = next((file for file in places if file.is_file()), None)
    if names_file is None:
        return None
    ids = class_ids(_names(names_file), labels, str(names_file))
    pictures = path / "images" if (path / "images").is_dir() else path
    found = sorted(file for file in pictures.iterdir() if file.suffix.lower() in PICTURE_SUFFIXES)
    if not found:
        raise ConfigError(f"{pictures}: holds no pictures ({' '.join(PICTURE_SUFFIXES)})")
    folder = path / "labels" if (path / "labels").is_dir() else pictures
    return [_sample(picture, folder / f"{picture.stem}.txt", ids) for picture in found]


def _names(file: Path) -> dict[int, str]:
    if file.suffix != ".yaml":
        return dict(enumerate(line.strip() for line in read_text(file).splitlines() if line.strip()))
    try:
        content: Any = yaml.safe_load(read_text(file))
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{file}: not YAML: {' '.join(str(error).split())}") from error
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not all(isinstance(k, int) and isinstance(v, str) for k, v in names.items()):
        raise ConfigError(f"{file}: names: {names!r:.60} is neither a list of names nor names by number")
    return names


def _sample(picture: Path, file: Path, ids: dict[int, int]) -> Sample:
    boxes, classes = [], []
    lines = read_text(file).splitlines() if file.exists() else []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        class_number, box = _parse(line, f"{file}: line {number}")
        if class_number not in ids:
            known = ", ".join(map(str, sorted(ids)))
            raise ConfigError(f"{file}: line {number}: class: {class_number:g} is none of {known}")
        classes.append(ids[int(class_number)])
        boxes.append(box)
    return Sample(picture, Truth.of(boxes, classes), str(file), relative=True)


def _parse(line: str, where: str) -> tuple[float, tuple[float, ...]]:
    words = line.split()
    if len(words) != len(_COLUMNS):
        raise ConfigError(f"{where}: {line!r:.60} is not {' '.join(_COLUMNS)}")
    values = []
    for column, word in zip(_COLUMNS, words, strict=True):
        try:
            value = float(word)
        except ValueError:
            value = math.nan
        low = 1e-9 if column in ("width", "height") else 0
        if not math.isfinite(value) or (column != "class" and not low <= value <= 1):
            raise ConfigError(
                f"{where}: {column}: {word!r:.60} is not a number {'' if low == 0 else 'above 0 '}up to 1"
            )
        values.append(value)
    class_number, x, y, width, height = values
    return class_number, (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
