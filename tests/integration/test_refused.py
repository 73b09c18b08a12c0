"""What is wrong is told in one clear line, with the right exit code, and leaves nothing under the final name."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import pytest
import yaml

from pipeline import resources
from tests.media import truncated
from tests.numbered import read_numbered
from tests.runs import Outcome, Program, free_port

SITE: dict[str, Any] = {
    "name": "entrance",
    "sources": {"gate": {"kind": "file", "path": "video.mp4"}},
    "detectors": {"mask": {"model": "aizoo-260"}},
    "rules": {"no_mask": {"kind": "no_mask"}},
    "sinks": {"video": {"kind": "recorder", "path": "out.mp4"}},
    "pipelines": {"all": {"sources": ["gate"], "detector": "mask", "rules": ["no_mask"], "sinks": ["video"]}},
}


def site(**sections: dict[str, Any]) -> str:
    """The site above with some of its parts replaced, added, or (None) left out."""
    merged = {**SITE}
    for section, parts in sections.items():
        merged[section] = {name: part for name, part in {**SITE[section], **parts}.items() if part is not None}
    return yaml.safe_dump(merged)


def pipeline(**changes: Any) -> dict[str, Any]:
    return {"all": {**SITE["pipelines"]["all"], **changes}}


def check(program: Program, outcome: Outcome, code: int, *said: str) -> None:
    """One line says what is wrong; neither a traceback nor a file under the final name, and nobody is left."""
    assert outcome.code == code, outcome.stderr
    [line] = outcome.errors
    for text in said:
        assert text in line
    assert not (program.cwd / "out.mp4").exists()
    program.assert_nothing_left()


SITES = [
    ("is a file?", "not a mapping", "must be a mapping"),
    ("sources: [", "bad YAML", "site.yaml:1:11: is not YAML"),
    (
        site(sources={"gate": {"kind": "films", "path": "x"}}),
        "unknown kind",
        "'films' is not a source here; there are:",
    ),
    (site(sources={"gate": {"kind": "file", "path": "x", "speed": 2}}), "unknown field", "'speed' is not a field here"),
    (site(sources={"gate": {"kind": "file", "path": "${NO_SUCH_VARIABLE}"}}), "variable", "${NO_SUCH_VARIABLE} is not"),
    (site(pipelines=pipeline(zones=[])), "no zones", "pipelines.all.zones: [] must be a mapping"),
    (
        site(pipelines=pipeline(detect={"tiles": "2 x 2"})),
        "tiles",
        "pipelines.all.detect.tiles: '2 x 2' is neither auto nor columns x rows",
    ),
    (site(pipelines=pipeline(rules=["nomask"])), "unknown rule", "'nomask' is not a rule here; there are: no_mask"),
    (site(detectors={"mask": {"backend": {"kind": "jax"}}}), "unknown backend", "'jax' is not a backend here"),
    (site(detectors={"mask": {"model": "yolo"}}), "unknown model", "'yolo' is not a model here; there are: aizoo-260"),
    (
        site(
            sinks={
                name: {"kind": "zeromq", "bind": "tcp://127.0.0.1:5999", "replay_bind": f"tcp://127.0.0.1:{port}"}
                for name, port in (("one", 5998), ("two", 5997))
            },
            pipelines=pipeline(sinks=["one", "two"]),
        ),
        "two on a port",
        "sinks.two and sinks.one both want",
    ),
    (
        site(sinks={"again": {"kind": "recorder", "path": "out.mp4"}}, pipelines=pipeline(sinks=["video", "again"])),
        "two on a file",
        "both want",
    ),
]


@pytest.mark.parametrize(("text", "what", "said"), SITES, ids=[what for _, what, _ in SITES])
def test_a_site_that_is_wrong(bare_program: Program, text: str, what: str, said: str) -> None:
    (bare_program.cwd / "site.yaml").write_text(text)
    outcome = bare_program.run("run", "site.yaml", "--json")
    check(bare_program, outcome, 2, "site.yaml" if what != "unknown model" else "", said)
    assert outcome.report["exit"]["code"] == 2
    assert said in outcome.report["exit"]["reason"]


def test_arguments_that_are_wrong(bare_program: Program) -> None:
    for arguments, said in (
        (("run", "nowhere.yaml"), "nowhere.yaml: there is no such file"),
        (("run",), "run needs a SITE.yaml, or --source"),
        (("run", "site.yaml", "--source", "a.mp4"), "only one of them"),
        (("run", "site.yaml", "--record", "a.mp4"), "--record goes with --source"),
        (("run", "--source", "a.mp4", "--record", "a.avi"), "does not end in .mp4"),
        (("run", "--source", "a.mp4", "--publish", "here"), "is not an address like tcp://127.0.0.1:5556"),
    ):
        check(bare_program, bare_program.run(*arguments), 2, said)
    outcome = bare_program.run("run", "--source", "a.mp4", "--confidence-min", "3")
    assert outcome.code == 2
    assert "'3' is not a number from 0 to 1" in outcome.stderr


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "video.mp4 is not there"),
        (b"", "video.mp4 is empty"),
        (b"this is a text\n" * 100, "video.mp4 cannot be read as video"),
    ],
    ids=["missing", "empty", "text"],
)
def test_a_source_that_is_no_video(program: Program, content: bytes | None, said: str) -> None:
    if content is not None:
        (program.cwd / "video.mp4").write_bytes(content)
    outcome = program.run("run", "--json", "--source", "video.mp4", "--record", "out.mp4")
    check(program, outcome, 2, said)
    assert outcome.report["exit"]["code"] == 2
    assert said in outcome.report["exit"]["reason"]


def test_a_file_that_breaks_off_is_recorded_as_far_as_it_goes(program: Program, plain_video: Path) -> None:
    shutil.copy(plain_video, program.cwd / "film.mp4")
    remux(program.cwd / "film.mp4", program.cwd / "film.mkv")  # an mp4 that is cut has lost its index
    cut = truncated(program.cwd / "film.mkv", 0.6)
    outcome = program.run("run", "--json", "--source", cut, "--record", "out.mp4")
    assert outcome.code == 1, outcome.stderr
    [line] = outcome.errors
    assert "breaks off after" in line
    decoded = outcome.report["frames"]["decoded"]
    assert 30 < decoded < 80
    assert outcome.report["frames"] == {"decoded": decoded, "detected": decoded, "written": decoded, "skipped": {}}
    assert "breaks off after" in outcome.report["exit"]["reason"]
    assert [frame.number for frame in read_numbered(program.cwd / "out.mp4")] == list(range(decoded))
    program.assert_nothing_left()


def remux(source: Path, target: Path) -> None:
    with av.open(str(source)) as original, av.open(str(target), "w") as copy:
        stream = copy.add_stream_from_template(original.streams.video[0])
        for packet in original.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                copy.mux(packet)


@pytest.mark.parametrize(
    ("option", "target"),
    [("--record", "/proc/out.mp4"), ("--record", "nowhere/out.mp4"), ("--events", "/proc/e.jsonl")],
)
def test_a_place_that_cannot_be_written(program: Program, plain_video: Path, option: str, target: str) -> None:
    outcome = program.run("run", "--json", "--source", plain_video, option, target)
    check(program, outcome, 2, "sink ", "cannot ", str(Path(target).parent))
    assert outcome.report["frames"]["decoded"] == 0


def test_an_existing_recording_is_only_replaced_when_asked(program: Program, short_video: Path) -> None:
    (program.cwd / "out.mp4").write_text("precious")
    outcome = program.run("run", "--json", "--source", short_video, "--record", "out.mp4", "--events", "e.jsonl")
    assert outcome.code == 2, outcome.stderr
    [line] = outcome.errors
    assert "out.mp4 exists" in line
    assert outcome.report["frames"]["decoded"] == outcome.report["events"] == 0
    assert (program.cwd / "out.mp4").read_text() == "precious"
    outcome = program.run("run", "--json", "--source", short_video, "--record", "out.mp4", "--overwrite")
    assert outcome.code == 0, outcome.stderr
    assert [frame.number for frame in read_numbered(program.cwd / "out.mp4")] == list(range(60))


def test_a_port_that_is_taken(program: Program, plain_video: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        outcome = program.run(
            "run", "--json", "--source", plain_video, "--publish", f"tcp://127.0.0.1:{port}", "--record", "out.mp4"
        )
    check(program, outcome, 3, str(port), "in use")
    assert outcome.report["frames"]["decoded"] == 0
    assert free_port() > 0


def test_weights_that_are_not_there(bare_program: Program, plain_video: Path) -> None:
    outcome = bare_program.run("run", "--json", "--source", plain_video, "--record", "out.mp4", "--model", "aizoo-260")
    check(bare_program, outcome, 3, "models fetch aizoo-260", "models import aizoo-260 --from DIR")


def test_weights_that_were_tampered_with(bare_program: Program, models_dir: Path, plain_video: Path) -> None:
    folder = bare_program.models_dir / "aizoo-260"
    shutil.copytree(models_dir / "aizoo-260", folder)
    weights = folder / "aizoo-260.onnx"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    outcome = bare_program.run("run", "--json", "--source", plain_video, "--record", "out.mp4", "--model", "aizoo-260")
    check(bare_program, outcome, 2, "aizoo-260.onnx", "sha256")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("classes: {0: mask, 1: no_mask}", "classes: {0: mask, 1: no_mask, 2: chin}"),
        ("rows: 33, columns: 33", "rows: 40, columns: 40"),
        ("boxes: loc_branch_concat", "boxes: loc_branch"),
    ],
    ids=["classes", "anchors", "tensors"],
)
def test_a_card_that_contradicts_its_weights(
    bare_program: Program, models_dir: Path, plain_video: Path, old: str, new: str
) -> None:
    folder = bare_program.cwd / "mine"
    shutil.copytree(models_dir / "aizoo-260", folder)
    text = resources.card_path("aizoo-260").read_text()
    assert old in text
    (folder / "model.yaml").write_text(text.replace(old, new).replace("name: aizoo-260", "name: mine"))
    outcome = bare_program.run("run", "--json", "--source", plain_video, "--model", "mine", "--record", "out.mp4")
    check(bare_program, outcome, 2, "model.yaml")


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[None]:
    """A file system of that size, where that is permitted."""
    path.mkdir(mode=0o700, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", str(path)]
    if os.geteuid() or shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("file systems may not be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.mark.parametrize("size", ["2m", "11m"])
def test_shared_memory_that_is_too_small(program: Program, plain_video: Path, size: str) -> None:
    """Too small for the results, or for the ring."""
    with small_disk(program.run_base, size):
        outcome = program.run("run", "--json", "--source", plain_video, "--record", "out.mp4")
        assert list(program.run_base.iterdir()) == []
    check(program, outcome, 3, "shared memory at ", "too small", "remount")


@pytest.mark.parametrize(
    ("place", "said"),
    [("/proc/nowhere", "the run directory cannot be made"), ("/dev/shm/" + "x" * 74, "a socket's path may have 107")],
    ids=["not possible", "too long"],
)
def test_a_run_directory_that_cannot_be(program: Program, plain_video: Path, place: str, said: str) -> None:
    shutil.copy(plain_video, program.cwd / "a-rather-long-name.mp4")
    outcome = program.run("run", "--source", "a-rather-long-name.mp4", "--record", "out.mp4", FACEMASK_RUN_DIR=place)
    shutil.rmtree(place, ignore_errors=True)
    check(program, outcome, 3, said)


def test_a_disk_that_fills_up(program: Program, face_video: Path) -> None:
    """What was recorded before is kept, and can be played."""
    with small_disk(program.cwd / "disk", "100k"):
        outcome = program.run("run", "--json", "--source", face_video, "--record", "disk/out.mp4")
        assert outcome.code == 1, outcome.stderr
        [line] = outcome.errors
        assert "No space left on device" in line
        assert outcome.report["frames"]["decoded"] == outcome.report["frames"]["detected"] == 100
        written = outcome.report["frames"]["written"]
        assert 0 < written < 100
        assert not (program.cwd / "disk" / "out.mp4").exists()
        [part] = (program.cwd / "disk").glob("out.part-*.mp4")
        assert [frame.number for frame in read_numbered(part)] == list(range(written))
