"""Finds the files of a model's runtime on this machine and checks that they are the right ones."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline import resources
from pipeline.errors import ConfigError, StartupError
from pipeline.inference.backend import is_available, missing_framework
from pipeline.inference.model_card import ModelCard, Runtime, TensorNames, WeightFile

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class RuntimeFiles:
    """The files of one runtime, by role. They are checked when they are read, not when they are found."""

    card_path: Path
    found: Mapping[str, tuple[Path, WeightFile]]
    tensors: TensorNames

    def read(self, role: str) -> bytes:
        """The bytes of a file, which have the card's sha256; raises ``ConfigError`` where they have another."""
        path, wanted = self._entry(role)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise StartupError(f"{path}: cannot be read: {error.strerror}") from error
        _compare(path, wanted, hashlib.sha256(content).hexdigest(), self.card_path)
        return content

    def path(self, role: str) -> Path:
        """The path of a checked file, for runtimes that can only open files themselves."""
        path, wanted = self._entry(role)
        check_file(path, wanted, self.card_path)
        return path

    def name(self, role: str) -> Path:
        """The path of a file for messages; not checked."""
        return self._entry(role)[0]

    def has(self, role: str) -> bool:
        return role in self.found

    @property
    def sha256(self) -> str:
        """Of the file that holds the weights: where structure and weights are two files, of the larger one."""
        return max(self.found.values(), key=lambda entry: entry[0].stat().st_size)[1].sha256

    def _entry(self, role: str) -> tuple[Path, WeightFile]:
        if role not in self.found:
            there = ", ".join(sorted(self.found))
            raise ConfigError(f"{self.card_path}: this backend needs a file in the role {role!r}; there are: {there}")
        return self.found[role]


def file_sha256(path: Path) -> str:
    """sha256 of a file, in hexadecimal; raises ``OSError``."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def check_file(path: Path, wanted: WeightFile, card_path: Path) -> None:
    """Raises ``ConfigError`` where the file is not the one that the card names."""
    try:
        actual = file_sha256(path)
    except OSError as error:
        raise StartupError(f"{path}: cannot be read: {error.strerror}") from error
    _compare(path, wanted, actual, card_path)


def _compare(path: Path, wanted: WeightFile, actual: str, card_path: Path) -> None:
    if actual != wanted.sha256:
        raise ConfigError(
            f"{path}: sha256 is {actual}, but {card_path} says {wanted.sha256}: a wrong or altered file; "
            f"delete it and fetch or import it again"
        )


def runtime_of(card: ModelCard, card_path: Path, kind: str, precision: str = "fp32") -> Runtime:
    """The card's entry for a backend; an outside backend's (``package.module``) is keyed by its last name.

    Raises ``StartupError`` where the framework is not installed: its files may be missing just because of that.
    """
    key = kind.rpartition(".")[2] + ("" if precision == "fp32" else f"-{precision}")
    if key not in card.runtimes:
        there = ", ".join(sorted(card.runtimes))
        raise ConfigError(f"{card_path}: runtimes: {card.name} has no files for {key!r}; there are: {there}")
    if not is_available(kind):
        raise missing_framework(kind, f"facemask-pipeline[{kind}]")
    return card.runtimes[key]


def locate(card: ModelCard, card_path: Path, runtime: Runtime, models_dir: Path | None = None) -> RuntimeFiles:
    """The runtime's files; raises ``StartupError`` with the commands that get them where one is missing."""
    folders = resources.weight_dirs(card_path, card.name, models_dir)
    found = {}
    for role, wanted in runtime.files.items():
        path = find(wanted.file, folders)
        if path is None:
            raise StartupError(_how_to_get(card, wanted.file, folders))
        found[role] = (path, wanted)
    return RuntimeFiles(card_path, found, runtime.tensors)


def find(file: str, folders: Sequence[Path]) -> Path | None:
    """The first of ``folders`` that holds ``file``."""
    return next((folder / file for folder in folders if (folder / file).is_file()), None)


def _how_to_get(card: ModelCard, file: str, folders: Sequence[Path]) -> str:
    looked = ", ".join(str(folder) for folder in folders)
    missing = f"{card.name}: {file} is not on this machine (looked in {looked})"
    if card.original is None:
        return f"{missing}; it belongs beside the card: install the program again"
    return (
        f"{missing}; get it with: run_pipeline.py models fetch {card.name}, or, from a clone of "
        f"{card.original.project}: run_pipeline.py models import {card.name} --from DIR"
    )
