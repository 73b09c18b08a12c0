"""``detect`` on real pictures: the documented JSON, annotated copies, one clear line for what is no picture."""

from __future__ import annotations

import errno
import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.cli import main
from tests.shared_data import shared

AIZOO = ("--model", "aizoo-260")


def run(*arguments: object, models_dir: Path) -> int:
    return main(["detect", *map(str, arguments), "--models-dir", str(models_dir)])


def test_the_json_form(models_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = shared("images/aizoo_demo2.jpg")
    assert run(picture, *AIZOO, "--json", "--annotated", tmp_path / "out", models_dir=models_dir) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["path"], found["width"], found["height"]) == (str(picture), 464, 330)
    (face,) = found["faces"]
    assert face["label"] == "mask"
    assert face["confidence"] == pytest.approx(0.9, abs=0.05)
    assert np.allclose(face["xyxy"], [222, 49, 327, 198], atol=3)


def test_the_annotated_picture_differs_only_around_the_box(models_dir: Path, tmp_path: Path) -> None:
    picture = shared("images/aizoo_demo2.jpg")
    png = tmp_path / "demo.png"
    before = cv2.imread(str(picture))
    assert before is not None
    cv2.imwrite(str(png), before)
    assert run(png, *AIZOO, "--annotated", tmp_path / "out", models_dir=models_dir) == 0
    after = cv2.imread(str(tmp_path / "out" / "demo.annotated.png"))
    assert after is not None
    changed = np.argwhere((before != after).any(axis=2))
    assert len(changed) > 200
    (top, left), (bottom, right) = changed.min(axis=0), changed.max(axis=0)
    assert 200 < left < 225
    assert 20 < top < 50
    assert 325 < right < 360
    assert 195 < bottom < 215
    blue, green, red = after[100, left].tolist()
    assert green > 150 > max(blue, red), "a mask is framed in green"


def test_what_is_no_picture_is_named_and_the_others_are_looked_at(
    models_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.jpg").write_text("no picture")
    picture = shared("images/aizoo_demo2.jpg")
    assert run(tmp_path / "gone.jpg", tmp_path / "text.jpg", picture, "--json", models_dir=models_dir) == 2
    out, err = capsys.readouterr()
    assert [found["path"] for found in json.loads(out)] == [str(picture)]
    assert err.splitlines() == [
        f"error: {tmp_path}/gone.jpg: no such file or directory",
        f"error: {tmp_path}/text.jpg: is not a picture that can be read (10 bytes)",
    ]


def test_a_folder_stands_for_its_pictures(models_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("b.png", "a.jpg", "notes.txt"):
        (tmp_path / name).write_bytes(shared("images/aizoo_demo2.jpg").read_bytes())
    assert run(tmp_path, models_dir=models_dir) == 0
    assert [Path(line.split(": ")[0]).name for line in capsys.readouterr().out.splitlines()] == ["a.jpg", "b.png"]


def png_that_declares(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(100))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_a_small_file_that_declares_a_huge_picture_is_one_line(
    models_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "huge.png").write_bytes(png_that_declares(40_000, 40_000))
    assert run(tmp_path / "huge.png", models_dir=models_dir) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {tmp_path}/huge.png: is a picture that cannot be read: ")


@pytest.mark.parametrize(
    ("name", "width", "said"),
    [
        ("wide.webp", 16_384, "wide.annotated.webp: .webp pictures cannot hold 16384x8 pixels"),
        ("wider.png", 16_386, "wider.annotated.png: cannot be made: a picture of 16386x8 pixels is not possible"),
    ],
)
def test_an_annotated_picture_that_cannot_be_made_is_one_line(
    models_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, width: int, said: str
) -> None:
    done, content = cv2.imencode(".png", np.zeros((8, width, 3), np.uint8))
    assert done
    (tmp_path / name).write_bytes(content.tobytes())
    assert run(tmp_path / name, "--annotated", tmp_path / "out", models_dir=models_dir) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert said in line
    assert list((tmp_path / "out").iterdir()) == []


def test_what_cannot_be_looked_up_is_named_and_the_others_are_looked_at(
    models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def iterdir(path: Path) -> Iterator[Path]:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", iterdir)
    long = Path("a" * 300)
    assert run(tmp_path, long, shared("images/aizoo_demo2.jpg"), models_dir=models_dir) == 2
    out, err = capsys.readouterr()
    assert err.splitlines() == [
        f"error: {tmp_path}: cannot be read: permission denied",
        f"error: {long}: cannot be read: file name too long",
    ]
    assert len(out.splitlines()) == 1


def test_pictures_of_one_name_do_not_overwrite_each_other(models_dir: Path, tmp_path: Path) -> None:
    content = cv2.imread(str(shared("images/aizoo_demo2.jpg")))
    assert content is not None
    for name in ("a/face.png", "b/face.png", "b/face.pgm", "b/face-2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        assert cv2.imwrite(str(tmp_path / name), content[..., 1] if name.endswith("pgm") else content)
    assert run(tmp_path / "a", tmp_path / "b", "--annotated", tmp_path / "out", models_dir=models_dir) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *("face-2.annotated.png", "face-3.annotated.png", "face-4.annotated.png", "face.annotated.png")
    ]
    assert all(cv2.imread(str(path)) is not None for path in (tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--model", "nonesuch"], "error: 'nonesuch' is not a model here; there are: "),
        (["--backend", "abacus"], "error: 'abacus' is not a backend here; there are: "),
    ],
)
def test_a_wrong_choice_is_one_line(
    models_dir: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], line: str
) -> None:
    assert run("a.jpg", *arguments, models_dir=models_dir) == 2
    assert capsys.readouterr().err.startswith(line)


def test_a_threshold_out_of_range_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["detect", "a.jpg", "--confidence-min", "1.5"])
    assert caught.value.code == 2
    assert "'1.5' is not a number from 0 to 1" in capsys.readouterr().err


def test_missing_weights_say_how_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert main(["detect", "a.jpg", "--model", "aizoo-260"]) == 3
    err = capsys.readouterr().err
    assert "models fetch aizoo-260" in err
    assert "models import aizoo-260 --from" in err
    assert len(err.splitlines()) == 1
