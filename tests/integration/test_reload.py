"""A configuration that changes while the site runs."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import av
import pytest
import yaml

from pipeline.transport.run_directory import description_in
from tests.numbered import read_numbered
from tests.runs import Program, Run, wait_until

SHORT = 60
"""Frames of ``short_video``."""


def pattern(size: str = "320x180", rate: int = 10) -> dict[str, Any]:
    return {"kind": "lavfi", "graph": f"testsrc2=size={size}:rate={rate}"}


class Hall:
    """A running site whose sources a test changes."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.path = program.cwd / "hall.yaml"
        self.sources = {"gate": pattern(), "yard": pattern()}
        self.rules: dict[str, Any] = {"no_mask": {"kind": "no_mask"}}
        self.write()
        self.run: Run = program.start("run", "hall.yaml", "--json")
        self.until_frames("gate", 5)
        self.until_frames("yard", 5)

    def write(self, text: str | None = None) -> None:
        site = {
            "name": "hall",
            "sources": self.sources,
            "detectors": {"mask": {"model": "facemask"}},
            "rules": self.rules,
            "sinks": {"video": {"kind": "recorder", "directory": "video"}},
            "pipelines": {
                "all": {
                    "sources": list(self.sources), "detector": "mask", "rules": ["no_mask"], "sinks": ["video"],
                    "detect": {"max_fps": 2},
                }
            },
        }  # fmt: skip
        new = self.path.with_suffix(".new")
        new.write_text(text or yaml.safe_dump(site))
        new.rename(self.path)

    def reload(self) -> None:
        os.kill(self.run.pid, signal.SIGHUP)

    def processes(self) -> dict[str, dict[str, Any]]:
        directory = self.run.directory()
        assert directory is not None
        return {process["name"]: process for process in description_in(directory)["processes"]}

    def until_frames(self, source: str, count: int) -> int:
        """Results of ``source``, and whatever is wrong with the run if they do not come."""
        with self.run.results(source) as results:
            wait_until(lambda: results.published >= count or self.run.over, f"{count} results of {source}")
            assert not self.run.over, self.run.finish()
            return results.published


@pytest.fixture
def hall(bare_program: Program) -> Hall:
    return Hall(bare_program)


def recordings(program: Program, source: str) -> list[Path]:
    return sorted((program.cwd / "video").glob(f"**/{source}*.mp4"))


def test_sources_come_change_go_and_come_back_and_the_others_take_no_notice(hall: Hall) -> None:
    before = hall.processes()

    hall.sources["roof"] = pattern("640x360")
    hall.write()
    hall.reload()
    hall.until_frames("roof", 5)

    hall.sources["yard"] = pattern("160x120")
    hall.write()
    with hall.run.head("yard") as head:
        assert head.layout(head.generation)[0].width == 320
        hall.reload()
        wait_until(lambda: head.layout(head.generation)[0].width == 160, "pictures of the other size")
        hall.until_frames("yard", head.next_seq + 5)

    del hall.sources["gate"]
    hall.write()
    hall.reload()
    wait_until(lambda: "capture/gate" not in hall.processes(), "that the gate is gone")
    wait_until(lambda: "annotator/gate" not in hall.processes(), "that its recording is done")
    directory = hall.run.directory()
    assert directory is not None
    wait_until(lambda: not list(directory.glob("gate.g*")), "that its pixels take no memory")
    assert len(recordings(hall.program, "gate")) >= 1
    assert not any(".part" in path.name for path in recordings(hall.program, "gate"))
    roof = hall.until_frames("roof", 6)

    hall.sources["gate"] = pattern()
    hall.write()
    with hall.run.results("gate") as results:
        ended_at = results.published
    hall.reload()
    hall.until_frames("gate", ended_at + 5)
    hall.until_frames("roof", roof + 5)

    after = hall.processes()
    assert after["inference/all"]["pid"] == before["inference/all"]["pid"]
    assert after["annotator/yard"]["pid"] == before["annotator/yard"]["pid"]
    assert after["capture/yard"]["pid"] != before["capture/yard"]["pid"]
    assert all(process["restarts"] == 0 for process in after.values())
    hall.run.signal(signal.SIGINT)
    outcome = hall.run.finish()
    assert outcome.code == 0, outcome.stderr
    assert {source: s["missing_count"] for source, s in outcome.report["sources"].items()} == dict.fromkeys(
        ("gate", "yard", "roof"), 0
    )
    hall.program.assert_nothing_left()


def test_a_source_that_is_removed_comes_to_its_end_although_inference_dies_over_it(hall: Hall) -> None:
    inference = hall.run.await_stage("inference")
    os.kill(inference, signal.SIGSTOP)
    del hall.sources["gate"]
    hall.write()
    hall.reload()
    wait_until(lambda: "capture/gate" not in hall.processes(), "that the gate is captured no more")
    assert "annotator/gate" in hall.processes()
    os.kill(inference, signal.SIGKILL)
    wait_until(lambda: "annotator/gate" not in hall.processes(), "that its recording is done")
    hall.run.signal(signal.SIGINT)
    outcome = hall.run.finish()
    assert outcome.code == 0, outcome.stderr
    hall.program.assert_nothing_left()


