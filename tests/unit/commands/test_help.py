"""The examples of ``--help``: they are understood, and the files that come with the program are there."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from pipeline.cli import EPILOG, parser
from pipeline.resources import data_dir

EXAMPLES = [shlex.split(line.split("   ")[0]) for line in EPILOG.splitlines() if line.startswith("  run_pipeline.py ")]


@pytest.mark.parametrize("example", EXAMPLES, ids=" ".join)
def test_an_example_can_be_typed(example: list[str]) -> None:
    assert example[0] == "run_pipeline.py"
    parser().parse_args(example[1:])
    for word in example:
        if word.startswith("config/"):
            assert (data_dir("config") / Path(word).name).is_file()
