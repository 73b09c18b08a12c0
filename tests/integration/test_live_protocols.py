"""Live video by RTMP and by MPEG-TS in datagrams: read from a real sender, lost with it, and there again with it."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.capture.convert import Converter
from pipeline.capture.source import SourceLost
from pipeline.capture.sources.rtsp import Config, RtspSource, create
from pipeline.errors import StartupError
from tests.cameras import await_frames, await_state, check_recorded, gaps, outages, recordings, site
from tests.datagrams import free_datagram_port, sending
from tests.numbered import number_in, write_numbered
from tests.rtsp_server import film
from tests.runs import Program, free_port, wait_until

COUNT, GOP = 75, 25
NUMBERS_MAX = 250
"""More pictures than any of these senders shows before the end that is waited for."""


def source_at(url: str, stall_s: float = 5.0) -> RtspSource:
    return create(Config.model_validate({"url": url, "stall_s": stall_s}), "gate")


def await_open(source: RtspSource) -> None:
    """Tries until somebody answers, as a capture does."""

    def answers() -> bool:
        try:
            source.open()
        except SourceLost:
            return False
        return True

    wait_until(answers, "somebody who answers")


def numbers_until_lost(source: RtspSource) -> tuple[list[int], SourceLost]:
    numbers: list[int] = []
    try:
        while len(numbers) < NUMBERS_MAX:
            numbers.append(number_in(source.read().image.y))
    except SourceLost as lost:
        return numbers, lost
    finally:
        source.close()
    raise AssertionError("it was not lost")


# -- RTMP


@contextlib.contextmanager
def rtmp_server(path: Path, url: str, *how: str) -> Iterator[subprocess.Popen[bytes]]:
    """FFmpeg's own RTMP server: shows a film, at its own speed, to the first who comes, and ends with it."""
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg is None:
        pytest.skip("needs an RTMP server (ffmpeg); install: apt-get install ffmpeg")
    quiet = ["-nostdin", "-loglevel", "quiet"]
    shown = [*how, "-re", "-i", str(path), "-c", "copy", "-f", "flv", "-listen", "1", url]
    with subprocess.Popen([ffmpeg, *quiet, *shown]) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def rtmp_url() -> str:
    return f"rtmp://127.0.0.1:{free_port()}/live/one"


def test_rtmp_is_read_whole_lost_with_its_server_and_read_again(tmp_path: Path, rtmp_url: str) -> None:
    source = source_at(rtmp_url)
    for first in (0, COUNT):
        with pytest.raises(SourceLost) as caught:
            source.open()
        assert caught.value.reason == "refused"
        path = write_numbered(tmp_path / f"{first}.mp4", COUNT, first=first, options={"tune": "zerolatency"})
        with rtmp_server(path, rtmp_url):
            await_open(source)
            numbers, lost = numbers_until_lost(source)
        assert numbers == list(range(first, first + COUNT))
        assert (lost.reason, str(lost)) == ("ended", f"{rtmp_url} has ended")


def test_an_rtmp_server_that_hangs_is_left_in_time(tmp_path: Path, rtmp_url: str) -> None:
    source = source_at(rtmp_url, stall_s=1)
    path = write_numbered(tmp_path / "film.mp4", COUNT, options={"tune": "zerolatency"})
    with rtmp_server(path, rtmp_url, "-stream_loop", "-1") as process:
        await_open(source)
        source.read()
        process.send_signal(signal.SIGSTOP)
        began_s = time.monotonic()
        numbers, lost = numbers_until_lost(source)
        assert lost.reason == "timeout"
        assert time.monotonic() - began_s < 10
        assert gaps([0, *numbers], COUNT) == 0


def test_a_site_with_an_rtmp_camera_goes_on_behind_its_death(bare_program: Program, rtmp_url: str) -> None:
    path = film(bare_program.cwd / "one.mp4", 1)
    run = bare_program.start("run", "--json", site(bare_program.cwd, {"gate": {"url": rtmp_url}}))
    with run.head("gate") as head:
        with rtmp_server(path, rtmp_url, "-stream_loop", "-1"):
            live = await_state(head, "live")
            await_frames(head, 30)
        lost = await_state(head, "backing_off", after=live.number)
        assert lost.reason == "ended"
        with rtmp_server(path, rtmp_url, "-stream_loop", "-1"):
            await_state(head, "live", after=lost.number)
            await_frames(head, 30)
            run.signal(signal.SIGINT)
            outcome = run.finish()
    assert outcome.code == 0, outcome.stderr
    assert outages(bare_program.cwd)[-2:] == [("source_lost", "ended"), ("source_live", None)]
    [recording] = recordings(bare_program.cwd)
    numbers = check_recorded(recording, 1)
    assert len(numbers) == outcome.report["frames"]["decoded"] >= 60
    assert gaps(numbers, 100) <= 1


