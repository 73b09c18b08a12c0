"""COCO's object detection labels (cocodataset.org/#format-data)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.errors import ConfigError
from pipeline.evaluation.dataset import IGNORED, Sample, Truth, class_ids, read_text

_NAMES = ("annotations.json", "_annotations.coco.json")

Positive = Annotated[float, Field(gt=0)]
Side = Annotated[int, Field(gt=0)]
Flag = Annotated[int, Field(ge=0, le=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class _Category(_Part):
    id: int
    name: str


class _Image(_Part):
    id: int
    file_name: Annotated[str, Field(min_length=1)]
    width: Side
    height: Side


class _Annotation(_Part):
    """bbox: x, y, width, height in pixels. ignore, iscrowd: counts neither way."""

    image_id: int
    category_id: int
    bbox: tuple[float, float, Positive, Positive]
    ignore: Flag = 0
    iscrowd: Flag = 0


class _File(_Part):
    categories: list[_Category]
    images: Annotated[list[_Image], Field(min_length=1)]
    annotations: list[_Annotation]


def read(path: Path, labels: Sequence[str]) -> list[Sample] | None:
    """The pictures of a JSON file or of a folder that holds one; None where there is none.

    Pictures lie beside the file or in ``images`` beside it. Raises ``ConfigError``.
    """
    file = _file(path)
    if file is None:
        return None
    content = _parse(file)
    categories = class_ids({c.id: c.name for c in content.categories}, labels, f"{file}: categories")
    known: set[int] = set()
    for index, image in enumerate(content.images):
        if image.id in known:
            raise ConfigError(f"{file}: images.{index}.id: {image.id} is the id of another image already")
        known.add(image.id)
    boxes: defaultdict[int, list[tuple[float, ...]]] = defaultdict(list)
    classes: defaultdict[int, list[int]] = defaultdict(list)
    for index, face in enumerate(content.annotations):
        where = f"{file}: annotations.{index}"
        if face.image_id not in known:
            raise ConfigError(f"{where}.image_id: {face.image_id} is not the id of an image")
        if face.category_id not in categories:
            raise ConfigError(f"{where}.category_id: {face.category_id} is not the id of a category")
        x, y, width, height = face.bbox
        boxes[face.image_id].append((x, y, x + width, y + height))
        counts = not (face.ignore or face.iscrowd)
        classes[face.image_id].append(categories[face.category_id] if counts else IGNORED)
    return [
        Sample(
            _picture(file.parent, image.file_name),
            Truth.of(boxes[image.id], classes[image.id]),
            f"{file}: images.{index}",
            (image.width, image.height),
        )
        for index, image in enumerate(content.images)
    ]


def _file(path: Path) -> Path | None:
    if path.is_file():
        if path.suffix.lower() != ".json":
            raise ConfigError(f"{path}: a data set is a folder, or a COCO file that ends in .json")
        return path
    return next((path / name for name in _NAMES if (path / name).is_file()), None)


def _picture(folder: Path, name: str) -> Path:
    inside = folder / "images" / name
    return inside if inside.is_file() or not (folder / name).is_file() else folder / name


def _parse(file: Path) -> _File:
    try:
        return _File.model_validate_json(read_text(file))
    except ValidationError as error:
        raise ConfigError(f"{file}: {_first_line(error)}") from error


def _first_line(error: ValidationError) -> str:
    first: Any = error.errors(include_url=False)[0]
    if first["type"] == "json_invalid":
        return f"not JSON: {first['msg']}"
    where = ".".join(str(part) for part in first["loc"]) or "the file"
    value = "" if first["type"] == "missing" else f" {first['input']!r:.60}:"
    return f"{where}:{value} {first['msg']}"