def test_what_cannot_be_taken_up_is_refused_as_a_whole(hall: Hall) -> None:
    before = hall.processes()
    hall.write("sources: [")
    hall.reload()
    hall.until_frames("gate", hall.until_frames("gate", 0) + 5)
    hall.sources["roof"] = pattern()
    hall.rules = {"no_mask": {"kind": "no_mask", "confirm_s": 2}}
    hall.write()
    hall.reload()
    hall.until_frames("gate", hall.until_frames("gate", 0) + 5)
    assert hall.processes() == before
    hall.run.signal(signal.SIGINT)
    outcome = hall.run.finish()
    assert outcome.code == 0, outcome.stderr
    told = [line for line in outcome.stderr.splitlines() if "not taken up" in line]
    assert "not taken up: hall.yaml:1:11: is not YAML" in told[0]
    assert told[1].endswith("hall.yaml: rules.no_mask: cannot change while the site runs, as sources can; nothing of "
                            "this file is taken up before a restart")  # fmt: skip
    assert len(told) == 2


def test_a_source_that_has_failed_can_be_corrected(hall: Hall) -> None:
    hall.sources["film"] = {"kind": "file", "path": "/no/such/film.mp4", "realtime": True}
    hall.write()
    hall.reload()
    wait_until(lambda: hall.processes().get("capture/film", {}).get("state") == "failed", "the failure")
    wait_until(lambda: hall.processes()["annotator/film"]["state"] == "done", "the end of its recording")
    inference = hall.processes()["inference/all"]["pid"]
    hall.sources["film"] = pattern()
    hall.write()
    hall.reload()
    hall.until_frames("film", 5)
    assert hall.processes()["inference/all"]["pid"] == inference
    hall.run.signal(signal.SIGINT)
    outcome = hall.run.finish()
    assert outcome.report["sources"]["film"]["missing_count"] == 0
    assert recordings(hall.program, "film")


def test_a_file_that_has_ended_can_be_followed_by_another(hall: Hall, short_video: Path, tmp_path: Path) -> None:
    """Under the same name, with numbers that go on and a recording of its own; none is passed over."""
    hall.sources["film"] = {"kind": "file", "path": str(short_video)}
    hall.write()
    hall.reload()
    wait_until(lambda: hall.processes().get("annotator/film", {}).get("state") == "done", "the end of the film")
    other = tmp_path / "other.mp4"
    shutil.copy(short_video, other)
    hall.sources["film"] = {"kind": "file", "path": str(other)}
    hall.write()
    hall.reload()
    hall.until_frames("film", 2 * SHORT)
    wait_until(lambda: hall.processes()["annotator/film"]["state"] == "done", "the end of the other film")
    hall.run.signal(signal.SIGINT)
    outcome = hall.run.finish()
    assert outcome.code == 0, outcome.stderr
    film = outcome.report["sources"]["film"]
    assert (film["frames"]["written"], film["missing_count"], film["ended"]) == (2 * SHORT, 0, "end_of_stream")
    numbers = [[frame.number for frame in read_numbered(path)] for path in recordings(hall.program, "film")]
    assert numbers == [list(range(SHORT))] * 2


def test_an_unknown_source_file_is_no_end_for_the_others(hall: Hall) -> None:
    """A stage that cannot begin stops a site that begins with it, and no site that is at work."""
    hall.sources["film"] = {"kind": "file", "path": "/no/such/film.mp4", "realtime": True}
    hall.write()
    hall.reload()
    wait_until(lambda: hall.processes().get("capture/film", {}).get("state") == "failed", "the failure")
    gate = hall.until_frames("gate", 0)
    hall.until_frames("gate", gate + 5)
    hall.run.signal(signal.SIGINT)
    outcome = hall.run.finish()
    assert (outcome.code, outcome.report["exit"]["reason"] is not None) == (1, True), "2 would be for ever in a service"


IN_TERMINAL = """
import os
pid = os.fork()
if pid:
    raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
os.setsid()
os.open({!r}, os.O_RDWR)
from pipeline import cli
raise SystemExit(cli.main())
"""
"""The program in a session of its own, in the terminal whose name is filled in."""


def test_a_terminal_that_is_closed_ends_a_site_well(bare_program: Program) -> None:
    """Its recording is whole; a site without a terminal, as a service, would read its configuration again."""
    (bare_program.cwd / "hall.yaml").write_text(
        """
name: hall
sources: {gate: {kind: lavfi, graph: "testsrc2=size=320x180:rate=10"}}
detectors: {mask: {model: facemask}}
sinks: {video: {kind: recorder, path: gate.mp4}}
pipelines: {all: {sources: [gate], detector: mask, sinks: [video]}}
"""
    )
    ours, theirs = os.openpty()
    run = bare_program.start("run", "hall.yaml", command=(sys.executable, "-c", IN_TERMINAL.format(os.ttyname(theirs))))
    with run.results("gate") as results:
        wait_until(lambda: results.published >= 10, "ten results")
        directory = run.directory()
        assert directory is not None
        os.kill(description_in(directory)["pid"], signal.SIGHUP)
        wait_until(lambda: results.published >= 15, "that it goes on")
    os.close(theirs)
    os.close(ours)
    outcome = run.finish()
    assert outcome.code == 0, outcome.stderr
    assert "configuration taken up: nothing has changed" in outcome.stderr
    with av.open(str(bare_program.cwd / "gate.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) >= 15
    bare_program.assert_nothing_left()
