"""PASCAL VOC's labels: one XML file a picture.

Coordinates are taken as they stand: VOC's own count pixels from 1, those of most newer tools from 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

from pipeline.errors import ConfigError
from pipeline.evaluation.dataset import IGNORED, Sample, Truth, class_ids, picture_named, read_text

_LABEL_FOLDERS = ("Annotations", "annotations", ".")
_PICTURE_FOLDERS = ("JPEGImages", "images", ".")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def read(path: Path, labels: Sequence[str]) -> list[Sample] | None:
    """The pictures of a folder with XML files in it or in ``Annotations``; None where there are none.

    The picture has the XML file's name and lies in ``JPEGImages``, in ``images`` or beside it. ``difficult`` faces
    count neither way, as in VOC. Raises ``ConfigError``.
    """
    folders = [path / name for name in _LABEL_FOLDERS]
    files = next((found for found in (sorted(folder.glob("*.xml")) for folder in folders) if found), None)
    if files is None:
        return None
    pictures = [*(path / name for name in _PICTURE_FOLDERS), files[0].parent]
    return [_sample(file, pictures, labels) for file in files]


def _sample(file: Path, pictures: Sequence[Path], labels: Sequence[str]) -> Sample:
    root = _parse(file)
    boxes, classes = [], []
    for index, item in enumerate(root.findall("object")):
        where = f"{file}: object {index + 1}"
        boxes.append(_box(item, where))
        class_id = class_ids({0: _text(item, "name", where)}, labels, f"{where}: name")[0]
        difficult = (item.findtext("difficult") or "0").strip()
        if difficult not in ("0", "1"):
            raise ConfigError(f"{where}: difficult: {difficult!r:.60} is neither 0 nor 1")
        classes.append(IGNORED if difficult == "1" else class_id)
    size = root.find("size")
    declared = None
    if size is not None:
        width, height = (_number(size, name, f"{file}: size") for name in ("width", "height"))
        if width and height:  # some tools leave them at 0
            declared = (int(width), int(height))
    return Sample(picture_named(file.stem, pictures), Truth.of(boxes, classes), str(file), declared)


def _box(item: ET.Element, where: str) -> tuple[float, ...]:
    corners = item.find("bndbox")
    if corners is None:
        raise ConfigError(f"{where}: has no bndbox")
    xmin, ymin, xmax, ymax = (_number(corners, name, f"{where}: bndbox") for name in _CORNERS)
    if xmin >= xmax or ymin >= ymax:
        raise ConfigError(f"{where}: bndbox: {xmin:g} {ymin:g} {xmax:g} {ymax:g} has no area")
    return xmin, ymin, xmax, ymax


def _number(parent: ET.Element, name: str, where: str) -> float:
    text = _text(parent, name, where)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ConfigError(f"{where}: {name}: {text!r:.60} is not a number")
    return value


def _text(parent: ET.Element, name: str, where: str) -> str:
    text = parent.findtext(name)
    if text is None or not text.strip():
        raise ConfigError(f"{where}: has no {name}")
    return text.strip()


def _parse(file: Path) -> ET.Element:
    text = read_text(file)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:  # what could make a small file expand to a huge one
        raise ConfigError(f"{file}: not a VOC annotation: it declares a document type")
    try:
        root = ET.fromstring(text)  # noqa: S314  no entities can be declared, see above
    except (ET.ParseError, ValueError) as error:
        raise ConfigError(f"{file}: not XML: {error}") from error
    if root.tag != "annotation":
        raise ConfigError(f"{file}: not a VOC annotation: its root is {root.tag!r:.60}")
    return root
