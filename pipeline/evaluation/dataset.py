"""What labelled pictures are, whichever format they came in.

``read_dataset`` knows the format by what lies there: COCO JSON (a file, or a folder with ``annotations.json``), PASCAL
VOC (``.xml`` files), YOLO (``.txt`` files with a file of class names).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError

IGNORED = -1
"""Instead of a class id: whether such a face is found counts neither way, whatever class is found there."""

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")

_SAME_CLASS = {
    "withmask": "mask", "masked": "mask", "facemask": "mask", "maskface": "mask", "maskedface": "mask",
    "withoutmask": "nomask", "unmasked": "nomask", "face": "nomask", "nofacemask": "nomask",
}  # fmt: skip
_IGNORED_NAMES = frozenset({"ignore", "ignored", "maskwearedincorrect", "maskwornincorrectly", "incorrectmask"})

Key = TypeVar("Key", int, str)


@dataclass(frozen=True, slots=True)
class Truth:
    """The faces of one picture. xyxy: (n, 4) float64. class_id: (n,) int64 of the model's classes, or ``IGNORED``."""

    xyxy: NDArray[np.float64]
    class_id: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.xyxy.shape != (len(self.class_id), 4):
            raise ValueError(f"faces need (n, 4) and (n,), not {self.xyxy.shape} and {self.class_id.shape}")

    @classmethod
    def of(cls, boxes: Sequence[Sequence[float]], class_ids: Sequence[int]) -> Truth:
        return cls(np.array(boxes, np.float64).reshape(-1, 4), np.array(class_ids, np.int64))


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled picture. declared: (width, height) in pixels where the labels tell it.

    relative: the boxes are fractions of the picture's size. where: the place in the labels, for messages.
    """

    path: Path
    truth: Truth
    where: str
    declared: tuple[int, int] | None = None
    relative: bool = False

    def in_pixels(self, width: int, height: int) -> Truth:
        """The faces in a picture of that size; raises ``ConfigError`` where the labels are for another size."""
        if self.declared is not None and self.declared != (width, height):
            raise ConfigError(
                f"{self.where}: its size is {self.declared[0]}x{self.declared[1]}, but {self.path} has {width}x{height}"
            )
        if not self.relative:
            return self.truth
        return replace(self.truth, xyxy=self.truth.xyxy * np.array([width, height, width, height], np.float64))


def read_dataset(path: Path, labels: Sequence[str]) -> list[Sample]:
    """All labelled pictures, in the order of the labels; labels: of the model's class ids.

    Raises ``ConfigError`` naming file, field and value for whatever is wrong with them.
    """
    from pipeline.evaluation import coco, voc, yolo

    if not path.exists():
        raise ConfigError(f"{path}: no such file or folder")
    readers = (coco.read, voc.read, yolo.read)
    samples = next((found for found in (read(path, labels) for read in readers) if found is not None), None)
    if samples is None:
        raise ConfigError(
            f"{path}: holds no labels that are known here: COCO (annotations.json), PASCAL VOC (.xml files in it or in "
            f"Annotations) or YOLO (.txt files in it or in labels, and classes.txt, obj.names or data.yaml)"
        )
    for sample in samples:
        if not sample.path.is_file():
            raise ConfigError(f"{sample.where}: its picture {sample.path} is not there")
    return samples


def class_ids(names: Mapping[Key, str], labels: Sequence[str], where: str) -> dict[Key, int]:
    """The model's class id, or ``IGNORED``, for each class of the labels, by its name.

    Case and signs do not matter, and the usual names of the public data sets are known (``with_mask``, ``NoMask``).
    Raises ``ConfigError`` for a name that is none of the model's.
    """
    wanted = {_plain(label): class_id for class_id, label in enumerate(labels)}
    found = {}
    for key, name in names.items():
        plain = _plain(name)
        class_id = wanted.get(plain, wanted.get(_SAME_CLASS.get(plain, "")))
        if class_id is None and plain in _IGNORED_NAMES:
            class_id = IGNORED
        if class_id is None:
            raise ConfigError(f"{where}: {name!r} is not a class of the model; there are: {', '.join(labels)}")
        found[key] = class_id
    return found


def picture_named(stem: str, folders: Sequence[Path]) -> Path:
    """The picture of that name in the first folder that has it, else where it should be."""
    for folder in folders:
        for suffix in PICTURE_SUFFIXES:
            for candidate in (folder / f"{stem}{suffix}", folder / f"{stem}{suffix.upper()}"):
                if candidate.is_file():
                    return candidate
    return folders[0] / f"{stem}{PICTURE_SUFFIXES[0]}"


def read_text(path: Path) -> str:
    """Raises ``ConfigError`` for a file that cannot be read or is no text."""
    try:
        return path.read_text("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not text: {error}") from error


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.casefold())
