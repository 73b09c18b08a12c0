"""From a model's original files to the files that the runtimes read, checked and whole or not at all."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from pipeline.errors import ConfigError, RuntimeFailure, StartupError
from pipeline.inference.backend import is_available
from pipeline.inference.importing import aizoo
from pipeline.inference.importing.pickled import RefusedError
from pipeline.inference.model_card import ModelCard, Original, OriginalFile, WeightFile

_BASE = ".pth"
"""What is built is built from the original file of this kind."""


def original_of(card: ModelCard, card_path: Path) -> Original:
    if card.original is None:
        raise ConfigError(f"{card_path}: {card.name} is not made from third-party files; there is nothing to import")
    return card.original


def import_model(card: ModelCard, card_path: Path, source: Path, target: Path) -> list[Path]:
    """Makes the files of every installed runtime from the original files in ``source``; puts them into ``target``.

    source: the original repository or its ``models`` folder. Nothing is written unless all is right; each file appears
    under its name only when it is complete. Returns the files, in the card's order. Raises ``ConfigError`` for missing
    or altered original files, ``StartupError`` where ``target`` cannot be written.
    """
    original = original_of(card, card_path)
    contents = {
        name: _read(_find(source, name, original), wanted, card_path)
        for name, wanted in originals_needed(card, original).items()
    }
    return install(card, card_path, contents, target)


def install(card: ModelCard, card_path: Path, contents: Mapping[str, bytes], target: Path) -> list[Path]:
    """As ``import_model``, from the checked contents of the original files by name."""
    made: dict[str, bytes] = {}
    for wanted in _weight_files(card):
        if wanted.file not in made:
            made[wanted.file] = _make(wanted, contents, card, card_path)
    return [_write(target / file, content) for file, content in made.items()]


def originals_needed(card: ModelCard, original: Original) -> dict[str, OriginalFile]:
    """Those of the original files that the installed runtimes' files are, or are made from."""
    needed = {wanted.file for wanted in _weight_files(card)}
    built = bool(needed - original.files.keys())
    return {name: file for name, file in original.files.items() if name in needed or (built and name.endswith(_BASE))}


def check_original(path: Path, content: bytes, wanted: OriginalFile, card_path: Path) -> bytes:
    """``content``, if it is what the card says; raises ``ConfigError``."""
    digest = hashlib.sha256(content).hexdigest()
    if digest != wanted.sha256:
        raise ConfigError(f"{path}: sha256 is {digest}, but {card_path} says {wanted.sha256}: a wrong or altered file")
    return content


def _weight_files(card: ModelCard) -> Iterator[WeightFile]:
    for key, runtime in card.runtimes.items():
        if is_available(key):
            yield from runtime.files.values()


def _find(source: Path, name: str, original: Original) -> Path:
    for folder in (source, source / "models"):
        if (folder / name).is_file():
            return folder / name
    raise ConfigError(f"{source}: holds no {name}; give a clone of {original.project} or its models folder")


def _read(path: Path, wanted: OriginalFile, card_path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size != wanted.size_bytes:
            raise ConfigError(
                f"{path}: {size} bytes, but {card_path} says {wanted.size_bytes}: a wrong or altered file"
            )
        with path.open("rb") as stream:
            content = stream.read(wanted.size_bytes + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    return check_original(path, content, wanted, card_path)


def _make(wanted: WeightFile, contents: Mapping[str, bytes], card: ModelCard, card_path: Path) -> bytes:
    """One runtime's file: an original as it is, or built."""
    if wanted.file in contents:
        content = contents[wanted.file]
    else:
        pths = [(name, content) for name, content in contents.items() if name.endswith(_BASE)]
        if len(pths) != 1:
            raise ConfigError(f"{card_path}: original.files: {len(pths)} .pth files; {wanted.file} is made from one")
        [(name, pth)] = pths
        try:
            content = aizoo.to_onnx(pth, card)
        except RefusedError as error:
            raise ConfigError(f"{name}: {error}") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != wanted.sha256:
        raise RuntimeFailure(
            f"{wanted.file}: what was made has sha256 {digest}, but {card_path} says {wanted.sha256}: "
            f"another version of the onnx package may write other bytes"
        )
    return content


def _write(path: Path, content: bytes) -> Path:
    """Writes beside the target and renames, so that a file of that name is always whole."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise StartupError(f"{path}: cannot be written: {error.strerror}") from error
    return path