def test_where_decoding_is_too_slow_pictures_are_left_out_until_it_is_not(
    tmp_path: Path, rtmp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each picture takes twice as long as there is time for; two of three are such that no other refers to them.

    How late the pictures get meanwhile is shown on a clock of its own (tests/unit/capture/test_overload.py).
    """
    b_frames = {"preset": "veryfast", "qp": "18", "x264-params": "bframes=2:b-adapt=0:b-pyramid=none:scenecut=0"}
    path = write_numbered(tmp_path / "film.mp4", COUNT, gop=GOP, options=b_frames)
    slow = threading.Event()
    convert = Converter.convert

    def slowly(*arguments: Any) -> Any:
        if slow.is_set():
            time.sleep(0.08)
        return convert(*arguments)

    monkeypatch.setattr(Converter, "convert", slowly)
    source = source_at(rtmp_url)

    def read() -> int:
        picture = source.read()
        assert not picture.corrupt
        return number_in(picture.image.y)

    def whole_again() -> bool:
        left_out = source.undecoded
        shown = [read() for _ in range(2 * GOP)]
        return source.undecoded == left_out and gaps(shown, COUNT) == 0

    with rtmp_server(path, rtmp_url, "-stream_loop", "-1"), contextlib.closing(source):
        await_open(source)
        slow.set()
        wait_until(lambda: read() >= 0 and source.undecoded > 50, "pictures that are left out")
        slow.clear()
        wait_until(whole_again, "two seconds of pictures without one left out")


# -- MPEG-TS in datagrams


@pytest.fixture(scope="module")
def looped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_numbered(
        tmp_path_factory.mktemp("film") / "film.mp4", COUNT, gop=GOP, options={"tune": "zerolatency", "qp": "18"}
    )


@pytest.mark.parametrize("scheme", ["udp", "rtp"])
def test_mpeg_ts_in_datagrams_is_read_lost_and_read_again(looped: Path, scheme: str) -> None:
    port = free_datagram_port()
    url = f"{scheme}://127.0.0.1:{port}"
    with pytest.raises(SourceLost) as caught:
        source_at(url, stall_s=1).open()
    assert caught.value.reason == "timeout", "nobody sends"
    source = source_at(url)
    for _ in range(2):
        with sending(looped, port, rtp=scheme == "rtp"):
            await_open(source)
            numbers = [number_in(source.read().image.y) for _ in range(40)]
        more, lost = numbers_until_lost(source)
        assert lost.reason == "timeout"
        assert numbers[0] % GOP == 0, "it begins at a key frame"
        assert gaps(numbers + more, COUNT) == 0


def test_what_a_lost_datagram_has_damaged_is_marked(looped: Path) -> None:
    port = free_datagram_port()
    source = source_at(f"udp://127.0.0.1:{port}")
    with sending(looped, port, lossy=[40]), contextlib.closing(source):
        await_open(source)
        pictures = [source.read() for _ in range(COUNT + 2 * GOP)]
    clean = {number_in(picture.image.y) for picture in pictures if not picture.corrupt}
    # a hole is noticed behind it, where a packet or two before it have not been handed out yet
    assert clean - {38, 39} == {*range(38), *range(2 * GOP, COUNT)}


# -- what this FFmpeg has not


def test_a_protocol_that_ffmpeg_lacks_is_said_in_one_line_and_not_tried_again(bare_program: Program) -> None:
    """PyAV's wheels come without SRT."""
    url = f"srt://127.0.0.1:{free_port()}"
    with pytest.raises((StartupError, SourceLost)) as caught:
        source_at(url, stall_s=1).open()
    if not isinstance(caught.value, StartupError):
        pytest.skip("this FFmpeg has SRT")
    line = f"{url}: the FFmpeg that is installed here has no such protocol"
    assert str(caught.value) == line
    outcome = bare_program.run("run", "--json", "--source", url)
    assert outcome.code == 1
    assert (outcome.report["exit"]["reason"], outcome.report["restarts"]) == (line, {})
    assert "Traceback" not in outcome.stderr
    tried = bare_program.run("doctor", url)
    assert (tried.code, tried.stderr) == (1, "")
    assert tried.stdout.splitlines()[-1].split(maxsplit=2) == ["failed", "describe", line]
