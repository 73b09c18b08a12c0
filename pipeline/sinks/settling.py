"""The parts of a recording become the files that the user asked for: each is finished where it stands and renamed.

So a process that is killed anywhere in between is simply followed by another that does the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from pipeline.sinks import fmp4
from pipeline.sinks.finishing import fsync
from pipeline.sinks.parts import Found, complete


@dataclass(frozen=True, slots=True)
class Made:
    """A file that a run has made. last_time_s: of its newest frame."""

    path: Path
    number: int
    last_time_s: float


def settle(found: Sequence[Found], target: Path, *, overwrite: bool = False) -> list[Path]:
    """Makes the parts of one run (in order) into ``target``, ``out.2.mp4`` and so on; returns the files made now.

    Raises ``OSError`` with the rest of the parts still there, and may be called again after that or after a kill.
    """
    made: list[Path] = []
    for each in found:
        path = _free_name(target, each.part.run_id, overwrite=overwrite)
        complete(each)
        each.part.path.replace(path)
        made.append(path)
    fsync(target.parent)
    return made


def finished(target: Path, run_id: str) -> list[Made]:
    """The files under the names of ``target`` that this run has made already."""
    found: list[Made] = []
    for path in _names(target):
        if not path.exists():
            break
        if (made := _made(path, run_id)) is not None:
            found.append(made)
    return found


def _names(target: Path) -> Iterator[Path]:
    """``out.mp4``, ``out.2.mp4``, ``out.3.mp4``, …"""
    yield target
    for number in count(2):
        yield target.with_name(f"{target.stem}.{number}{target.suffix}")


def _free_name(target: Path, run_id: str, *, overwrite: bool) -> Path:
    done = {made.path for made in finished(target, run_id)}
    return next(path for path in _names(target) if path not in done and (overwrite or not path.exists()))


def _made(path: Path, run_id: str) -> Made | None:
    try:
        said = fmp4.description(path)
        if said is None or said.get("run") != run_id:
            return None
        contents = fmp4.read(path)
        return Made(path, int(said["part"]), contents.last.time_s) if contents else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # somebody else's file
