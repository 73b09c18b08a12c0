from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.transport.results import ResultLog
from tests.unit.stages.fakes import head_in


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Holds the ring and the result log of one source, ``gate``, whose events nobody takes."""
    head_in(tmp_path).close()
    results = ResultLog.create(tmp_path, "gate")
    results.detach_events()
    results.close()
    return tmp_path
