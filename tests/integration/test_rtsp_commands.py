"""Cameras on the command line: one source without a site, and ``doctor``; passwords stay hidden."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.capture.trial import STEPS
from tests.cameras import await_frames, await_state
from tests.rtsp_server import RtspServer, film
from tests.runs import Program, processes_with

PASSWORD = "s3cr@t:word"


@pytest.fixture(scope="module")
def camera_film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return film(tmp_path_factory.mktemp("film") / "one.mp4", 1)


@pytest.fixture
def server(camera_film: Path) -> Iterator[RtspServer]:
    with RtspServer({"one": [camera_film]}, login=("digest", "me", PASSWORD)) as server:
        yield server


def hidden(text: str) -> bool:
    return "s3cr" not in text and "t:word" not in text and "t%3Aword" not in text


def test_a_password_in_the_source_is_shown_to_nobody(bare_program: Program, server: RtspServer) -> None:
    url = server.url("one", "me:s3cr%40t%3Aword")
    run = bare_program.start("-v", "run", "--json", "--source", url, "--model", "facemask", "--events", "e.jsonl")
    with run.head("one") as head:
        await_state(head, "live")
        await_frames(head, 10)
        arguments = {
            pid: Path(f"/proc/{pid}/cmdline").read_bytes().decode() for pid in processes_with(bare_program.run_base)
        }
        server.kill()
        await_state(head, "backing_off")
        directory = run.directory()
        assert directory is not None
        described = [path.read_text() for path in directory.glob("*.json")]
        run.signal(signal.SIGINT)
        outcome = run.finish()
    assert outcome.code == 0, outcome.stderr
    assert run.pid in arguments
    assert "rtsp://" in arguments[run.pid]
    told = [outcome.stderr, outcome.stdout, repr(arguments), *described, (bare_program.cwd / "e.jsonl").read_text()]
    assert all(hidden(text) for text in told)


def test_a_login_file_serves_a_source_without_a_site(bare_program: Program, server: RtspServer) -> None:
    login_file = bare_program.cwd / "login"
    login_file.write_text(f"me:{PASSWORD}\n")
    arguments = ("--source", server.url("one"), "--login-file", login_file, "--model", "facemask")
    run = bare_program.start("run", "--json", *arguments)
    with run.head("one") as head:
        await_state(head, "live")
        run.signal(signal.SIGINT)
        assert run.finish().code == 0


def test_a_camera_that_is_not_there_is_looked_for(bare_program: Program) -> None:
    run = bare_program.start("run", "--json", "--source", "99", "--model", "facemask")
    with run.head("99") as head:
        assert await_state(head, "backing_off").reason == "no device"
        run.signal(signal.SIGINT)
        outcome = run.finish()
    assert outcome.code == 0, outcome.stderr
    assert "/dev/video99: No such file or directory" in outcome.stderr


def test_doctor_goes_step_by_step(bare_program: Program, server: RtspServer) -> None:
    outcome = bare_program.run("doctor", server.url("one"), "--login-env", "GATE", GATE=f"me:{PASSWORD}")
    assert outcome.code == 0, outcome.stdout
    lines = [line.split(maxsplit=1) for line in outcome.stdout.splitlines()]
    assert {line[0] for line in lines} == {"ok"}
    assert [step for step in STEPS if any(line[1].startswith(step) for line in lines)] == list(STEPS)
    assert "320x212" in outcome.stdout
    assert "smallest face" in outcome.stdout
    assert hidden(outcome.stdout + outcome.stderr)


@pytest.mark.parametrize(
    ("login", "path", "step", "text"),
    [
        ("me:s3cr", "one", "authenticate", "401 Unauthorized"),
        ("me:s3cr%40t%3Aword", "two", "describe", "no such path"),
    ],
)
def test_doctor_says_where_it_ends(
    bare_program: Program, server: RtspServer, login: str, path: str, step: str, text: str
) -> None:
    outcome = bare_program.run("doctor", "--json", server.url(path, login))
    assert outcome.code == 1
    steps = json.loads(outcome.stdout)
    assert [found["done"] for found in steps] == [True] * (len(steps) - 1) + [False]
    assert steps[-1]["name"] == step
    assert text in steps[-1]["text"]
    assert hidden(outcome.stdout + outcome.stderr)


def test_doctor_knows_a_port_where_nobody_listens(bare_program: Program, server: RtspServer) -> None:
    server.kill()
    outcome = bare_program.run("doctor", server.url("one"))
    assert outcome.code == 1
    assert outcome.stdout.splitlines()[-1].startswith("failed   connect")


def test_doctor_refuses_what_is_no_camera(bare_program: Program) -> None:
    outcome = bare_program.run("doctor", "people.mp4")
    assert outcome.code == 2
    assert outcome.errors == ["error: people.mp4 is no camera: give its number, its device or its address"]
