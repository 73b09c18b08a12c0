"""Directories that two runs must not keep files in at the same time."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pipeline import config
from pipeline.directories import LOCK, HeldDirectories
from pipeline.errors import ConfigError
from pipeline.specs import Site


def site(place: Path, name: str, **sinks: dict[str, Any]) -> Site:
    values = {
        "name": name, "version": 1, "sources": {"gate": {"kind": "lavfi", "graph": "testsrc2"}},
        "detectors": {"mask": {"model": "facemask"}}, "sinks": sinks,
        "pipelines": {"all": {"sources": ["gate"], "detector": "mask", "sinks": list(sinks)}},
    }  # fmt: skip
    return config.check(values, str(place / f"{name}.yaml"))


def test_another_run_is_refused_until_the_first_lets_go(tmp_path: Path) -> None:
    recorder = {"kind": "recorder", "directory": str(tmp_path / "kept"), "segment_s": 60}
    evidence = {"kind": "clips", "directory": str(tmp_path / "there" / ".." / "kept")}
    (tmp_path / "there").mkdir()
    one, other = site(tmp_path, "hall", rec=recorder), site(tmp_path, "yard", clips=evidence)
    with closing(HeldDirectories()) as held, closing(HeldDirectories()) as late:
        held.take(one)
        held.take(one)
        with pytest.raises(ConfigError) as caught:
            late.take(other)
        assert str(caught.value) == (
            f"sinks.clips.directory: site hall (process {os.getpid()}) keeps its files in {tmp_path / 'kept'}, and "
            "each would remove the other's; name another directory"
        )
        held.close()
        late.take(other)
        with pytest.raises(ConfigError, match="site yard"):
            held.take(one)


def test_who_only_adds_files_is_not_held_up(tmp_path: Path) -> None:
    recorder = {"kind": "recorder", "directory": str(tmp_path / "kept")}
    with closing(HeldDirectories()) as held:
        held.take(site(tmp_path, "hall", rec=recorder))
    assert not (tmp_path / "kept").exists()


def test_what_cannot_be_used_is_left_to_the_sink_to_refuse(tmp_path: Path) -> None:
    (tmp_path / "kept").touch()
    with closing(HeldDirectories()) as held:
        held.take(site(tmp_path, "hall", rec={"kind": "clips", "directory": str(tmp_path / "kept")}))
    assert not (tmp_path / "kept" / LOCK).exists()
