"""What a run that was killed as a whole has left behind: found by the next one, and made into files of its own."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from pipeline.sinks.parts import Found, Part
from pipeline.sinks.settling import settle

log = logging.getLogger(__name__)


def abandoned(directory: Path, source: str) -> set[Path]:
    """The files in a recorder's directory of which there are still parts, whoever wrote them."""
    pattern = re.compile(rf"({re.escape(source)}-\d{{8}}T\d{{6}}Z(-\d+)?)\.part-\d+\.mp4")
    matches = (pattern.fullmatch(path.name) for path in directory.iterdir())
    return {directory / f"{match[1]}.mp4" for match in matches if match}


def recovered_name(target: Path, first: Part) -> Path:
    """Beside ``target``, with the time of the first frame."""
    return target.with_stem(f"{target.stem}.recovered-{utc_name(first.contents.first.wall_ns)}")


def utc_name(wall_ns: int) -> str:
    """A time as it can stand in a file's name: ``20261122T211058Z``."""
    return datetime.fromtimestamp(wall_ns / 1e9, UTC).strftime("%Y%m%dT%H%M%SZ")


def recover(left_behind: Sequence[tuple[Path, Sequence[Found]]]) -> None:
    """Finishes the parts of other runs; what cannot be finished now is left for the next start."""
    for target, found in left_behind:
        try:
            made = settle(found, target)
        except OSError as error:
            log.warning("%s: an earlier recording cannot be finished now: %s", target, error.strerror)
            continue
        for path in made:
            log.warning("recovered a recording that an earlier run did not finish: %s", path)
