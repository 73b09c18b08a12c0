"""Are a model's files the right ones, and do its runtimes agree?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline import plugins, resources
from pipeline.errors import PipelineError
from pipeline.inference.backend import check_outputs, is_available, missing_framework
from pipeline.inference.detector import build_backend
from pipeline.inference.model_card import InputSpec, ModelCard, Runtime
from pipeline.inference.weights import check_file, find

BOXES_DIFFERENCE_MAX = 1e-4
SCORES_DIFFERENCE_MAX = 1e-5
"""How far runtimes may lie apart in raw outputs; they are measured at half of it and less."""

_TILE_PX = 20


@dataclass(frozen=True, slots=True)
class FileCheck:
    """One file of the card. error: set where ``state`` is ``wrong``."""

    file: str
    state: Literal["ok", "missing", "wrong"]
    path: Path | None
    error: PipelineError | None = None


@dataclass(frozen=True, slots=True)
class Parity:
    """One runtime against the first that ran: the greatest differences, or why it did not run.

    installed: a runtime that is not is nobody's fault.
    """

    runtime: str
    boxes: float | None
    scores: float | None
    error: PipelineError | None = None
    installed: bool = True

    @property
    def agrees(self) -> bool:
        return (
            self.boxes is not None
            and self.scores is not None
            and self.boxes <= BOXES_DIFFERENCE_MAX
            and self.scores <= SCORES_DIFFERENCE_MAX
        )


def check_files(card: ModelCard, card_path: Path, models_dir: Path | None = None) -> list[FileCheck]:
    """Every file that an installed runtime needs, once."""
    folders = resources.weight_dirs(card_path, card.name, models_dir)
    wanted = {entry.file: entry for runtime in _installed(card) for entry in runtime.files.values()}
    checks = []
    for name, entry in wanted.items():
        path = find(name, folders)
        if path is None:
            checks.append(FileCheck(name, "missing", None))
            continue
        try:
            check_file(path, entry, card_path)
        except PipelineError as error:
            checks.append(FileCheck(name, "wrong", path, error))
        else:
            checks.append(FileCheck(name, "ok", path))
    return checks


def compare(card: ModelCard, card_path: Path, models_dir: Path | None = None) -> Iterator[Parity]:
    """Runs each fp32 runtime that has a backend here on the same two pictures, one runtime after the other."""
    probe = picture(card.input, 2)
    reference: dict[str, NDArray[Any]] | None = None
    for runtime in card.runtimes:
        if runtime not in plugins.kinds("backend"):
            continue
        if not is_available(runtime):
            yield Parity(runtime, None, None, missing_framework(runtime, f"facemask-pipeline[{runtime}]"), False)
            continue
        try:
            backend = build_backend(card, card_path, runtime, None, models_dir)
            try:
                outputs = {name: np.array(value) for name, value in backend.infer(probe).items()}
            finally:
                backend.close()
            check_outputs(outputs, len(probe), card, card_path)
        except PipelineError as error:
            yield Parity(runtime, None, None, error)
            continue
        reference = reference or outputs
        difference = {name: float(np.abs(outputs[name] - reference[name]).max()) for name in outputs}
        yield Parity(runtime, difference["boxes"], difference["scores"])


def _installed(card: ModelCard) -> list[Runtime]:
    return [runtime for key, runtime in card.runtimes.items() if is_available(key)]


def picture(spec: InputSpec, count: int) -> NDArray[np.float32]:
    """(count, 3, height, width) float32: the same coloured tiles every time, scaled as the card says."""
    rows, columns = -(-spec.height // _TILE_PX), -(-spec.width // _TILE_PX)
    tiles = np.random.default_rng(0).uniform(0, 255, (count, 3, rows, columns))
    values = tiles.repeat(_TILE_PX, axis=2).repeat(_TILE_PX, axis=3)[:, :, : spec.height, : spec.width]
    mean, std = np.array(spec.mean)[:, None, None], np.array(spec.std)[:, None, None]
    return np.ascontiguousarray((values - mean) / std, np.float32)
