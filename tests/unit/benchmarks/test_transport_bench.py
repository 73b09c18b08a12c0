from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.benchmarks import transport
from pipeline.types import Layout


def test_moving_a_frame_costs_something_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setenv("FACEMASK_RUN_DIR", str(tmp_path))
    monkeypatch.setattr(transport, "FRAMES", 20)
    assert 0 < transport.transport_cpu_ms(Layout(64, 48)) < 50
    assert list(tmp_path.iterdir()) == []
