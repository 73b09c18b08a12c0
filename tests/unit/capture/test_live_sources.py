"""Live sources without a network: what may be looked at, logins, and what a configuration is refused for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import pytest
from pydantic import ValidationError

from pipeline.capture.live import Gate, LiveVideo, is_built_in, reason_for
from pipeline.capture.login import Login
from pipeline.capture.source import SourceLost
from pipeline.capture.sources import camera, rtsp
from pipeline.errors import StartupError


def judged(gate: Gate, *pictures: tuple[int | None, str]) -> list[bool | None]:
    """pictures: timestamp, and K for a key frame, x for a corrupt one."""
    return [gate.damaged(pts, keyframe="K" in kind, corrupt="x" in kind) for pts, kind in pictures]


def test_nothing_is_shown_before_the_first_clean_key_frame() -> None:
    assert judged(Gate(), (0, ""), (1, "x"), (2, "Kx"), (3, ""), (4, "K"), (5, "")) == [None] * 4 + [False, False]


def test_behind_a_loss_everything_is_damaged_until_the_next_clean_key_frame() -> None:
    gate = Gate()
    assert judged(gate, (0, "K"), (1, "")) == [False, False]
    gate.lost(2)
    assert judged(gate, (2, ""), (3, ""), (4, "Kx"), (5, ""), (6, "K")) == [True] * 4 + [False]


def test_a_key_frame_in_which_something_is_missing_ends_nothing() -> None:
    gate = Gate()
    judged(gate, (0, "K"))
    gate.lost(25)
    assert judged(gate, (25, "K"), (26, ""), (50, "K")) == [True, True, False]


def test_a_corrupt_picture_spoils_those_behind_it() -> None:
    assert judged(Gate(), (0, "K"), (1, "x"), (2, ""), (3, "K")) == [False, True, True, False]


def test_without_timestamps_a_key_frame_is_believed() -> None:
    gate = Gate()
    gate.lost(None)
    assert judged(gate, (None, "K")) == [False]


@pytest.mark.parametrize(
    ("error", "said", "reason"),
    [
        (av.error.HTTPUnauthorizedError(1, "x"), "", "unauthorised"),
        (av.error.HTTPNotFoundError(1, "x"), "", "no such stream"),
        (av.error.ConnectionRefusedError(111, "x"), "", "refused"),
        (av.error.OSError(5, "x"), "Failed to resolve hostname cam", "unreachable"),
        (av.error.OSError(113, "x"), "", "unreachable"),
        (av.error.FileNotFoundError(2, "x"), "", "no device"),
        (av.error.OSError(19, "x"), "", "no device"),
        (av.error.TimeoutError(110, "x"), "", "timeout"),
        (av.error.InvalidDataError(1, "x"), "", "not video"),
        (av.error.OSError(5, "x"), "Stream ends prematurely at 31, should be 18446744073709551615", "not video"),
        (av.error.BugError(1, "x"), "", "failed"),
    ],
)
def test_reasons_are_words_that_people_understand(error: av.error.FFmpegError, said: str, reason: str) -> None:
    assert reason_for(error, said) == reason


def test_a_login_may_hold_any_sign() -> None:
    assert Login().into("rtsp://cam:8554/one") == "rtsp://cam:8554/one"


def test_a_login_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATE", "us er:p@ss:/%ü?#")
    login = Login("GATE")
    assert login.into("rtsp://cam/one?a=1") == "rtsp://us%20er:p%40ss%3A%2F%25%C3%BC%3F%23@cam/one?a=1"
    assert not login.renewed


def test_a_login_file_is_read_at_every_attempt(tmp_path: Path) -> None:
    path = tmp_path / "login"
    login = Login(file=path)
    with pytest.raises(SourceLost, match=r"login_file .*/login cannot be read: No such file") as caught:
        login.into("rtsp://cam/one")
    assert caught.value.reason == "unauthorised"
    assert not login.renewed
    path.write_text("user:old\n")
    assert login.renewed
    assert login.into("rtsp://cam/one") == "rtsp://user:old@cam/one"
    assert not login.renewed
    path.write_text("")
    with pytest.raises(SourceLost, match="must hold user:password"):
        login.into("rtsp://cam/one")
    path.write_text("user:old")
    assert login.renewed
    path.write_text("user:new\nanything")
    assert login.renewed
    assert login.into("rtsp://cam/one") == "rtsp://user:new@cam/one"


@pytest.mark.parametrize("held", ["", "\n", "admin", ":secret", "secret\nadmin:x"])
def test_a_login_file_must_hold_a_login(tmp_path: Path, held: str) -> None:
    (tmp_path / "login").write_text(held)
    with pytest.raises(SourceLost, match=r"login_file .*/login must hold user:password") as caught:
        Login(file=tmp_path / "login").into("rtsp://cam/one")
    assert caught.value.reason == "unauthorised"
    assert "secret" not in str(caught.value)


def test_a_login_in_the_environment_must_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATE", "secret")
    with pytest.raises(ValidationError, match="login_env: GATE does not hold user:password") as caught:
        rtsp.Config.model_validate({"url": "rtsp://cam/one", "login_env": "GATE"})
    assert "secret" not in caught.value.errors()[0]["msg"]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"url": "cam/one"}, "must begin with one of rtsp"),
        ({"url": "file:///etc/passwd"}, "must begin with one of rtsp"),
        ({"url": "rtsp:///one"}, "must begin with one of rtsp"),
        ({"url": "rtsp://a:secret@cam:99999/one"}, "is not an address, with a port from 0 to 65535"),
        ({"url": "rtsp://a:secret/x@cam/one"}, "are written %2F and %23, or use login_file"),
        ({"url": "rtsp://a:secret#x@cam/one"}, "are written %2F and %23, or use login_file"),
        ({"url": "rtsp://a:x/secret@cam/one"}, "are written %2F and %23, or use login_file"),
        ({"url": "rtsp://a:b@cam/one", "login_file": "x"}, "not in two of them"),
        ({"url": "rtsp://cam/one", "login_env": "NO_SUCH_VARIABLE"}, "NO_SUCH_VARIABLE is not set"),
        ({"url": "rtsp://cam/one", "transport": "sctp"}, "tcp"),
        ({"url": "rtsp://cam/one", "stall_s": 0}, "greater than or equal to 0.5"),
    ],
)
def test_a_bad_address_is_refused(values: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError, match=text) as caught:
        rtsp.Config.model_validate(values)
    assert all("secret" not in error["msg"] for error in caught.value.errors())


@pytest.mark.parametrize(
    ("system", "device", "address"),
    [
        ("linux", "0", "/dev/video0"),
        ("linux", "/dev/video7", "/dev/video7"),
        ("darwin", "0", "0"),
        ("win32", "Integrated Camera", "video=Integrated Camera"),
    ],
)
def test_devices_have_the_names_that_ffmpeg_wants(system: str, device: str, address: str) -> None:
    assert camera.device_address(device, camera.FORMATS[system]) == address


def test_a_camera_is_asked_for_what_the_configuration_says() -> None:
    config = camera.Config.model_validate({"device": 0, "size": "1280x720", "fps": 30, "input_format": "mjpeg"})
    assert camera.device_options(config, "v4l2") == {
        "video_size": "1280x720", "framerate": "30", "input_format": "mjpeg",
    }  # fmt: skip
    assert camera.device_options(camera.Config(), "v4l2") == {}


def test_a_missing_device_is_told_and_looked_for_again() -> None:
    source = camera.create(camera.Config(device="/dev/video-none"), "desk")
    for _ in range(2):
        with pytest.raises(SourceLost, match="/dev/video-none: No such file") as caught:
            source.open()
        assert caught.value.reason == "no device"
        source.close()


def pattern(graph: str = "testsrc2=size=64x48:rate=25,realtime") -> LiveVideo:
    return LiveVideo(graph, "the pattern", stall_s=5, format_="lavfi", options={})


def test_a_live_video_reads_what_a_device_would_give() -> None:
    video = pattern()
    pictures = [video.read() for _ in range(5)]
    times = [picture.time_s for picture in pictures]
    assert times == sorted(set(times))
    assert not any(picture.corrupt for picture in pictures)
    assert (video.codec, video.declared_fps) == ("wrapped_avframe", 25)
    video.close()


def test_a_feed_remembers_when_it_was_heard_of_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever watches it must not take the moment between two connections for a long silence."""
    source = camera.create(camera.Config(), "desk")
    monkeypatch.setattr(source, "connect", pattern)
    source.open()
    opened_s = source.heard_s
    for _ in range(5):
        source.read()
    heard_s = source.heard_s
    assert heard_s > opened_s
    source.close()
    assert source.heard_s == heard_s


def test_the_end_of_a_live_video_is_a_loss() -> None:
    video = pattern("testsrc2=size=64x48:rate=25:duration=0.12")
    for _ in range(3):
        video.read()
    with pytest.raises(SourceLost, match="the pattern has ended") as caught:
        video.read()
    assert caught.value.reason == "ended"
    video.close()


def test_what_holds_no_video_is_looked_for_again() -> None:
    with pytest.raises(SourceLost, match="holds no video") as caught:
        pattern("sine")
    assert caught.value.reason == "not video"


def test_only_the_address_itself_can_have_a_protocol_that_ffmpeg_lacks() -> None:
    """Where a server leads on to, months later, may be right the next time."""
    assert [is_built_in(f"{scheme}://127.0.0.1:9/") for scheme in ("rtsp", "http", "udp", "nonsense")] == [
        True, True, True, False,
    ]  # fmt: skip
    for address, error in (("nonsense://camera/one", StartupError), ("cache:nonsense://camera/one", SourceLost)):
        with pytest.raises(error, match=r"has no such protocol|: Protocol not found"):
            LiveVideo(address, "the camera", stall_s=5, format_=None, options={})
