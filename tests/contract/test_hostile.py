"""Damaged and hostile weights end in one clear line, and nothing that stands in them is ever run."""

from __future__ import annotations

import hashlib
import io
import pickle
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipeline import resources
from pipeline.errors import StartupError
from pipeline.inference.backend import is_available
from pipeline.inference.detector import build_backend
from pipeline.inference.importing.install import import_model
from pipeline.inference.model_card import ModelCard, read_card
from tests.shared_data import ROOT, shared

FORMATS = [
    ("onnxruntime", "onnx"),
    ("opencv_dnn", "caffemodel"),
    ("opencv_dnn", "prototxt"),
    ("opencv_dnn_onnx", "onnx"),
    ("openvino", "onnx"),
    ("tflite", "tflite"),
    ("torch", "pth"),
    ("torch", "onnx"),
    ("mxnet", "params"),
    ("tensorflow", "pb"),
    ("keras", "json"),
    ("keras", "pth"),
]
OWN_FORMATS = [("keras", "keras"), ("mxnet", "symbol")]
"""Those that AIZOO's networks do not come in."""
SAMPLED = [("onnxruntime", "onnx"), ("opencv_dnn", "caffemodel"), ("tflite", "tflite"), ("torch", "pth")]
SAMPLE, ALL = 12, 2000
MODEL, OWN_MODEL = "aizoo-260", "facemask"


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("imported")
    path = resources.card_path(MODEL)
    import_model(read_card(path), path, shared("models/aizoo"), folder / MODEL)
    return folder


def outcomes(model: str, kind: str, role: str, count: int, imported: Path) -> Counter[str]:
    """How often what came of a damaged file; a file that takes the process down ends nothing but that process."""
    if not is_available(kind):
        pytest.skip(f"needs {kind}: pip install 'facemask-pipeline[{kind}]'")
    found: Counter[str] = Counter()
    first = 0
    while first < count:
        command = [
            sys.executable,
            "-m",
            "tests.contract.hostile",
            model,
            kind,
            role,
            f"{first}",
            f"{count}",
            str(imported),
        ]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace")
        lines = done.stdout.splitlines()
        found.update(line for line in lines if not line.isdigit())
        if done.returncode == 0:
            break
        assert done.returncode < 0, done.stderr[-2000:]  # a signal is the native parser; an exception is our fault
        found["crashed"] += 1
        first = int(next(line for line in reversed(lines) if line.isdigit())) + 1
    return found


def of_each_model(formats: list[tuple[str, str]]) -> list[tuple[str, str, str]]:
    return [(MODEL, *entry) for entry in formats] + [(OWN_MODEL, *entry) for entry in OWN_FORMATS]


@pytest.mark.parametrize(("model", "kind", "role"), of_each_model(SAMPLED))
def test_damaged_weights_are_refused(model: str, kind: str, role: str, imported: Path) -> None:
    found = outcomes(model, kind, role, SAMPLE, imported)
    assert found.keys() <= {"refused", "runs"}
    assert found["refused"] >= SAMPLE / 2  # flipped bits within the numbers are numbers


@pytest.mark.faults
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("model", "kind", "role"), of_each_model(FORMATS))
def test_a_thousand_random_and_a_thousand_damaged_files(model: str, kind: str, role: str, imported: Path) -> None:
    found = outcomes(model, kind, role, ALL, imported)
    assert sum(found.values()) == ALL
    assert found.keys() <= {"refused", "runs", "crashed"}
    assert found["refused"] >= ALL / 2


class _Hostile:
    def __init__(self, command: str) -> None:
        self._command = command

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, (self._command,)


def _zipped(payload: bytes) -> bytes:
    """As ``torch.save`` writes it."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("archive/data.pkl", payload)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    return content.getvalue()


@pytest.mark.parametrize("kind", ["torch", "keras"])
@pytest.mark.parametrize("zipped", [False, True])
def test_a_pickle_that_calls_a_program_calls_nothing(kind: str, zipped: bool, imported: Path, tmp_path: Path) -> None:
    if not is_available(kind):
        pytest.skip(f"needs {kind}: pip install 'facemask-pipeline[{kind}]'")
    mark = tmp_path / "it-ran"
    payload = pickle.dumps(_Hostile(f"touch {mark}"), protocol=2)
    content = _zipped(payload) if zipped else payload
    card, path = _with_file(tmp_path, imported, kind, "pth", content)
    with pytest.raises(StartupError, match=f"model file unreadable by {kind}: ") as caught:
        build_backend(card, path, kind, None, tmp_path / "models")
    assert "\n" not in str(caught.value)
    assert not mark.exists()


def test_a_graph_that_writes_files_is_refused(imported: Path, tmp_path: Path) -> None:
    if not is_available("tensorflow"):
        pytest.skip("needs tensorflow: pip install 'facemask-pipeline[tensorflow]'")
    from pipeline.inference.backends._tf_session import import_tensorflow

    mark = tmp_path / "it-ran"
    tf = import_tensorflow()
    with tf.Graph().as_default() as graph:
        image = tf.compat.v1.placeholder(tf.float32, (None, 260, 260, 3), "data_1")
        with tf.control_dependencies([tf.raw_ops.WriteFile(filename=str(mark), contents="x")]):
            tf.identity(image, "loc_branch_concat_1/concat")
            tf.identity(image, "cls_branch_concat_1/concat")
        content = graph.as_graph_def().SerializeToString()
    card, path = _with_file(tmp_path, imported, "tensorflow", "pb", content)
    with pytest.raises(StartupError, match="operators that are not known here: WriteFile"):
        build_backend(card, path, "tensorflow", None, tmp_path / "models")
    assert not mark.exists()


def _with_file(tmp_path: Path, imported: Path, kind: str, role: str, content: bytes) -> tuple[ModelCard, Path]:
    """The card with ``content`` in that role, under its own sha256, and the other files beside it."""
    path = resources.card_path(MODEL)
    card = read_card(path)
    folder = tmp_path / "models" / MODEL
    folder.mkdir(parents=True)
    runtime = card.runtimes[kind]
    for other in runtime.files.values():
        (folder / other.file).write_bytes((imported / MODEL / other.file).read_bytes())
    wrong = runtime.files[role].model_copy(update={"sha256": hashlib.sha256(content).hexdigest()})
    (folder / wrong.file).write_bytes(content)
    changed = runtime.model_copy(update={"files": {**runtime.files, role: wrong}})
    return card.model_copy(update={"runtimes": {**card.runtimes, kind: changed}}), path
