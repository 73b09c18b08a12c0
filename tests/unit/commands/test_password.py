"""``password``: a hash that the live page takes, and nothing else on standard output."""

from __future__ import annotations

import io

import pytest

from pipeline.cli import main
from pipeline.sinks.kinds import web
from pipeline.sinks.web.passwords import matches


def test_what_it_prints_is_what_a_site_takes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("correct horse\n"))
    assert main(["password"]) == 0
    [hash_] = capsys.readouterr().out.splitlines()
    assert matches("correct horse", hash_)
    assert web.Config(users={"anna": hash_}).users == {"anna": hash_}


def test_a_short_one_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("short\n"))
    assert main(["password"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "error: a password needs at least 8 characters, this has 5\n"
