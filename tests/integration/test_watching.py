"""Sinks that watch, in front of a real run: pictures for programs, and windows on a desktop."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import zmq
from numpy.typing import NDArray
from pydantic import ValidationError

from pipeline.sinks.kinds import frames
from tests.conftest import MODEL
from tests.numbered import HEIGHT, WIDTH, number_in
from tests.runs import Program, Run, free_port, wait_until

SITE = """
name: watched
version: 1
sources: {{gate: {{kind: lavfi, graph: "movie={video}:loop=0,setpts=N/(25*TB),realtime"}}}}
detectors: {{mask: {{model: {model}}}}}
sinks: {{watch: {sink}}}
pipelines: {{entrance: {{sources: [gate], detector: mask, sinks: [watch]}}}}
"""


def started(program: Program, video: Path, sink: str, **environment: str) -> Run:
    (program.cwd / "site.yaml").write_text(SITE.format(video=video, model=MODEL, sink=sink))
    return program.start("run", program.cwd / "site.yaml", **environment)


def ended_well(run: Run) -> None:
    run.signal(signal.SIGINT)
    outcome = run.finish()
    assert outcome.code == 0, outcome.stderr


@pytest.fixture
def subscriber() -> Iterator[zmq.Socket[bytes]]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.SUB)
    socket.set_hwm(2)
    socket.rcvtimeo = 60_000
    yield socket
    socket.close(0)
    context.term()


def luma(form: str, head: dict[str, Any], data: bytes) -> NDArray[np.uint8]:
    raw = np.frombuffer(data, np.uint8)
    if form == "i420":
        return raw[: head["width"] * head["height"]].reshape(head["height"], head["width"])
    bgr = cv2.imdecode(raw, cv2.IMREAD_COLOR) if form == "jpeg" else raw.reshape(head["height"], head["width"], 3)
    assert bgr is not None
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY), np.uint8)


@pytest.mark.parametrize("form", ["jpeg", "bgr24", "i420"])
def test_programs_get_the_newest_pictures(
    program: Program, plain_video: Path, subscriber: zmq.Socket[bytes], form: str
) -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    run = started(program, plain_video, f'{{kind: frames, bind: "{address}", format: {form}}}')
    subscriber.connect(address)
    subscriber.subscribe("frames.gate.")
    seen = []
    for _ in range(20):
        topic, raw, data = subscriber.recv_multipart()
        head = json.loads(raw)
        assert topic == b"frames.gate."
        assert (head["source"], head["width"], head["height"], head["format"]) == ("gate", WIDTH, HEIGHT, form)
        assert head["seq"] % 100 == number_in(luma(form, head, data))
        assert head["tracks"] == []
        seen.append(head["seq"])
    assert seen == sorted(set(seen))
    ended_well(run)
    program.assert_nothing_left()


def test_other_machines_need_keys() -> None:
    with pytest.raises(ValidationError, match="which needs keys"):
        frames.Config(bind="tcp://0.0.0.0:5560")
    with pytest.raises(ValidationError, match="is not an address like"):
        frames.Config(bind="tcp://somewhere:5560")


def test_a_desktop_shows_a_window(program: Program, plain_video: Path, tmp_path: Path) -> None:
    if shutil.which("Xvfb") is None:
        pytest.skip("there is no Xvfb: apt-get install xvfb")
    read, write = os.pipe()
    command = [
        "Xvfb",
        "-displayfd",
        str(write),
        "-screen",
        "0",
        "640x480x24",
        "-fbdir",
        str(tmp_path),
        "-nolisten",
        "tcp",
    ]
    server = subprocess.Popen(command, pass_fds=[write], stderr=subprocess.DEVNULL)
    try:
        display = f":{os.read(read, 16).decode().strip()}"
        run = started(program, plain_video, "{kind: window}", DISPLAY=display)
        seen: set[bytes] = set()

        def moves() -> bool:
            assert not run.over, run.finish()
            seen.add(_screen(tmp_path / "Xvfb_screen0"))
            return len(seen) > 5

        wait_until(moves, "a picture on the screen that moves")
        ended_well(run)
    finally:
        server.kill()
        server.wait()
        os.close(read)
        os.close(write)


def _screen(path: Path) -> bytes:
    """The pixels of the screen, in the X window dump that Xvfb keeps."""
    raw = path.read_bytes()
    header, _, _, _, _ = struct.unpack(">5I", raw[:20])
    return raw[header:]


def test_without_a_desktop_it_is_one_line(program: Program, plain_video: Path) -> None:
    outcome = started(program, plain_video, "{kind: window}", DISPLAY="", WAYLAND_DISPLAY="").finish()
    assert outcome.code == 3
    assert any("there is no desktop here" in line for line in outcome.errors)


def test_what_was_only_watched_is_not_reported_as_recorded(program: Program, plain_video: Path) -> None:
    options = ("--source", plain_video, "--web", f"127.0.0.1:{free_port()}", "--json")
    outcome = program.run("run", *options)
    assert outcome.code == 0, outcome.stderr
    frames_ = outcome.report["frames"]
    assert (frames_["decoded"], frames_["written"]) == (100, 0)
    assert outcome.report["sources"]["plain"]["missing"] == []
