"""The model card: a model describes itself in ``models/<name>/model.yaml``.

Everything that differs from one network to the next stands there, so that backends, head and preprocessing know
nothing about a particular model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator, model_validator

from pipeline.errors import ConfigError

_CARD_BYTES_MAX = 1 << 20
_ANCHORS_MAX = 1_000_000

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
FileName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$", max_length=128)]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Side = Annotated[int, Field(ge=16, le=4096)]
Count = Annotated[int, Field(ge=1, le=2048)]
Fraction = Annotated[float, Field(gt=0, le=4)]
Triple = tuple[float, float, float]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class InputSpec(_Part):
    """What the network takes: (n, 3, height, width) float32, each channel ``(value 0..255 - mean) / std``.

    resize ``squash``: the whole picture is scaled to the input, each side on its own; nothing is padded or cut.
    """

    width: Side
    height: Side
    colour: Literal["rgb"] = "rgb"
    mean: Triple = (0.0, 0.0, 0.0)
    std: Triple = (255.0, 255.0, 255.0)
    resize: Literal["squash"] = "squash"

    @field_validator("std")
    @classmethod
    def _positive(cls, std: Triple) -> Triple:
        if min(std) <= 0:
            raise ValueError("each must be above 0")
        return std


class AnchorMap(_Part):
    """One feature map and the anchors of each of its cells.

    Either ``sizes`` and ``ratios`` as SSD counts them (every size at the first ratio, then the first size at each
    other ratio; a size is a fraction of the input's shorter side, a ratio is width / height in input pixels), or
    ``boxes``: (width, height) of each anchor as fractions of the input's width and height.
    """

    rows: Count
    columns: Count
    sizes: tuple[Fraction, ...] = ()
    ratios: tuple[Fraction, ...] = (1.0,)
    boxes: tuple[tuple[Fraction, Fraction], ...] = ()

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if bool(self.sizes) == bool(self.boxes):
            raise ValueError("give either sizes (with ratios) or boxes")
        if not self.ratios:
            raise ValueError("ratios may not be empty")
        return self

    def anchors_wh(self, width: int, height: int) -> list[tuple[float, float]]:
        """(width, height) of a cell's anchors as fractions of an input of ``width`` x ``height`` pixels."""
        if self.boxes:
            return list(self.boxes)
        pairs = [(size, self.ratios[0]) for size in self.sizes]
        pairs += [(self.sizes[0], ratio) for ratio in self.ratios[1:]]
        short = min(width, height)
        return [(size * ratio**0.5 * short / width, size / ratio**0.5 * short / height) for size, ratio in pairs]


class SsdSpec(_Part):
    """An SSD head: offsets from fixed anchors, and one score in 0..1 per class (no background class).

    Anchors are ordered by map, then row, column and anchor of the cell; cell centres are at (i + 0.5) / n.
    variances: of centre x, centre y, log width, log height (Liu et al. 2016).
    """

    kind: Literal["ssd"]
    order: Literal["row-column-anchor"] = "row-column-anchor"
    variances: tuple[Fraction, Fraction, Fraction, Fraction]
    maps: Annotated[tuple[AnchorMap, ...], Field(min_length=1, max_length=16)]

    @model_validator(mode="after")
    def _not_too_many(self) -> Self:
        if self.anchor_count() > _ANCHORS_MAX:
            raise ValueError(f"{self.anchor_count()} anchors are too many (at most {_ANCHORS_MAX})")
        return self

    def anchor_count(self) -> int:
        return sum(m.rows * m.columns * (len(m.boxes) or len(m.sizes) + len(m.ratios) - 1) for m in self.maps)


class WeightFile(_Part):
    """One file of weights or structure, known by its content."""

    file: FileName
    sha256: Sha256


class TensorNames(_Part):
    """What the runtime calls the input, the anchors' offsets (n, a, 4) and the scores (n, a, classes)."""

    input: Text
    boxes: Text
    scores: Text


class Runtime(_Part):
    """What one runtime needs; a backend says which roles it reads (``onnx``, or ``prototxt`` and ``caffemodel``)."""

    files: Annotated[dict[str, WeightFile], Field(min_length=1)]
    tensors: TensorNames


class OriginalFile(_Part):
    sha256: Sha256
    size_bytes: Annotated[int, Field(ge=1, le=1 << 30)]


class Original(_Part):
    """Third-party files that the runtimes' files are made from, and where they can be had.

    builder: the module of ``pipeline.inference.importing`` that knows these files.
    """

    builder: Literal["aizoo"]
    project: Text
    commit: Text
    base_url: Annotated[str, StringConstraints(pattern=r"^https?://.*/$")]
    files: Annotated[dict[FileName, OriginalFile], Field(min_length=1)]


class ModelCard(_Part):
    """All that is to be known of a model; ``runtimes`` is keyed by backend kind, ``kind-precision`` below fp32.

    smallest_face: from this size on at least half of the faces are found, as a share of the side of what is looked at
    (both as roots of areas); measured by ``tests/benchmarks/small_faces``.
    """

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=64)]
    summary: Text
    licence: Text
    source: Text
    training_data: Text
    measured: Text
    intended_use: Text
    weaknesses: tuple[Text, ...]
    input: InputSpec
    head: SsdSpec
    smallest_face: Fraction | None = None
    classes: Annotated[dict[int, Text], Field(min_length=1)]
    runtimes: Annotated[dict[str, Runtime], Field(min_length=1)]
    original: Original | None = None

    @field_validator("classes")
    @classmethod
    def _counted_from_zero(cls, classes: dict[int, str]) -> dict[int, str]:
        if sorted(classes) != list(range(len(classes))):
            raise ValueError(f"ids must be 0 to {len(classes) - 1}, without gaps")
        if len(set(classes.values())) != len(classes):
            raise ValueError("labels must differ")
        return classes

    @property
    def labels(self) -> tuple[str, ...]:
        """Label of each class id."""
        return tuple(self.classes[i] for i in range(len(self.classes)))

    def file_names(self) -> list[str]:
        """The runtimes' files, each once, in the card's order."""
        return list(dict.fromkeys(w.file for r in self.runtimes.values() for w in r.files.values()))


def read_card(path: Path) -> ModelCard:
    """The checked card; raises ``ConfigError`` naming file, field, value and what is wrong."""
    try:
        if path.stat().st_size > _CARD_BYTES_MAX:
            raise ConfigError(f"{path}: not a model card: larger than {_CARD_BYTES_MAX} bytes")
        content = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: not a model card: it holds no keys")
    try:
        card = ModelCard.model_validate(content)
    except ValidationError as error:
        raise ConfigError(f"{path}: {_first_line(error)}") from error
    return card


def _first_line(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "card"
    value = "" if first["type"] == "missing" else f" {_short(first['input'])}"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{where}:{value}: {first['msg']}{more}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
