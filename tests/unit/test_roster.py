"""What becomes of a run's stages when its site changes, without a stage being started."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pipeline import config, plan
from pipeline.errors import ConfigError, StartupError
from pipeline.process import StageProcess
from pipeline.roster import Roster
from pipeline.specs import Site
from pipeline.transport.head import LOSSLESS
from tests.unit.test_reload_plan import GATE, HALL, ROOF, YARD, hall


@pytest.fixture
def roster(tmp_path: Path) -> Iterator[Roster]:
    """That of HALL."""
    with closing(Roster(config.check(HALL, "hall.yaml"), tmp_path, "run")) as roster:
        yield roster


def site(**sources: Any) -> Site:
    return config.check(hall(**sources), "hall.yaml")


def hall_with(**sources: Any) -> Site:
    return site(**HALL["sources"], **sources)


def process_of(roster: Roster, name: str) -> StageProcess:
    return next(process for process in roster.processes if process.spec.name == name)


def end(roster: Roster, source: str, seq: int, reason: str) -> None:
    """The source has ended at frame ``seq``, and all that is its own has drained."""
    roster.gauges.heads[source].next_seq = seq
    roster.gauges.heads[source].end(reason)
    roster.gauges.results[source].finish([])
    for job in (plan.CAPTURE, plan.ANNOTATOR):
        process_of(roster, f"{job}/{source}").end_well()


def test_what_is_refused_leaves_nothing_behind(roster: Roster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sorted(tmp_path.iterdir())
    prepare = plan.prepare_source

    def prepare_one(site: Site, source: str, run_dir: Path) -> None:
        if source == "tower":
            raise StartupError("shared memory is too small")
        prepare(site, source, run_dir)

    monkeypatch.setattr(plan, "prepare_source", prepare_one)
    with pytest.raises(StartupError):
        roster.take_up(hall_with(roof=ROOF, tower=ROOF))
    assert sorted(tmp_path.iterdir()) == before
    assert list(roster.gauges.heads) == list(roster.site.sources) == ["gate", "yard"]
    monkeypatch.undo()
    roster.take_up(hall_with(roof=ROOF, tower=ROOF))
    assert list(roster.gauges.heads) == list(roster.site.sources) == ["gate", "yard", "roof", "tower"]


def test_who_comes_to_a_site_that_is_at_work_is_late(roster: Roster) -> None:
    roster.take_up(hall_with(roof=ROOF))
    assert {process.spec.name for process in roster.processes if process.late} == {"capture/roof", "annotator/roof"}


def test_who_is_gone_leaves_with_its_own_configuration_when_all_is_done(roster: Roster, tmp_path: Path) -> None:
    former = roster.site
    roster.take_up(site(gate=GATE))
    leaving = [process for process in roster.processes if roster.is_leaving(process)]
    assert sorted(process.spec.name for process in leaving) == ["annotator/yard", "capture/yard"]
    assert {str(roster._task(process).values) for process in leaving} == {str(former.values)}
    # inference too, should it begin again: frames of the yard want their results
    assert roster._task(process_of(roster, "inference/all")).values == former.values
    assert roster._task(process_of(roster, "capture/gate")).values == roster.site.values

    pixels = tmp_path / "yard.g0"
    pixels.touch()
    roster.forget_those_that_left()
    assert set(leaving) < set(roster.processes)
    end(roster, "yard", 50, "stopped")
    process_of(roster, "events").tell(plan.StageSpec("events", ("gate",)))
    roster.forget_those_that_left()
    assert set(leaving).isdisjoint(roster.processes)
    assert roster._task(process_of(roster, "inference/all")).values == roster.site.values
    assert not pixels.exists()


def test_who_comes_back_waits_until_inference_knows(roster: Roster) -> None:
    roster.take_up(site(gate=GATE))
    end(roster, "yard", 50, "stopped")
    roster.forget_those_that_left()
    roster.take_up(site(gate=GATE, yard=YARD))
    annotator = process_of(roster, "annotator/yard")
    assert roster.must_wait(annotator)
    roster.gauges.results["yard"].reopen(lambda state: state)
    assert not roster.must_wait(annotator)


def test_a_source_that_is_corrected_after_its_end_goes_on_in_numbers_alone(roster: Roster) -> None:
    head = roster.gauges.heads["yard"]
    head.detach(plan.INFERENCE)
    end(roster, "yard", 50, "failed: no such file")
    roster.take_up(site(gate=GATE, yard=ROOF))
    assert (head.end_seq, head.first_seq_here, head.part(plan.INFERENCE)) == (None, 50, LOSSLESS)
    assert process_of(roster, "capture/yard").state == process_of(roster, "annotator/yard").state == "waiting"


def test_a_file_may_change_when_it_has_ended(roster: Roster) -> None:
    roster.gauges.heads["yard"].waits = True
    with pytest.raises(ConfigError, match="is a file that is being read"):
        roster.take_up(site(gate=GATE, yard=ROOF))
    end(roster, "yard", 50, "end_of_stream")
    assert roster.take_up(site(gate=GATE, yard=ROOF)).back == ["yard"]


def test_who_is_started_again_for_ever_is_known_anew(tmp_path: Path) -> None:
    """A file waits for its annotator, a camera does not; who stays takes that up without being ended."""
    clip = tmp_path / "a.mp4"
    clip.touch()
    kinds = {"camera": {"kind": "rtsp", "url": "rtsp://camera/one"}, "file": {"kind": "file", "path": str(clip)}}
    staying = ("annotator/yard", "inference/all", "events")
    with closing(Roster(site(yard=kinds["camera"]), tmp_path, "run")) as roster:
        for kind, lasting in (("file", False), ("camera", True)):
            changed = roster.take_up(site(yard=kinds[kind]))
            assert ([spec.name for spec in changed.again], changed.told) == (["capture/yard"], [])
            assert {process_of(roster, name).spec.lasting for name in staying} == {lasting}


def test_what_the_system_refuses_of_a_change_leaves_all_as_before(roster: Roster, tmp_path: Path) -> None:
    for source in ("gate", "yard"):
        end(roster, source, 50, "failed: no such file")
    plan.end_path(tmp_path, "gate").touch()
    plan.end_path(tmp_path, "yard").mkdir()  # which no unlink takes away
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OSError, match=r"yard\.end"):
        roster.take_up(site(gate=ROOF, yard=ROOF, roof=ROOF))
    assert sorted(tmp_path.rglob("*")) == before
    assert list(roster.gauges.heads) == ["gate", "yard"]
    assert [head.end_seq for head in roster.gauges.heads.values()] == [50, 50]
    plan.end_path(tmp_path, "yard").rmdir()
    assert roster.take_up(site(gate=ROOF, yard=ROOF, roof=ROOF)).back == ["gate", "yard"]
    assert not plan.end_path(tmp_path, "gate").exists()
    assert [head.end_seq for head in roster.gauges.heads.values()] == [None] * 3


def test_an_inference_that_ended_while_a_source_came_looks_again(roster: Roster) -> None:
    inference = process_of(roster, "inference/all")
    for source in ("gate", "yard"):
        roster.gauges.heads[source].end("stopped")
    inference.end_well()
    roster.look_again(inference)
    assert inference.ended
    roster.take_up(hall_with(roof=ROOF))
    inference.end_well()
    roster.look_again(inference)
    assert not inference.ended
