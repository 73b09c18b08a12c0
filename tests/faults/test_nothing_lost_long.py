"""The same as the test of that name in ``integration``, for as long as it takes to be believed."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.integration.test_nothing_lost import Plan, play, small_disk
from tests.runs import Program

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]

LONG = Plan(events=10_000, per_second=500, lasts_s=60, subscriber_s=2, kills=10, broker_s=30, full_s=4)


def test_ten_thousand_events(program: Program, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 96) as disk:
        play(program, LONG, disk, rng=random.Random(2))
