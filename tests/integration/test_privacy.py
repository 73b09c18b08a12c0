"""Zones, private parts and blurred faces in a whole run: what is told, and what nobody gets to see."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from pipeline.inference.model_card import read_card
from pipeline.resources import card_path
from tests.runs import Program

SITE = """
name: entrance
sources:
  gate: {kind: file, path: "${CONFIG_DIR}/gate.mp4"}
  yard: {kind: file, path: "${CONFIG_DIR}/yard.mp4"}
detectors: {mask: {model: aizoo-260}}
rules:
  middle: {kind: no_mask, zones: [middle]}
  edge: {kind: no_mask, zones: [edge]}
  anywhere: {kind: no_mask}
sinks:
  recordings: {kind: recorder, directory: recordings}
  log: {kind: jsonl, path: events.jsonl}
pipelines:
  seen:
    sources: [gate]
    detector: mask
    rules: [middle, edge]
    sinks: [recordings, log]
    zones:
      middle: {polygon: [[0.3, 0], [0.7, 0], [0.7, 0.8], [0.3, 0.8]]}
      edge: {polygon: [[0, 0], [0.25, 0], [0.25, 1], [0, 1]]}
    blur: all
  hidden:
    sources: [yard]
    detector: mask
    rules: [anywhere]
    sinks: [recordings, log]
    privacy:
      window: {polygon: [[0.3, 0.05], [0.7, 0.05], [0.7, 0.7], [0.3, 0.7]]}
"""


def luma(path: Path) -> NDArray[np.int16]:
    """(frames, height, width) of every tenth frame."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
    return np.stack(frames[::10]).astype(np.int16)


def detail(pictures: NDArray[np.int16]) -> float:
    """How much neighbouring pixels of the face differ, on average."""
    face = pictures[:, 40:100, 130:190]
    return float(np.abs(np.diff(face, axis=2)).mean())


def test_what_is_private_stays_so_and_zones_are_named(program: Program, face_video: Path) -> None:
    for source in ("gate", "yard"):
        shutil.copy(face_video, program.cwd / f"{source}.mp4")
    (program.cwd / "site.yaml").write_text(SITE)
    outcome = program.run("run", "site.yaml", "--json")
    assert outcome.code == 0, outcome.stderr

    events = [json.loads(line) for line in (program.cwd / "events.jsonl").read_text().splitlines()]
    assert [(e["source"], e["zone"], e["phase"]) for e in events] == [
        ("gate", "middle", "new"),
        ("gate", "middle", "end"),
    ]
    sha256 = read_card(card_path("aizoo-260")).runtimes["onnxruntime"].files["onnx"].sha256
    assert (events[0]["model"], events[0]["model_sha256"], events[0]["faces"]) == ("aizoo-260", sha256, 1)
    assert 0.5 < events[1]["confidence"] <= events[1]["confidence_best"] <= 1

    original = luma(face_video)
    (gate,) = (program.cwd / "recordings").glob("gate-*.mp4")
    assert detail(luma(gate)) < detail(original) / 2, "the face is a few large squares"
    (yard,) = (program.cwd / "recordings").glob("yard-*.mp4")
    height, width = original.shape[1:]
    window = luma(yard)[:, int(0.1 * height) : int(0.65 * height), int(0.35 * width) : int(0.65 * width)]
    assert window.max() <= 24, "black, but for what the encoder adds"
    program.assert_nothing_left()
