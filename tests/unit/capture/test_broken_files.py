"""Files that are not what they seem, or break off: what is said, and that everything readable comes first."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.capture.sources.file import Config, create
from pipeline.errors import ConfigError, SourceBroken
from tests.media import damaged, moving, truncated, write_moving

LOSSY = {"qmin": "1", "qmax": "1"}


def read_until_broken(path: Path) -> tuple[int, int, str]:
    """How many pictures came, how many of them marked corrupt, and what was said at the end."""
    source = create(Config(path=str(path)), "gate")
    source.open()
    count = corrupt = 0
    try:
        while (picture := source.read()) is not None:
            count += 1
            corrupt += picture.corrupt
    except SourceBroken as error:
        with pytest.raises(SourceBroken, match="after"):  # asked again, it says it again
            source.read()
        return count, corrupt, str(error)
    finally:
        source.close()
    return count, corrupt, ""


def refusal(path: Path | str) -> str:
    source = create(Config(path=str(path)), "gate")
    with pytest.raises(ConfigError) as caught:
        source.open()
    source.close()
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def test_a_file_that_is_not_there_is_missed_with_similar_names(tmp_path: Path) -> None:
    (tmp_path / "people.mp4").write_bytes(b"x")
    (tmp_path / "other.txt").write_bytes(b"x")
    assert refusal(tmp_path / "peple.mp4").endswith("peple.mp4 is not there; similar names there: people.mp4")
    assert refusal(tmp_path / "no" / "folder.mp4").endswith("is not there")


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    assert refusal(tmp_path / "a.mp4").endswith("is empty")


def test_text_named_mp4(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("no video here\n" * 500)
    assert "cannot be read as video: Invalid data found" in refusal(tmp_path / "a.mp4")


def test_a_device_is_no_file() -> None:
    assert refusal("/dev/null").endswith("is neither a file nor a folder")


def test_sound_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    assert refusal(path).endswith("holds no video, only audio")


def test_an_mp4_without_its_index_cannot_be_read_at_all(tmp_path: Path) -> None:
    assert "moov atom not found" in refusal(truncated(write_moving(tmp_path / "a.mp4", 50), 0.5))


def test_a_playlist_cannot_make_it_open_an_address(tmp_path: Path) -> None:
    path = tmp_path / "a.m3u8"
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://192.0.2.1/a.ts\n#EXT-X-ENDLIST\n")
    assert "cannot be read as video" in refusal(path)


@pytest.fixture
def nobody(tmp_path: Path) -> Iterator[Path]:
    """A folder in which there is a file that may not be read, also where the tests run as root."""
    path = write_moving(tmp_path / "a.mp4", 2)
    path.chmod(0)
    was = os.geteuid()
    if was == 0:
        os.seteuid(65534)
    yield path
    os.seteuid(was)


def test_no_permission_to_read(nobody: Path) -> None:
    assert refusal(nobody).endswith("cannot be read: Permission denied")


@pytest.mark.parametrize("share", [0.5, 0.9])
@pytest.mark.parametrize(
    ("name", "codec", "tail"),
    [
        ("a.mp4", "libx264", "partial file"),
        ("a.mkv", "libx264", "File ended prematurely"),
        ("a.avi", "mpeg4", "incomplete"),
    ],
)
def test_what_can_be_read_comes_before_the_complaint(
    tmp_path: Path, name: str, codec: str, tail: str, share: float
) -> None:
    options = LOSSY if codec == "mpeg4" else None
    muxer = {"movflags": "faststart"} if name == "a.mp4" else None
    whole = write_moving(tmp_path / name, 200, codec=codec, options=options, muxer=muxer)
    path = truncated(whole, share)
    count, _, reason = read_until_broken(path)
    with av.open(str(path)) as container:
        readable = sum(len(packet.decode()) for packet in container.demux(video=0) if not packet.is_corrupt)
    assert 0 < readable <= count <= readable + 1 < 200
    assert reason.startswith(f"{path} breaks off after {count} of about 200 frames (")
    assert tail in reason or "Invalid data" in reason


def test_a_matroska_file_cut_between_two_clusters_is_told_by_its_duration(tmp_path: Path) -> None:
    path = write_moving(tmp_path / "a.mkv", 300, muxer={"cluster_time_limit": "1000"})
    data = path.read_bytes()
    clusters = [at for at in range(len(data)) if data.startswith(b"\x1f\x43\xb6\x75", at)]
    path.write_bytes(data[: clusters[5]])
    count, corrupt, reason = read_until_broken(path)
    assert (count, corrupt) == (60, 0)
    assert "breaks off after 60 of about 300 frames (2.4 s)" in reason


def test_an_avi_cut_between_two_pictures_is_told_by_its_count(tmp_path: Path) -> None:
    path = write_moving(tmp_path / "a.avi", 200, codec="mpeg4", options=LOSSY)
    data = path.read_bytes()
    path.write_bytes(data[: data.rindex(b"00dc", 0, len(data) // 2)])
    count, corrupt, reason = read_until_broken(path)
    assert corrupt == 0
    assert f"breaks off after {count} of about 200 frames" in reason
    assert f"it ends at {count / 25:.1f} s of the 8.0 s" in reason


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_one_damaged_packet_in_the_middle_does_not_end_the_file(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_moving(tmp_path / name, 100, gop=10)
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][45]
        at = path.read_bytes().index(bytes(packet))
    data = bytearray(path.read_bytes())
    data[at : at + packet.size] = b"\xa5" * packet.size
    path.write_bytes(data)
    source = create(Config(path=str(path)), "gate")
    source.open()
    pictures = [(picture.time_s, picture.image.y.copy()) for picture in iter(source.read, None)]
    source.close()
    assert len(pictures) == 99
    assert "1 damaged picture is missing" in caplog.text
    for time_s, luma in pictures:  # the rest is whole, up to the hit and again from the next key frame on
        index = round(time_s * 25)
        assert 45 <= index < 50 or np.array_equal(luma, moving(index)[0])


def test_damage_that_the_decoder_hides_marks_the_picture(tmp_path: Path) -> None:
    path = write_moving(tmp_path / "a.avi", 100, codec="mpeg4", options=LOSSY)
    count, corrupt, reason = read_until_broken(damaged(path, 0.5, 40))
    assert (count, reason) == (100, "")
    assert 1 <= corrupt <= 2


def test_damage_up_to_the_end_breaks_it_off(tmp_path: Path) -> None:
    path = write_moving(tmp_path / "a.mp4", 100, muxer={"movflags": "faststart"})
    count, _, reason = read_until_broken(damaged(path, 0.6, 10_000_000))
    assert 40 < count < 100
    assert f"breaks off after {count} of about 100 frames" in reason


def test_a_file_in_which_nothing_can_be_decoded(tmp_path: Path) -> None:
    path = write_moving(tmp_path / "a.mp4", 3, muxer={"movflags": "faststart"})
    data = path.read_bytes()
    at = data.index(b"mdat") + 4
    path.write_bytes(data[:at] + b"\xa5" * (len(data) - at))
    source = create(Config(path=str(path)), "gate")
    source.open()
    with pytest.raises(SourceBroken, match="holds no picture that can be decoded: Invalid data found"):
        source.read()
    source.close()


def test_a_restart_behind_the_last_readable_picture_says_what_is_broken(tmp_path: Path) -> None:
    path = truncated(write_moving(tmp_path / "a.mkv", 100), 0.5)
    count, _, reason = read_until_broken(path)
    source = create(Config(path=str(path)), "gate")
    source.open()
    source.seek(count)
    with pytest.raises(SourceBroken) as caught:
        source.read()
    assert str(caught.value) == reason
    source.close()


def test_nothing_reaches_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write_moving(tmp_path / "a.mp4", 100, muxer={"movflags": "faststart"})
    read_until_broken(damaged(path, 0.3, 900))
    read_until_broken(truncated(path, 0.5))
    (tmp_path / "text.mp4").write_text("text")
    refusal(tmp_path / "text.mp4")
    assert capfd.readouterr() == ("", "")
