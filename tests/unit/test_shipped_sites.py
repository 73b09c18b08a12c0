"""The sites to start from are right as they stand."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import config
from tests.shared_data import ROOT


@pytest.mark.parametrize("path", sorted((ROOT / "config").glob("*.yaml")), ids=lambda path: path.name)
def test_a_shipped_site_is_accepted(path: Path) -> None:
    site = config.load(path)
    assert site.pipelines
