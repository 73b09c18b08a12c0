"""Directories of recordings and evidence that go away under a running site, and that two sites want."""

from __future__ import annotations

import shutil
import signal
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from pipeline.errors import RuntimeFailure
from pipeline.sinks.archive import Archive, Kept
from tests.runs import Program, wait_until

SITE = """
name: {name}
version: 1
sources:
  gate: {{kind: lavfi, graph: "movie={video}:loop=0,setpts=N/(25*TB),realtime"}}
detectors: {{mask: {{model: facemask}}}}
rules: {{no_mask: {{kind: no_mask, confirm_s: 0.2, cooldown_s: 1}}}}
sinks:
  recordings: {{kind: recorder, directory: recordings, segment_s: 2, keep_days: 1}}
  evidence: {{kind: clips, directory: evidence, pre_s: 1, post_s: 1, max_s: 3}}
pipelines: {{all: {{sources: [gate], detector: mask, rules: [no_mask], sinks: [recordings, evidence]}}}}
"""


def site(program: Program, video: Path, name: str) -> Path:
    path = program.cwd / f"{name}.yaml"
    path.write_text(SITE.format(name=name, video=video))
    return path


def kept(directory: Path, kind: str) -> list[Kept]:
    """What the index lists and is there."""
    with suppress(RuntimeFailure, sqlite3.OperationalError), closing(Archive(directory, read_only=True)) as archive:
        return [each for each in archive.files(kind=kind) if (directory / each.path).exists()]
    return []  # there is no index yet, or nothing in it


def test_what_is_removed_is_begun_anew_by_the_same_processes(program: Program, face_video: Path) -> None:
    recordings, evidence = program.cwd / "recordings", program.cwd / "evidence"
    run = program.start("run", "--json", site(program, face_video, "hall"))
    with run.head("gate"):
        wait_until(lambda: bool(kept(recordings, "segment")), "a segment")
        wait_until(lambda: any(evidence.glob("*/*.part.mp4")), "a clip that grows")
        shutil.rmtree(recordings)
        shutil.rmtree(evidence)
        wait_until(lambda: len(kept(recordings, "segment")) > 1, "segments again")
        run.signal(signal.SIGINT)
        outcome = run.finish()
    assert outcome.code == 0, outcome.stderr
    assert outcome.stderr.count("is begun anew") == 2
    assert outcome.stderr.count("the clip") == outcome.stderr.count("is lost") == 1
    assert "Traceback" not in outcome.stderr
    assert outcome.stderr.count("started again") == 0
    program.assert_nothing_left()


def test_two_sites_do_not_keep_files_in_one_directory(program: Program, face_video: Path) -> None:
    run = program.start("run", "--json", site(program, face_video, "hall"))
    with run.head("gate") as head:
        wait_until(lambda: head.next_seq > 75, "more than a segment")
        refused = program.run("run", site(program, face_video, "yard"))
        assert refused.code == 2
        assert refused.errors == [
            f"error: sinks.recordings.directory: site hall (process {run.pid}) keeps its files in "
            f"{program.cwd / 'recordings'}, and each would remove the other's; name another directory"
        ]
        run.signal(signal.SIGKILL)
        run.finish()
    again = program.start("run", "--json", site(program, face_video, "yard"))
    wait_until(lambda: len({each.run for each in kept(program.cwd / "recordings", "segment")}) > 1, "another run's")
    again.signal(signal.SIGINT)
    assert again.finish().code == 0
