from __future__ import annotations

import json
import resource
import shutil
from pathlib import Path

import pytest

from pipeline.errors import ConfigError, Disconnected
from pipeline.sinks.kinds import jsonl
from tests.unit.sinks.events import LOG_ID, OTHER_LOG_ID, numbered
from tests.unit.sinks.recordings import context


def sink(tmp_path: Path) -> jsonl.JsonLines:
    return jsonl.create(jsonl.Config(path=tmp_path / "events.jsonl"), context(tmp_path))


def lines(tmp_path: Path) -> list[tuple[str, int]]:
    text = (tmp_path / "events.jsonl").read_text()
    assert text == "" or text.endswith("\n")
    return [(event["log_id"], event["seq"]) for event in map(json.loads, text.splitlines())]


def test_one_event_a_line_there_as_soon_as_it_is_written(tmp_path: Path) -> None:
    out = sink(tmp_path)
    assert out.open(LOG_ID) == 0
    for seq in (1, 2):
        out.write(numbered(seq))
        assert lines(tmp_path)[-1] == (LOG_ID, seq)
    assert json.loads((tmp_path / "events.jsonl").read_text().splitlines()[0]) == numbered(1)
    out.close()


def test_it_goes_on_behind_the_newest_event_of_its_log(tmp_path: Path) -> None:
    for log_id, seqs in ((LOG_ID, (1, 2)), (OTHER_LOG_ID, (1,)), (LOG_ID, (3,))):
        out = sink(tmp_path)
        newest = out.open(log_id)
        assert newest == seqs[0] - 1
        for seq in seqs:
            out.write(numbered(seq, log_id))
        out.close()
    assert lines(tmp_path) == [(LOG_ID, 1), (LOG_ID, 2), (OTHER_LOG_ID, 1), (LOG_ID, 3)]


def test_the_newest_event_is_found_far_back_and_across_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = sink(tmp_path)
    out.open(LOG_ID)
    for seq in range(1, 8):
        out.write(numbered(seq))
    for seq in range(1, 30):
        out.write(numbered(seq, OTHER_LOG_ID))
    for block in range(500, 900, 7):
        monkeypatch.setattr(jsonl, "_BLOCK", block)
        assert out.open(LOG_ID) == 7
    out.close()


def test_a_file_that_was_moved_or_removed_is_begun_anew(tmp_path: Path) -> None:
    out = sink(tmp_path)
    out.open(LOG_ID)
    out.write(numbered(1))
    (tmp_path / "events.jsonl").rename(tmp_path / "events.jsonl.1")
    out.write(numbered(2))
    assert lines(tmp_path) == [(LOG_ID, 2)]
    (tmp_path / "events.jsonl").unlink()
    out.write(numbered(3))
    assert lines(tmp_path) == [(LOG_ID, 3)]
    out.close()


def test_a_directory_that_was_removed_is_waited_for(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    out = sink(place)
    out.open(LOG_ID)
    out.write(numbered(1))
    shutil.rmtree(place)
    for _ in range(2):
        with pytest.raises(Disconnected, match=r"cannot write events to .*: No such file or directory"):
            out.write(numbered(2))
    place.mkdir()
    out.write(numbered(2))
    assert lines(place) == [(LOG_ID, 2)]
    out.close()


def test_half_a_line_of_a_killed_process_is_removed(tmp_path: Path) -> None:
    out = sink(tmp_path)
    out.open(LOG_ID)
    out.write(numbered(1))
    whole = (tmp_path / "events.jsonl").read_bytes()
    for size in range(len(whole)):
        (tmp_path / "events.jsonl").write_bytes(whole + whole[:size])
        assert out.open(LOG_ID) == 1
        assert set(lines(tmp_path)) == {(LOG_ID, 1)}
    out.close()


def test_a_whole_line_that_lacks_only_its_end_is_kept(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text(json.dumps(numbered(1), separators=(",", ":")))
    out = sink(tmp_path)
    assert out.open(LOG_ID) == 1
    out.close()
    assert lines(tmp_path) == [(LOG_ID, 1)]


@pytest.mark.parametrize("content", [b"\0\0\0 ftypisom", b"some notes\n", b"{" + b"x" * (2 << 20)])
def test_a_file_of_something_else_is_not_touched(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "events.jsonl").write_bytes(content)
    out = sink(tmp_path)
    with pytest.raises(ConfigError, match="something else"):
        out.open(LOG_ID)
    out.close()
    assert (tmp_path / "events.jsonl").read_bytes() == content


def test_a_second_writer_and_a_place_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    first, second = sink(tmp_path), sink(tmp_path)
    first.open(LOG_ID)
    with pytest.raises(ConfigError, match="another run"):
        second.open(LOG_ID)
    second.close()
    first.close()
    with pytest.raises(ConfigError, match="No such file"):
        jsonl.create(jsonl.Config(path=tmp_path / "missing" / "events.jsonl"), context(tmp_path)).open(LOG_ID)


def test_on_a_full_disk_the_file_ends_in_a_whole_line(tmp_path: Path) -> None:
    out = sink(tmp_path)
    out.open(LOG_ID)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(Disconnected, match="cannot write events"):  # noqa: PT012
            for seq in range(1, 100):
                out.write(numbered(seq))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        out.close()
    assert lines(tmp_path) == [(LOG_ID, seq) for seq in range(1, 1 + len(lines(tmp_path)))]
    assert lines(tmp_path)
