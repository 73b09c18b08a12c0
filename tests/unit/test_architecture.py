"""The house rules that a machine can check: imports go down only, and nobody pays for what was not chosen."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from pipeline import plugins
from pipeline.errors import ConfigError
from tests.shared_data import ROOT

HEAVY = ("onnxruntime", "cv2", "av", "torch", "tensorflow", "keras", "mxnet", "openvino", "onnx", "scipy", "sqlite3")


def loaded_after(statement: str) -> list[str]:
    """Which heavy modules a fresh interpreter has loaded after ``statement``."""
    code = f"{statement}\nimport json, sys\nprint(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found: list[str] = json.loads(done.stdout)
    return found


def test_imports_go_down_only() -> None:
    """In a process of its own: the linter silences every logger that it finds."""
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "statement",
    [
        "import pipeline.cli",
        "from pipeline import plugins; [plugins.kinds(g) for g in ('source', 'backend', 'rule', 'sink')]",
        "import pipeline.supervisor, pipeline.child",
    ],
)
def test_listing_and_supervising_loads_nothing_heavy(statement: str) -> None:
    assert loaded_after(statement) == []


def test_every_kind_is_a_plug_in() -> None:
    groups: tuple[plugins.Group, ...] = ("source", "backend", "rule", "sink")
    for group in groups:
        assert plugins.kinds(group)
        for kind in plugins.kinds(group):
            assert plugins.load(group, kind).kind == kind


def test_a_kind_from_outside_is_loaded_by_its_dotted_name() -> None:
    with pytest.raises(ConfigError, match=r"'tests.nothing' is not a source that can be imported"):
        plugins.load("source", "tests.nothing")
    with pytest.raises(ConfigError, match="has no Config or no create"):
        plugins.load("source", "json.decoder")
